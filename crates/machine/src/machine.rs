//! Assembling a machine and living with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use visor_chipset::LegacyReplacement;
use visor_device::Bus;
use visor_engine::{Engine, GuestMemory, Vcpu, VcpuId, VcpuStats, Vm, VmConfig, Watch};
use visor_firmware::{MemoryMap, ram_layout};
use visor_iommu::Iommu;
use visor_net::Nic;
use visor_storage::Tray;
use visor_x86::cpuid::Cpuid;

use crate::agent::AgentPort;
use crate::board::{Board, Built};
use crate::bus_io::BusIo;
use crate::chars::{SerialInput, SerialLine, SerialOutput};
use crate::clock::GuestClock;
use crate::cpu;
use crate::disks::{self, Disks};
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{FirmwareKind, FirmwareLog, Image, LogPort, extra, ordered};
use crate::io_thread::{self, IoThread};
use crate::irq::Irqs;
use crate::life::{Control, MachineState, StopReason};
use crate::listener::Listener;
use crate::loader::{Loaded, Loader};
use crate::parts::PARTS;
use crate::screen::VIDEO_MEMORY;
use crate::spec::MachineConfig;
use crate::timeline::Timeline;
use crate::timers::Timers;
use crate::vcpu::{self, VcpuThread};
use crate::wake::Waker;

/// A machine: assembled by [`Machine::new`], running after [`Machine::start`]. Any thread may use it; dropping it stops it.
pub struct Machine {
    pub(crate) name: String,
    control: Arc<Control>,
    clock: Arc<GuestClock>,
    pub(crate) built: Arc<Built>,
    serial: SerialLine,
    firmware_log: FirmwareLog,
    timeline: Timeline,
    watches: Vec<Watch>,
    agent: Option<AgentPort>,
    listener: Listener,
    notes: Vec<String>,
    boot_devices: Vec<String>,
    stats: Vec<Arc<Mutex<VcpuStats>>>,
    /// What the threads will work with, until the machine starts.
    ready: Mutex<Option<Ready>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    // The engine's VM and the RAM outlive the threads.
    _vm: Arc<dyn Vm>,
    memory: Arc<GuestMemory>,
}

struct Ready {
    vcpus: Vec<Box<dyn Vcpu>>,
    io: Arc<BusIo>,
    boot: Loaded,
    timers: Arc<Timers>,
    waker: Waker,
    loader: Loader,
    time_limit: Option<Duration>,
}

impl Machine {
    /// Assembles a machine whose CPUs `engine` runs, and loads its kernel.
    ///
    /// # Errors
    /// [`MachineError`] for a kernel that cannot be booted, an engine that refuses, or a host without memory.
    pub fn new(config: &MachineConfig, engine: &dyn Engine) -> Result<Self, MachineError> {
        let cpuid = cpuid(config, engine)?;
        let image = Image::read(config)?;
        let (memory, map) = (memory(config, image.as_ref())?, MemoryMap::new(config.memory));
        let vm: Arc<dyn Vm> = engine.create_vm(&VmConfig { vcpus: config.cpus }, memory.clone())?.into();
        let (waker, listener) = (waker()?, Listener::default());
        let control = Control::new(config.cpus, config.no_reboot, waker.clone(), listener.clone());
        let (clock, pio) = (Arc::new(GuestClock::new()), Arc::new(Bus::default()));
        let iommu = config.iommu.then(|| Iommu::new(memory.clone(), vm.msi()));
        let timeline = Timeline::new(listener.clone());
        let mut board = Board {
            config,
            memory: memory.clone(),
            map: &map,
            vm: vm.clone(),
            clock: clock.clone(),
            timers: Timers::new(waker.clone()),
            irqs: Irqs::new(&vm, iommu.as_ref()),
            iommu,
            power: control.clone(),
            serial: SerialLine::new(waker.clone(), listener.clone()),
            log: LogPort::new(&listener, &timeline),
            timeline: timeline.clone(),
            image: image.as_ref(),
            pio: pio.clone(),
            mmio: Arc::new(Bus::default()),
            legacy: LegacyReplacement::default(),
            built: Built { ports: pio, firmware: config.firmware.is_some(), ..Built::default() },
        };
        board.build(PARTS)?;
        let Board { timers, irqs, serial, log, pio, mmio, built, .. } = board;
        let vcpus = (0..config.cpus).map(|id| vm.add_vcpu(VcpuId(id), &cpuid)).collect::<Result<Vec<_>, _>>()?;
        // Programs the 8259s, whose output a CPU must be there to see.
        built.initialise()?;
        let loader = Loader::new(config, memory.clone(), &map, &built, cpu::brand(&cpuid));
        let boot = loader.load()?;
        let agent = built.agent.clone().map(|port| AgentPort::new(port, listener.clone()));
        let notes = boot.notes.clone();
        let io = Arc::new(BusIo { pio, mmio, irqs, timeline: timeline.clone() });
        let ready = Ready { vcpus, io, boot, timers, waker, loader, time_limit: config.time_limit };
        Ok(Machine {
            name: config.name.clone(),
            control,
            clock,
            boot_devices: tried(config, &built),
            built: built.into(),
            serial,
            firmware_log: log.log,
            timeline,
            watches: if config.timeline { Timeline::watches(is_bios(config)) } else { Vec::new() },
            agent,
            listener,
            notes,
            stats: (0..config.cpus).map(|_| Arc::default()).collect(),
            ready: Mutex::new(Some(ready)),
            threads: Mutex::default(),
            _vm: vm,
            memory,
        })
    }

    /// Starts the CPUs; does nothing for a machine that has been started before.
    ///
    /// # Errors
    /// [`MachineErrorKind::Host`] where the host gives no threads; the machine has stopped then.
    pub fn start(&self) -> Result<(), MachineError> {
        let Some(ready) = self.ready().take() else { return Ok(()) };
        let kickers = ready.vcpus.iter().map(|v| v.kicker()).collect();
        let spawned = self.spawn(ready.vcpus, ready.io).and_then(|()| {
            let t = IoThread {
                control: self.control.clone(),
                clock: self.clock.clone(),
                timers: ready.timers,
                waker: ready.waker,
                built: self.built.clone(),
                serial: self.serial.clone(),
                loader: ready.loader,
                deadline: ready.time_limit.map(|t| Instant::now() + t),
            };
            self.thread("io".into(), move || io_thread::main(t))?;
            let (built, control, clock) = (self.built.clone(), self.control.clone(), self.clock.clone());
            let space = move || disks::main(&built.disks, &control, &clock, built.net.as_ref());
            self.thread("space".into(), space)?;
            match self.built.net.clone() {
                Some(net) => {
                    let control = self.control.clone();
                    self.thread("net".into(), move || net.main(&control))
                }
                None => Ok(()),
            }
        });
        match spawned {
            Ok(()) => {
                self.clock.resume();
                self.control.start(kickers, ready.boot.cpu);
            }
            Err(_) => self.control.stop(StopReason::Killed),
        }
        spawned
    }

    /// Says who is told when a host program that polls should look again: serial output has come, serial input or the agent's
    /// port takes more or has something, the machine has stopped. `f` is called from any of the machine's threads with locks
    /// held, so it must only wake somebody up (write to an eventfd). Only the first listener counts.
    pub fn on_event(&self, f: impl Fn() + Send + Sync + 'static) {
        self.listener.set(f);
    }

    /// Where the machine is in its life.
    pub fn state(&self) -> MachineState {
        self.control.machine_state()
    }

    /// Stops the CPUs between two instructions and guest time with them; true when they stand, false if the machine has stopped.
    pub fn pause(&self) -> bool {
        let paused = self.is_started() && self.control.pause();
        if paused {
            self.clock.pause();
            if let Some(net) = &self.built.net {
                net.settle();
            }
        }
        paused
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) {
        if self.control.stalled() {
            // The clock stands until there is room, which may be now.
            self.built.disks.space().nudge();
        } else if self.is_started() {
            self.clock.resume();
        }
        self.control.resume();
        if let Some(net) = &self.built.net {
            net.wake();
        }
    }

    /// Whether the guest has suspended to RAM (ACPI S3). The power button wakes it, and an alarm of its clock that it has set.
    pub fn sleeps(&self) -> bool {
        self.control.sleeps()
    }

    /// Presses the power button; true if the guest's operating system listens to it. A machine that sleeps wakes, and takes the
    /// press for no more than that.
    pub fn power_button(&self) -> bool {
        let Some(pm) = &self.built.pm else { return false };
        let heard = pm.lock().unwrap_or_else(PoisonError::into_inner).power_button();
        // It may end a sleep.
        self.control.look();
        heard
    }

    /// Presses the reset button: the guest boots anew, or the machine stops if it was made with `no_reboot`.
    pub fn reset(&self) {
        self.control.reset(StopReason::Reset);
    }

    /// Pulls the plug. [`Machine::wait`] waits for the end.
    pub fn stop(&self) {
        self.control.stop(StopReason::Killed);
    }

    /// Waits until the machine has stopped and its threads have ended.
    pub fn wait(&self) -> StopReason {
        loop {
            if let Some(reason) = self.wait_timeout(Duration::from_secs(3600)) {
                return reason;
            }
        }
    }

    /// As [`Machine::wait`], but gives up after `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<StopReason> {
        let reason = self.control.wait(Some(timeout))?;
        self.finish();
        Some(reason)
    }

    /// What the guest writes to its serial port. Whoever does not read it loses what exceeds 1 MiB.
    pub fn serial_output(&self) -> SerialOutput {
        self.serial.host_output()
    }

    /// Input for the guest's serial port.
    pub fn serial_input(&self) -> SerialInput {
        self.serial.host_input()
    }

    /// What the firmware says; empty in a machine without one.
    pub fn firmware_log(&self) -> &FirmwareLog {
        &self.firmware_log
    }

    /// How far the boot has come; complete only if [`crate::MachineSpec::timeline`] was set.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The port to the agent in the guest.
    pub fn agent(&self) -> Option<AgentPort> {
        self.agent.clone()
    }

    /// The trays of the CD-ROM drives, in the order of the specification: discs can be changed while the machine runs.
    pub fn trays(&self) -> &[Tray] {
        &self.built.trays
    }

    /// The disks: they can be added, taken out and changed while the machine runs.
    pub fn disks(&self) -> &Disks {
        &self.built.disks
    }

    /// The network devices, in the order of [`crate::MachineSpec::nics`].
    pub fn nics(&self) -> &[Arc<dyn Nic>] {
        self.built.net.as_ref().map_or(&[], |net| net.nics())
    }

    /// Decisions worth telling, such as what the kernel is.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether it boots through a firmware.
    pub fn has_firmware(&self) -> bool {
        self.built.firmware
    }

    /// What a firmware can boot from, in the order in which it tries.
    pub fn boot_devices(&self) -> &[String] {
        &self.boot_devices
    }

    /// How often the guest has rebooted.
    pub fn reboots(&self) -> u32 {
        self.control.reboots()
    }

    /// Counters of each vCPU as of the last time it stopped (at a kick, a pause or the end).
    pub fn stats(&self) -> Vec<VcpuStats> {
        self.stats.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// The guest's RAM.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn spawn(&self, vcpus: Vec<Box<dyn Vcpu>>, io: Arc<BusIo>) -> Result<(), MachineError> {
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let stats = self.stats[id].clone();
            // The boot CPU is the one that boots.
            let watches = if id == 0 { self.watches.clone() } else { Vec::new() };
            let t = VcpuThread { id, vcpu, io: io.clone(), control: self.control.clone(), stats, watches };
            self.thread(format!("cpu{id}"), move || vcpu::main(t))?;
        }
        Ok(())
    }

    /// Runs `f` in a thread; a panic in it stops the machine.
    fn thread(&self, role: String, f: impl FnOnce() + Send + 'static) -> Result<(), MachineError> {
        let control = self.control.clone();
        let name = format!("{role}:{}", self.name);
        let body = move || {
            let guard = OnPanic(control, role);
            f();
            std::mem::forget(guard);
        };
        let thread = std::thread::Builder::new().name(name).spawn(body);
        let thread = thread.map_err(|e| MachineError::because(MachineErrorKind::Host, "cannot start a thread", e))?;
        self.threads().push(thread);
        Ok(())
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_started(&self) -> bool {
        self.ready().is_none()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self) {
        // Locked until all have ended, so that whoever waits at the same time does so as well.
        for t in self.threads().drain(..) {
            // A panic has been reported by the guard.
            let _ = t.join();
        }
        self.serial.close();
        if let Some(agent) = &self.agent {
            agent.close();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        self.finish();
    }
}

/// Stops the machine if its thread unwinds.
struct OnPanic(Arc<Control>, String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        self.0.stop(StopReason::Failed(format!("the thread {} panicked", self.1)));
    }
}

/// RAM, the firmware's image in it, and room for the memory of devices.
fn memory(config: &MachineConfig, image: Option<&Image>) -> Result<Arc<GuestMemory>, MachineError> {
    let devices = if config.display { VIDEO_MEMORY } else { 0 };
    let memory = GuestMemory::with_extra(&ram_layout(config.memory), &extra(image, devices))
        .map_err(|e| MachineError::because(MachineErrorKind::Host, "cannot reserve the guest's memory", e))?;
    image.iter().for_each(|image| image.install(&memory));
    Ok(Arc::new(memory))
}

fn is_bios(config: &MachineConfig) -> bool {
    config.firmware.as_ref().is_some_and(|f| f.kind == FirmwareKind::Bios)
}

/// What a firmware tries to boot from, in words.
fn tried(config: &MachineConfig, built: &Built) -> Vec<String> {
    let order = config.firmware.as_ref().map(|f| &f.boot_order[..]).unwrap_or_default();
    let devices = ordered(order, &built.bootable, is_bios(config)).into_iter();
    devices.map(|b| format!("{} {}", b.class, b.name)).collect()
}

fn waker() -> Result<Waker, MachineError> {
    Waker::new().map_err(|e| MachineError::because(MachineErrorKind::Host, "cannot make an eventfd", e))
}

fn cpuid(config: &MachineConfig, engine: &dyn Engine) -> Result<Cpuid, MachineError> {
    let caps = engine.caps();
    if config.cpus > caps.max_vcpus {
        let what = format!("{} CPUs; the engine {} runs {} at most", config.cpus, caps.name, caps.max_vcpus);
        return Err(MachineError::new(MachineErrorKind::Spec, what));
    }
    cpu::table(&config.cpu_model, &caps.cpuid, config.cpus)
        .ok_or_else(|| MachineError::new(MachineErrorKind::Spec, "unknown CPU model"))
}
