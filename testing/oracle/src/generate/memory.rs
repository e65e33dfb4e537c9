//! Memory operands: every addressing form, with the registers set so that it points where the draft wants.

use super::draft::Draft;
use crate::case::Mode;
use crate::layout;
use iced_x86::{Instruction, OpCodeOperandKind as K, OpKind, Register};

/// A memory operand to build.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Bytes it accesses.
    pub(super) size: u64,
    /// Vector index register and bytes per index element.
    pub(super) vsib: Option<(Register, u32)>,
    /// A SIB byte without RIP-relative form is required, as for MIB operands.
    pub(super) sib: bool,
}

impl Wanted {
    /// What an operand kind demands, if it is a vector-indexed one.
    pub(super) fn for_kind(draft: &mut Draft, kind: K, size: u64) -> Self {
        let n = draft.rng.below(draft.register_count()) as u32;
        let vsib = match kind {
            K::mem_vsib32x => Some((Register::XMM0 + n, 4)),
            K::mem_vsib64x => Some((Register::XMM0 + n, 8)),
            K::mem_vsib32y => Some((Register::YMM0 + n, 4)),
            K::mem_vsib64y => Some((Register::YMM0 + n, 8)),
            _ => None,
        };
        Wanted { size, vsib, sib: matches!(kind, K::mem_mib | K::sibmem) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Form {
    base: Option<usize>,
    index: Option<usize>,
    scale: u32,
    rip: bool,
}

/// Sets the memory operand of `instruction` (operand `operand`) and returns the linear address it will have, or `None` for a
/// combination that cannot be encoded.
pub(super) fn build(draft: &mut Draft, instruction: &mut Instruction, operand: u32, wanted: Wanted) -> Option<u64> {
    let width = address_width(draft, wanted);
    let (segment, base) = segment(draft, width);
    let target = match width {
        2 => base.wrapping_add(draft.rng.below(0x700)),
        _ => draft.target(wanted.size),
    };
    let offset = target.wrapping_sub(base) & mask(width);
    instruction.set_op_kind(operand, OpKind::Memory);
    if segment != Register::None {
        instruction.set_segment_prefix(segment);
    }
    let form = if width == 2 { form16(draft) } else { form(draft, wanted) };
    let sum = registers(draft, instruction, form, wanted, width, offset)?;
    let disp = offset.wrapping_sub(sum) & mask(width);
    displacement(draft, instruction, form, disp, width, offset)?;
    Some(target)
}

fn mask(width: u32) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

fn address_width(draft: &mut Draft, wanted: Wanted) -> u32 {
    match draft.mode {
        Mode::Long if draft.rng.chance(10) => 4,
        Mode::Long => 8,
        Mode::Compat if wanted.vsib.is_none() && !wanted.sib && draft.rng.chance(8) => 2,
        Mode::Compat => 4,
    }
}

/// A segment override and the base it adds.
fn segment(draft: &mut Draft, width: u32) -> (Register, u64) {
    let regs = &draft.case.regs;
    let (fs, gs) = match draft.mode {
        Mode::Long => (regs.fs_base, regs.gs_base),
        Mode::Compat => (u64::from(layout::LDT_FS_BASE), u64::from(layout::LDT_GS_BASE)),
    };
    match draft.rng.below(if width == 2 { 2 } else { 24 }) {
        0 => (Register::FS, fs),
        1 => (Register::GS, gs),
        2 => (draft.rng.pick(&[Register::ES, Register::CS, Register::SS, Register::DS]), 0),
        _ => (Register::None, 0),
    }
}

fn form(draft: &mut Draft, wanted: Wanted) -> Form {
    let count = draft.register_count();
    let rng = &mut draft.rng;
    let scale = 1 << rng.below(4);
    let base = Some(rng.below(count) as usize);
    if wanted.vsib.is_some() {
        return Form { base, index: None, scale, rip: false };
    }
    let index = Some(rng.below(count) as usize).filter(|i| *i != 4 && Some(*i) != base);
    match rng.below(12) {
        0 if draft.mode == Mode::Long && !wanted.sib => Form { rip: true, ..Form::default() },
        0 | 1 => Form::default(),
        2 => Form { base: None, index: index.or(Some(1)), scale, rip: false },
        3..=6 => Form { base, index, scale, rip: false },
        _ => Form { base, ..Form::default() },
    }
}

/// The forms of 16-bit addressing (SDM 2 table 2-1).
fn form16(draft: &mut Draft) -> Form {
    let (base, index) = draft.rng.pick(&[
        (Some(3), Some(6)),
        (Some(3), Some(7)),
        (Some(5), Some(6)),
        (Some(5), Some(7)),
        (Some(6), None),
        (Some(7), None),
        (Some(5), None),
        (Some(3), None),
        (None, None),
    ]);
    Form { base, index, scale: 1, rip: false }
}

/// Chooses values for base and index and returns what they add.
fn registers(
    draft: &mut Draft,
    i: &mut Instruction,
    form: Form,
    wanted: Wanted,
    width: u32,
    offset: u64,
) -> Option<u64> {
    let mut sum = 0u64;
    if let Some(index) = form.index {
        let value = if draft.rng.chance(70) { draft.rng.below(64) } else { super::values::integer(&mut draft.rng, 64) };
        let value = draft.pin(index, value) & mask(width);
        sum = value.wrapping_mul(u64::from(form.scale));
        i.set_memory_index(register(width, index));
        i.set_memory_index_scale(form.scale);
    }
    if let Some((index, element)) = wanted.vsib {
        spread_indices(draft, index, element);
        i.set_memory_index(index);
        i.set_memory_index_scale(form.scale);
    }
    if let Some(base) = form.base {
        let delta = match draft.rng.below(4) {
            0 | 1 => 0,
            2 => draft.rng.below(256) as i64 - 128,
            _ => i64::from(draft.rng.u32() as i32),
        };
        let mut value = offset.wrapping_sub(sum).wrapping_sub(delta as u64);
        if width == 4 && draft.mode == Mode::Long {
            value = value & mask(4) | u64::from(draft.rng.u32()) << 32;
        } else if width == 2 {
            value = value & mask(2) | u64::from(draft.rng.u32() & 0xffff_0000);
        }
        let value = draft.pin(base, value) & mask(width);
        sum = sum.wrapping_add(value);
        i.set_memory_base(register(width, base));
    }
    Some(sum)
}

/// Small vector indices of both signs around the base.
fn spread_indices(draft: &mut Draft, index: Register, element: u32) {
    let mut lanes = [0; 32];
    for lane in lanes.chunks_mut(element as usize) {
        let v = draft.rng.below(257) as i64 - 128;
        lane.copy_from_slice(&v.to_le_bytes()[..element as usize]);
    }
    draft.case.regs.set_ymm(index.number(), lanes);
}

fn displacement(draft: &mut Draft, i: &mut Instruction, form: Form, disp: u64, width: u32, offset: u64) -> Option<()> {
    if form.rip {
        i.set_memory_base(Register::RIP);
        i.set_memory_displ_size(8);
        i.set_memory_displacement64(offset);
        return (width == 8).then_some(());
    }
    let absolute = form.base.is_none() && i.memory_index() == Register::None;
    let signed = match width {
        8 => disp as i64,
        4 => i64::from(disp as u32 as i32),
        _ => i64::from(disp as u16 as i16),
    };
    let fits = width < 8 || i64::from(signed as i32) == signed;
    let size = match (absolute, signed) {
        (true, _) if width == 2 => 2,
        (true, _) => {
            if width == 8 {
                8
            } else {
                4
            }
        }
        (false, 0) if draft.rng.chance(80) => 0,
        (false, -128..=127) if draft.rng.chance(80) => 1,
        _ => {
            if width == 2 {
                2
            } else if width == 8 {
                8
            } else {
                4
            }
        }
    };
    i.set_memory_displ_size(size);
    i.set_memory_displacement64(if width == 8 { signed as u64 } else { disp });
    fits.then_some(())
}

fn register(width: u32, number: usize) -> Register {
    let first = match width {
        8 => Register::RAX,
        4 => Register::EAX,
        _ => Register::AX,
    };
    first + number as u32
}
