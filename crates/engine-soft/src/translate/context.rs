//! What of the CPU's state translated code is made for, beside its address.

use iced_x86::Register;
use visor_x86::regs::{Cr0, Cr4};
use visor_x86::segment::Segment;

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::Privilege;

/// MXCSR: all exceptions masked.
const MASKS: u32 = 0x1f80;
/// XCR0: SSE and AVX state.
const VECTORS: u64 = 6;

/// Part of the key of translated code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Context(u16);

impl Context {
    /// Of nothing at all.
    pub(super) const NONE: Context = Context(0xffff);
    /// Bits 0 and 1: [`Privilege`].
    const SIMD: u16 = 1 << 2;
    const AVX: u16 = 1 << 3;
    const X87: u16 = 1 << 4;
    /// CR4.SMAP.
    const SMAP: u16 = 1 << 5;
    /// 32-bit code in flat segments.
    const CODE32: u16 = 1 << 6;
    /// There, FS and GS reach 4 GiB from their bases.
    const FS: u16 = 1 << 7;
    const GS: u16 = 1 << 8;

    /// The context of what `cpu` executes now; `None` where it must be interpreted.
    #[inline]
    pub(super) fn of(cpu: &Cpu) -> Option<Self> {
        if cpu.mode.single || cpu.shadow || cpu.mmu.privilege == Privilege::UserAligned || matches!(cpu.cpl, 1 | 2) {
            return None;
        }
        let layout = match cpu.mode.size {
            CodeSize::Bits64 => 0,
            CodeSize::Bits32 => flat(cpu)?,
            CodeSize::Bits16 => return None,
        };
        Some(Context(cpu.mmu.privilege as u16 | units(cpu) | layout))
    }

    /// 64-bit code.
    pub(super) fn is_64(self) -> bool {
        self.0 & Self::CODE32 == 0
    }

    /// How the decoder wants to know it: 32 or 64.
    pub(super) fn bits(self) -> u32 {
        if self.is_64() { 64 } else { 32 }
    }

    /// Accesses through segment register `seg` (0 is ES) need nothing but its base to be added.
    pub(super) fn reaches(self, seg: Register) -> bool {
        match seg {
            Register::FS => self.is_64() || self.0 & Self::FS != 0,
            Register::GS => self.is_64() || self.0 & Self::GS != 0,
            Register::DS | Register::SS => true,
            _ => self.is_64(),
        }
    }

    /// CR4.SMAP is set.
    pub(super) fn smap(self) -> bool {
        self.0 & Self::SMAP != 0
    }

    /// The same with other rights.
    pub(super) fn with_privilege(self, who: Privilege) -> Self {
        Context(self.0 & !3 | who as u16)
    }

    /// Code size and segments; 0 is 64-bit code.
    pub(super) fn layout(self) -> u32 {
        u32::from(self.0 >> 6)
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

    /// What depends neither on the privilege nor on the code.
    pub(super) fn units(self) -> u16 {
        self.0 & 0x3c
    }
}

/// Which of the floating-point units translated code may use directly.
fn units(cpu: &Cpu) -> u16 {
    let mut units = if cpu.cr4 & Cr4::SMAP.bits() != 0 { Context::SMAP } else { 0 };
    if cpu.cr0 & (Cr0::EM | Cr0::TS).bits() != 0 {
        return units;
    }
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

/// The layout of 32-bit code, if its segments are flat: code, data and stack at 0, all of 4 GiB, read and written.
fn flat(cpu: &Cpu) -> Option<u16> {
    let [_, cs, ss, ds, fs, gs] = &cpu.seg;
    let whole = |s: &Segment| s.base == 0 && s.limit == u32::MAX;
    let stack = reaches_all(ss) && ss.attr.db();
    if !(cpu.mode.protected && whole(cs) && whole(ss) && whole(ds) && stack && reaches_all(ds)) {
        return None;
    }
    let fs = if reaches_all(fs) { Context::FS } else { 0 };
    let gs = if reaches_all(gs) { Context::GS } else { 0 };
    Some(Context::CODE32 | fs | gs)
}

/// A data segment that is read and written without a limit.
fn reaches_all(s: &Segment) -> bool {
    let a = s.attr;
    let data = a.is_code_or_data() && !a.is_code() && a.is_rw() && !a.is_down_or_conforming();
    s.limit == u32::MAX && data && !a.unusable()
}
