//! What translated code asks for when the soft TLB misses: the pages of one instruction.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use visor_memory::PAGE;

use super::address::Access;
use super::build::Site;
use super::frame::LOAD;
use super::native;
use crate::cpu::Cpu;
use crate::mmu;
use crate::op::REG_BLOCK_RIP;

/// Makes the soft TLB serve all accesses of the instruction at `site`; false if it does already, or cannot: then something
/// else is the matter, and the interpreter finds out.
pub(super) fn refill(cpu: &mut Cpu, site: &Site) -> bool {
    let mut filled = false;
    let wanted = accesses(cpu, site);
    for access in wanted.into_iter().flatten() {
        if served(cpu, access) {
            continue;
        }
        let (lin, size, kind) = access;
        if lin % PAGE + size > PAGE || cpu.check_canonical(lin, size, 3).is_err() {
            return false;
        }
        let kind = if kind == Access::Load { mmu::Access::Load } else { mmu::Access::Store };
        if cpu.place(lin, kind, cpu.mmu.privilege).is_err() || !served(cpu, access) {
            return false;
        }
        filled = true;
    }
    // The second may have taken the place of the first.
    filled && (wanted.iter().flatten().count() < 2 || wanted.into_iter().flatten().all(|a| served(cpu, a)))
}

/// If all that the instruction at `site` does with memory is a load of bytes in two pages that the soft TLB serves, puts them together:
/// they are where `Frame::jump_to` says. Such loads are not atomic on processors either.
pub(super) fn straddle(cpu: &mut Cpu, site: &Site) -> bool {
    let [Some((lin, size, Access::Load)), None] = accesses(cpu, site) else { return false };
    let room = PAGE - lin % PAGE;
    if size <= room || size > LOAD as u64 {
        return false;
    }
    let who = cpu.mmu.privilege;
    let next = lin.wrapping_add(room);
    if !cpu.is_64() && next >> 32 != 0 {
        return false;
    }
    for (at, len) in [(lin, room), (next, size - room)] {
        let served = served(cpu, (at, len, Access::Load));
        if !served && (cpu.check_canonical(at, len, 3).is_err() || cpu.place(at, mmu::Access::Load, who).is_err()) {
            return false;
        }
    }
    let tlb = cpu.mmu.load(who);
    let (Some(a), Some(b)) = (tlb.lookup(lin, room), tlb.lookup(next, size - room)) else { return false };
    let room = room as usize;
    for (i, byte) in cpu.frame.load.0[..size as usize].iter_mut().enumerate() {
        // SAFETY: the table serves the whole of both ranges.
        *byte = unsafe { if i < room { mmu::peek(a.add(i)) } else { mmu::peek(b.add(i - room)) } };
    }
    cpu.frame.jump_to = cpu.frame.load.0.as_ptr() as u64;
    true
}

/// Makes the soft TLB serve all accesses of the instruction at `site`; true if it does.
pub(super) fn serve(cpu: &mut Cpu, site: &Site) -> bool {
    refill(cpu, site) || accesses(cpu, site).into_iter().flatten().all(|a| served(cpu, a))
}

/// Linear address, bytes, and what is done there.
pub(super) type Wanted = (u64, u64, Access);

fn served(cpu: &Cpu, (lin, size, kind): Wanted) -> bool {
    let who = cpu.mmu.privilege;
    match kind {
        Access::Load => cpu.mmu.load(who).lookup(lin, size).is_some(),
        Access::Store => cpu.mmu.store(who).lookup(lin, size).is_some(),
    }
}

/// The memory operand, and what the stack pointer implies.
pub(super) fn accesses(cpu: &Cpu, site: &Site) -> [Option<Wanted>; 2] {
    let ins = &site.ins;
    let operand = (0..ins.op_count()).find(|i| ins.op_kind(*i) == OpKind::Memory && !is_address_only(ins));
    let operand = operand.and_then(|i| {
        let size = ins.memory_size().size() as u64;
        Some((address(cpu, site, i)?, size, native::access(ins, i)))
    });
    let wrap = |(lin, size, access)| (cpu.wrap(lin), size, access);
    [operand, stack(cpu, ins)].map(|a| a.map(wrap))
}

/// It names memory without touching it.
fn is_address_only(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), Mnemonic::Lea | Mnemonic::Nop) || ins.memory_size().size() == 0
}

fn address(cpu: &Cpu, site: &Site, operand: u32) -> Option<u64> {
    let value = |register: Register, _, _| {
        Some(match register {
            Register::FS => cpu.seg_base[4],
            Register::GS => cpu.seg_base[5],
            r if r.is_segment_register() => 0,
            r if r.is_gpr32() => cpu.gpr[r.full_register().number()] & 0xffff_ffff,
            r => cpu.gpr[r.full_register().number()],
        })
    };
    let at = site.ins.virtual_address(operand, 0, value)?;
    if site.ins.is_ip_rel_memory_operand() {
        // The decoder counts from the page.
        let page = site.page.unwrap_or(cpu.gpr[usize::from(REG_BLOCK_RIP)]);
        return Some(at.wrapping_add(page));
    }
    Some(at)
}

fn stack(cpu: &Cpu, ins: &Instruction) -> Option<Wanted> {
    use Code::*;
    let (rsp, rbp) = (cpu.gpr[4], cpu.gpr[5]);
    match ins.code() {
        Pushfq | Push_r64 | Pushq_imm8 | Pushq_imm32 | Push_rm64 | Call_rel32_64 | Call_rm64 => {
            Some((rsp.wrapping_sub(8), 8, Access::Store))
        }
        Popfq | Pop_r64 | Retnq | Retnq_imm16 => Some((rsp, 8, Access::Load)),
        Leaveq => Some((rbp, 8, Access::Load)),
        Pushfd | Push_r32 | Pushd_imm8 | Pushd_imm32 | Push_rm32 | Call_rel32_32 | Call_rm32 => {
            Some((rsp.wrapping_sub(4), 4, Access::Store))
        }
        Popfd | Pop_r32 | Retnd | Retnd_imm16 => Some((rsp, 4, Access::Load)),
        Leaved => Some((rbp, 4, Access::Load)),
        _ => None,
    }
}
