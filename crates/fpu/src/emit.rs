//! A small assembler for thunks: fixed glue around one guest instruction.
//!
//! Register use inside a thunk: RDI state, RSI operand buffer, R11 guest general-purpose
//! registers, R8 to R10 renamed guest operands; RAX, RCX and RDX as the instruction or the glue
//! needs them. All are caller-saved in the System V convention, as are all vector registers, so
//! vector and MMX registers keep their guest numbers.

use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

/// Base of [`crate::FpuState`].
pub(crate) const STATE: Register = Register::RDI;
/// Base of the operand buffer.
pub(crate) const BUFFER: Register = Register::RSI;
/// Base of the guest's general-purpose registers.
pub(crate) const GPRS: Register = Register::R11;

/// Returned by a thunk that stored nothing and leaves the instruction to a more general one.
pub(crate) const GAVE_UP: u32 = u32::MAX;

pub(crate) struct Emitter {
    encoder: Encoder,
    failed: Option<IcedError>,
    length: u64,
}

impl Emitter {
    pub(crate) fn new() -> Self {
        Self { encoder: Encoder::new(64), failed: None, length: 0 }
    }

    /// Appends one instruction.
    pub(crate) fn push(&mut self, ins: &Instruction) {
        match self.encoder.encode(ins, self.length) {
            Ok(n) => self.length += n as u64,
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }

    /// `code register, [base + offset]`
    pub(crate) fn load(&mut self, code: Code, register: Register, base: Register, offset: usize) {
        self.push_result(Instruction::with2(code, register, at(base, offset)));
    }

    /// `code [base + offset], register`
    pub(crate) fn store(&mut self, code: Code, base: Register, offset: usize, register: Register) {
        self.push_result(Instruction::with2(code, at(base, offset), register));
    }

    /// `code [base + offset]`
    pub(crate) fn memory(&mut self, code: Code, base: Register, offset: usize) {
        self.push_result(Instruction::with1(code, at(base, offset)));
    }

    /// `code a, b`
    pub(crate) fn registers(&mut self, code: Code, a: Register, b: Register) {
        self.push_result(Instruction::with2(code, a, b));
    }

    /// An instruction without operands.
    pub(crate) fn plain(&mut self, code: Code) {
        self.push(&Instruction::with(code));
    }

    /// Appends an instruction made by one of the `Instruction::with*` constructors.
    pub(crate) fn push_result(&mut self, ins: Result<Instruction, IcedError>) {
        match ins {
            Ok(ins) => self.push(&ins),
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }

    /// Appends raw bytes, for jumps inside the thunk.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.encoder.write_u8(byte);
        }
        self.length += bytes.len() as u64;
    }

    /// `lahf; seto al`: the flags go to EAX, the return value.
    pub(crate) fn capture_flags(&mut self) {
        self.plain(Code::Lahf);
        self.raw(&[0x0F, 0x90, 0xC0]);
    }

    /// `jne` over `code`, a complete function tail, followed by it.
    pub(crate) fn jump_if_not_zero_over(&mut self, code: &[u8]) {
        match i32::try_from(code.len()) {
            Ok(length @ 0..128) => self.raw(&[0x75, length as u8]),
            Ok(length) => {
                self.raw(&[0x0F, 0x85]);
                self.raw(&length.to_le_bytes());
            }
            Err(_) => debug_assert!(false, "tail too long"),
        }
        self.raw(code);
    }

    /// `or eax, -1`: returns [`GAVE_UP`].
    pub(crate) fn give_up(&mut self) {
        self.raw(&[0x83, 0xC8, 0xFF]);
    }

    /// Appends `ret` and returns the code, checked in debug builds.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        self.plain(Code::Retnq);
        if let Some(error) = self.failed {
            debug_assert!(false, "thunk cannot be encoded: {error}");
            return None;
        }
        let code = self.encoder.take_buffer();
        if cfg!(debug_assertions) {
            verify(&code);
        }
        Some(code)
    }
}

/// `[base + offset]`; the offsets used here are below 1024.
pub(crate) fn at(base: Register, offset: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, offset as i64)
}

/// Checks that a thunk accesses memory only where its caller allows.
fn verify(code: &[u8]) {
    use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut last = Code::INVALID;
    while decoder.can_decode() {
        let ins = decoder.decode();
        last = ins.code();
        assert!(!ins.is_invalid(), "thunk has an invalid instruction");
        let flow = ins.flow_control();
        match flow {
            FlowControl::Next | FlowControl::Return => {}
            FlowControl::ConditionalBranch => {
                let target = ins.near_branch_target();
                assert!(target > ins.ip() && target < code.len() as u64);
            }
            _ => panic!("thunk has control flow {flow:?}"),
        }
        for operand in 0..ins.op_count() {
            let kind = ins.op_kind(operand);
            if kind == OpKind::Memory {
                verify_memory(&ins);
            } else {
                assert!(
                    !(OpKind::MemorySegSI..=OpKind::MemoryESRDI).contains(&kind),
                    "thunk has an implicit memory operand"
                );
            }
        }
    }
    assert_eq!(last, Code::Retnq);
}

fn verify_memory(ins: &Instruction) {
    assert_eq!(ins.memory_index(), Register::None);
    assert_eq!(ins.segment_prefix(), Register::None);
    let offset = ins.memory_displacement64() as i64;
    let allowed = match ins.memory_base() {
        STATE => (0..832).contains(&offset),
        BUFFER => offset == 0,
        GPRS => (0..128).contains(&offset),
        Register::RSP => offset == -8,
        _ => false,
    };
    assert!(allowed, "thunk accesses {:?}+{offset}", ins.memory_base());
}
