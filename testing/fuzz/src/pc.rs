//! A mainboard without CPUs, on which the device under attack stands: buses, PCI, guest memory, a clock that the input moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Bus, Clock, Device, IrqLine, IrqSink, Mmio, Pio};
use visor_engine::MsiSink;
use visor_memory::{Extra, Gpa, GuestMemory, RamRange};
use visor_pci::{Apertures, IntxLine, IntxPin, PciAddress, PciBus, PciDevice};
use vm_memory::{Bytes, GuestAddress};

use crate::Input;

/// Operations as the input has them. 8 is a reset; from [`EXTRA`] on they are the device's own.
pub(crate) const IN: u8 = 0;
pub(crate) const OUT: u8 = 1;
pub(crate) const LOAD: u8 = 2;
pub(crate) const STORE: u8 = 3;
pub(crate) const CONFIG_READ: u8 = 4;
pub(crate) const CONFIG_WRITE: u8 = 5;
pub(crate) const MEMORY: u8 = 6;
pub(crate) const WAIT: u8 = 7;
pub(crate) const EXTRA: u8 = 9;
const OPERATIONS: u8 = 16;

/// Bytes of guest memory.
pub(crate) const RAM: u64 = 2 << 20;
/// Alarms that may go off at one and the same time before time must move.
const STUCK: u32 = 1000;
/// Alarms that are carried out of a long wait; the rest of it passes at once.
const ALARMS: u32 = 64;

/// Takes interrupts, and forgets them.
#[derive(Default)]
pub(crate) struct Interrupts(AtomicU64);

impl IrqSink for Interrupts {
    fn set(&self, _gsi: u32, _level: bool) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl MsiSink for Interrupts {
    fn send(&self, _address: u64, _data: u32) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A timer, and whom it wakes.
type Alarm = (Arc<ManualTimer>, Arc<Mutex<dyn Device>>);

/// The mainboard.
pub(crate) struct Pc {
    pub(crate) pio: Arc<Bus<Pio>>,
    pub(crate) mmio: Arc<Bus<Mmio>>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) pci: Option<Arc<Mutex<PciBus>>>,
    ports: Vec<(u16, u16)>,
    areas: Vec<(u64, u64)>,
    alarms: Vec<Alarm>,
    devices: Vec<Arc<Mutex<dyn Device>>>,
    functions: Vec<(PciAddress, Arc<Mutex<dyn PciDevice>>)>,
}

impl Pc {
    /// A mainboard without PCI.
    pub(crate) fn new() -> Self {
        Self::with_extra(Extra::default())
    }

    /// The same with memory beside RAM.
    pub(crate) fn with_extra(extra: Extra) -> Self {
        let ram = RamRange { start: Gpa(0), len: RAM };
        Pc {
            pio: Arc::default(),
            mmio: Arc::default(),
            memory: Arc::new(GuestMemory::with_extra(&[ram], &extra).expect("2 MiB can be had")),
            clock: Arc::default(),
            interrupts: Arc::default(),
            pci: None,
            ports: Vec::new(),
            areas: Vec::new(),
            alarms: Vec::new(),
            devices: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// A mainboard with a PCI bus.
    pub(crate) fn with_pci() -> Self {
        Pc::new().add_pci(Arc::new(()))
    }

    /// The same with a PCI bus, whose chipset tells `sink`.
    pub(crate) fn add_pci(mut self, sink: Arc<dyn visor_pci::ChipsetSink>) -> Self {
        let apertures = Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 1 << 36..1 << 37, io: 0xc000..0x1_0000 };
        let bus = PciBus::new(apertures, sink, &self.pio, &self.mmio, self.interrupts.clone(), || ());
        let bus = Arc::new(Mutex::new(bus));
        self.pio.claim(0xcf8, 8, bus.clone()).expect("the ports are free");
        self.ports.push((0xcf8, 8));
        self.devices.push(bus.clone());
        self.pci = Some(bus);
        self
    }

    /// An interrupt line.
    pub(crate) fn line(&self, gsi: u32) -> IrqLine {
        IrqLine::new(self.interrupts.clone(), gsi)
    }

    /// The INTA pin of `device`.
    pub(crate) fn intx(&self, device: u8) -> IntxLine {
        let bus = self.pci.as_ref().expect("there is a bus").lock().expect("nobody panicked");
        bus.intx(PciAddress::device(device), IntxPin::A)
    }

    /// A device that is reset with the machine.
    pub(crate) fn device<D: Device + 'static>(&mut self, device: D) -> Arc<Mutex<D>> {
        let device = Arc::new(Mutex::new(device));
        self.devices.push(device.clone());
        device
    }

    /// A device with an alarm.
    pub(crate) fn timed<D: Device + 'static>(&mut self, make: impl FnOnce(Arc<ManualTimer>) -> D) -> Arc<Mutex<D>> {
        let timer = Arc::new(ManualTimer::default());
        let device = self.device(make(timer.clone()));
        self.alarms.push((timer, device.clone()));
        device
    }

    /// An alarm for `device`, which is not reset with the machine by itself.
    pub(crate) fn alarm(&mut self, timer: Arc<ManualTimer>, device: Arc<Mutex<dyn Device>>) {
        self.alarms.push((timer, device));
    }

    /// Puts `device` at ports.
    pub(crate) fn at_ports(&mut self, base: u16, len: u16, device: Arc<Mutex<dyn Device>>) {
        self.pio.claim(base.into(), len.into(), device).expect("the ports are free");
        self.ports.push((base, len));
    }

    /// Puts a device with ranges of its own at them.
    pub(crate) fn claim<D: visor_chipset::Ports + 'static>(&mut self, device: &Arc<Mutex<D>>) {
        visor_chipset::claim_ports(&self.pio, device).expect("the ports are free");
        let ranges = device.lock().expect("nobody panicked").ranges();
        self.ports.extend(ranges);
    }

    /// Ports that a device has claimed itself.
    pub(crate) fn ports(&mut self, base: u16, len: u16) {
        self.ports.push((base, len));
    }

    /// Puts `device` into memory space.
    pub(crate) fn at_memory(&mut self, base: u64, len: u64, device: Arc<Mutex<dyn Device>>) {
        self.mmio.claim(base, len, device).expect("the addresses are free");
        self.areas.push((base, len));
    }

    /// Memory space that a device has claimed itself.
    pub(crate) fn area(&mut self, base: u64, len: u64) {
        self.areas.push((base, len));
    }

    /// Puts a function on the PCI bus and gives its BARs addresses.
    pub(crate) fn function<D: PciDevice + 'static>(&mut self, at: PciAddress, function: D) -> Arc<Mutex<D>> {
        let function = Arc::new(Mutex::new(function));
        self.shared_function(at, function.clone());
        function
    }

    /// The same for one that others hold too. Memory, ports and bus mastering are switched on.
    pub(crate) fn shared_function(&mut self, at: PciAddress, function: Arc<Mutex<dyn PciDevice>>) {
        let bus = self.pci.as_ref().expect("there is a bus").clone();
        {
            let mut bus = bus.lock().expect("nobody panicked");
            bus.add(at, function.clone()).expect("the slot is free");
            bus.assign_resources().expect("the apertures are large enough");
        }
        self.functions.push((at, function));
        self.config((self.functions.len() - 1) as u8, 4, &7u16.to_le_bytes());
    }

    /// Writes to the configuration space of a function.
    pub(crate) fn config(&self, function: u8, offset: u8, data: &[u8]) {
        let at = self.functions.get(usize::from(function)).map_or(PciAddress::device(function), |f| f.0);
        self.select(at, offset);
        self.pio.write(0xcfc + u16::from(offset & 3), data);
    }

    fn select(&self, at: PciAddress, offset: u8) {
        let address = u32::from(at.device & 31) << 11 | u32::from(at.function & 7) << 8 | u32::from(offset & 0xfc);
        self.pio.write(0xcf8, &(1 << 31 | address).to_le_bytes());
    }

    /// Writes guest memory.
    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        let room = RAM.saturating_sub(at).min(data.len() as u64) as usize;
        self.memory.view().write_slice(&data[..room], GuestAddress(at)).expect("it is in RAM");
    }

    /// The first address of BAR `bar` of the function `function`, if it is decoded.
    pub(crate) fn bar(&self, function: usize, bar: u8) -> Option<u64> {
        let function = self.functions.get(function)?.1.lock().expect("nobody panicked");
        function.config().decoded(bar).map(|b| b.base)
    }

    /// Memory windows by number: fixed ones, then the BARs of the functions.
    fn window(&self, n: u8) -> (u64, u64) {
        let mut all = self.areas.clone();
        for (_, f) in &self.functions {
            let f = f.lock().expect("nobody panicked");
            all.extend((0..7).filter_map(|b| f.config().decoded(b)).filter_map(|b| match b.kind {
                visor_pci::BarKind::Io => None,
                _ => Some((b.base, b.size)),
            }));
        }
        if all.is_empty() { (0xd000_0000, 0x1000) } else { all[usize::from(n) % all.len()] }
    }

    /// Port windows by number, likewise.
    fn port_window(&self, n: u8) -> (u16, u16) {
        let mut all = self.ports.clone();
        for (_, f) in &self.functions {
            let f = f.lock().expect("nobody panicked");
            all.extend((0..7).filter_map(|b| f.config().decoded(b)).filter_map(|b| match b.kind {
                visor_pci::BarKind::Io => Some((b.base as u16, b.size as u16)),
                _ => None,
            }));
        }
        if all.is_empty() { (0x80, 1) } else { all[usize::from(n) % all.len()] }
    }

    /// Lets `nanos` pass, with all alarms that fall into them.
    pub(crate) fn wait(&self, nanos: u64) {
        // Some centuries, so that no test asks for a time that no clock shows.
        let end = self.clock.now().saturating_add(nanos).min(1 << 63);
        let (mut fired, mut stuck) = (0, 0);
        while fired < ALARMS {
            let due = |(t, _): &&(Arc<ManualTimer>, _)| t.0.lock().ok().and_then(|t| *t);
            let Some((timer, device)) = self.alarms.iter().min_by_key(|a| due(a).unwrap_or(u64::MAX)) else { break };
            let Some(at) = due(&&(timer.clone(), device.clone())).filter(|at| *at <= end) else { break };
            let now = self.clock.now();
            if at > now {
                self.clock.advance(at - now);
                stuck = 0;
            }
            if let Ok(mut slot) = timer.0.lock() {
                *slot = None;
            }
            self.expire(device);
            fired += 1;
            stuck += 1;
            assert!(stuck < STUCK, "an alarm does not let time go on");
        }
        self.clock.advance(end.saturating_sub(self.clock.now()));
        for (_, device) in &self.alarms {
            self.expire(device);
        }
    }

    fn expire(&self, device: &Arc<Mutex<dyn Device>>) {
        let mut device = device.lock().expect("nobody panicked");
        if let Some(timer) = device.as_timer() {
            timer.expired(self.clock.now());
        }
    }

    /// Back to power-on.
    pub(crate) fn reset(&self) {
        self.devices.iter().for_each(|d| d.lock().expect("nobody panicked").reset());
    }

    /// Does what the input says; operations of the device's own, numbered from 0, go to `extra`.
    pub(crate) fn drive(&self, input: &mut Input<'_>, mut extra: impl FnMut(&Self, u8, &mut Input<'_>)) {
        while !input.is_empty() {
            let op = input.u8() % OPERATIONS;
            if op >= EXTRA {
                extra(self, op - EXTRA, input);
            } else {
                self.operate(op, input);
            }
        }
    }

    fn operate(&self, op: u8, input: &mut Input<'_>) {
        let mut data = [0; 8];
        match op {
            IN | OUT => {
                let (base, len) = self.port_window(input.u8());
                let port = base.wrapping_add(input.u16() % len.max(1));
                let width = input.width(4);
                if op == IN {
                    self.pio.read(port, &mut data[..width]);
                } else {
                    self.pio.write(port, &input.u32().to_le_bytes()[..width]);
                }
            }
            LOAD | STORE => {
                let (base, len) = self.window(input.u8());
                let at = base + u64::from(input.u32()) % len.max(1);
                let width = input.width(8);
                if op == LOAD {
                    self.mmio.read(at, &mut data[..width]);
                } else {
                    self.mmio.write(at, &input.u64().to_le_bytes()[..width]);
                }
            }
            CONFIG_READ => {
                let (function, offset, width) = (input.u8(), input.u8(), input.width(4));
                let at = self.functions.get(usize::from(function)).map_or(PciAddress::device(function), |f| f.0);
                self.select(at, offset);
                self.pio.read(0xcfc + u16::from(offset & 3), &mut data[..width]);
            }
            CONFIG_WRITE => {
                let (function, offset, width) = (input.u8(), input.u8(), input.width(4));
                self.config(function, offset, &input.u32().to_le_bytes()[..width]);
            }
            MEMORY => {
                let at = u64::from(input.u32()) % RAM;
                self.write(at, input.bytes());
            }
            WAIT => self.wait(input.u64()),
            _ => self.reset(),
        }
    }
}
