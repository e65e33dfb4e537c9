//! Random initial registers.

use super::values;
use crate::case::{Mode, Regs};
use crate::layout::{self, DATA, STACK};
use crate::rng::Rng;
use visor_x86::Rflags;

/// Registers for a case: random everything, a usable stack, and in compatibility mode the segments of the LDT.
pub(super) fn registers(rng: &mut Rng, mode: Mode) -> Regs {
    let mut regs = Regs::default();
    for r in &mut regs.gpr {
        *r = values::integer(rng, 64);
    }
    regs.gpr[4] = STACK + 0x800 + 8 * rng.below(64);
    match mode {
        Mode::Long => {
            regs.fs_base = segment_base(rng);
            regs.gs_base = segment_base(rng);
        }
        Mode::Compat => {
            regs.gpr.iter_mut().take(8).for_each(|r| *r &= 0xffff_ffff);
            regs.gpr[8..].fill(0);
            regs.sel[1] = u64::from(layout::selector::USER_CS32);
            regs.sel[4] = u64::from(layout::selector::LDT_FS);
            regs.sel[5] = u64::from(layout::selector::LDT_GS);
        }
    }
    regs.rflags = flags(rng);
    x87(rng, &mut regs);
    vectors(rng, &mut regs);
    regs
}

fn segment_base(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 0,
        1 | 2 => DATA + rng.below(0x1000),
        _ => (rng.u64() >> 17) & !0xfff | rng.below(0x1000),
    }
}

fn flags(rng: &mut Rng) -> u64 {
    let mut flags = Rflags::FIXED | Rflags::IF | (Rflags::from_bits_truncate(rng.u64()) & Rflags::STATUS);
    flags.set(Rflags::DF, rng.chance(12));
    flags.set(Rflags::AC, rng.chance(4));
    flags.set(Rflags::TF, rng.chance(2));
    flags.set(Rflags::ID, rng.chance(10));
    flags.bits()
}

fn x87(rng: &mut Rng, regs: &mut Regs) {
    let mut fcw = 0x37f;
    if rng.chance(40) {
        fcw = 0x7f | (rng.u32() as u16 & 0xf00);
        if rng.chance(30) {
            fcw &= !(rng.u32() as u16 & 0x3f);
        }
    }
    let mut fsw = rng.u32() as u16 & 0x7f00 & !0x3800 | (rng.below(8) as u16) << 11;
    if rng.chance(15) {
        fsw |= rng.u32() as u16 & 0x3f;
    }
    if rng.chance(95) {
        fsw &= fcw | !0x3f;
    }
    if fsw & !fcw & 0x3f != 0 {
        fsw |= 0x8080; // ES and B follow the unmasked exceptions.
    }
    regs.set_u16(0, fcw);
    regs.set_u16(2, fsw);
    regs.xsave[4] = match rng.below(4) {
        0 => 0,
        1 => rng.u32() as u8,
        _ => 0xff,
    };
    for i in 0..8 {
        let v = values::float80(rng);
        regs.set_st(i, v);
    }
}

fn vectors(rng: &mut Rng, regs: &mut Regs) {
    for i in 0..16 {
        let mut v = [0; 32];
        values::vector(rng, &mut v);
        regs.set_ymm(i, v);
    }
    let mut mxcsr = 0x1f80;
    if rng.chance(40) {
        mxcsr = 0x1f80 | rng.u32() & 0xe07f;
        if rng.chance(30) {
            mxcsr &= !(rng.u32() & 0x1f80);
        }
    }
    regs.set_u32(24, mxcsr);
}
