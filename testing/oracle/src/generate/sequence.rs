//! Several instructions in a row, with conditional branches among them.

use super::catalog::{Catalog, ends_sequence};
use super::draft::Draft;
use super::{build, encode};
use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

const MOST: u64 = 8;

/// Builds two to eight instructions; `None` when the choices do not fit together.
pub(super) fn generate(draft: &mut Draft, catalog: &Catalog) -> Option<Vec<u8>> {
    draft.sequence = true;
    let want = 2 + draft.rng.below(MOST - 1) as usize;
    let mut instructions: Vec<Instruction> = Vec::with_capacity(want);
    let mut tries = 0;
    while instructions.len() < want && tries < 40 {
        tries += 1;
        let last = instructions.len() + 1 == want;
        let code = draft.rng.pick(catalog.codes(draft.mode));
        if is_loop(code) || (ends_sequence(code) && !(last && draft.rng.chance(20))) || rare(draft, code) {
            continue;
        }
        // A branch's real target is set below; this address only needs to be in reach.
        let ip = draft.case.regs.rip + 8 * instructions.len() as u64;
        if let Some(i) = build::instruction(draft, code, ip)
            && encode::one(draft, &i, ip).is_some()
        {
            instructions.push(i);
        }
    }
    link(draft, &mut instructions)
}

/// Everything that loads segments mostly faults: seldom in a sequence.
fn rare(draft: &mut Draft, code: Code) -> bool {
    let info = code.op_code();
    let segment = info.op_kinds().iter().any(|k| matches!(k, iced_x86::OpCodeOperandKind::seg_reg));
    let pops_flags =
        matches!(code.mnemonic(), iced_x86::Mnemonic::Popf | iced_x86::Mnemonic::Popfd | iced_x86::Mnemonic::Popfq);
    (segment || pops_flags || info.is_save_restore()) && !draft.rng.chance(10)
}

fn is_loop(code: Code) -> bool {
    code.is_loop() || code.is_loopcc()
}

/// Lays the instructions out and points their branches at later ones; sometimes a LOOP closes a short loop around them.
fn link(draft: &mut Draft, instructions: &mut [Instruction]) -> Option<Vec<u8>> {
    let start = draft.case.regs.rip;
    let mut ips = Vec::new();
    let mut ip = start;
    for i in instructions.iter() {
        ips.push(ip);
        ip += encode::one(draft, i, ip)?.len() as u64;
    }
    let end = ip;
    for (n, i) in instructions.iter_mut().enumerate() {
        if i.flow_control() == FlowControl::ConditionalBranch {
            let later = &ips[(n + 1).min(ips.len())..];
            let target = if later.is_empty() { end } else { draft.rng.pick(later) };
            encode::set_branch_target(i, target);
        }
    }
    let mut bytes = Vec::new();
    for (i, ip) in instructions.iter().zip(&ips) {
        let one = encode::one(draft, i, *ip)?;
        if start + bytes.len() as u64 != *ip {
            return None;
        }
        bytes.extend(one);
    }
    if draft.rng.chance(8) && keeps_counter(instructions) {
        let back = bytes.len() as u64 + 2;
        draft.pin(1, 3);
        if draft.case.regs.gpr[1] == 3 && back < 128 {
            bytes.extend([0xe0 + draft.rng.below(3) as u8, (back as u8).wrapping_neg()]);
        }
    }
    Some(bytes)
}

/// No instruction writes RCX, so that a LOOP around them ends.
fn keeps_counter(instructions: &[Instruction]) -> bool {
    let mut factory = InstructionInfoFactory::new();
    instructions.iter().all(|i| {
        let writes =
            |a: OpAccess| !matches!(a, OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess);
        factory
            .info(i)
            .used_registers()
            .iter()
            .all(|u| u.register().full_register() != Register::RCX || !writes(u.access()))
    })
}
