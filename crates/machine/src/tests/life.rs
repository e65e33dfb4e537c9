//! The life cycle over scripted CPUs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use visor_engine::*;
use visor_x86::CpuState;
use visor_x86::cpuid::Cpuid;

use super::guest::Guest;
use super::spec;
use crate::{Machine, MachineState, StopReason};

/// What a scripted CPU does in one run.
#[derive(Clone, Copy)]
enum Act {
    /// OUT.
    Out(u16, u8),
    /// Return this.
    Stop(Stop),
    /// Fail.
    Fail,
    /// Panic.
    Panic,
    /// Sleep until kicked.
    Sleep,
}

struct Script {
    caps: EngineCaps,
    acts: Vec<Act>,
    /// Resets, and restores of the boot CPU.
    resets: Arc<AtomicU32>,
    restores: Arc<AtomicU32>,
}

struct ScriptVm(Vec<Act>, Arc<AtomicU32>, Arc<AtomicU32>);
struct NoMsi;

struct ScriptCpu {
    id: VcpuId,
    acts: std::vec::IntoIter<Act>,
    kicked: Arc<(Mutex<bool>, Condvar)>,
    halted: bool,
    resets: Arc<AtomicU32>,
    restores: Arc<AtomicU32>,
}

impl Engine for Script {
    fn caps(&self) -> &EngineCaps {
        &self.caps
    }
    fn create_vm(&self, _: &VmConfig, _: Arc<GuestMemory>) -> Result<Box<dyn Vm>, EngineError> {
        Ok(Box::new(ScriptVm(self.acts.clone(), self.resets.clone(), self.restores.clone())))
    }
}

impl Vm for ScriptVm {
    fn add_vcpu(&self, id: VcpuId, _: &Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        let acts = if id.0 == 0 { self.0.clone() } else { Vec::new() };
        Ok(Box::new(ScriptCpu {
            id,
            acts: acts.into_iter(),
            kicked: Arc::default(),
            halted: false,
            resets: self.1.clone(),
            restores: self.2.clone(),
        }))
    }
    fn msi(&self) -> Arc<dyn MsiSink> {
        Arc::new(NoMsi)
    }
    fn set_intr(&self, _: bool) {}
    fn nmi(&self) {}
}

impl MsiSink for NoMsi {
    fn send(&self, _: u64, _: u32) {}
}

impl Vcpu for ScriptCpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop, EngineError> {
        loop {
            let act = self.acts.next().unwrap_or(Act::Sleep);
            match act {
                Act::Out(port, value) => io.pio_write(port, &[value]),
                Act::Stop(stop) => {
                    self.halted = stop == Stop::Halted;
                    return Ok(stop);
                }
                Act::Fail => return Err(EngineError::new(EngineErrorKind::Host, "as scripted")),
                Act::Panic => panic!("as scripted"),
                Act::Sleep => {
                    let (kicked, bell) = &*self.kicked;
                    let mut k = bell.wait_while(kicked.lock().unwrap(), |k| !*k).unwrap();
                    *k = false;
                    return Ok(Stop::Kicked);
                }
            }
        }
    }
    fn kicker(&self) -> Kicker {
        let kicked = self.kicked.clone();
        Kicker::new(move || {
            *kicked.0.lock().unwrap() = true;
            kicked.1.notify_all();
        })
    }
    fn save(&mut self) -> Result<CpuState, EngineError> {
        Ok(CpuState { halted: self.halted, wait_for_sipi: self.id.0 != 0, ..CpuState::default() })
    }
    fn restore(&mut self, _: &CpuState) -> Result<(), EngineError> {
        self.restores.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn reset(&mut self) -> Result<(), EngineError> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn watch(&mut self, _: &[visor_engine::Watch]) -> Result<(), EngineError> {
        Ok(())
    }
    fn stats(&self) -> VcpuStats {
        VcpuStats { instructions: 1, ..VcpuStats::default() }
    }
}

fn script(acts: &[Act]) -> Script {
    let caps = EngineCaps { name: "script", cpuid: Cpuid::default(), tsc_hz: 1_000_000_000, max_vcpus: 4 };
    Script { caps, acts: acts.to_vec(), resets: Arc::default(), restores: Arc::default() }
}

fn start(engine: &Script, cpus: u32, no_reboot: bool) -> Machine {
    let mut s = spec(Guest::default().spin().kernel());
    s.cpus = cpus;
    s.no_reboot = no_reboot;
    let m = Machine::new(&s.validate().unwrap(), engine).unwrap();
    m.start().unwrap();
    m
}

#[test]
fn a_reset_takes_every_cpu_along() {
    let e = script(&[Act::Out(0xcf9, 6), Act::Sleep, Act::Stop(Stop::TripleFault), Act::Out(0xf4, 0)]);
    let m = start(&e, 3, false);
    assert_eq!(m.wait(), StopReason::DebugExit(1));
    assert_eq!(m.reboots(), 2);
    assert_eq!(e.resets.load(Ordering::SeqCst), 6);
    assert_eq!(e.restores.load(Ordering::SeqCst), 3, "the boot CPU alone, at start and after each reset");
}

#[test]
fn failures_and_panics_end_the_machine() {
    let m = start(&script(&[Act::Fail]), 2, true);
    assert_eq!(m.wait(), StopReason::Failed("vCPU 0: as scripted".into()));
    let m = start(&script(&[Act::Panic]), 2, true);
    assert_eq!(m.wait(), StopReason::Failed("the thread cpu0 panicked".into()));
}

#[test]
fn hung_only_if_no_cpu_can_run() {
    let m = start(&script(&[Act::Stop(Stop::Halted)]), 4, true);
    assert_eq!(m.wait(), StopReason::GuestHung);
}

#[test]
fn pauses_nest_with_stops_and_resets() {
    let e = script(&[]);
    let m = start(&e, 4, false);
    for _ in 0..20 {
        assert!(m.pause());
        assert_eq!(m.state(), MachineState::Paused);
        m.resume();
        assert_eq!(m.state(), MachineState::Running);
    }
    assert!(m.pause());
    m.reset();
    while m.reboots() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(m.pause(), "still paused after the reset");
    m.stop();
    assert_eq!(m.wait(), StopReason::Killed);
    assert!(!m.pause());
}

#[test]
fn dropping_a_machine_ends_its_threads() {
    let ended = Arc::new(AtomicBool::new(false));
    let m = start(&script(&[]), 2, true);
    let mut output = m.serial_output();
    let flag = ended.clone();
    let reader = std::thread::spawn(move || {
        let n = std::io::Read::read(&mut output, &mut [0; 8]).unwrap();
        flag.store(n == 0, Ordering::SeqCst);
    });
    drop(m);
    reader.join().unwrap();
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn too_many_cpus_are_refused() {
    let mut s = spec(Guest::default().spin().kernel());
    s.cpus = 5;
    let e = Machine::new(&s.validate().unwrap(), &script(&[])).err().unwrap();
    assert_eq!(e.kind, crate::MachineErrorKind::Spec);
}
