//! The loop around translated code: finds or makes the translation at RIP, enters it, and acts on why it was left.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use visor_engine::{HelperStats, TranslatorStats, VcpuStats};
use visor_memory::{PAGE, RamPage};

use super::alarm::{Alarm, Listening};
use super::build::{Build, HostFlavour};
use super::cache::{At, CodeCache};
use super::context::Context;
use super::frame::Exit;
use super::helpers;
use super::lockstep::Lockstep;
use super::map::{Key, Map};
use super::stubs::{Helpers, HostCpu, Stubs};
use super::tally::Tally;
use super::translate;
use super::unit::{self, Insn};
use super::verify::verify;
use crate::account::Phase;
use crate::changed::Changed;
use crate::cpu::Cpu;
use crate::host::HostFeatures;
use crate::mmu::Home;
use crate::op::{Guest, REG_BLOCK_RIP};
use crate::options::SoftOptions;
use crate::perf_map::PerfMap;

/// How often code is interpreted before it is translated.
const HOT: u8 = 2;
/// How often a unit is left where a range is not served before there is a translation for that.
const APART: u8 = 8;
/// How often code is read anew that others change meanwhile.
const READINGS: u32 = 8;
/// Room that the translation of one unit may take.
const LARGEST: usize = 64 << 10;

/// Counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TranslatorCounts {
    /// Times translated code was entered.
    pub(crate) entries: u64,
    /// Instructions that the interpreter executed for translated code.
    pub(crate) interpreted: u64,
    /// Misses of the soft TLB that a page walk made good.
    pub(crate) refills: u64,
    /// Stores to frames with code.
    pub(crate) checked_writes: u64,
    /// Indirect branches whose target the table did not have.
    pub(crate) looked_up: u64,
}

/// The translator of one CPU.
pub(crate) struct Translator {
    pub(super) map: Map,
    stubs: Stubs,
    enter: extern "sysv64" fn(u64, u64),
    flavour: HostFlavour,
    pub(super) host: HostCpu,
    /// What is emitted is proved to be harmless, and refused where it is not.
    verify: bool,
    refused: u64,
    alarm: Alarm,
    /// What the far links and the branch targets of the kernel were made under.
    upper: u64,
    units: u16,
    /// GS base of this thread, where the CPU cannot set it by itself.
    window: u64,
    /// The site of a branch that a helper has executed before the code was left.
    pub(super) branched: Option<u32>,
    pub(super) stats: TranslatorCounts,
    pub(super) tally: Tally,
    page: Box<[u8; PAGE as usize]>,
    /// Keep flags that nothing reads as well.
    exact_flags: bool,
    /// Translate only these, by number.
    bisect: Option<Range<u64>>,
    /// Units met so far.
    met: u64,
    lockstep: Option<Lockstep>,
    perf_map: Option<Arc<PerfMap>>,
}

/// What is known of the code at RIP.
enum Found {
    Code(At),
    /// It is not, or cannot be, translated.
    Cold,
}

impl Translator {
    /// A translator that tells `perf_map` what it makes.
    ///
    /// # Errors
    /// The host's, if it gives no memory that may be executed.
    pub(crate) fn new(options: &SoftOptions, perf_map: Option<Arc<PerfMap>>) -> std::io::Result<Box<Self>> {
        let mut cache = CodeCache::new(options.code_cache as usize)?;
        let features = HostFeatures::detect().without(options.absent);
        let host = HostCpu { avx: features.avx, fsgsbase: features.fsgsbase, pext: features.pext };
        let functions = Helpers {
            interpret: helpers::interpret as *const () as u64,
            refill: helpers::refill as *const () as u64,
            load: helpers::load as *const () as u64,
            only_refill: helpers::only_refill as *const () as u64,
            wrote_code: helpers::wrote_code as *const () as u64,
        };
        let stubs = Stubs::write(&mut cache, functions, host).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: the stub at this address is such a function.
        let enter = unsafe { std::mem::transmute::<u64, extern "sysv64" fn(u64, u64)>(cache.address(stubs.enter)) };
        Ok(Box::new(Translator {
            map: Map::new(cache, if options.eager { 0 } else { HOT }),
            stubs,
            enter,
            flavour: HostFlavour {
                pext: features.pext,
                rdtscp: false,
                alone: false,
                eager: options.eager,
                count: options.count,
            },
            host,
            verify: options.verify,
            refused: 0,
            alarm: Alarm::default(),
            upper: 0,
            units: 0,
            window: 0,
            branched: None,
            stats: TranslatorCounts::default(),
            tally: Tally::default(),
            page: Box::new([0; PAGE as usize]),
            exact_flags: options.exact_flags,
            bisect: options.bisect.clone(),
            met: 0,
            lockstep: options.lockstep.then(Lockstep::default),
            perf_map,
        }))
    }

    /// Counters, in the form that every engine has.
    pub(crate) fn report(&self, cpu: &Cpu, out: &mut VcpuStats) {
        let m = &self.map.stats;
        // What is known of translated code is all or nothing.
        out.instructions = if self.flavour.count { out.instructions + cpu.frame.instructions } else { 0 };
        out.translator = TranslatorStats {
            blocks: m.translated,
            instructions: m.instructions,
            host_bytes: self.map.cache.used() as u64,
            capacity: self.map.cache.capacity() as u64,
            flushes: m.flushes,
            invalidations: m.invalidated,
            links_made: m.links,
            links_broken: m.unlinked,
            indirect_misses: self.stats.looked_up,
            entries: self.stats.entries,
            interpreted: self.stats.interpreted,
            lockstep_blocks: self.lockstep.as_ref().map_or(0, |l| l.compared),
            lockstep_differences: self.lockstep.as_ref().map_or(0, |l| l.differences),
            ..Default::default()
        };
        let helper = |name, count| HelperStats { name, count, nanos: 0 };
        out.exits.helpers.push(helper("tlb_refill", self.stats.refills));
        out.exits.helpers.push(helper("store_to_code_frame", self.stats.checked_writes));
        if self.verify {
            out.exits.helpers.push(helper("verifier_refused", self.refused));
        }
        self.tally.report(&mut out.exits.helpers);
    }

    /// To be called when the thread begins to run `cpu`; what is returned is kept until it stops.
    pub(crate) fn attach(&mut self, cpu: &mut Cpu) -> Listening {
        let word = std::ptr::from_ref(&cpu.port.attention);
        cpu.frame.attention = word;
        cpu.frame.fpu = &raw mut *cpu.fpu;
        cpu.frame.cpu = std::ptr::from_mut(cpu);
        cpu.frame.translator = std::ptr::from_mut(self);
        cpu.frame.sets_gs = self.host.fsgsbase;
        cpu.frame.device_marks = cpu.ram.frames().device_marks() as u64;
        let alone = cpu.fabric.ports().len() == 1;
        if self.flavour.alone && !alone {
            // Made for a machine with one CPU.
            self.map.clear();
            cpu.mmu.home.clear_targets();
        }
        self.flavour.alone = alone;
        self.window = 0;
        self.alarm.attach(word)
    }

    /// The alarm has rung: it is set no longer, even if it was early.
    pub(crate) fn alarm_rang(&mut self) {
        self.alarm.rang();
    }

    /// Drops what was made of bytes that have changed.
    pub(crate) fn invalidate(&mut self, changed: Changed) {
        for (frame, writer) in changed.frames {
            self.map.invalidate(frame, writer);
        }
        if let Some(writer) = changed.any {
            self.map.invalidate_all(writer);
        }
    }

    /// Runs translated code at RIP as long as there is some and nothing wants attention. False if the next block is to be interpreted.
    ///
    /// # Errors
    /// The exception of an instruction fetch, in `cpu.fault`.
    pub(crate) fn run(&mut self, cpu: &mut Cpu) -> Guest<bool> {
        let (mut arrived, mut apart) = (false, false);
        loop {
            let Some(context) = Context::of(cpu) else { return Ok(false) };
            let Found::Code(entry) = self.find(cpu, context, apart)? else { return Ok(false) };
            if std::mem::take(&mut arrived) && self.lockstep.is_none() {
                self.put_target(cpu, context);
            }
            // What is left for another translation does not end where a unit does.
            let split = std::mem::take(&mut apart);
            if let Some(mut lockstep) = self.lockstep.take() {
                lockstep.rehearse(cpu, context);
                self.lockstep = Some(lockstep);
            }
            let exit = self.enter(cpu, entry);
            let id = cpu.frame.exit_id;
            match exit {
                Exit::Poll => cpu.rip = self.way_out(cpu, id),
                Exit::Link => {
                    cpu.rip = self.way_out(cpu, id);
                    apart = self.map.ways[id as usize].apart;
                    // Units that are compared run one by one.
                    if !attention(cpu) && self.lockstep.is_none() {
                        // The code that was left need not be of the context that was entered.
                        let Some(context) = Context::of(cpu) else { return Ok(false) };
                        if apart && !self.is_worth_apart(id) {
                            return Ok(false);
                        }
                        self.link(cpu, id, context)?;
                    }
                }
                Exit::Arrive => arrived = true,
                Exit::Interpret => {
                    let before = Context::of(cpu);
                    self.stats.interpreted += 1;
                    self.tally.add(self.map.sites[id as usize].site.ins.mnemonic());
                    helpers::execute(cpu, &mut self.map, id);
                    arrived = self.has_branched(cpu, before, id);
                }
                Exit::Done => {
                    if let Some(id) = self.branched.take() {
                        arrived = self.has_branched(cpu, Context::of(cpu), id);
                    }
                }
            }
            if let Some(lockstep) = &mut self.lockstep {
                lockstep.compare(cpu, exit != Exit::Poll && !split && !apart);
            }
            if attention(cpu) || cpu.halted || cpu.shutdown {
                return Ok(true);
            }
        }
    }

    /// Way `id` has been taken; false if its target had better be interpreted, since what keeps a range from being served (an exception,
    /// a device) seldom comes again.
    fn is_worth_apart(&mut self, id: u32) -> bool {
        let way = &mut self.map.ways[id as usize];
        way.taken = way.taken.saturating_add(1);
        way.taken > APART || self.flavour.eager
    }

    fn way_out(&self, cpu: &Cpu, id: u32) -> u64 {
        let way = &self.map.ways[id as usize];
        let base = if way.relative { cpu.gpr[usize::from(REG_BLOCK_RIP)] } else { 0 };
        way.target.wrapping_add(base) & cpu.rip_mask
    }

    /// Lets way `id` lead to the translation at RIP, if there is one.
    fn link(&mut self, cpu: &mut Cpu, id: u32, context: Context) -> Guest<()> {
        let flushes = self.map.stats.flushes;
        let apart = self.map.ways[id as usize].apart;
        if let Found::Code(entry) = self.find(cpu, context, apart)?
            && self.map.stats.flushes == flushes
        {
            self.map.link(id, entry);
            if self.map.ways[id as usize].looked_up {
                self.put_target(cpu, context);
            }
        }
        Ok(())
    }

    /// The instruction of site `id` was an indirect branch, executed in context `before`: where it went belongs into the table, as soon as
    /// there is a translation.
    fn has_branched(&self, cpu: &Cpu, before: Option<Context>, id: u32) -> bool {
        before.is_some() && self.map.sites[id as usize].site.is_indirect() && Context::of(cpu) == before
    }

    /// Puts the translation at RIP into the table of branch targets, if it is known.
    fn put_target(&mut self, cpu: &Cpu, context: Context) {
        self.stats.looked_up += 1;
        let lin = cpu.rip;
        let Some(block) = self.map.recall(lin, cpu.mmu.generation(lin), context) else { return };
        let code = self.map.cache.address(block.start);
        cpu.mmu.put_target(lin, code, context.is_user());
    }

    fn enter(&mut self, cpu: &mut Cpu, entry: At) -> Exit {
        cpu.gpr[usize::from(REG_BLOCK_RIP)] = cpu.rip & !(PAGE - 1);
        let (clock, now) = (cpu.clock, cpu.timer_tsc);
        if self.alarm.rings_after(now) {
            let tsc = cpu.tsc();
            self.alarm.set(now, || clock.nanos(now.saturating_sub(tsc)));
        }
        let window = cpu.mmu.window;
        if !self.host.fsgsbase && self.window != window {
            set_gs_base(window);
            self.window = window;
        }
        self.stats.entries += 1;
        self.branched = None;
        (self.enter)(window, self.map.cache.address(entry));
        Exit::from_bits(cpu.frame.exit)
    }

    /// The translation at RIP.
    fn find(&mut self, cpu: &mut Cpu, context: Context, apart: bool) -> Guest<Found> {
        self.follow_changes(cpu, context);
        let lin = cpu.rip;
        if !apart && let Some(block) = self.map.recall(lin, cpu.mmu.generation(lin), context) {
            return Ok(Found::Code(block.entry));
        }
        let place = cpu.fetch(lin)?;
        let Some(page) = place.page else { return Ok(Found::Cold) };
        let start = (lin % PAGE) as u16;
        let made_for = if context.is_user() { None } else { Some(lin & !(PAGE - 1)) };
        let key = Key { at: u64::from(page.frame.0) * PAGE + u64::from(start), context, page: made_for, apart };
        let generation = cpu.mmu.generation(lin);
        if let Some(block) = self.map.find(&key, lin, generation) {
            return Ok(Found::Code(block.entry));
        }
        if !self.map.is_hot(&key) {
            return Ok(Found::Cold);
        }
        let number = self.met;
        self.met += 1;
        if self.bisect.as_ref().is_some_and(|b| !b.contains(&number)) {
            self.map.give_up(key);
            return Ok(Found::Cold);
        }
        let before = cpu.account.enter(Phase::Translation);
        self.make(cpu, key, page, start);
        cpu.account.leave(before);
        Ok(self.map.find(&key, lin, generation).map_or(Found::Cold, |b| Found::Code(b.entry)))
    }

    /// Translates the code of `key`, at offset `start` of `page`.
    fn make(&mut self, cpu: &mut Cpu, key: Key, page: RamPage, start: u16) {
        if self.map.cache.room() < LARGEST {
            self.map.clear();
            cpu.mmu.home.clear_targets();
        }
        let Some(unit) = self.read(cpu, key, page, start) else {
            self.map.give_up(key);
            return;
        };
        let first = (self.map.sites.len() as u32, self.map.ways.len() as u32);
        let at = self.map.cache.next();
        self.flavour.rdtscp = cpu.cpuid.has(visor_x86::cpuid::feature::RDTSCP);
        let mut build = Build::new(&self.stubs, at, first, key.context, key.page, self.flavour);
        build.only_apart = key.apart;
        let built = translate(build, &unit, start);
        if self.verify
            && let Err(why) = verify(&built, key.context, at, &self.stubs)
        {
            // Tests and the fuzzer are to stop there.
            assert!(!self.flavour.eager, "translated code at {:x}: {why}", cpu.rip);
            tracing::error!("translated code at {:x} is refused: {why}", cpu.rip);
            self.refused += 1;
            self.map.give_up(key);
            return;
        }
        if let Some(map) = &self.perf_map {
            let ring = if key.context.is_user() { "user" } else { "kernel" };
            map.add(self.map.cache.address(at), built.code.len() as u64, &format!("{ring}:{:x}", cpu.rip));
        }
        let inserted = self.map.insert(key, built);
        debug_assert!(inserted, "there was room");
    }

    /// The unit at offset `start` of `page`. All that it depends on is marked as code, and was as it is read here after that. `None` if
    /// there is none, or if somebody writes it all the time.
    fn read(&mut self, cpu: &Cpu, key: Key, page: RamPage, start: u16) -> Option<Vec<Insn>> {
        let mut relied: Vec<unit::Bytes> = Vec::new();
        let mut again = [0; PAGE as usize];
        for _ in 0..READINGS {
            crate::blocks::read_page(page, 0, &mut self.page[..]);
            relied.clear();
            let mut unit = unit::read_noting(&self.page[..], start, key.context, &mut relied);
            if unit.is_empty() {
                return None;
            }
            if self.exact_flags {
                unit.iter_mut().for_each(Insn::keep_all_flags);
            }
            // Marked before it is read for good.
            let mut same = true;
            for &(from, to) in &relied {
                cpu.ram.frames().mark_code(page.frame, from.into(), u64::from(to - from));
            }
            for &(from, to) in &relied {
                let range = usize::from(from)..usize::from(to);
                crate::blocks::read_page(page, from.into(), &mut again[range.clone()]);
                same &= again[range.clone()] == self.page[range];
            }
            if same {
                return Some(unit);
            }
        }
        None
    }

    /// Breaks what no longer holds: the kernel's code may have moved, or the floating-point units be in another state.
    fn follow_changes(&mut self, cpu: &Cpu, context: Context) {
        let upper = cpu.mmu.code_generation[1];
        if upper != self.upper {
            self.upper = upper;
            self.map.unlink_far();
        }
        if context.units() != self.units {
            self.units = context.units();
            cpu.mmu.home.clear_targets();
        }
        cpu.mmu.lay_out_targets(context.is_user(), context.layout());
    }
}

#[inline]
fn attention(cpu: &Cpu) -> bool {
    cpu.port.attention.load(Ordering::Relaxed) != 0
}

fn set_gs_base(base: u64) {
    const ARCH_SET_GS: i32 = 0x1001;
    // SAFETY: nothing else in this process uses GS.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}

impl Home {
    /// Forgets all branch targets, of every address space.
    fn clear_targets(&self) {
        // SAFETY: the caller is the CPU that lives here, and no translated code runs.
        unsafe {
            (*self.kernel()).targets.clear();
            for i in 0..crate::mmu::SPACES {
                (*self.user(i)).targets.clear();
            }
        }
    }
}
