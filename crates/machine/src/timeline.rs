//! The boot timeline: when a guest got how far, from what the machine itself observes.
//!
//! | phase | observed by |
//! |---|---|
//! | power on, reset | the life cycle |
//! | POST | firmware's first access to fw_cfg |
//! | boot device search | firmware's log, or its first request to a disk; UEFI's boot manager on the serial line |
//! | boot loader | execution of 7C00h, where a BIOS puts a boot sector; UEFI's boot manager on the serial line |
//! | kernel | execution in the upper half of the linear address space; a directly booted kernel's entry |
//! | init | execution at privilege level 3 |
//! | ready | the program that uses the machine: it knows what the guest is for |
//!
//! The engines report execution ([`Watch`]); what they report is a claim about addresses, so it holds for any system that
//! does as PCs do, and phases that did not happen do not appear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use visor_block::{BlockBackend, BlockGeometry, BlockRequest};
use visor_engine::Watch;

use crate::listener::Listener;

/// Most events kept: a guest may reset itself for ever.
const MOST: usize = 256;

/// Where a BIOS loads boot sectors.
const BOOT_SECTOR: Watch = Watch::Code(0x7c00, 0x7c00);
/// Where 64-bit kernels live.
const UPPER_HALF: Watch = Watch::Code(0xffff_8000_0000_0000, u64::MAX);

/// How far a boot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The machine was switched on.
    PowerOn,
    /// It was reset.
    Reset,
    /// Firmware looks at the machine.
    Post,
    /// Firmware looks for something to boot.
    DeviceSearch,
    /// A boot loader runs.
    BootLoader,
    /// The kernel runs.
    Kernel,
    /// The first program runs.
    Init,
    /// The guest does what it is for.
    Ready,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::PowerOn => "power on",
            Phase::Reset => "reset",
            Phase::Post => "POST",
            Phase::DeviceSearch => "boot device search",
            Phase::BootLoader => "boot loader",
            Phase::Kernel => "kernel",
            Phase::Init => "init",
            Phase::Ready => "ready",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The beginning of a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineEvent {
    /// What began.
    pub phase: Phase,
    /// Host time since the machine was switched on.
    pub at: Duration,
    /// Linear address that was executed, if that is what told.
    pub address: Option<u64>,
}

/// The timeline of one machine. Clones are the same one.
#[derive(Clone, Default)]
pub struct Timeline(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    listener: Mutex<Listener>,
}

#[derive(Default)]
struct State {
    start: Option<Instant>,
    events: Vec<TimelineEvent>,
}

impl Timeline {
    pub(crate) fn new(listener: Listener) -> Self {
        Timeline(Arc::new(Inner { state: Mutex::default(), listener: Mutex::new(listener) }))
    }

    /// All events so far, in the order of their time.
    pub fn events(&self) -> Vec<TimelineEvent> {
        self.lock().events.clone()
    }

    /// Notes that the guest is ready, which only the user of the machine can tell.
    pub fn ready(&self) {
        self.note(Phase::Ready, None);
    }

    /// The machine is switched on, or starts anew.
    pub(crate) fn begin(&self, address: u64) {
        let phase = {
            let mut s = self.lock();
            if s.start.is_none() {
                s.start = Some(Instant::now());
                Phase::PowerOn
            } else {
                Phase::Reset
            }
        };
        self.note(phase, Some(address));
    }

    /// A phase begins, unless it or a later one has begun since the last start.
    pub(crate) fn note(&self, phase: Phase, address: Option<u64>) {
        let mut s = self.lock();
        let Some(start) = s.start else { return };
        let starts = |p: Phase| matches!(p, Phase::PowerOn | Phase::Reset);
        let this_boot = s.events.iter().rev().take_while(|e| !starts(e.phase));
        if s.events.len() >= MOST || !starts(phase) && this_boot.into_iter().any(|e| e.phase as u8 >= phase as u8) {
            return;
        }
        s.events.push(TimelineEvent { phase, at: start.elapsed(), address });
        drop(s);
        self.0.listener.lock().unwrap_or_else(PoisonError::into_inner).tell();
    }

    /// A line of firmware's log.
    pub(crate) fn line(&self, line: &str) {
        if line.starts_with("Booting from") {
            self.note(Phase::DeviceSearch, None);
        }
    }

    /// `disk`, with its first request noted.
    pub(crate) fn note_requests(&self, disk: &Arc<dyn BlockBackend>) -> Arc<dyn BlockBackend> {
        Arc::new(NotedDisk { disk: disk.clone(), timeline: self.clone(), seen: AtomicBool::new(false) })
    }

    /// What the boot CPU is to report; a boot sector only if a BIOS boots.
    pub(crate) fn watches(bios: bool) -> Vec<Watch> {
        let sector = bios.then_some(BOOT_SECTOR);
        sector.into_iter().chain([UPPER_HALF, Watch::User]).collect()
    }

    /// Execution has got to `at`.
    pub(crate) fn reached(&self, watch: Watch, at: u64) {
        let phase = match watch {
            BOOT_SECTOR => Phase::BootLoader,
            Watch::User => Phase::Init,
            _ => Phase::Kernel,
        };
        self.note(phase, Some(at));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}

/// A disk whose first request is noted.
struct NotedDisk {
    disk: Arc<dyn BlockBackend>,
    timeline: Timeline,
    seen: AtomicBool,
}

impl BlockBackend for NotedDisk {
    fn geometry(&self) -> BlockGeometry {
        self.disk.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        if !self.seen.load(Ordering::Relaxed) && !self.seen.swap(true, Ordering::Relaxed) {
            self.timeline.note(Phase::DeviceSearch, None);
        }
        self.disk.submit(request);
    }

    fn drain(&self) {
        self.disk.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_come_once_per_start_and_never_backwards() {
        let t = Timeline::default();
        t.note(Phase::Post, None);
        assert!(t.events().is_empty(), "not switched on");
        t.begin(0xffff_fff0);
        t.note(Phase::Post, None);
        t.line("Searching bootorder for: HALT");
        t.line("Booting from Hard Disk...");
        t.note(Phase::Post, None);
        t.reached(BOOT_SECTOR, 0x7c00);
        t.note(Phase::DeviceSearch, None);
        t.reached(UPPER_HALF, 0xffff_ffff_8100_0000);
        t.begin(0xffff_fff0);
        t.note(Phase::Post, None);
        t.reached(Watch::User, 0x40_1000);
        t.ready();
        let phases: Vec<_> = t.events().iter().map(|e| e.phase).collect();
        use Phase::*;
        assert_eq!(phases, [PowerOn, Post, DeviceSearch, BootLoader, Kernel, Reset, Post, Init, Ready]);
        assert!(t.events().windows(2).all(|w| w[0].at <= w[1].at));
        assert_eq!(t.events()[3].address, Some(0x7c00));
        (0..2 * MOST).for_each(|_| t.begin(0));
        assert_eq!(t.events().len(), MOST);
    }
}
