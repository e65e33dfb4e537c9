//! From a decoded instruction to an [`Op`]: which handler executes it, and its operands.
//!
//! [`operands`] lays operands out in one general way; then the groups are asked in turn for a handler, chosen by
//! operation, operand size and operand kinds, so that no handler decides such things while it runs. What no group knows
//! raises #UD.

/// The instance of a generic handler for a size in bytes: `sized!(size, path::<Types.., T, {CONSTS}>)` without the `T`.
macro_rules! sized {
    ($size:expr, $($f:ident)::+ $(, <$($g:ty),*>)? $(, {$($c:expr),*})?) => {
        match $size {
            1 => Some($($f)::+::<$($($g,)*)? u8 $($(, {$c})*)?> as crate::op::Handler),
            size => wide!(size, $($f)::+ $(, <$($g),*>)? $(, {$($c),*})?),
        }
    };
}

/// As `sized!`, without bytes.
macro_rules! wide {
    ($size:expr, $($f:ident)::+ $(, <$($g:ty),*>)? $(, {$($c:expr),*})?) => {
        match $size {
            2 => Some($($f)::+::<$($($g,)*)? u16 $($(, {$c})*)?> as crate::op::Handler),
            size => double!(size, $($f)::+ $(, <$($g),*>)? $(, {$($c),*})?),
        }
    };
}

/// As `sized!`, for 4 and 8 bytes.
macro_rules! double {
    ($size:expr, $($f:ident)::+ $(, <$($g:ty),*>)? $(, {$($c:expr),*})?) => {
        match $size {
            4 => Some($($f)::+::<$($($g,)*)? u32 $($(, {$c})*)?> as crate::op::Handler),
            8 => Some($($f)::+::<$($($g,)*)? u64 $($(, {$c})*)?> as crate::op::Handler),
            _ => None,
        }
    };
}

/// The instance for a condition code: `by_condition!(cc, CC => path::<CC>)`, an expression made 16 times with a constant.
macro_rules! by_condition {
    ($cc:expr, $CC:ident => $e:expr) => {
        by_condition!(@ $cc, $CC, $e, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $cc:expr, $CC:ident, $e:expr, $($n:literal)*) => {
        match $cc {
            $($n => { const $CC: u8 = $n; $e })*
            _ => None,
        }
    };
}

mod branch;
mod fpu;
mod integer;
mod length;
mod misc;
mod operands;
mod sse;
mod string;
mod system;
#[cfg(test)]
mod tests;

use iced_x86::Instruction;

use crate::cpu::{Cpu, Mode};
use crate::op::Op;
pub(crate) use misc::is_pause;
use operands::Decoding;
pub(crate) use operands::is_immediate;

pub(crate) use length::{MAX_LEN, mark_too_long};

/// An instruction ready to run.
pub(crate) struct Lowered {
    /// What to execute.
    pub op: Op,
    /// Nothing after it may be in the same block: it branches, or changes how code decodes or runs.
    pub ends: bool,
}

/// Lowers `ins`, which was decoded in `mode` with the start of its block as address 0 and lies `off` bytes from it.
pub(crate) fn lower(cpu: &mut Cpu, ins: &Instruction, mode: Mode, off: u16) -> Lowered {
    let mut d = Decoding::new(ins, mode, off);
    let handler = integer::handler(&mut d)
        .or_else(|| branch::handler(&mut d))
        .or_else(|| string::handler(&mut d))
        .or_else(|| misc::handler(&mut d))
        .or_else(|| system::handler(&mut d))
        .or_else(|| sse::handler(&mut d))
        .or_else(|| fpu::handler(cpu, &mut d));
    match handler {
        Some(run) => d.op.run = run,
        None => d.ends = true,
    }
    Lowered { op: d.op, ends: d.ends }
}
