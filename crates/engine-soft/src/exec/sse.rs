//! The SSE2, AVX and AVX2 instructions that programs execute most, without a detour through the floating-point unit's thunks:
//! moves and integer operations, none of which looks at MXCSR.
//!
//! Vector register operands are byte offsets into the XMM array (register × 16). `V` is a VEX encoding, which checks other
//! control bits and clears the destination's upper half; `L` is a 256-bit operand.

use std::arch::x86_64 as host;

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::exec::fpu::{AVX, SSE, ready};
use crate::exec::int::Int;
use crate::mmu::{Word, peek, poke};
use crate::op::{Flow, Guest, Op, flow};

/// A 256-bit value, or a 128-bit one in `lo`.
#[derive(Clone, Copy, Default)]
struct Vector {
    lo: u128,
    hi: u128,
}

#[inline(always)]
fn checked<const V: bool>(cpu: &mut Cpu) -> Guest<()> {
    if V { ready::<AVX>(cpu) } else { ready::<SSE>(cpu) }
}

#[inline(always)]
fn xmm(cpu: &mut Cpu, r: u8) -> &mut u128 {
    // SAFETY: the decoder makes offsets of XMM registers only: multiples of 16 up to 240.
    unsafe { &mut *cpu.fpu.xmm_ptr().cast::<u8>().add(usize::from(r & 0xf0)).cast::<u128>() }
}

#[inline(always)]
fn upper(cpu: &mut Cpu, r: u8) -> &mut u128 {
    // SAFETY: as in `xmm`.
    unsafe { &mut *cpu.fpu.ymm_hi_ptr().cast::<u8>().add(usize::from(r & 0xf0)).cast::<u128>() }
}

#[inline(always)]
fn get<const L: bool>(cpu: &mut Cpu, r: u8) -> Vector {
    Vector { lo: *xmm(cpu, r), hi: if L { *upper(cpu, r) } else { 0 } }
}

#[inline(always)]
fn set<const V: bool>(cpu: &mut Cpu, r: u8, v: Vector) {
    *xmm(cpu, r) = v.lo;
    if V {
        *upper(cpu, r) = v.hi;
    }
}

/// Linear address of a vector operand; `ALIGN` demands natural alignment.
#[inline(always)]
fn linear<const L: bool, const ALIGN: bool>(cpu: &mut Cpu, op: &Op, write: bool) -> Guest<u64> {
    let size = if L { 32 } else { 16 };
    let lin = cpu.linear(op, size, write)?;
    if ALIGN && lin % size != 0 {
        cpu.check_canonical(lin, size, op.mem.seg)?;
        return cpu.fail(Exception::gp(0));
    }
    Ok(lin)
}

#[inline(always)]
fn load<const L: bool, const ALIGN: bool>(cpu: &mut Cpu, op: &Op) -> Guest<Vector> {
    let lin = linear::<L, ALIGN>(cpu, op, false)?;
    if !L {
        return Ok(Vector { lo: cpu.read(lin, op.mem.seg)?, hi: 0 });
    }
    if let Some(host) = cpu.mmu.load(cpu.mmu.privilege).lookup(lin, 32) {
        // SAFETY: a TLB hit is 32 bytes of guest RAM.
        return Ok(unsafe { Vector { lo: peek(host), hi: peek(host.add(16)) } });
    }
    let mut raw = [0; 32];
    cpu.load_bytes(lin, op.mem.seg, &mut raw)?;
    Ok(Vector { lo: Word::from_le(&raw[..16]), hi: Word::from_le(&raw[16..]) })
}

#[inline(always)]
fn store<const L: bool, const ALIGN: bool>(cpu: &mut Cpu, op: &Op, v: Vector) -> Guest<()> {
    let lin = linear::<L, ALIGN>(cpu, op, true)?;
    if !L {
        return cpu.write(lin, op.mem.seg, v.lo, Some(op));
    }
    if let Some(host) = cpu.mmu.store(cpu.mmu.privilege).lookup(lin, 32) {
        // SAFETY: a TLB hit is 32 bytes of writable guest RAM.
        unsafe {
            poke(host, v.lo);
            poke(host.add(16), v.hi);
        }
        cpu.after_store(host, 32, Some(op));
        return Ok(());
    }
    let mut raw = [0; 32];
    v.lo.put_le(&mut raw[..16]);
    v.hi.put_le(&mut raw[16..]);
    cpu.store_bytes(lin, op.mem.seg, &raw, Some(op))
}

/// `movaps`, `movdqu` and their like, register to register.
pub(crate) fn mov_rr<const V: bool, const L: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = get::<L>(cpu, op.r1);
    set::<V>(cpu, op.r0, v);
    Flow::Next
}

/// Loads.
pub(crate) fn mov_rm<const V: bool, const L: bool, const ALIGN: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let Ok(v) = load::<L, ALIGN>(cpu, op) else { return Flow::Fault };
    set::<V>(cpu, op.r0, v);
    Flow::Next
}

/// Stores.
pub(crate) fn mov_mr<const V: bool, const L: bool, const ALIGN: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = get::<L>(cpu, op.r0);
    flow(store::<L, ALIGN>(cpu, op, v))
}

/// MOVSS, MOVSD, MOVD, MOVQ from memory: the rest of the register is cleared.
pub(crate) fn scalar_rm<T: Int, const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let Ok(v) = cpu.load::<T>(op) else { return Flow::Fault };
    set::<V>(cpu, op.r0, Vector { lo: u128::from(v.to_u64()), hi: 0 });
    Flow::Next
}

/// MOVSS, MOVSD, MOVD, MOVQ, MOVLPS to memory.
pub(crate) fn scalar_mr<T: Int, const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = T::from_u64(*xmm(cpu, op.r0) as u64);
    flow(cpu.store(op, v))
}

/// MOVSS, MOVSD register to register, legacy: the rest of the destination stays.
pub(crate) fn scalar_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<false>(cpu).is_err() {
        return Flow::Fault;
    }
    let mask = u128::MAX >> (128 - T::BITS);
    let v = *xmm(cpu, op.r1) & mask;
    let to = xmm(cpu, op.r0);
    *to = (*to & !mask) | v;
    Flow::Next
}

/// MOVQ register to register: the upper half is cleared.
pub(crate) fn movq_rr<const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = *xmm(cpu, op.r1) & u128::from(u64::MAX);
    set::<V>(cpu, op.r0, Vector { lo: v, hi: 0 });
    Flow::Next
}

/// MOVD, MOVQ from a general register.
pub(crate) fn from_gpr<T: Int, const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = cpu.reg::<T>(op.r1).to_u64();
    set::<V>(cpu, op.r0, Vector { lo: u128::from(v), hi: 0 });
    Flow::Next
}

/// MOVD, MOVQ to a general register.
pub(crate) fn to_gpr<T: Int, const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = T::from_u64(*xmm(cpu, op.r1) as u64);
    cpu.set_reg(op.r0, v);
    Flow::Next
}

/// MOVLPS, MOVLPD (`HIGH` false), MOVHPS, MOVHPD (`HIGH`) from memory, legacy: the other half stays.
pub(crate) fn half_rm<const HIGH: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<false>(cpu).is_err() {
        return Flow::Fault;
    }
    let Ok(v) = cpu.load::<u64>(op) else { return Flow::Fault };
    let to = xmm(cpu, op.r0);
    let low = u128::from(u64::MAX);
    *to = if HIGH { (*to & low) | u128::from(v) << 64 } else { (*to & !low) | u128::from(v) };
    Flow::Next
}

/// MOVHPS, MOVHPD to memory.
pub(crate) fn high_mr<const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = (*xmm(cpu, op.r0) >> 64) as u64;
    flow(cpu.store(op, v))
}

/// An operation on 128-bit lanes.
pub(crate) trait Lanes {
    /// Computes one lane.
    fn apply(a: u128, b: u128) -> u128;
}

macro_rules! lanes {
    ($($name:ident $intrinsic:ident)*) => {$(
        /// The instruction of this name, in all its encodings.
        pub(crate) struct $name;
        impl Lanes for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128) -> u128 {
                // SAFETY: SSE2 is part of x86-64, and all three types are 128 plain bits.
                unsafe {
                    let [a, b] = [a, b].map(|v| std::mem::transmute::<u128, host::__m128i>(v));
                    std::mem::transmute::<host::__m128i, u128>(host::$intrinsic(a, b))
                }
            }
        }
    )*};
}
lanes! {
    Pxor _mm_xor_si128 Por _mm_or_si128 Pand _mm_and_si128 Pandn _mm_andnot_si128
    Paddb _mm_add_epi8 Paddw _mm_add_epi16 Paddd _mm_add_epi32 Paddq _mm_add_epi64
    Psubb _mm_sub_epi8 Psubw _mm_sub_epi16 Psubd _mm_sub_epi32 Psubq _mm_sub_epi64
    Pcmpeqb _mm_cmpeq_epi8 Pcmpeqw _mm_cmpeq_epi16 Pcmpeqd _mm_cmpeq_epi32
    Pcmpgtb _mm_cmpgt_epi8 Pcmpgtw _mm_cmpgt_epi16 Pcmpgtd _mm_cmpgt_epi32
    Pminub _mm_min_epu8 Pmaxub _mm_max_epu8 Pmuludq _mm_mul_epu32
    Punpcklbw _mm_unpacklo_epi8 Punpcklwd _mm_unpacklo_epi16 Punpckldq _mm_unpacklo_epi32 Punpcklqdq _mm_unpacklo_epi64
    Punpckhbw _mm_unpackhi_epi8 Punpckhwd _mm_unpackhi_epi16 Punpckhdq _mm_unpackhi_epi32 Punpckhqdq _mm_unpackhi_epi64
}

#[inline(always)]
fn lanes<O: Lanes, const L: bool>(a: Vector, b: Vector) -> Vector {
    Vector { lo: O::apply(a.lo, b.lo), hi: if L { O::apply(a.hi, b.hi) } else { 0 } }
}

/// Legacy `op xmm, xmm`.
pub(crate) fn lanes_rr<O: Lanes>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<false>(cpu).is_err() {
        return Flow::Fault;
    }
    let b = *xmm(cpu, op.r1);
    let to = xmm(cpu, op.r0);
    *to = O::apply(*to, b);
    Flow::Next
}

/// Legacy `op xmm, [mem]`, aligned.
pub(crate) fn lanes_rm<O: Lanes>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<false>(cpu).is_err() {
        return Flow::Fault;
    }
    let Ok(b) = load::<false, true>(cpu, op) else { return Flow::Fault };
    let to = xmm(cpu, op.r0);
    *to = O::apply(*to, b.lo);
    Flow::Next
}

/// VEX `op reg, reg, reg`.
pub(crate) fn lanes_rrr<O: Lanes, const L: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<true>(cpu).is_err() {
        return Flow::Fault;
    }
    let (a, b) = (get::<L>(cpu, op.r1), get::<L>(cpu, op.r2));
    set::<true>(cpu, op.r0, lanes::<O, L>(a, b));
    Flow::Next
}

/// VEX `op reg, reg, [mem]`.
pub(crate) fn lanes_rrm<O: Lanes, const L: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<true>(cpu).is_err() {
        return Flow::Fault;
    }
    let Ok(b) = load::<L, false>(cpu, op) else { return Flow::Fault };
    let a = get::<L>(cpu, op.r1);
    set::<true>(cpu, op.r0, lanes::<O, L>(a, b));
    Flow::Next
}

#[inline(always)]
fn sign_bits(v: u128) -> u64 {
    // SAFETY: SSE2 is part of x86-64, and both types are 128 plain bits.
    unsafe { host::_mm_movemask_epi8(std::mem::transmute::<u128, host::__m128i>(v)) as u32 as u64 }
}

/// PMOVMSKB.
pub(crate) fn pmovmskb<const V: bool, const L: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = get::<L>(cpu, op.r1);
    let bits = sign_bits(v.lo) | if L { sign_bits(v.hi) << 16 } else { 0 };
    cpu.set_reg(op.r0, bits);
    Flow::Next
}

/// `pshufd xmm, xmm, imm`.
pub(crate) fn pshufd<const V: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<V>(cpu).is_err() {
        return Flow::Fault;
    }
    let v = *xmm(cpu, op.r1);
    let pick = |i: u32| ((v >> (((op.imm >> (2 * i)) & 3) * 32)) & 0xffff_ffff) << (32 * i);
    let lo = pick(0) | pick(1) | pick(2) | pick(3);
    set::<V>(cpu, op.r0, Vector { lo, hi: 0 });
    Flow::Next
}

/// PSLLDQ and PSRLDQ, legacy.
pub(crate) fn byte_shift<const RIGHT: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<false>(cpu).is_err() {
        return Flow::Fault;
    }
    let bits = op.imm as u32 * 8;
    let to = xmm(cpu, op.r0);
    *to = if RIGHT { to.checked_shr(bits) } else { to.checked_shl(bits) }.unwrap_or(0);
    Flow::Next
}

/// VPBROADCASTB, W, D, Q from a register.
pub(crate) fn broadcast<T: Int, const L: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if checked::<true>(cpu).is_err() {
        return Flow::Fault;
    }
    let mask = u128::MAX >> (128 - T::BITS);
    // A one in each element.
    let ones = u128::MAX / mask;
    let lo = (*xmm(cpu, op.r1) & mask).wrapping_mul(ones);
    set::<true>(cpu, op.r0, Vector { lo, hi: if L { lo } else { 0 } });
    Flow::Next
}

/// VZEROUPPER: as many registers as the mode has.
pub(crate) fn vzeroupper(cpu: &mut Cpu, _op: &Op) -> Flow {
    if checked::<true>(cpu).is_err() {
        return Flow::Fault;
    }
    let n = if cpu.is_64() { 16 } else { 8 };
    // SAFETY: the array has 16 registers, and nothing else refers to it.
    unsafe { cpu.fpu.ymm_hi_ptr().cast::<u128>().write_bytes(0, n) };
    Flow::Next
}
