//! x87 instructions that only move register contents: no host unit needed.
//!
//! They raise nothing but stack faults, which are left to [`super::native`], as is everything
//! with an unmasked exception.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use crate::state::{FpuState, ST_MASK};

/// C1 is cleared by all of these but FCMOVcc, which leaves it alone.
const C1: u16 = 0x200;
const SIGN: u128 = 1 << 79;
const ONE: u128 = 0x3FFF_8000_0000_0000_0000;

/// A move; indices are relative to the top of stack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// FLD1, FLDZ
    Constant(u128),
    /// FLD m80
    Load,
    /// FLD ST(i)
    Duplicate(usize),
    /// FSTP m80
    Store,
    /// FST, FSTP ST(i)
    Copy { to: usize, pop: bool },
    /// FXCH
    Exchange(usize),
    /// FCHS
    ChangeSign,
    /// FABS
    Absolute,
    /// FCMOVcc: RFLAGS bits tested, whether any or none must be set, source
    Conditional { flags: u64, set: bool, from: usize },
}

impl Move {
    pub(super) fn prepare(ins: &Instruction) -> Option<Self> {
        use Mnemonic as M;
        let index = |operand| (ins.op_register(operand) as usize).wrapping_sub(Register::ST0 as usize);
        let conditional = |flags, set| Self::Conditional { flags, set, from: index(1) };
        const CF: u64 = 1;
        const PF: u64 = 4;
        const ZF: u64 = 0x40;
        Some(match ins.mnemonic() {
            M::Fld1 => Self::Constant(ONE),
            M::Fldz => Self::Constant(0),
            M::Fchs => Self::ChangeSign,
            M::Fabs => Self::Absolute,
            M::Fxch => Self::Exchange(index(1)),
            M::Fcmovb => conditional(CF, true),
            M::Fcmove => conditional(ZF, true),
            M::Fcmovbe => conditional(CF | ZF, true),
            M::Fcmovu => conditional(PF, true),
            M::Fcmovnb => conditional(CF, false),
            M::Fcmovne => conditional(ZF, false),
            M::Fcmovnbe => conditional(CF | ZF, false),
            M::Fcmovnu => conditional(PF, false),
            _ => match ins.code() {
                Code::Fld_m80fp => Self::Load,
                Code::Fld_sti => Self::Duplicate(index(0)),
                Code::Fstp_m80fp => Self::Store,
                Code::Fst_sti => Self::Copy { to: index(0), pop: false },
                Code::Fstp_sti => Self::Copy { to: index(0), pop: true },
                _ => return None,
            },
        })
    }

    /// Executes the move, or returns `false` with nothing changed. A store leaves its value in
    /// `buffer` and the stack as it is: [`Move::finish_store`].
    #[inline]
    pub(super) fn execute(self, state: &mut FpuState, rflags: u64, buffer: &mut [u8; 16]) -> bool {
        let x = &mut state.x87;
        let tags = x.relative_tags();
        let full = |slot: usize| tags & 1 << slot != 0;
        match self {
            Self::Constant(_) | Self::Load if full(7) => return false,
            Self::Constant(value) => x.push(value),
            Self::Load => x.push(u128::from_le_bytes(*buffer) & ST_MASK),
            Self::Duplicate(i) if full(7) || !full(i) => return false,
            Self::Duplicate(i) => x.push(x.st[i]),
            _ if !full(0) => return false,
            Self::Store => {
                *buffer = x.st[0].to_le_bytes();
                return true;
            }
            Self::Copy { to, pop } => {
                x.st[to] = x.st[0];
                x.ftw |= 1 << ((to + x.top()) & 7);
                if pop {
                    x.pop();
                }
            }
            Self::ChangeSign => x.st[0] ^= SIGN,
            Self::Absolute => x.st[0] &= !SIGN,
            Self::Exchange(i) | Self::Conditional { from: i, .. } if !full(i) => return false,
            Self::Exchange(i) => x.st.swap(0, i),
            Self::Conditional { flags, set, from } => {
                if (rflags & flags != 0) == set {
                    x.st[0] = x.st[from];
                }
                return true;
            }
        }
        x.fsw &= !C1;
        true
    }

    /// The pop of a store that reached memory.
    #[inline]
    pub(super) fn finish_store(state: &mut FpuState) {
        state.x87.fsw &= !C1;
        state.x87.pop();
    }
}
