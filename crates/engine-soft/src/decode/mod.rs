//! Guest bytes to [`Op`]s: `iced-x86` decodes, the modules below choose a handler and lay out its operands.

use iced_x86::Instruction;

use crate::cpu::{Cpu, Mode};
use crate::op::{Mem, Op};

/// A lowered instruction.
pub(crate) struct Lowered {
    /// The op.
    pub(crate) op: Op,
    /// It is the last of its block.
    pub(crate) ends: bool,
}

/// Chooses the handler of `ins`, which lies `off` bytes after the start of its block.
pub(crate) fn lower(_cpu: &mut Cpu, ins: &Instruction, _mode: Mode, off: u16) -> Lowered {
    let op = Op {
        run: crate::sys::ops::ud,
        imm: 0,
        mem: Mem::default(),
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
