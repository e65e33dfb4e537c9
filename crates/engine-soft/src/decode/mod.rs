//! From a decoded instruction to an [`Op`]: which handler executes it, and its operands.

use iced_x86::Instruction;

use crate::cpu::{Cpu, Mode};
use crate::op::Op;

/// An instruction ready to run.
pub(crate) struct Lowered {
    /// What to execute.
    pub op: Op,
    /// Nothing after it may be in the same block: it branches, or changes how code decodes or runs.
    pub ends: bool,
}

/// Lowers `ins`, which was decoded in `mode` with the start of its block as address 0 and lies `off` bytes from it.
pub(crate) fn lower(cpu: &mut Cpu, ins: &Instruction, mode: Mode, off: u16) -> Lowered {
    let _ = (cpu, mode);
    let op = Op {
        run: crate::sys::ops::ud,
        imm: 0,
        mem: Default::default(),
        r0: 0,
        r1: 0,
        r2: 0,
        len: ins.len() as u8,
        off,
        lock: false,
        aux: 0,
    };
    Lowered { op, ends: true }
}
