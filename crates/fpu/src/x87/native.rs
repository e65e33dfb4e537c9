//! x87 arithmetic on the host's x87 unit.

use std::mem::MaybeUninit;
use std::sync::Arc;

use iced_x86::Register;
use iced_x86::{Code, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use super::fast::Fast;
use super::is_arithmetic;
use super::moves::Move;
use crate::emit::{Emitter, STATE};
use crate::op::{FpuFault, OpRegs, OperandMemory, merge_flags};
use crate::plan::{clear_prefixes, redirect_memory};
use crate::state::{FpuState, MXCSR_DEFAULT, X87State};
use crate::unit::{FpuUnit, Thunk, ThunkFn};
use crate::vector::Access;

/// Exceptions that keep a store from being done when unmasked; an inexact result is stored.
const STORE_SUPPRESSED: u16 = 0x1F;

/// A prepared x87 instruction that runs on the host.
#[derive(Debug)]
pub(crate) struct Native {
    function: ThunkFn,
    _thunk: Arc<Thunk>,
    access: Access,
    size: u8,
    /// FCOMI and its relatives write RFLAGS.
    flags: bool,
    /// Last opcode register.
    fop: u16,
    shortcut: Shortcut,
}

/// What to try before the exact path when all exceptions are masked.
#[derive(Debug)]
enum Shortcut {
    None,
    Fast(Fast),
    Move(Move),
}

/// The part of an FXSAVE image the thunk needs; the rest is never looked at.
#[repr(C, align(64))]
struct Image {
    x87: X87State,
    rest: MaybeUninit<[u8; 352]>,
}

impl Native {
    pub(super) fn prepare(unit: &FpuUnit, ins: &Instruction, bitness: u32) -> Option<Self> {
        if !is_arithmetic(ins.code()) {
            return None;
        }
        let mut host = *ins;
        clear_prefixes(&mut host);
        let (mut access, mut size) = (Access::None, 0);
        for operand in 0..ins.op_count() {
            match ins.op_kind(operand) {
                OpKind::Memory => {
                    redirect_memory(&mut host);
                    let info_access = InstructionInfoFactory::new().info(&host).op_access(operand);
                    size = u8::try_from(ins.memory_size().size()).ok()?;
                    access = match info_access {
                        OpAccess::Read => Access::Read,
                        OpAccess::Write => Access::Write,
                        _ => return None,
                    };
                    if !(1..=10).contains(&size) {
                        return None;
                    }
                }
                OpKind::Register if ins.op_register(operand).is_st() => {}
                _ => return None,
            }
        }
        let flags = matches!(ins.mnemonic(), Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip);
        let code = generate(&host, flags, host.rflags_read() != 0)?;
        let thunk = unit.thunk(&code).ok()?;
        let shortcut = match Move::prepare(ins) {
            Some(simple) => Shortcut::Move(simple),
            None => Fast::prepare(unit, &host, flags).map_or(Shortcut::None, Shortcut::Fast),
        };
        Some(Self {
            shortcut,
            function: thunk.function(),
            _thunk: thunk,
            access,
            size,
            flags,
            fop: opcode(ins, bitness),
        })
    }

    pub(super) fn execute(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        if state.math_fault_pending() {
            return Err(FpuFault::MathFault);
        }
        let mut buffer = [0; 16];
        let size = usize::from(self.size);
        if self.access == Access::Read {
            mem.read(0, &mut buffer[..size])?;
        }
        let masked = state.x87.fcw & 0x3F == 0x3F;
        if !masked || !self.execute_shortcut(state, regs, mem, &mut buffer)? {
            self.execute_exact(state, regs, mem, &mut buffer)?;
        }
        state.x87.fip = regs.fip;
        state.x87.fop = self.fop;
        state.fcs = regs.fcs;
        if self.access != Access::None {
            state.x87.fdp = regs.fdp;
            state.fds = regs.fds;
        }
        Ok(())
    }

    /// Returns whether the instruction has been executed.
    #[inline]
    fn execute_shortcut(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
        buffer: &mut [u8; 16],
    ) -> Result<bool, FpuFault> {
        let size = usize::from(self.size);
        match &self.shortcut {
            Shortcut::None => Ok(false),
            Shortcut::Move(simple) => {
                let done = simple.execute(state, *regs.rflags, buffer);
                if done && self.access == Access::Write {
                    mem.write(0, &buffer[..size])?;
                    Move::finish_store(state);
                }
                Ok(done)
            }
            Shortcut::Fast(fast) => {
                let Some(outcome) = fast.compute(state, buffer, regs.gpr) else {
                    return Ok(false);
                };
                if self.access == Access::Write {
                    mem.write(0, &buffer[..size])?;
                }
                fast.commit(&mut state.x87, regs.rflags, outcome);
                Ok(true)
            }
        }
    }

    /// The whole unit is restored, runs the instruction and is saved.
    fn execute_exact(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
        buffer: &mut [u8; 16],
    ) -> Result<(), FpuFault> {
        let mut image = Image { x87: state.x87, rest: MaybeUninit::uninit() };
        image.x87.mxcsr = MXCSR_DEFAULT;
        let captured = self.run(&mut image, buffer, regs);
        let after = &mut image.x87;
        if self.access == Access::Write {
            let size = usize::from(self.size);
            if after.fsw & !after.fcw & STORE_SUPPRESSED == 0 {
                mem.write(0, &buffer[..size])?;
            } else {
                // Faults of the access come before the numeric exception (SDM 2A, FST and FIST).
                mem.probe_write(0, size)?;
            }
        }
        after.mxcsr = state.x87.mxcsr;
        after.mxcsr_mask = state.x87.mxcsr_mask;
        after.fdp = state.x87.fdp;
        after.normalize();
        state.x87 = *after;
        if self.flags {
            merge_flags(regs.rflags, captured);
        }
        Ok(())
    }

    fn run(&self, image: &mut Image, buffer: &mut [u8; 16], regs: &mut OpRegs<'_>) -> u32 {
        let base: *mut Image = image;
        // SAFETY: the thunk restores the x87 unit from the 512 bytes at `base`, executes one
        // instruction with at most 10 bytes at `buffer`, saves the unit there and reinitialises
        // it. MXCSR in the image is the host's default; XMM contents do not matter, the registers
        // are caller-saved.
        unsafe { (self.function)(base.cast(), buffer.as_mut_ptr(), regs.gpr, *regs.rflags) }
    }
}

/// `fxrstor64; instruction; fxsave64; fninit`
fn generate(host: &Instruction, writes_flags: bool, reads_flags: bool) -> Option<Vec<u8>> {
    let mut out = Emitter::new();
    out.memory(Code::Fxrstor64_m512byte, STATE, 0);
    if reads_flags {
        // FCMOVcc tests CF, ZF and PF, all in the low byte of RFLAGS.
        out.registers(Code::Mov_r32_rm32, Register::EAX, Register::ECX);
        out.raw(&[0xC1, 0xE0, 0x08]); // shl eax, 8
        out.plain(Code::Sahf);
    }
    out.push(host);
    if writes_flags {
        out.capture_flags();
    }
    out.memory(Code::Fxsave64_m512byte, STATE, 0);
    out.plain(Code::Fninit);
    out.finish()
}

/// Value of the last-opcode register: low three bits of the first opcode byte, then ModRM. The
/// decoder does not keep ModRM, so memory forms are encoded again, in their shortest form.
fn opcode(ins: &Instruction, bitness: u32) -> u16 {
    let mut encoder = Encoder::new(bitness);
    if encoder.encode(ins, ins.ip()).is_err() {
        return 0;
    }
    let bytes = encoder.take_buffer();
    let escape = bytes.iter().position(|b| (0xD8..=0xDF).contains(b));
    let Some([first, second]) = escape.and_then(|i| bytes.get(i..i + 2)) else {
        return 0;
    };
    u16::from(first & 7) << 8 | u16::from(*second)
}
