//! The fast path of x87 arithmetic.
//!
//! Restoring and saving the whole unit costs about 100 ns. When all exceptions are masked, the
//! registers an instruction reads are not empty and no new exception flag appears, the effect of
//! most instructions is that of running them on a small host stack holding just their operands.
//! The thunk does that and gives up, leaving the host unit clean, when the status word shows a
//! flag the guest does not have yet; the exact path in [`super::native`] then decides. In the
//! usual run of inexact results the guest's sticky PE is set after the first.

use std::sync::Arc;

use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, Register};

use crate::emit::{Emitter, GAVE_UP, STATE, at};
use crate::op::merge_flags;
use crate::state::{FCW_INIT, FpuState, OFFSET_ST, X87State};
use crate::unit::{FpuUnit, Thunk};

/// C1: direction of rounding.
const C1: u16 = 0x200;
/// All four condition codes.
const CONDITIONS: u16 = 0x4700;
/// Slot that becomes ST(0) by a push.
const PUSHED: usize = 7;

/// An instruction on a small stack.
#[derive(Debug)]
pub(super) struct Fast {
    /// With the host's default control word, and with the guest's.
    thunks: [Arc<Thunk>; 2],
    shape: Shape,
    flags: bool,
}

/// How an instruction uses the stack.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Slots loaded, deepest first.
    loads: [Option<usize>; 2],
    /// Pops the instruction does.
    pops: usize,
    /// Slot that receives the result, before pops and pushes, and its host register afterwards.
    result: Option<(usize, usize)>,
    push: bool,
    /// Condition codes it defines.
    conditions: u16,
}

impl Shape {
    fn operands(&self) -> usize {
        self.loads.iter().flatten().count()
    }
}

impl Fast {
    /// `host` has its memory operand redirected. `None`: the instruction has no fast path.
    pub(super) fn prepare(unit: &FpuUnit, host: &Instruction, flags: bool) -> Option<Self> {
        let shape = shape_of(host)?;
        let mut small = *host;
        for operand in 0..small.op_count() {
            let sti = small.op_code().op_kind(operand) == OpCodeOperandKind::sti_opcode;
            if sti && small.op_register(operand) != Register::ST0 {
                small.set_op_register(operand, Register::ST1);
            }
        }
        let default = unit.thunk(&generate(&small, &shape, flags, false)?).ok()?;
        let own = unit.thunk(&generate(&small, &shape, flags, true)?).ok()?;
        Some(Self { thunks: [default, own], shape, flags })
    }

    /// Runs the instruction without a memory store: see [`Fast::commit`]. `None`: not possible,
    /// nothing has changed. All exceptions must be masked in the guest's control word.
    #[inline]
    pub(super) fn compute(&self, state: &mut FpuState, buffer: &mut [u8; 16], gpr: &mut [u64; 16]) -> Option<u32> {
        let tags = state.x87.relative_tags();
        let needed = self.shape.loads.iter().flatten().fold(0_u8, |mask, slot| mask | 1 << slot);
        if tags & needed != needed || (self.shape.push && tags & 1 << PUSHED != 0) {
            return None;
        }
        let own = usize::from(state.x87.fcw & 0xF3F != FCW_INIT & 0xF3F);
        let function = self.thunks[own].function();
        // SAFETY: the thunk reads and writes slots of `state` and at most 10 bytes of `buffer`,
        // and leaves the host's x87 unit empty with its default control word.
        let outcome = unsafe { function(state, buffer.as_mut_ptr(), gpr, 0) };
        (outcome != GAVE_UP).then_some(outcome)
    }

    /// Stack and condition codes after [`Fast::compute`] and a successful store.
    #[inline]
    pub(super) fn commit(&self, x87: &mut X87State, rflags: &mut u64, outcome: u32) {
        let conditions = self.shape.conditions;
        x87.fsw = (x87.fsw & !conditions) | ((outcome >> 16) as u16 & conditions);
        if self.flags {
            merge_flags(rflags, outcome);
        }
        if self.shape.push {
            x87.push_slot();
        }
        for _ in 0..self.shape.pops {
            x87.pop();
        }
    }
}

/// The stack effect of `ins`, with its register operand still the guest's.
fn shape_of(ins: &Instruction) -> Option<Shape> {
    use Mnemonic as M;
    let memory = ins.op_count() > 0 && ins.op0_register() == Register::None;
    let sti = (0..ins.op_count())
        .find(|&i| ins.op_code().op_kind(i) == OpCodeOperandKind::sti_opcode)
        .map(|i| (ins.op_register(i) as usize) - Register::ST0 as usize);
    let shape = |loads, pops, result, conditions| Shape { loads, pops, result, push: false, conditions };
    let one = [Some(0), None];
    // ST(i) and ST(0), or ST(0) alone.
    let pair = |other: Option<usize>| match other {
        Some(i) if i != 0 => [Some(i), Some(0)],
        _ => one,
    };
    Some(match ins.mnemonic() {
        M::Fadd | M::Fsub | M::Fsubr | M::Fmul | M::Fdiv | M::Fdivr if memory => shape(one, 0, Some((0, 0)), C1),
        M::Fiadd | M::Fisub | M::Fisubr | M::Fimul | M::Fidiv | M::Fidivr => shape(one, 0, Some((0, 0)), C1),
        M::Fadd | M::Fsub | M::Fsubr | M::Fmul | M::Fdiv | M::Fdivr => {
            let to_sti = ins.op_code().op_kind(0) == OpCodeOperandKind::sti_opcode;
            match sti? {
                i if to_sti && i != 0 => shape(pair(sti), 0, Some((i, 1)), C1),
                _ => shape(pair(sti), 0, Some((0, 0)), C1),
            }
        }
        M::Faddp | M::Fsubp | M::Fsubrp | M::Fmulp | M::Fdivp | M::Fdivrp => match sti? {
            0 => return None,
            i => shape(pair(sti), 1, Some((i, 0)), C1),
        },
        M::Fcom | M::Fucom | M::Ficom => shape(pair(sti), 0, None, CONDITIONS),
        M::Fcomp | M::Fucomp | M::Ficomp => shape(pair(sti), 1, None, CONDITIONS),
        M::Fcompp | M::Fucompp => shape(pair(Some(1)), 2, None, CONDITIONS),
        M::Fcomi | M::Fucomi => shape(pair(sti), 0, None, 0),
        M::Fcomip | M::Fucomip => shape(pair(sti), 1, None, 0),
        M::Ftst | M::Fxam => shape(one, 0, None, CONDITIONS),
        M::Fsqrt | M::Frndint | M::F2xm1 => shape(one, 0, Some((0, 0)), C1),
        M::Fscale => shape(pair(Some(1)), 0, Some((0, 0)), C1),
        M::Fyl2x | M::Fyl2xp1 | M::Fpatan => shape(pair(Some(1)), 1, Some((1, 0)), C1),
        M::Fst | M::Fist if memory => shape(one, 0, None, C1),
        M::Fstp | M::Fistp | M::Fisttp | M::Fbstp if memory => shape(one, 1, None, C1),
        M::Fld | M::Fild | M::Fbld if memory => {
            Shape { loads: [None, None], pops: 0, result: Some((PUSHED, 0)), push: true, conditions: C1 }
        }
        M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 => {
            Shape { loads: [None, None], pops: 0, result: Some((PUSHED, 0)), push: true, conditions: C1 }
        }
        _ => return None,
    })
}

fn generate(small: &Instruction, shape: &Shape, flags: bool, own: bool) -> Option<Vec<u8>> {
    let scratch = 0_usize.wrapping_sub(8);
    let mut out = Emitter::new();
    if own {
        out.memory(Code::Fldcw_m2byte, STATE, 0);
    }
    for slot in shape.loads.iter().flatten() {
        out.memory(Code::Fld_m80fp, STATE, OFFSET_ST + 16 * slot);
    }
    out.push(small);
    if flags {
        out.capture_flags();
        out.registers(Code::Mov_r32_rm32, Register::R8D, Register::EAX);
    }
    out.push_result(Instruction::with1(Code::Fnstsw_AX, Register::AX));
    out.load(Code::Movzx_r32_rm16, Register::EDX, STATE, 2);
    out.raw(&[0xF7, 0xD2]); // not edx
    out.raw(&[0x21, 0xC2]); // and edx, eax
    out.raw(&[0xF6, 0xC2, 0x7F]); // test dl, 0x7F
    let mut good = Emitter::new();
    store_result(&mut good, shape);
    if own {
        let target = at(Register::RSP, scratch);
        good.push_result(Instruction::with2(Code::Mov_rm16_imm16, target, u32::from(FCW_INIT)));
        good.memory(Code::Fldcw_m2byte, Register::RSP, scratch);
    }
    good.raw(&[0xC1, 0xE0, 0x10]); // shl eax, 16
    if flags {
        good.raw(&[0x45, 0x0F, 0xB7, 0xC0]); // movzx r8d, r8w
        good.registers(Code::Or_r32_rm32, Register::EAX, Register::R8D);
    }
    let good = good.finish()?;
    out.jump_if_not_zero_over(&good);
    out.plain(Code::Fninit);
    out.give_up();
    out.finish()
}

/// Stores the result and empties the host's stack.
fn store_result(out: &mut Emitter, shape: &Shape) {
    let pop = [0xDD, 0xD8]; // fstp st(0)
    let mut depth = shape.operands() + usize::from(shape.push) - shape.pops;
    if let Some((slot, register)) = shape.result {
        for _ in 0..register {
            out.raw(&pop);
        }
        out.memory(Code::Fstp_m80fp, STATE, OFFSET_ST + 16 * slot);
        depth -= register + 1;
    }
    for _ in 0..depth {
        out.raw(&pop);
    }
}
