//! Integer operations with their flags, executed on the host.
//!
//! The host runs the very instruction the guest asked for, so results and flags, those the manual calls undefined included,
//! are those of a real processor. Flags are read with `lahf; seto al` (one cycle each) and written with
//! `add al, 7fh; sahf` where the operation leaves some of them alone; `pushf` and `popf` cost ten times as much.

use std::arch::asm;

use crate::mmu::Word;

/// CF in [`crate::cpu::Cpu::status`].
pub(crate) const CF: u64 = 1;
/// PF.
pub(crate) const PF: u64 = 1 << 2;
/// AF.
pub(crate) const AF: u64 = 1 << 4;
/// ZF.
pub(crate) const ZF: u64 = 1 << 6;
/// SF.
pub(crate) const SF: u64 = 1 << 7;
/// OF.
pub(crate) const OF: u64 = 1 << 11;

/// AX after `lahf; seto al` to RFLAGS positions.
#[inline(always)]
pub(crate) fn pack(ax: u64) -> u64 {
    ((ax >> 8) & 0xd5) | ((ax & 1) << 11)
}

/// RFLAGS positions to AX for `add al, 7fh; sahf`.
#[inline(always)]
pub(crate) fn unpack(status: u64) -> u64 {
    (status << 8) | (status >> 11)
}

/// An operand of 8, 16, 32 or 64 bits, with the operations of the integer unit on it. Results come with new status flags.
pub(crate) trait Int: Word + Eq + Ord + std::fmt::LowerHex {
    /// Width.
    const BITS: u32 = Self::SIZE as u32 * 8;
    fn add(a: Self, b: Self) -> (Self, u64);
    fn sub(a: Self, b: Self) -> (Self, u64);
    fn and(a: Self, b: Self) -> (Self, u64);
    fn or(a: Self, b: Self) -> (Self, u64);
    fn xor(a: Self, b: Self) -> (Self, u64);
    fn adc(a: Self, b: Self, status: u64) -> (Self, u64);
    fn sbb(a: Self, b: Self, status: u64) -> (Self, u64);
    fn inc(a: Self, status: u64) -> (Self, u64);
    fn dec(a: Self, status: u64) -> (Self, u64);
    fn neg(a: Self) -> (Self, u64);
    fn not(a: Self) -> Self;
    fn shl(a: Self, count: u8, status: u64) -> (Self, u64);
    fn shr(a: Self, count: u8, status: u64) -> (Self, u64);
    fn sar(a: Self, count: u8, status: u64) -> (Self, u64);
    fn rol(a: Self, count: u8, status: u64) -> (Self, u64);
    fn ror(a: Self, count: u8, status: u64) -> (Self, u64);
    fn rcl(a: Self, count: u8, status: u64) -> (Self, u64);
    fn rcr(a: Self, count: u8, status: u64) -> (Self, u64);
    /// Unsigned product: low half, high half.
    fn mul(a: Self, b: Self, status: u64) -> (Self, Self, u64);
    /// Signed product: low half, high half.
    fn imul(a: Self, b: Self, status: u64) -> (Self, Self, u64);
    /// Unsigned quotient and remainder of `hi:lo`; the quotient must fit.
    fn div(hi: Self, lo: Self, by: Self, status: u64) -> (Self, Self, u64);
    /// Signed quotient and remainder of `hi:lo`; the quotient must fit.
    fn idiv(hi: Self, lo: Self, by: Self, status: u64) -> (Self, Self, u64);
    /// Sign-extended.
    fn to_i64(self) -> i64;

    /// Replaces the value at `host` by `new` if it is `old`, atomically; otherwise gives what is there.
    ///
    /// # Safety
    /// `host` is `SIZE` bytes of mapped, writable guest RAM; any alignment.
    unsafe fn cas(host: *mut u8, old: Self, new: Self) -> Result<(), Self>;
}

/// 16-, 32- and 64-bit operands: those of the operations that have no byte form.
pub(crate) trait WideInt: Int {
    fn shld(a: Self, b: Self, count: u8, status: u64) -> (Self, u64);
    fn shrd(a: Self, b: Self, count: u8, status: u64) -> (Self, u64);
    /// Truncated signed product.
    fn imul2(a: Self, b: Self, status: u64) -> (Self, u64);
    fn bsf(old: Self, a: Self, status: u64) -> (Self, u64);
    fn bsr(old: Self, a: Self, status: u64) -> (Self, u64);
    fn tzcnt(a: Self, status: u64) -> (Self, u64);
    fn lzcnt(a: Self, status: u64) -> (Self, u64);
    fn popcnt(a: Self, status: u64) -> (Self, u64);
    fn bt(a: Self, bit: Self, status: u64) -> (Self, u64);
    fn bts(a: Self, bit: Self, status: u64) -> (Self, u64);
    fn btr(a: Self, bit: Self, status: u64) -> (Self, u64);
    fn btc(a: Self, bit: Self, status: u64) -> (Self, u64);
}

/// `op a, b`: all flags written, none read.
macro_rules! two {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!(concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), out("rax") f, options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// `op a, b`: all flags written, CF read.
macro_rules! two_carry {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("bt {c:e}, 0", concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), c = in(reg) status, out("rax") f,
                    options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// `op a`: all flags but CF written.
macro_rules! one_but_carry {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!(concat!(stringify!($name), " {a", $m, "}"), "lahf", "seto al",
                    a = inout(reg) v, out("rax") f, options(pure, nomem, nostack));
            }
            (v as Self, (pack(f) & !CF) | (status & CF))
        }
    )*};
}

/// `op a, cl`: flags read and written.
macro_rules! by_count {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, count: u8, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!(stringify!($name), " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) v, in("cl") count, inout("rax") unpack(status) => f, options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// `op a, b, cl`: flags read and written.
macro_rules! double_by_count {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, count: u8, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!(stringify!($name), " {a", $m, "}, {b", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), in("cl") count, inout("rax") unpack(status) => f,
                    options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// `op a, b`: flags read and written.
macro_rules! two_keep {
    ($m:literal $($name:ident $ins:literal)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($ins, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), inout("rax") unpack(status) => f,
                    options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// `op a, a`: flags read and written.
macro_rules! one_keep {
    ($m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, status: u64) -> (Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!(stringify!($name), " {a", $m, "}, {a", $m, "}"), "lahf", "seto al",
                    a = inout(reg) v, inout("rax") unpack(status) => f, options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}

/// One-operand multiplication and division through RDX:RAX.
macro_rules! wide_muldiv {
    ($m:literal) => {
        wide_muldiv!(@mul $m mul imul);
        wide_muldiv!(@div $m div idiv);
    };
    (@mul $m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, status: u64) -> (Self, Self, u64) {
            let mut v = u64::from(a);
            let (f, hi): (u64, u64);
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!(stringify!($name), " {b", $m, "}"),
                    "mov {a}, rax", "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), out("rdx") hi, inout("rax") unpack(status) => f,
                    options(pure, nomem, nostack));
            }
            (v as Self, hi as Self, pack(f))
        }
    )*};
    (@div $m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(hi: Self, lo: Self, by: Self, status: u64) -> (Self, Self, u64) {
            let mut v = u64::from(lo);
            let (f, rem): (u64, u64);
            // SAFETY: register arithmetic; the caller has checked that the quotient fits, so the host does not trap.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!(stringify!($name), " {b", $m, "}"),
                    "mov {a}, rax", "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(by), inout("rdx") u64::from(hi) => rem,
                    inout("rax") unpack(status) => f, options(pure, nomem, nostack));
            }
            (v as Self, rem as Self, pack(f))
        }
    )*};
}

/// One-operand multiplication and division of bytes through AX.
macro_rules! byte_muldiv {
    () => {
        byte_muldiv!(@mul mul imul);
        byte_muldiv!(@div div idiv);
    };
    (@mul $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, status: u64) -> (Self, Self, u64) {
            let mut v = u64::from(a);
            let f: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!(stringify!($name), " {b:l}"),
                    "mov {a}, rax", "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(b), inout("rax") unpack(status) => f,
                    options(pure, nomem, nostack));
            }
            (v as u8, (v >> 8) as u8, pack(f))
        }
    )*};
    (@div $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(hi: Self, lo: Self, by: Self, status: u64) -> (Self, Self, u64) {
            let mut v = (u64::from(hi) << 8) | u64::from(lo);
            let f: u64;
            // SAFETY: register arithmetic; the caller has checked that the quotient fits, so the host does not trap.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!(stringify!($name), " {b:l}"),
                    "mov {a}, rax", "lahf", "seto al",
                    a = inout(reg) v, b = in(reg) u64::from(by), inout("rax") unpack(status) => f,
                    options(pure, nomem, nostack));
            }
            (v as u8, (v >> 8) as u8, pack(f))
        }
    )*};
}

macro_rules! int {
    ($t:ty, $signed:ty, $m:literal, $muldiv:ident $mm:tt) => {
        impl Int for $t {
            two!($m add sub and or xor);
            two_carry!($m adc sbb);
            one_but_carry!($m inc dec);
            #[inline(always)]
            fn neg(a: Self) -> (Self, u64) {
                Self::sub(0, a)
            }
            #[inline(always)]
            fn not(a: Self) -> Self {
                !a
            }
            by_count!($m shl shr sar rol ror rcl rcr);
            $muldiv!$mm;
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self as $signed)
            }
            #[inline(always)]
            unsafe fn cas(host: *mut u8, old: Self, new: Self) -> Result<(), Self> {
                let seen: u64;
                // SAFETY: as the caller promises; a locked instruction may be unaligned.
                unsafe {
                    asm!(concat!("lock cmpxchg [{p}], {new", $m, "}"), p = in(reg) host, new = in(reg) u64::from(new),
                        inout("rax") u64::from(old) => seen, options(nostack));
                }
                if seen as Self == old { Ok(()) } else { Err(seen as Self) }
            }
        }
    };
}
int!(u8, i8, ":l", byte_muldiv());
int!(u16, i16, ":x", wide_muldiv(":x"));
int!(u32, i32, ":e", wide_muldiv(":e"));
int!(u64, i64, ":r", wide_muldiv(":r"));

macro_rules! wide_int {
    ($t:ty, $m:literal) => {
        impl WideInt for $t {
            double_by_count!($m shld shrd);
            two_keep!($m imul2 "imul" bsf "bsf" bsr "bsr" bt "bt" bts "bts" btr "btr" btc "btc");
            one_keep!($m tzcnt lzcnt popcnt);
        }
    };
}
wide_int!(u16, ":x");
wide_int!(u32, ":e");
wide_int!(u64, ":r");
