//! Flags, decimal adjustment, BOUND, CRC32, random numbers, fences and cache hints.

use std::sync::atomic::{Ordering, fence};

use visor_x86::exception::{Exception, Vector};
use visor_x86::regs::Rflags;

use crate::cpu::Cpu;
use crate::exec::int::{AF, CF, Int, OF, PF, SF, WideInt, ZF};
use crate::mmu::Access;
use crate::op::{Flow, Guest, Op, flow};
use crate::translate::PAUSES;

/// NOP, prefetches, reserved NOPs, and fences that this memory model has no use for.
pub(crate) fn nop(_cpu: &mut Cpu, _op: &Op) -> Flow {
    Flow::Next
}

/// PAUSE. A CPU that spins for long waits for another one, which may be waiting for the host CPU that this one has.
pub(crate) fn pause(cpu: &mut Cpu, _op: &Op) -> Flow {
    let left = &mut cpu.frame.pauses;
    *left = left.saturating_sub(1);
    if *left == 0 {
        *left = PAUSES;
        std::thread::yield_now();
    }
    Flow::Next
}

/// LFENCE. Who reads a clock after it wants all that stands before to have been executed.
pub(crate) fn lfence(_cpu: &mut Cpu, _op: &Op) -> Flow {
    // SAFETY: LFENCE is part of SSE2, which every x86-64 CPU has.
    unsafe { std::arch::x86_64::_mm_lfence() };
    Flow::Next
}

/// MFENCE. Guest loads and stores are host loads and stores, so a host fence orders them; SFENCE asks for no more than the host
/// always gives.
pub(crate) fn mfence(_cpu: &mut Cpu, _op: &Op) -> Flow {
    fence(Ordering::SeqCst);
    Flow::Next
}

/// CLFLUSH, CLFLUSHOPT, CLWB: faults as a load of one byte; there is no cache to flush.
pub(crate) fn clflush(cpu: &mut Cpu, op: &Op) -> Flow {
    flow(probe_load(cpu, op))
}

fn probe_load(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let lin = cpu.linear(op, 1, false)?;
    cpu.check_canonical(lin, 1, op.mem.seg)?;
    let who = cpu.mmu.privilege;
    cpu.place(lin, Access::Load, who).map(|_| ())
}

/// CLC.
pub(crate) fn clc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.status &= !CF;
    Flow::Next
}

/// STC.
pub(crate) fn stc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.status |= CF;
    Flow::Next
}

/// CMC.
pub(crate) fn cmc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.status ^= CF;
    Flow::Next
}

/// CLD.
pub(crate) fn cld(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.sysflags &= !Rflags::DF.bits();
    Flow::Next
}

/// STD.
pub(crate) fn std(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.sysflags |= Rflags::DF.bits();
    Flow::Next
}

const LOW_STATUS: u64 = SF | ZF | AF | PF | CF;
const AH: u8 = 1;

/// An instruction of more than 15 bytes: #GP (SDM 3A §6.15, vector 13).
pub(crate) fn too_long(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.raise(Exception::gp(0));
    Flow::Fault
}

/// LAHF.
pub(crate) fn lahf(cpu: &mut Cpu, _op: &Op) -> Flow {
    let v = (cpu.status & LOW_STATUS) as u8 | 2;
    cpu.set_reg(AH, v);
    Flow::Next
}

/// SAHF.
pub(crate) fn sahf(cpu: &mut Cpu, _op: &Op) -> Flow {
    let v = u64::from(cpu.reg::<u8>(AH));
    cpu.status = (cpu.status & OF) | (v & LOW_STATUS);
    Flow::Next
}

/// SALC: AL filled with CF.
pub(crate) fn salc(cpu: &mut Cpu, _op: &Op) -> Flow {
    let v = if cpu.status & CF != 0 { 0xffu8 } else { 0 };
    cpu.set_reg(0, v);
    Flow::Next
}

/// SF, ZF and PF of a byte; `keep` are the flags that stay as they are.
#[inline(always)]
fn flags_of(v: u8, status: u64, keep: u64) -> u64 {
    (u8::and(v, v).1 & (SF | ZF | PF)) | (status & keep)
}

/// Whether the low decimal digit, and the whole byte, need adjustment.
#[inline(always)]
fn decimal(cpu: &Cpu) -> (bool, bool) {
    let al = cpu.reg::<u8>(0);
    (al & 0xf > 9 || cpu.status & AF != 0, al > 0x99 || cpu.status & CF != 0)
}

/// DAA (SDM 2A).
pub(crate) fn daa(cpu: &mut Cpu, _op: &Op) -> Flow {
    adjust_decimal(cpu, u8::wrapping_add)
}

/// DAS (SDM 2A).
pub(crate) fn das(cpu: &mut Cpu, _op: &Op) -> Flow {
    let (low, high) = decimal(cpu);
    let al = cpu.reg::<u8>(0);
    // Unlike DAA's, the first step's borrow reaches CF by itself.
    let borrow = low && (al < 6 || cpu.status & CF != 0);
    let flow = adjust_decimal(cpu, u8::wrapping_sub);
    if borrow && !high {
        cpu.status |= CF;
    }
    flow
}

fn adjust_decimal(cpu: &mut Cpu, apply: fn(u8, u8) -> u8) -> Flow {
    let (low, high) = decimal(cpu);
    let al = cpu.reg::<u8>(0);
    let v = apply(al, if low { 6 } else { 0 } + if high { 0x60 } else { 0 });
    cpu.set_reg(0, v);
    let flags = flags_of(v, cpu.status, 0);
    cpu.status = flags | if low { AF } else { 0 } | if high { CF } else { 0 };
    Flow::Next
}

/// AAA.
pub(crate) fn aaa(cpu: &mut Cpu, _op: &Op) -> Flow {
    adjust_ascii(cpu, |ax| ax.wrapping_add(0x106))
}

/// AAS.
pub(crate) fn aas(cpu: &mut Cpu, _op: &Op) -> Flow {
    adjust_ascii(cpu, |ax| ax.wrapping_sub(6).wrapping_sub(0x100))
}

fn adjust_ascii(cpu: &mut Cpu, adjust: fn(u16) -> u16) -> Flow {
    let ax = cpu.reg::<u16>(0);
    let carry = ax & 0xf > 9 || cpu.status & AF != 0;
    let v = if carry { adjust(ax) } else { ax } & 0xff0f;
    cpu.set_reg(0, v);
    let flags = flags_of(v as u8, cpu.status, OF);
    cpu.status = flags | if carry { AF | CF } else { 0 };
    Flow::Next
}

/// AAM: #DE for base 0.
pub(crate) fn aam(cpu: &mut Cpu, op: &Op) -> Flow {
    let base = op.imm as u8;
    let al = cpu.reg::<u8>(0);
    let (Some(quotient), Some(rest)) = (al.checked_div(base), al.checked_rem(base)) else {
        cpu.raise(Exception::DE);
        return Flow::Fault;
    };
    cpu.set_reg(0, u16::from(quotient) << 8 | u16::from(rest));
    cpu.status = flags_of(rest, cpu.status, 0);
    Flow::Next
}

/// AAD.
pub(crate) fn aad(cpu: &mut Cpu, op: &Op) -> Flow {
    let (al, ah) = (cpu.reg::<u8>(0), cpu.reg::<u8>(AH));
    let (v, status) = u8::add(al, ah.wrapping_mul(op.imm as u8));
    cpu.set_reg(0, u16::from(v));
    cpu.status = status;
    Flow::Next
}

/// BOUND: #BR unless the register lies between the two signed bounds in memory.
pub(crate) fn bound<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let index = cpu.reg::<T>(op.r0).to_i64();
    let ea = cpu.ea(&op.mem);
    let mut limit = |at: u64| -> Guest<i64> {
        let lin = cpu.linear_at(op, at & op.mem.mask, T::SIZE, false)?;
        Ok(cpu.read::<T>(lin, op.mem.seg)?.to_i64())
    };
    let Ok(lower) = limit(ea) else { return Flow::Fault };
    let Ok(upper) = limit(ea.wrapping_add(T::SIZE)) else { return Flow::Fault };
    if index < lower || index > upper {
        cpu.raise(Exception { vector: Vector::BoundRange, error: 0, info: 0 });
        return Flow::Fault;
    }
    Flow::Next
}

/// One step of CRC-32C over the bytes of `v`.
#[inline(always)]
fn crc<T: Int>(crc: u32, v: T) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    let v = v.to_u64();
    // SAFETY: the decoder has found SSE4.2 on this host.
    unsafe {
        match T::SIZE {
            1 => _mm_crc32_u8(crc, v as u8),
            2 => _mm_crc32_u16(crc, v as u16),
            4 => _mm_crc32_u32(crc, v as u32),
            _ => _mm_crc32_u64(u64::from(crc), v) as u32,
        }
    }
}

/// `crc32 reg, reg`.
pub(crate) fn crc32_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = crc(cpu.reg::<u32>(op.r0), cpu.reg::<T>(op.r1));
    cpu.set_reg(op.r0, v);
    Flow::Next
}

/// `crc32 reg, [mem]`.
pub(crate) fn crc32_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    let v = crc(cpu.reg::<u32>(op.r0), b);
    cpu.set_reg(op.r0, v);
    Flow::Next
}

fn random<T: WideInt>(cpu: &mut Cpu, op: &Op, step: unsafe fn(&mut u64) -> i32) -> Flow {
    let mut v = 0;
    // SAFETY: the decoder has found the instruction on this host.
    let ok = unsafe { step(&mut v) } == 1;
    cpu.set_reg(op.r0, T::from_u64(if ok { v } else { 0 }));
    cpu.status = if ok { CF } else { 0 };
    Flow::Next
}

/// RDRAND.
pub(crate) fn rdrand<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    // SAFETY: as `random` asks.
    random::<T>(cpu, op, |v| unsafe { std::arch::x86_64::_rdrand64_step(v) })
}

/// RDSEED.
pub(crate) fn rdseed<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    // SAFETY: as `random` asks.
    random::<T>(cpu, op, |v| unsafe { std::arch::x86_64::_rdseed64_step(v) })
}
