//! Tests of the unit. The host processor is the oracle: [`native`] runs the unmodified instruction
//! with complete state restored and saved by XRSTOR and XSAVE, [`differential`] compares.

mod apfloat;
mod cases;
mod coverage;
mod differential;
mod environment;
mod faults;
mod image;
mod native;
mod random;
mod speed;
mod unmasked;

use crate::{FpuFault, FpuOp, FpuState, FpuUnit, MemFault, OpRegs, OperandMemory};
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Bytes of guest memory around the effective address, which is in the middle.
pub(crate) const MEMORY: usize = 8192;

/// Guest memory that works, or faults outside a limit.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct TestMemory {
    pub(crate) bytes: [u8; MEMORY],
    /// Offsets (relative to the effective address) at and beyond which accesses fault.
    pub(crate) limit: i64,
    /// Low bits of the effective address as far as alignment checks are concerned.
    pub(crate) address: u64,
    pub(crate) writable: bool,
}

impl TestMemory {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; MEMORY], limit: MEMORY as i64 / 2, address: 0, writable: true }
    }

    fn range(&self, offset: i64, len: usize) -> Result<std::ops::Range<usize>, MemFault> {
        let start = offset + MEMORY as i64 / 2;
        if start < 0 || offset + len as i64 > self.limit {
            return Err(MemFault);
        }
        Ok(start as usize..start as usize + len)
    }
}

impl OperandMemory for TestMemory {
    fn read(&mut self, offset: i64, data: &mut [u8]) -> Result<(), MemFault> {
        data.copy_from_slice(&self.bytes[self.range(offset, data.len())?]);
        Ok(())
    }

    fn write(&mut self, offset: i64, data: &[u8]) -> Result<(), MemFault> {
        self.probe_write(offset, data.len())?;
        let range = self.range(offset, data.len())?;
        self.bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn check_alignment(&mut self, align: u32) -> Result<(), MemFault> {
        if self.address.is_multiple_of(u64::from(align)) { Ok(()) } else { Err(MemFault) }
    }

    fn probe_write(&mut self, offset: i64, len: usize) -> Result<(), MemFault> {
        if !self.writable {
            return Err(MemFault);
        }
        self.range(offset, len).map(drop)
    }
}

/// A whole machine for one instruction.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) state: FpuState,
    pub(crate) gpr: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) memory: TestMemory,
    pub(crate) real_mode: bool,
    pub(crate) osxmmexcpt: bool,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            state: FpuState::default(),
            gpr: [0; 16],
            rflags: 2,
            memory: TestMemory::new(),
            real_mode: false,
            osxmmexcpt: true,
        }
    }

    pub(crate) fn run(&mut self, op: &FpuOp) -> Result<(), FpuFault> {
        let mut regs = OpRegs {
            gpr: &mut self.gpr,
            rflags: &mut self.rflags,
            fip: 0x1_2345_6789,
            fcs: 0x33,
            fdp: 0x9_8765_4320,
            fds: 0x2B,
            real_mode: self.real_mode,
            osxmmexcpt: self.osxmmexcpt,
            ne: true,
        };
        op.execute(&mut self.state, &mut regs, &mut self.memory)
    }

    /// Decodes and runs 64-bit code of one instruction.
    pub(crate) fn run_bytes(&mut self, bytes: &[u8]) -> Result<(), FpuFault> {
        self.run(&prepare(bytes, 64))
    }
}

pub(crate) fn unit() -> &'static FpuUnit {
    static UNIT: std::sync::OnceLock<FpuUnit> = std::sync::OnceLock::new();
    UNIT.get_or_init(|| FpuUnit::new().unwrap())
}

pub(crate) fn decode(bytes: &[u8], bitness: u32) -> Instruction {
    Decoder::new(bitness, bytes, DecoderOptions::NONE).decode()
}

pub(crate) fn prepare(bytes: &[u8], bitness: u32) -> FpuOp {
    let ins = decode(bytes, bitness);
    FpuOp::prepare(unit(), &ins, bitness).unwrap_or_else(|| panic!("{:?}", ins.code()))
}
