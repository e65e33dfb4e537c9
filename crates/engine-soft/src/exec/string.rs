//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, alone and repeated.
//!
//! `op.imm` holds the repeat prefix. The source is `op.mem` (DS:rSI or an override); the destination is always ES:rDI. A repeated
//! instruction keeps RCX, RSI and RDI up to date after each element or chunk, so a fault or an interrupt in the middle
//! leaves the state that the manual asks for, and it hands control back after a bounded amount of work.

use std::arch::asm;
use std::sync::atomic::Ordering;

use visor_memory::PAGE;
use visor_x86::regs::Rflags;

use crate::cpu::Cpu;
use crate::exec::int::{Int, ZF};
use crate::op::{Faulted, Flow, Guest, Op, flow};

/// `op.imm`: no repeat prefix.
pub(crate) const ONCE: u64 = 0;
/// `op.imm`: REP or REPE.
pub(crate) const REPE: u64 = 1;
/// `op.imm`: REPNE.
pub(crate) const REPNE: u64 = 2;

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;
const ES: u8 = 0;

/// Bytes that one run of a repeated instruction moves at most.
const BATCH: u64 = 64 << 10;
/// Elements that one run handles at most when it must look at each.
const STEPS: u64 = 2048;

/// Element types: those with a host string instruction.
pub(crate) trait Element: Int {
    /// Moves `n` elements as `rep movs` with DF clear does, overlaps included.
    ///
    /// # Safety
    /// Both ranges are mapped guest RAM, the destination writable.
    unsafe fn rep_movs(to: *mut u8, from: *mut u8, n: u64);
    /// Fills `n` elements.
    ///
    /// # Safety
    /// The range is mapped, writable guest RAM.
    unsafe fn rep_stos(to: *mut u8, value: Self, n: u64);
}

macro_rules! element {
    ($($t:ty, $suffix:literal;)*) => {$(
        impl Element for $t {
            #[inline(always)]
            unsafe fn rep_movs(to: *mut u8, from: *mut u8, n: u64) {
                // SAFETY: as the caller promises; the direction flag is clear in compiled code.
                unsafe {
                    asm!(concat!("rep movs", $suffix), inout("rcx") n => _, inout("rsi") from => _, inout("rdi") to => _,
                        options(nostack, preserves_flags));
                }
            }
            #[inline(always)]
            unsafe fn rep_stos(to: *mut u8, value: Self, n: u64) {
                // SAFETY: as the caller promises; the direction flag is clear in compiled code.
                unsafe {
                    asm!(concat!("rep stos", $suffix), inout("rcx") n => _, inout("rdi") to => _, in("rax") u64::from(value),
                        options(nostack, preserves_flags));
                }
            }
        }
    )*};
}
element! { u8, "b"; u16, "w"; u32, "d"; u64, "q"; }

/// MOVS.
pub(crate) fn movs<T: Element>(cpu: &mut Cpu, op: &Op) -> Flow {
    if op.imm == ONCE {
        return flow(movs_one::<T>(cpu, op));
    }
    repeat_chunks::<T>(cpu, op, movs_chunk::<T>, movs_one::<T>)
}

/// STOS.
pub(crate) fn stos<T: Element>(cpu: &mut Cpu, op: &Op) -> Flow {
    if op.imm == ONCE {
        return flow(stos_one::<T>(cpu, op));
    }
    repeat_chunks::<T>(cpu, op, stos_chunk::<T>, stos_one::<T>)
}

/// LODS.
pub(crate) fn lods<T: Element>(cpu: &mut Cpu, op: &Op) -> Flow {
    let one = |cpu: &mut Cpu, op: &Op| -> Guest<bool> {
        let v = source::<T>(cpu, op)?;
        cpu.set_reg(0, v);
        step(cpu, op, RSI, T::SIZE);
        Ok(true)
    };
    repeat(cpu, op, one)
}

/// CMPS.
pub(crate) fn cmps<T: Element>(cpu: &mut Cpu, op: &Op) -> Flow {
    let one = |cpu: &mut Cpu, op: &Op| -> Guest<bool> {
        let a = source::<T>(cpu, op)?;
        let b = destination::<T>(cpu, op)?;
        cpu.status = T::sub(a, b).1;
        step(cpu, op, RSI, T::SIZE);
        step(cpu, op, RDI, T::SIZE);
        Ok(goes_on(cpu, op))
    };
    repeat(cpu, op, one)
}

/// SCAS.
pub(crate) fn scas<T: Element>(cpu: &mut Cpu, op: &Op) -> Flow {
    let one = |cpu: &mut Cpu, op: &Op| -> Guest<bool> {
        let b = destination::<T>(cpu, op)?;
        cpu.status = T::sub(cpu.reg::<T>(0), b).1;
        step(cpu, op, RDI, T::SIZE);
        Ok(goes_on(cpu, op))
    };
    repeat(cpu, op, one)
}

/// The ZF condition of REPE and REPNE.
#[inline(always)]
fn goes_on(cpu: &Cpu, op: &Op) -> bool {
    (cpu.status & ZF != 0) == (op.imm == REPE)
}

/// Writes the bits of register `r` that the address size covers; a 32-bit write clears the rest, as always.
#[inline(always)]
fn put(cpu: &mut Cpu, r: usize, value: u64, mask: u64) {
    let keep = if mask == 0xffff { cpu.gpr[r] & !mask } else { 0 };
    cpu.gpr[r] = keep | (value & mask);
}

/// Moves an index register by one element in the direction of DF.
#[inline(always)]
fn step(cpu: &mut Cpu, op: &Op, r: usize, size: u64) {
    let old = cpu.gpr[r];
    let new = if backwards(cpu) { old.wrapping_sub(size) } else { old.wrapping_add(size) };
    put(cpu, r, new, op.mem.mask);
}

#[inline(always)]
fn backwards(cpu: &Cpu) -> bool {
    cpu.sysflags & Rflags::DF.bits() != 0
}

/// Linear address of the source element at offset `si`.
#[inline(always)]
fn source_linear(cpu: &mut Cpu, op: &Op, si: u64, size: u64) -> Guest<u64> {
    cpu.linear_at(op, si & op.mem.mask, size, false)
}

/// Linear address of the destination element at offset `di`.
#[inline(always)]
fn destination_linear(cpu: &mut Cpu, op: &Op, di: u64, size: u64, write: bool) -> Guest<u64> {
    let di = di & op.mem.mask;
    if op.mem.checked { cpu.checked_linear(ES, di, size, write) } else { Ok(di) }
}

#[inline(always)]
fn source<T: Int>(cpu: &mut Cpu, op: &Op) -> Guest<T> {
    let si = cpu.gpr[RSI];
    let lin = source_linear(cpu, op, si, T::SIZE)?;
    cpu.read(lin, op.mem.seg)
}

#[inline(always)]
fn destination<T: Int>(cpu: &mut Cpu, op: &Op) -> Guest<T> {
    let di = cpu.gpr[RDI];
    let lin = destination_linear(cpu, op, di, T::SIZE, false)?;
    cpu.read(lin, ES)
}

#[inline(always)]
fn store_destination<T: Int>(cpu: &mut Cpu, op: &Op, value: T) -> Guest<()> {
    let di = cpu.gpr[RDI];
    let lin = destination_linear(cpu, op, di, T::SIZE, true)?;
    cpu.write(lin, ES, value, Some(op))
}

fn movs_one<T: Element>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = source::<T>(cpu, op)?;
    store_destination(cpu, op, v)?;
    step(cpu, op, RSI, T::SIZE);
    step(cpu, op, RDI, T::SIZE);
    Ok(())
}

fn stos_one<T: Element>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = cpu.reg::<T>(0);
    store_destination(cpu, op, v)?;
    step(cpu, op, RDI, T::SIZE);
    Ok(())
}

/// Elements from offset `at` that surely lie below the end of the address space of the operand and in the page of `lin`.
#[inline(always)]
fn room<T: Element>(lin: u64, at: u64, mask: u64) -> u64 {
    ((PAGE - lin % PAGE) / T::SIZE).min((mask - at) / T::SIZE)
}

/// Moves up to `count` elements upwards at once, through the soft TLB, if they lie in RAM in one page each way. Returns how
/// many were moved: none where the plain step must be taken.
fn movs_chunk<T: Element>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
    let mask = op.mem.mask;
    let (si, di) = (cpu.gpr[RSI] & mask, cpu.gpr[RDI] & mask);
    let Ok(from) = source_linear(cpu, op, si, T::SIZE) else { return 0 };
    let Ok(to) = destination_linear(cpu, op, di, T::SIZE, true) else { return 0 };
    let n = count.min(room::<T>(from, si, mask)).min(room::<T>(to, di, mask));
    if n == 0 {
        return 0;
    }
    if op.mem.checked {
        let last = (n - 1) * T::SIZE;
        if source_linear(cpu, op, si + last, T::SIZE).is_err()
            || destination_linear(cpu, op, di + last, T::SIZE, true).is_err()
        {
            return 0;
        }
    }
    let who = cpu.mmu.privilege;
    let len = n * T::SIZE;
    let Some(from) = cpu.mmu.load(who).lookup(from, len) else { return 0 };
    let Some(to) = cpu.mmu.store(who).lookup(to, len) else { return 0 };
    // SAFETY: TLB hits for the whole of both ranges.
    unsafe { T::rep_movs(to, from, n) };
    cpu.after_store(to, len, Some(op));
    put(cpu, RSI, si + len, mask);
    put(cpu, RDI, di + len, mask);
    n
}

/// As [`movs_chunk`], for STOS.
fn stos_chunk<T: Element>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
    let mask = op.mem.mask;
    let di = cpu.gpr[RDI] & mask;
    let Ok(to) = destination_linear(cpu, op, di, T::SIZE, true) else { return 0 };
    let n = count.min(room::<T>(to, di, mask));
    if n == 0 || (op.mem.checked && destination_linear(cpu, op, di + (n - 1) * T::SIZE, T::SIZE, true).is_err()) {
        return 0;
    }
    let len = n * T::SIZE;
    let Some(to) = cpu.mmu.store(cpu.mmu.privilege).lookup(to, len) else { return 0 };
    // SAFETY: a TLB hit for the whole range.
    unsafe { T::rep_stos(to, cpu.reg::<T>(0), n) };
    cpu.after_store(to, len, Some(op));
    put(cpu, RDI, di + len, mask);
    n
}

/// Whether a repeated instruction should let the run loop look around.
#[inline(always)]
fn disturbed(cpu: &Cpu) -> bool {
    cpu.port.attention.load(Ordering::Relaxed) != 0
}

/// REP for MOVS and STOS: chunks where possible, single elements where not.
fn repeat_chunks<T: Element>(
    cpu: &mut Cpu,
    op: &Op,
    chunk: fn(&mut Cpu, &Op, u64) -> u64,
    one: fn(&mut Cpu, &Op) -> Guest<()>,
) -> Flow {
    let mask = op.mem.mask;
    let mut left = if cpu.mode.single { 1 } else { BATCH / T::SIZE };
    let chunks = !backwards(cpu) && !cpu.mode.single;
    loop {
        let count = cpu.gpr[RCX] & mask;
        if count == 0 {
            return Flow::Next;
        }
        let mut done = if chunks { chunk(cpu, op, count.min(left)) } else { 0 };
        if done == 0 {
            if let Err(Faulted) = one(cpu, op) {
                return Flow::Fault;
            }
            done = 1;
        }
        put(cpu, RCX, count - done, mask);
        if count == done {
            return Flow::Next;
        }
        // A single element may have gone to a device, which takes as long as hundreds in RAM.
        left = left.saturating_sub(if done == 1 { 64 } else { done });
        if left == 0 || disturbed(cpu) {
            return Flow::Again;
        }
    }
}

/// One element, or REP, REPE, REPNE over elements; `one` says whether the condition to go on holds.
#[inline(always)]
fn repeat(cpu: &mut Cpu, op: &Op, one: impl Fn(&mut Cpu, &Op) -> Guest<bool>) -> Flow {
    if op.imm == ONCE {
        return flow(one(cpu, op).map(|_| ()));
    }
    let mask = op.mem.mask;
    let steps = if cpu.mode.single { 1 } else { STEPS };
    for i in 0..steps {
        let count = cpu.gpr[RCX] & mask;
        if count == 0 {
            return Flow::Next;
        }
        let Ok(goes_on) = one(cpu, op) else { return Flow::Fault };
        put(cpu, RCX, count - 1, mask);
        if count == 1 || !goes_on {
            return Flow::Next;
        }
        if i % 64 == 63 && disturbed(cpu) {
            break;
        }
    }
    Flow::Again
}
