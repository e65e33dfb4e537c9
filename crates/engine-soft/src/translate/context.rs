//! What of the CPU's state translated code is made for, beside its address.

use visor_x86::regs::{Cr0, Cr4};

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::Privilege;

/// MXCSR: all exceptions masked.
const MASKS: u32 = 0x1f80;
/// XCR0: SSE and AVX state.
const VECTORS: u64 = 6;

/// Part of the key of translated code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Context(u8);

impl Context {
    /// Of nothing at all.
    pub(super) const NONE: Context = Context(0xff);
    /// Bits 0 and 1: [`Privilege`].
    const SIMD: u8 = 1 << 2;
    const AVX: u8 = 1 << 3;
    const X87: u8 = 1 << 4;

    /// The context of what `cpu` executes now; `None` where it must be interpreted.
    #[inline]
    pub(super) fn of(cpu: &Cpu) -> Option<Self> {
        if cpu.mode.size != CodeSize::Bits64 || cpu.mode.single || cpu.shadow {
            return None;
        }
        if cpu.mmu.privilege == Privilege::UserAligned {
            return None;
        }
        Some(Context(cpu.mmu.privilege as u8 | units(cpu)))
    }

    /// Whose rights code of this context has.
    pub(super) fn privilege(self) -> Privilege {
        match self.0 & 3 {
            0 => Privilege::Supervisor,
            1 => Privilege::SupervisorAc,
            _ => Privilege::User,
        }
    }

    /// Ring 3.
    pub(super) fn is_user(self) -> bool {
        self.privilege() == Privilege::User
    }

    /// SSE instructions execute, and none of their exceptions is unmasked.
    pub(super) fn simd(self) -> bool {
        self.0 & Self::SIMD != 0
    }

    /// So do AVX instructions.
    pub(super) fn avx(self) -> bool {
        self.0 & Self::AVX != 0
    }

    /// x87 instructions execute, and none of their exceptions is unmasked or pending.
    pub(super) fn x87(self) -> bool {
        self.0 & Self::X87 != 0
    }

    /// What does not depend on the privilege.
    pub(super) fn units(self) -> u8 {
        self.0 & !3
    }
}

/// Which of the floating-point units translated code may use directly.
fn units(cpu: &Cpu) -> u8 {
    if cpu.cr0 & (Cr0::EM | Cr0::TS).bits() != 0 {
        return 0;
    }
    let mut units = 0;
    let masked = cpu.fpu.mxcsr() & MASKS == MASKS;
    if cpu.cr4 & Cr4::OSFXSR.bits() != 0 && masked {
        units |= Context::SIMD;
        if cpu.cr4 & Cr4::OSXSAVE.bits() != 0 && cpu.xcr0 & VECTORS == VECTORS {
            units |= Context::AVX;
        }
    }
    if cpu.fpu.x87_is_quiet() {
        units |= Context::X87;
    }
    units
}
