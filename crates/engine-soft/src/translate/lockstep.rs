//! Lockstep: before a unit runs translated, the interpreter executes it, its stores are undone, and afterwards both results are
//! compared.
//!
//! Only units are compared whose instructions the translator executes by itself, as far as they touch nothing but RAM and raise
//! nothing: whatever reaches devices or the machine's state cannot be done twice.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use visor_fpu::FpuState;
use visor_memory::PAGE;

use super::address::Access;
use super::build::Site;
use super::classify::Kind;
use super::context::Context;
use super::refill;
use super::unit::Insn;
use super::{joins, liveness, turns, unit};
use crate::cpu::Cpu;
use crate::decode::lower;
use crate::mmu::{peek, poke};
use crate::op::{Flow, Op, REG_BLOCK_RIP};

/// Differences that are told in full.
const TOLD: u64 = 20;
/// Units kept ready to be interpreted.
const KEPT: usize = 1 << 16;

/// Most turns of a loop.
const TURNS: u32 = 32;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Lockstep {
    /// What the interpreter made of the unit that runs now.
    expected: Option<Expected>,
    /// Units that have been read before, by address.
    known: FxHashMap<(u64, Context), Unit>,
    /// Units compared.
    pub(super) compared: u64,
    /// Units among them whose results differed.
    pub(super) differences: u64,
}

/// A unit ready to be interpreted.
struct Unit {
    /// What it was made of.
    bytes: Vec<u8>,
    /// Empty if it cannot be done twice.
    steps: Vec<Step>,
    /// It works on vector or x87 registers.
    floating: bool,
    /// It is a loop that the translator makes stay in itself.
    goes_round: bool,
    /// Flags that it reads from before.
    read_first: liveness::Flags,
}

struct Step {
    site: Site,
    op: Op,
    /// A branch that may go on in the unit: at which offset of the page that is, and which step.
    on: SmallVec<[(u16, usize); 2]>,
}

struct Expected {
    begin: u64,
    rip: u64,
    gpr: [u64; 16],
    status: u64,
    /// Flags that are not defined.
    undefined: liveness::Flags,
    context: Context,
    /// Flags that the unit itself reads from before.
    read_first: liveness::Flags,
    /// If the unit works on them.
    fpu: Option<Box<FpuState>>,
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
        let key = (cpu.rip, context);
        let mut now = Vec::new();
        let current = self.known.get(&key).is_some_and(|unit| {
            now.resize(unit.bytes.len(), 0);
            read_here(cpu, cpu.rip, &mut now).is_some() && now == unit.bytes
        });
        if !current {
            if self.known.len() >= KEPT {
                self.known.clear();
            }
            let Some(unit) = Unit::read(cpu, context) else { return };
            self.known.insert(key, unit);
        }
        let Some(unit) = self.known.get(&key).filter(|u| !u.steps.is_empty()) else { return };
        let (gpr, status, rip) = (cpu.gpr, cpu.status, cpu.rip);
        let fpu = unit.floating.then(|| cpu.fpu.clone());
        let (sysflags, counted) = (cpu.sysflags, cpu.stats.clone());
        let mut stores = Vec::new();
        let mut undefined = 0;
        let mut done = perform(cpu, unit, &mut stores, &mut undefined);
        if unit.goes_round {
            // By itself, and is compared if that ends soon.
            let mut turns = 1;
            while done && cpu.rip == rip && turns < TURNS {
                done = perform(cpu, unit, &mut stores, &mut undefined);
                turns += 1;
            }
            done &= cpu.rip != rip;
        }
        let after = Expected {
            begin: rip,
            rip: cpu.rip,
            gpr: std::array::from_fn(|i| cpu.gpr[i]),
            status: cpu.status,
            undefined,
            context,
            read_first: unit.read_first,
            fpu: fpu.map(|before| std::mem::replace(&mut cpu.fpu, before)),
            stores: taken_back(&stores),
        };
        cpu.frame.fpu = &raw mut *cpu.fpu;
        (cpu.gpr, cpu.status, cpu.rip, cpu.sysflags, cpu.stats) = (gpr, status, rip, sysflags, counted);
        if done {
            self.expected = Some(after);
        }
    }

    /// Compares what the translated unit has done, if it was left at its end (`whole`).
    pub(super) fn compare(&mut self, cpu: &mut Cpu, whole: bool) {
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
        let flags = cpu.status ^ e.status;
        if flags != 0 && flags & defined(cpu, &e) != 0 {
            found.push(format!("flags {:x} instead of {:x}", cpu.status, e.status));
        }
        if let Some(fpu) = &e.fpu {
            compare_floating(&cpu.fpu, fpu, &mut found);
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

impl Unit {
    /// The unit at RIP. `None` if it cannot be read.
    fn read(cpu: &mut Cpu, context: Context) -> Option<Unit> {
        let mut page = [0; PAGE as usize];
        let base = cpu.rip & !(PAGE - 1);
        read_here(cpu, base, &mut page)?;
        let start = cpu.rip % PAGE;
        let insns = unit::read(&page, start as u16, context);
        let end = insns.last().map_or(start + 1, |last| u64::from(last.next()));
        let bytes = page[start as usize..end as usize].to_vec();
        let floating = insns.iter().any(|i| matches!(i.kind, Kind::Vector | Kind::X87));
        let goes_round = !insns.is_empty() && turns::find(&insns).is_some();
        let read_first = insns.first().map_or(liveness::STATUS, |first| first.live_in);
        let mut unit = Unit { bytes, steps: Vec::new(), floating, goes_round, read_first };
        if insns.iter().all(|i| is_repeatable(i.kind)) {
            unit.steps.extend(insns.iter().enumerate().map(|(n, i)| Step {
                site: Site { ins: i.ins, off: i.off, page: Some(base) },
                op: lower(cpu, &i.ins, cpu.mode, i.off).op,
                on: goes_on(&insns, n),
            }));
        }
        Some(unit)
    }
}

/// Reads bytes of code, all in one page of RAM, at linear address `lin`.
fn read_here(cpu: &mut Cpu, lin: u64, out: &mut [u8]) -> Option<()> {
    let page = cpu.fetch(lin).ok()?.page?;
    crate::blocks::read_page(page, lin % PAGE, out);
    Some(())
}

fn compare_floating(is: &FpuState, was: &FpuState, found: &mut Vec<String>) {
    for i in 0..16 {
        if (is.xmm(i), is.ymm_hi(i)) != (was.xmm(i), was.ymm_hi(i)) {
            found.push(format!("ymm{i} {:x}_{:x}", is.ymm_hi(i), is.xmm(i)));
        }
    }
    if (0..8).any(|i| is.st(i) != was.st(i)) || is.fsw() != was.fsw() || is.mxcsr() != was.mxcsr() {
        found.push("x87 or MXCSR".into());
    }
}

/// Where `insns` go on behind instruction `n`, if that is a branch.
fn goes_on(insns: &[Insn], n: usize) -> SmallVec<[(u16, usize); 2]> {
    let insn = &insns[n];
    let mut on = SmallVec::new();
    if insn.again != 0 {
        on.push((insn.target() as u16, n + 1));
    } else if insn.kind == Kind::Jcc {
        on.push((insn.next(), n + 1));
    }
    on.extend(joins::joined(insns, n).map(|to| (insns[to].off, to)));
    on
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
fn perform(cpu: &mut Cpu, unit: &Unit, stores: &mut Vec<Store>, undefined: &mut liveness::Flags) -> bool {
    let page = cpu.rip & !(PAGE - 1);
    cpu.gpr[usize::from(REG_BLOCK_RIP)] = page;
    let mut n = 0;
    while let Some(Step { site, op, on }) = unit.steps.get(n) {
        if !refill::serve(cpu, site) {
            return false;
        }
        let flags = site.ins.rflags_undefined();
        *undefined = (*undefined & !site.ins.rflags_modified()) | flags;
        let before = stores.len();
        for (lin, size, access) in refill::accesses(cpu, site).into_iter().flatten() {
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
        cpu.block_end = std::ptr::from_ref(op).wrapping_add(1);
        let flow = (op.run)(cpu, op);
        for s in &mut stores[before..] {
            // SAFETY: as above.
            s.new = unsafe { peek(s.host) };
        }
        match flow {
            Flow::Next => cpu.rip = op.next_rip(cpu),
            Flow::End if !on.is_empty() => {}
            Flow::End => return true,
            Flow::Fault | Flow::Again => return false,
        }
        let here = |off: u16| cpu.rip == page.wrapping_add(off.into());
        n = match on.iter().find(|(off, _)| here(*off)) {
            Some((_, to)) => *to,
            None if on.is_empty() => n + 1,
            None => return true,
        };
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

/// Flags that may be read behind the unit, if that is in the same page.
fn read_behind(cpu: &mut Cpu, e: &Expected) -> liveness::Flags {
    let mut page = [0; PAGE as usize];
    let near = (e.begin ^ e.rip) < PAGE && read_here(cpu, e.rip & !(PAGE - 1), &mut page).is_some();
    if near { liveness::read_at(&page, (e.rip % PAGE) as i64, e.context.bits()) } else { liveness::STATUS }
}

/// Flags, as RFLAGS bits, that are defined behind the unit and may be read there.
fn defined(cpu: &mut Cpu, e: &Expected) -> u64 {
    use iced_x86::RflagsBits as F;
    let flags = if e.rip == e.begin { e.read_first } else { read_behind(cpu, e) };
    [(F::CF, 0x1), (F::PF, 0x4), (F::AF, 0x10), (F::ZF, 0x40), (F::SF, 0x80), (F::OF, 0x800)]
        .into_iter()
        .filter(|(f, _)| flags & !e.undefined & f != 0)
        .map(|(_, bit)| bit)
        .sum()
}
