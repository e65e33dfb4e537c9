//! Runs one program on one engine and records what it did.

use std::fmt::Write as _;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use visor_engine::{Engine, EngineError, Gpa, GuestMemory, Kicker, Stop, Vcpu, VcpuId, Vm, VmConfig};
use visor_memory::RamRange;
use visor_x86::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

use crate::host::Host;
use crate::image::{self, Program};

/// Bytes of RAM, from address 0.
pub const RAM: u64 = 16 << 20;

/// Most differences that an account lists.
const SHOWN: usize = 25;

/// How to run a program.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// vCPUs; the second and later wait for a start-up IPI.
    pub vcpus: u32,
    /// A guest that runs longer is stopped.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { vcpus: 1, limit: Duration::from_secs(20) }
    }
}

/// What a program did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The code it ended with, if it did.
    pub exit: Option<u8>,
    /// Text it wrote.
    pub text: String,
    /// Values it traced.
    pub trace: Vec<u32>,
    /// What it checked.
    pub checks: Vec<Check>,
    /// Device accesses, in order.
    pub accesses: Vec<Access>,
    /// Why CPU 0 stopped.
    pub stop: Option<Stop>,
    /// The state CPU 0 stopped in.
    pub state: Option<CpuState>,
}

/// One check of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// What the guest found.
    pub got: u32,
    /// What it should have found.
    pub want: u32,
}

/// A device access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    In { port: u16, value: u64, size: u8 },
    Out { port: u16, value: u64, size: u8 },
    Load { at: Gpa, value: u64, size: u8 },
    Store { at: Gpa, value: u64, size: u8 },
    Eoi { vector: u8 },
}

impl Outcome {
    /// Every difference between what happened and what should have, one a line; empty for a passing program.
    pub fn differences(&self) -> String {
        let mut text = String::new();
        for (i, c) in self.checks.iter().enumerate().filter(|(_, c)| c.got != c.want).take(SHOWN) {
            let _ = writeln!(text, "  check {i:3}  {}: got {:#x}, want {:#x}", c.name, c.got, c.want);
        }
        match self.exit {
            Some(0) if self.checks.is_empty() && self.trace.is_empty() => text.push_str("  it checked nothing\n"),
            Some(0) => {}
            Some(code) => _ = writeln!(text, "  it ended with code {code}"),
            None => {
                let at = self.state.as_ref().map_or(0, |s| s.rip);
                let after = self.checks.last().map_or("the start", |c| c.name);
                let _ = writeln!(text, "  it did not end: {:?} at rip {at:#x}, after: {after}", self.stop);
            }
        }
        text
    }
}

/// A VM with a program loaded, not yet running.
pub struct Guest {
    /// CPU 0.
    pub boot: Box<dyn Vcpu>,
    /// The others.
    pub others: Vec<Box<dyn Vcpu>>,
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// Its RAM.
    pub memory: Arc<GuestMemory>,
    host: Arc<Host>,
}

impl Guest {
    /// Makes a VM on `engine` and loads `program`.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(engine: &dyn Engine, program: &Program, vcpus: u32) -> Result<Self, EngineError> {
        let mut guest = Guest::bare(engine, vcpus)?;
        guest.write(image::LOAD, image::bytes());
        let mut state = CpuState { rip: image::BOOT, ..guest.boot.save()? };
        (state.seg[1].selector, state.seg[1].base) = (0, 0);
        state.gpr[3] = u64::from(program.entry);
        state.gpr[1] = u64::from(program.mode);
        guest.boot.restore(&state)?;
        Ok(guest)
    }

    /// A VM with nothing loaded, after reset.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn bare(engine: &dyn Engine, vcpus: u32) -> Result<Self, EngineError> {
        let layout = [RamRange { start: Gpa(0), len: RAM }];
        let memory = Arc::new(GuestMemory::new(&layout).expect("16 MiB of RAM can be had"));
        let vm: Arc<dyn Vm> = Arc::from(engine.create_vm(&VmConfig { vcpus }, memory.clone())?);
        let host = Host::new(vm.clone(), memory.clone());
        let mut cpus =
            (0..vcpus).map(|n| vm.add_vcpu(VcpuId(n), &engine.caps().cpuid)).collect::<Result<Vec<_>, _>>()?;
        for cpu in &mut cpus {
            cpu.reset()?;
            host.stop_at_end(cpu.kicker());
        }
        let others = cpus.split_off(1);
        let boot = cpus.pop().expect("a VM has at least one CPU");
        Ok(Guest { boot, others, vm, memory, host })
    }

    /// Copies `bytes` into RAM.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.view().write_slice(bytes, GuestAddress(at)).expect("the address is in RAM");
    }

    /// Reads a doubleword of RAM.
    pub fn dword(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.view().read_slice(&mut bytes, GuestAddress(at)).expect("the address is in RAM");
        u32::from_le_bytes(bytes)
    }

    /// What was recorded so far.
    pub fn outcome(&self) -> Outcome {
        self.host.outcome()
    }

    /// Runs CPU 0 once, until it stops by itself or `limit` is over.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run_boot(&mut self, limit: Duration) -> Result<Stop, EngineError> {
        let _watch = Watchdog::new(vec![self.boot.kicker()], limit);
        self.boot.run(&*self.host)
    }

    /// Runs all CPUs until the program ends or `limit` is over.
    ///
    /// # Errors
    /// Those of the engine, of whichever CPU failed first.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome, EngineError> {
        self.run_all(limit)
    }

    /// As [`Guest::finish`], for those who have more to ask the CPUs.
    ///
    /// # Errors
    /// Those of the engine, of whichever CPU failed first.
    pub fn run_all(&mut self, limit: Duration) -> Result<Outcome, EngineError> {
        if self.ended() {
            let state = self.boot.save()?;
            return Ok(Outcome { state: Some(state), ..self.host.outcome() });
        }
        let mut kickers: Vec<Kicker> = self.others.iter().map(|c| c.kicker()).collect();
        kickers.push(self.boot.kicker());
        let _watch = Watchdog::new(kickers, limit);
        let (host, others) = (&self.host, &mut self.others);
        let boot = &mut self.boot;
        let (stop, rest) = std::thread::scope(|scope| {
            let threads: Vec<_> = others.iter_mut().map(|cpu| scope.spawn(|| cpu.run(&**host).map(|_| ()))).collect();
            let mut stop = boot.run(&**host);
            // A HLT that only an NMI can end is reported once; the next run sleeps in it.
            while matches!(stop, Ok(Stop::Halted)) && !host.ended() {
                stop = boot.run(&**host);
            }
            let rest: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            (stop, rest)
        });
        for thread in rest {
            thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let state = self.boot.save()?;
        Ok(Outcome { stop: Some(stop?), state: Some(state), ..self.host.outcome() })
    }

    /// Runs one of the other CPUs until it stops.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run_other(&mut self, n: usize) -> Result<Stop, EngineError> {
        self.others[n].run(&*self.host)
    }

    /// The same guest on a fresh VM of `engine`, its CPU 0 in `state`. What was recorded moves along.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn moved_to(self, engine: &dyn Engine, state: &CpuState) -> Result<Self, EngineError> {
        let mut target = Guest::bare(engine, 1)?;
        let mut page = vec![0; 1 << 20];
        for at in (0..RAM).step_by(page.len()) {
            self.memory.view().read_slice(&mut page, GuestAddress(at)).expect("the address is in RAM");
            target.write(at, &page);
        }
        target.host.take_over(&self.host);
        target.boot.restore(state)?;
        Ok(target)
    }

    /// From now on the guest is stopped where it asks for it (see `H_STOP` in `asm/prelude.s`).
    pub fn obey_stops(&self) {
        self.host.obey_stops();
    }

    /// Whether the program has reported its end.
    pub fn ended(&self) -> bool {
        self.host.ended()
    }
}

/// Runs `program` on `engine`.
///
/// # Errors
/// Those of the engine.
pub fn run(engine: &dyn Engine, program: &Program, options: Options) -> Result<Outcome, EngineError> {
    Guest::new(engine, program, options.vcpus)?.finish(options.limit)
}

/// Kicks vCPUs when a time is over; forgotten when dropped.
pub struct Watchdog {
    stop: Mutex<Option<mpsc::Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Kicks all of `kickers` after `limit`, again and again every 100 ms, until dropped.
    pub fn new(kickers: Vec<Kicker>, limit: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut wait = limit;
            while stopped.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                kickers.iter().for_each(Kicker::kick);
                wait = Duration::from_millis(100);
            }
        });
        Watchdog { stop: Mutex::new(Some(stop)), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told() {
        let check = |got| Check { name: "answer", got, want: 42 };
        let good = Outcome { exit: Some(0), checks: vec![check(42)], ..Outcome::default() };
        assert_eq!(good.differences(), "");
        let bad = Outcome { checks: vec![check(42), check(41)], ..good.clone() };
        assert_eq!(bad.differences(), "  check   1  answer: got 0x29, want 0x2a\n");
        assert_ne!(Outcome { exit: None, ..good.clone() }.differences(), "");
        assert_ne!(Outcome { exit: Some(1), ..good.clone() }.differences(), "");
        assert_ne!(Outcome { checks: Vec::new(), ..good }.differences(), "");
    }
}
