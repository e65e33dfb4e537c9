//! The general layout of operands in an [`Op`], and what the instruction groups ask about them.
//!
//! `r0` and `r1` are the first and second general register operands as byte offsets into [`crate::cpu::Cpu::gpr`], `mem` the memory
//! operand, `imm` the last immediate, `aux` the operand size in bytes, `r2` 1 if there is a memory operand. Groups change
//! what their handlers want otherwise.

use iced_x86::{Instruction, OpKind, Register};

use crate::cpu::{CodeSize, Mode};
use crate::op::{Mem, Op, REG_BLOCK_RIP, REG_ZERO, SEG_FLAT};

/// Kinds of the first two operands. General registers only; others make [`Form::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// No operand.
    None,
    /// A register alone.
    R,
    /// Memory alone.
    M,
    /// An immediate alone.
    I,
    /// Register, register.
    RR,
    /// Register, memory.
    RM,
    /// Memory, register.
    MR,
    /// Register, immediate.
    RI,
    /// Memory, immediate.
    MI,
    /// Anything else.
    Other,
}

/// An instruction on its way to an [`Op`].
pub(super) struct Decoding<'a> {
    /// As decoded.
    pub(super) ins: &'a Instruction,
    /// Under this mode.
    pub(super) mode: Mode,
    /// What it becomes; `run` is not set yet.
    pub(super) op: Op,
    /// Bytes of the first operand.
    pub(super) size: u64,
    /// Kinds of the first two operands.
    pub(super) form: Form,
    /// The block ends after it.
    pub(super) ends: bool,
}

impl<'a> Decoding<'a> {
    /// Lays out the operands of `ins`.
    pub(super) fn new(ins: &'a Instruction, mode: Mode, off: u16) -> Self {
        let mut op = Op {
            run: crate::sys::ops::ud,
            imm: 0,
            mem: Mem { base: REG_ZERO, index: REG_ZERO, seg_base: SEG_FLAT, mask: u64::MAX, ..Mem::default() },
            r0: 0,
            r1: 0,
            r2: 0,
            len: ins.len() as u8,
            off,
            lock: ins.has_lock_prefix(),
            aux: 0,
            fpu: None,
        };
        let mut registers = 0;
        for i in 0..ins.op_count() {
            match ins.op_kind(i) {
                OpKind::Register => {
                    if let Some(r) = gpr(ins.op_register(i)) {
                        match registers {
                            0 => op.r0 = r,
                            1 => op.r1 = r,
                            _ => op.r2 = r,
                        }
                        registers += 1;
                    }
                }
                kind if is_immediate(kind) => op.imm = ins.immediate(i),
                _ => {}
            }
        }
        if let Some(m) = memory(ins, mode) {
            op.mem = m;
            if registers < 3 {
                op.r2 = 1;
            }
        }
        let size = operand_size(ins, 0);
        op.aux = size as u8;
        Decoding { ins, mode, op, size, form: form(ins), ends: false }
    }

    /// Bytes of operand `i`.
    pub(super) fn size_of(&self, i: u32) -> u64 {
        operand_size(self.ins, i)
    }

    /// Operand `i` is memory.
    pub(super) fn is_memory(&self, i: u32) -> bool {
        i < self.ins.op_count() && is_memory(self.ins.op_kind(i))
    }

    /// Bytes that the instruction pushes or pops per item, from how it moves the stack pointer.
    pub(super) fn stack_size(&self) -> u64 {
        u64::from(self.ins.stack_pointer_increment().unsigned_abs())
    }

    /// 0x66, or the mode, makes operands of this many bytes where no operand tells: never 8.
    pub(super) fn is_64(&self) -> bool {
        self.mode.size == CodeSize::Bits64
    }
}

/// Byte offset of a general register within [`crate::cpu::Cpu::gpr`].
pub(super) fn gpr(r: Register) -> Option<u8> {
    match r {
        Register::AH => Some(1),
        Register::CH => Some(8 + 1),
        Register::DH => Some(2 * 8 + 1),
        Register::BH => Some(3 * 8 + 1),
        r if r.is_gpr() => Some(r.full_register().number() as u8 * 8),
        _ => None,
    }
}

/// Number of a segment register operand, if any operand is one.
pub(super) fn segment_operand(ins: &Instruction) -> Option<u64> {
    (0..ins.op_count())
        .filter(|&i| ins.op_kind(i) == OpKind::Register)
        .map(|i| ins.op_register(i))
        .find(|r| r.is_segment_register())
        .map(|r| r.number() as u64)
}

pub(crate) fn is_immediate(kind: OpKind) -> bool {
    use OpKind::*;
    matches!(
        kind,
        Immediate8
            | Immediate8_2nd
            | Immediate16
            | Immediate32
            | Immediate64
            | Immediate8to16
            | Immediate8to32
            | Immediate8to64
            | Immediate32to64
    )
}

fn is_memory(kind: OpKind) -> bool {
    use OpKind::*;
    matches!(
        kind,
        Memory
            | MemorySegSI
            | MemorySegESI
            | MemorySegRSI
            | MemorySegDI
            | MemorySegEDI
            | MemorySegRDI
            | MemoryESDI
            | MemoryESEDI
            | MemoryESRDI
    )
}

/// Bytes of operand `i`: of the register, or of the memory it names; 0 for others.
fn operand_size(ins: &Instruction, i: u32) -> u64 {
    if i >= ins.op_count() {
        return 0;
    }
    match ins.op_kind(i) {
        OpKind::Register => ins.op_register(i).size() as u64,
        kind if is_memory(kind) => ins.memory_size().size() as u64,
        _ => 0,
    }
}

fn form(ins: &Instruction) -> Form {
    #[derive(PartialEq)]
    enum Kind {
        Register,
        Memory,
        Immediate,
        Nothing,
        Other,
    }
    let kind = |i| {
        if i >= ins.op_count() {
            return Kind::Nothing;
        }
        match ins.op_kind(i) {
            OpKind::Register if gpr(ins.op_register(i)).is_some() => Kind::Register,
            k if is_memory(k) => Kind::Memory,
            k if is_immediate(k) => Kind::Immediate,
            _ => Kind::Other,
        }
    };
    match (kind(0), kind(1)) {
        (Kind::Nothing, Kind::Nothing) => Form::None,
        (Kind::Register, Kind::Nothing) => Form::R,
        (Kind::Memory, Kind::Nothing) => Form::M,
        (Kind::Immediate, Kind::Nothing) => Form::I,
        (Kind::Register, Kind::Register) => Form::RR,
        (Kind::Register, Kind::Memory) => Form::RM,
        (Kind::Memory, Kind::Register) => Form::MR,
        (Kind::Register, Kind::Immediate) => Form::RI,
        (Kind::Memory, Kind::Immediate) => Form::MI,
        _ => Form::Other,
    }
}

/// Ones where an address of `bytes` has bits.
pub(super) fn address_mask(bytes: u32) -> u64 {
    match bytes {
        0 => u64::MAX,
        n => u64::MAX >> (64 - 8 * n.min(8)),
    }
}

/// The memory operand, the source one where there are two (MOVS, CMPS).
fn memory(ins: &Instruction, mode: Mode) -> Option<Mem> {
    use OpKind::{
        MemoryESDI, MemoryESEDI, MemoryESRDI, MemorySegDI, MemorySegEDI, MemorySegESI, MemorySegRDI, MemorySegRSI,
        MemorySegSI,
    };
    let kinds = (0..ins.op_count()).map(|i| ins.op_kind(i)).filter(|&k| is_memory(k));
    let kind = kinds.min_by_key(|k| matches!(k, MemoryESDI | MemoryESEDI | MemoryESRDI))?;
    let implicit = |register: u8, bytes: u32, seg: Register| {
        let mask = address_mask(bytes);
        // In 64-bit mode the other overrides are ignored, SS too: these are not relative to the stack.
        let ignored = mode.size == CodeSize::Bits64 && !matches!(seg, Register::FS | Register::GS);
        let seg = if ignored { Register::DS } else { seg };
        with_segment(Mem { base: register, index: REG_ZERO, mask, ..Mem::default() }, seg, mode)
    };
    Some(match kind {
        MemorySegSI => implicit(6, 2, ins.memory_segment()),
        MemorySegESI => implicit(6, 4, ins.memory_segment()),
        MemorySegRSI => implicit(6, 8, ins.memory_segment()),
        MemorySegDI => implicit(7, 2, ins.memory_segment()),
        MemorySegEDI => implicit(7, 4, ins.memory_segment()),
        MemorySegRDI => implicit(7, 8, ins.memory_segment()),
        MemoryESDI => implicit(7, 2, Register::ES),
        MemoryESEDI => implicit(7, 4, Register::ES),
        MemoryESRDI => implicit(7, 8, Register::ES),
        _ => explicit(ins, mode),
    })
}

/// A ModRM memory operand. An index that is no general register (VSIB, XLAT's AL) is left to the handler.
fn explicit(ins: &Instruction, mode: Mode) -> Mem {
    let (base, index) = (ins.memory_base(), ins.memory_index());
    let number = |r: Register| match r {
        Register::RIP | Register::EIP => REG_BLOCK_RIP,
        r if r.is_gpr() && r.size() > 1 => r.full_register().number() as u8,
        _ => REG_ZERO,
    };
    let bytes = if base != Register::None {
        base.size() as u32
    } else if number(index) != REG_ZERO {
        index.size() as u32
    } else {
        ins.memory_displ_size()
    };
    let m = Mem {
        base: number(base),
        index: number(index),
        scale: ins.memory_index_scale().trailing_zeros() as u8,
        mask: address_mask(bytes),
        disp: ins.memory_displacement64() as i64,
        ..Mem::default()
    };
    let segment = ins.memory_segment();
    let segment = if mode.size == CodeSize::Bits64 && !matches!(segment, Register::FS | Register::GS) {
        // The other overrides are ignored; the stack segment only makes #SS of #GP.
        if matches!(m.base, 4 | 5) { Register::SS } else { Register::DS }
    } else {
        segment
    };
    with_segment(m, segment, mode)
}

/// Completes `m` with the segment it is relative to.
pub(super) fn with_segment(m: Mem, segment: Register, mode: Mode) -> Mem {
    let seg = segment.number() as u8;
    let long = mode.size == CodeSize::Bits64;
    let seg_base = if long && seg < 4 { SEG_FLAT } else { seg };
    Mem { seg, seg_base, checked: !long, plain: long && m.mask == u64::MAX, ..m }
}
