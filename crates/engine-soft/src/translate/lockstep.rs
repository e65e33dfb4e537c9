//! Lockstep: before a unit runs translated, the interpreter executes it, its stores are undone, and afterwards both results are
//! compared.
//!
//! Only units are compared whose instructions the translator executes by itself, as far as they touch nothing but RAM and raise
//! nothing: whatever reaches devices or the machine's state cannot be done twice.

use visor_fpu::FpuState;
use visor_memory::PAGE;

use super::address::Access;
use super::build::Site;
use super::classify::Kind;
use super::context::Context;
use super::refill;
use super::turns;
use super::unit::{self, Insn};
use crate::cpu::Cpu;
use crate::decode::lower;
use crate::mmu::{peek, poke};
use crate::op::{Flow, REG_BLOCK_RIP};

/// Differences that are told in full.
const TOLD: u64 = 20;

/// Most turns of a loop.
const TURNS: u32 = 32;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Lockstep {
    /// What the interpreter made of the unit that runs now.
    expected: Option<Expected>,
    /// Units compared.
    pub(super) compared: u64,
    /// Units among them whose results differed.
    pub(super) differences: u64,
}

struct Expected {
    begin: u64,
    rip: u64,
    gpr: [u64; 16],
    status: u64,
    /// Flags that are defined and may be read from here on.
    live: u64,
    fpu: Box<FpuState>,
    stores: Vec<Store>,
}

/// A byte that the unit writes.
#[derive(Clone, Copy)]
struct Store {
    host: *mut u8,
    old: u8,
    new: u8,
}

// SAFETY: addresses in guest RAM, which any thread may use.
unsafe impl Send for Store {}

impl Lockstep {
    /// Executes the unit at RIP by the interpreter and takes everything back.
    pub(super) fn rehearse(&mut self, cpu: &mut Cpu, context: Context) {
        self.expected = None;
        let mut page = [0; PAGE as usize];
        let Ok(place) = cpu.fetch(cpu.rip) else { return };
        let Some(ram) = place.page else { return };
        crate::blocks::read_page(ram, 0, &mut page);
        let start = (cpu.rip % PAGE) as u16;
        let unit = unit::read(&page, start, context);
        if unit.is_empty() || !unit.iter().all(|i| is_repeatable(i.kind)) {
            return;
        }
        let (gpr, status, fpu, rip) = (cpu.gpr, cpu.status, cpu.fpu.clone(), cpu.rip);
        let (sysflags, counted) = (cpu.sysflags, cpu.stats.clone());
        let mut stores = Vec::new();
        let mut undefined = 0;
        let mut done = perform(cpu, &unit, &mut stores, &mut undefined);
        if turns::find(&unit).is_some() {
            // It goes round by itself, and is compared if that ends soon.
            let mut turns = 1;
            while done && cpu.rip == rip && turns < TURNS {
                done = perform(cpu, &unit, &mut stores, &mut undefined);
                turns += 1;
            }
            done &= cpu.rip != rip;
        }
        let after = Expected {
            begin: rip,
            rip: cpu.rip,
            gpr: std::array::from_fn(|i| cpu.gpr[i]),
            status: cpu.status,
            live: if cpu.rip == rip {
                status_bits(unit[0].live_in & !undefined)
            } else {
                live_at(&page, context.bits(), rip, cpu.rip, undefined)
            },
            fpu: std::mem::replace(&mut cpu.fpu, fpu),
            stores: taken_back(&stores),
        };
        cpu.frame.fpu = &raw mut *cpu.fpu;
        (cpu.gpr, cpu.status, cpu.rip, cpu.sysflags, cpu.stats) = (gpr, status, rip, sysflags, counted);
        if done {
            self.expected = Some(after);
        }
    }

    /// Compares what the translated unit has done, if it was left at its end (`whole`).
    pub(super) fn compare(&mut self, cpu: &Cpu, whole: bool) {
        let Some(e) = self.expected.take().filter(|_| whole) else { return };
        self.compared += 1;
        let mut found = Vec::new();
        if cpu.rip != e.rip {
            found.push(format!("rip {:x} instead of {:x}", cpu.rip, e.rip));
        }
        for (i, (is, was)) in cpu.gpr.iter().zip(&e.gpr).enumerate() {
            if is != was {
                found.push(format!("register {i} {is:x} instead of {was:x}"));
            }
        }
        if (cpu.status ^ e.status) & e.live != 0 {
            found.push(format!("flags {:x} instead of {:x}", cpu.status, e.status));
        }
        for i in 0..16 {
            if (cpu.fpu.xmm(i), cpu.fpu.ymm_hi(i)) != (e.fpu.xmm(i), e.fpu.ymm_hi(i)) {
                found.push(format!("ymm{i} {:x}_{:x}", cpu.fpu.ymm_hi(i), cpu.fpu.xmm(i)));
            }
        }
        if (0..8).any(|i| cpu.fpu.st(i) != e.fpu.st(i))
            || cpu.fpu.fsw() != e.fpu.fsw()
            || cpu.fpu.mxcsr() != e.fpu.mxcsr()
        {
            found.push("x87 or MXCSR".into());
        }
        for s in &e.stores {
            // SAFETY: guest RAM, which the CPU keeps.
            let is: u8 = unsafe { peek(s.host) };
            if is != s.new {
                found.push(format!("a byte of memory {is:x} instead of {:x}", s.new));
            }
        }
        if !found.is_empty() {
            self.differences += 1;
            if self.differences <= TOLD {
                tracing::error!("lockstep: the unit at {:x}: {}", e.begin, found.join("; "));
            }
        }
    }
}

/// The interpreter may execute it before the translation does.
fn is_repeatable(kind: Kind) -> bool {
    match kind {
        Kind::Interpret { .. } => false,
        Kind::System(what) => what.is_repeatable(),
        _ => true,
    }
}

/// Interprets `unit` until it is left. False if something happens that cannot be done twice.
fn perform(cpu: &mut Cpu, unit: &[Insn], stores: &mut Vec<Store>, undefined: &mut unit::Flags) -> bool {
    let page = cpu.rip & !(PAGE - 1);
    cpu.gpr[usize::from(REG_BLOCK_RIP)] = page;
    for insn in unit {
        let site = Site { ins: insn.ins, off: insn.off, page: Some(page) };
        if !refill::serve(cpu, &site) {
            return false;
        }
        let flags = insn.ins.rflags_undefined();
        *undefined = (*undefined & !insn.ins.rflags_modified()) | flags;
        let before = stores.len();
        for (lin, size, access) in refill::accesses(cpu, &site).into_iter().flatten() {
            let Some(host) = cpu.mmu.store(cpu.mmu.privilege).lookup(lin, size).filter(|_| access == Access::Store)
            else {
                continue;
            };
            // Code that changes is somebody else's test.
            if cpu.is_code(host) {
                return false;
            }
            for i in 0..size as usize {
                // SAFETY: the table serves the whole range.
                let host = unsafe { host.add(i) };
                // SAFETY: as above.
                let old = unsafe { peek(host) };
                stores.push(Store { host, old, new: 0 });
            }
        }
        let op = lower(cpu, &insn.ins, cpu.mode, insn.off).op;
        cpu.block_end = std::ptr::from_ref(&op).wrapping_add(1);
        let flow = (op.run)(cpu, &op);
        for s in &mut stores[before..] {
            // SAFETY: as above.
            s.new = unsafe { peek(s.host) };
        }
        match flow {
            Flow::Next => cpu.rip = op.next_rip(cpu),
            Flow::End if cpu.rip == op.next_rip(cpu) && insn.kind == Kind::Jcc => {}
            Flow::End => return true,
            Flow::Fault | Flow::Again => return false,
        }
    }
    true
}

/// Undoes `stores`, the last first; what each byte was in the end.
fn taken_back(stores: &[Store]) -> Vec<Store> {
    let mut last: Vec<Store> = Vec::new();
    for s in stores.iter().rev() {
        // SAFETY: guest RAM.
        unsafe { poke(s.host, s.old) };
        if last.iter().all(|l| l.host != s.host) {
            last.push(*s);
        }
    }
    last
}

/// Flags but `undefined`, as RFLAGS bits, that may be read at `rip` if it is in the same page as `begin`.
fn live_at(page: &[u8], bits: u32, begin: u64, rip: u64, undefined: unit::Flags) -> u64 {
    let flags = if (begin ^ rip) < PAGE { unit::read_at(page, (rip % PAGE) as i64, bits) } else { unit::STATUS };
    status_bits(flags & !undefined)
}

/// `flags` as RFLAGS bits.
fn status_bits(flags: unit::Flags) -> u64 {
    use iced_x86::RflagsBits as F;
    [(F::CF, 0x1), (F::PF, 0x4), (F::AF, 0x10), (F::ZF, 0x40), (F::SF, 0x80), (F::OF, 0x800)]
        .into_iter()
        .filter(|(f, _)| flags & f != 0)
        .map(|(_, bit)| bit)
        .sum()
}
