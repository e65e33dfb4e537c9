//! Near branches.

use iced_x86::{Mnemonic, OpKind};

use crate::decode::integer::condition;
use crate::decode::operands::{Decoding, Form, address_mask};
use crate::exec::branch;
use crate::op::Handler;

/// The handler, if the instruction belongs here.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    let handler = choose(d)?;
    d.ends = true;
    Some(handler)
}

fn choose(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let size = relative_target(d);
    match d.ins.mnemonic() {
        Jmp => match (size, d.form) {
            (Some(size), _) => wide!(size, branch::jmp),
            (None, Form::R) => wide!(d.size, branch::jmp_r),
            (None, Form::M) if near(d) => wide!(d.size, branch::jmp_m),
            _ => None,
        },
        Call => match (size, d.form) {
            (Some(size), _) => wide!(size, branch::call),
            (None, Form::R) => wide!(d.size, branch::call_r),
            (None, Form::M) if near(d) => wide!(d.size, branch::call_m),
            _ => None,
        },
        Ret => {
            let size = d.stack_size() - d.op.imm;
            wide!(size, branch::ret)
        }
        Jcxz | Jecxz | Jrcxz => {
            d.op.mem.mask = counter_mask(d);
            wide!(size?, branch::jcxz)
        }
        Loop => looping::<0>(d, size?),
        Loope => looping::<1>(d, size?),
        Loopne => looping::<2>(d, size?),
        _ if d.ins.is_jcc_short_or_near() => {
            let cc = condition(d);
            by_condition!(cc, CC => wide!(size?, branch::jcc, {CC}))
        }
        _ => None,
    }
}

/// Takes the target of a relative branch into `imm`, and returns its operand size.
fn relative_target(d: &mut Decoding) -> Option<u64> {
    let size = match d.ins.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => return None,
    };
    d.op.imm = d.ins.near_branch_target();
    Some(size)
}

/// The memory operand is an offset, not a far pointer.
fn near(d: &Decoding) -> bool {
    use iced_x86::MemorySize::*;
    !matches!(d.ins.memory_size(), SegPtr16 | SegPtr32 | SegPtr64)
}

fn looping<const KIND: u8>(d: &mut Decoding, size: u64) -> Option<Handler> {
    d.op.mem.mask = counter_mask(d);
    wide!(size, branch::looping, { KIND })
}

/// Which of CX, ECX, RCX a LOOP or JCXZ counts in: the address size.
fn counter_mask(d: &Decoding) -> u64 {
    use iced_x86::Code::*;
    address_mask(match d.ins.code() {
        Jcxz_rel8_16 | Jcxz_rel8_32 => 2,
        Loop_rel8_16_CX | Loop_rel8_32_CX => 2,
        Loope_rel8_16_CX | Loope_rel8_32_CX => 2,
        Loopne_rel8_16_CX | Loopne_rel8_32_CX => 2,
        Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 => 4,
        Loop_rel8_16_ECX | Loop_rel8_32_ECX | Loop_rel8_64_ECX => 4,
        Loope_rel8_16_ECX | Loope_rel8_32_ECX | Loope_rel8_64_ECX => 4,
        Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 4,
        _ => 8,
    })
}
