//! Instructions to bytes.

use super::draft::Draft;
use iced_x86::{Encoder, Instruction, OpKind};

/// The bytes of one instruction at `ip`, with random values for the VEX bits it ignores; `None` if it has no encoding.
pub(super) fn one(draft: &Draft, i: &Instruction, ip: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(draft.mode.bits());
    // Must not consume random numbers: instructions are encoded more than once.
    let ignored = (draft.case.regs.gpr[0] >> 3) as u32;
    encoder.set_vex_wig(ignored & 1);
    encoder.set_vex_lig(ignored >> 1 & 1);
    encoder.set_prevent_vex2(ignored & 12 == 12);
    encoder.encode(i, ip).ok()?;
    Some(encoder.take_buffer())
}

/// Points a near branch elsewhere.
pub(super) fn set_branch_target(i: &mut Instruction, target: u64) {
    match i.op0_kind() {
        OpKind::NearBranch16 => i.set_near_branch16(target as u16),
        OpKind::NearBranch32 => i.set_near_branch32(target as u32),
        OpKind::NearBranch64 => i.set_near_branch64(target),
        _ => {}
    }
}
