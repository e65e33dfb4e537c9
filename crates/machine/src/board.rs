//! The mainboard under construction: what device constructors draw from and add to.

use std::sync::{Arc, Mutex, PoisonError};

use visor_chipset::{AcpiPm, I8042, LegacyReplacement, PowerSink, Rtc, Uart};
use visor_device::{Bus, Clock, Device, Mmio, Pio, TimerSlot};
use visor_display::{Screen, Vga};
use visor_engine::{GuestMemory, MsiSink, Vm};
use visor_firmware::MemoryMap;
use visor_firmware::fw_cfg::FwCfg;
use visor_iommu::Iommu;
use visor_pci::{DmaMemory, IntxLine, IntxPin, PciAddress, PciBus, PciDevice, PciError, SourceId};
use visor_storage::Tray;
use visor_virtio::console::{ConsoleHandle, ConsolePort};
use visor_virtio::input::TabletHandle;
use visor_virtio::{VirtioDevice, VirtioPci};

use crate::chars::SerialLine;
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{Bootable, Image, LogPort};
use crate::irq::Irqs;
use crate::spec::MachineConfig;
use crate::timeline::Timeline;
use crate::timers::Timers;

/// A constructor of the table in [`crate::parts`].
pub(crate) struct Part {
    /// For messages.
    pub(crate) name: &'static str,
    /// Whether a machine has it.
    pub(crate) wanted: fn(&MachineConfig) -> bool,
    /// Makes it and puts it on its buses.
    pub(crate) build: fn(&mut Board<'_>) -> Result<(), MachineError>,
}

/// See the module's documentation.
pub(crate) struct Board<'a> {
    pub(crate) config: &'a MachineConfig,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) map: &'a MemoryMap,
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) irqs: Arc<Irqs>,
    pub(crate) iommu: Option<Arc<Iommu>>,
    pub(crate) power: Arc<dyn PowerSink>,
    pub(crate) serial: SerialLine,
    pub(crate) log: LogPort,
    pub(crate) timeline: Timeline,
    pub(crate) image: Option<&'a Image>,
    pub(crate) pio: Arc<Bus<Pio>>,
    pub(crate) mmio: Arc<Bus<Mmio>>,
    pub(crate) legacy: LegacyReplacement,
    pub(crate) built: Built,
}

/// What the machine keeps of its devices.
#[derive(Default)]
pub(crate) struct Built {
    /// The port bus, for what firmware would program.
    pub(crate) ports: Arc<Bus<Pio>>,
    /// Devices that lose their state in S3, in the order in which they are reset.
    pub(crate) devices: Vec<Arc<Mutex<dyn Device>>>,
    /// Devices that keep it: the RTC and the wake logic.
    pub(crate) kept: Vec<Arc<Mutex<dyn Device>>>,
    pub(crate) pci: Option<Arc<Mutex<PciBus>>>,
    pub(crate) i8042: Option<Arc<Mutex<I8042>>>,
    pub(crate) tablet: Option<TabletHandle>,
    pub(crate) vga: Option<Vga>,
    pub(crate) screen: Option<Arc<Screen>>,
    pub(crate) pm: Option<Arc<Mutex<AcpiPm>>>,
    pub(crate) uart: Option<Arc<Mutex<Uart>>>,
    pub(crate) console: Option<ConsoleHandle>,
    pub(crate) agent: Option<ConsolePort>,
    /// The trays of the CD-ROM drives.
    pub(crate) trays: Vec<Tray>,
    /// Network devices and what moves their frames.
    pub(crate) net: Option<Arc<crate::net::Drive>>,
    /// Low half of the HPET's capabilities.
    pub(crate) hpet: Option<u32>,
    /// The disks, which come and go.
    pub(crate) disks: Arc<crate::disks::Disks>,
    /// PCI slots that can be plugged, as a bit map.
    pub(crate) plug_slots: u32,
    /// There is an IOMMU.
    pub(crate) iommu: bool,
    pub(crate) rtc: Option<Arc<Mutex<Rtc>>>,
    pub(crate) fw_cfg: Option<Arc<Mutex<FwCfg>>>,
    /// What firmware can boot from, in the order in which it is to be tried within a kind.
    pub(crate) bootable: Vec<Bootable>,
    /// Firmware initialises the board.
    pub(crate) firmware: bool,
}

impl Board<'_> {
    /// Builds every wanted part of `table`.
    pub(crate) fn build(&mut self, table: &[Part]) -> Result<(), MachineError> {
        for part in table.iter().filter(|p| (p.wanted)(self.config)) {
            (part.build)(self).map_err(|e| {
                MachineError::because(MachineErrorKind::Board, format!("cannot build the device {}", part.name), e)
            })?;
        }
        Ok(())
    }

    /// Makes a device that has an alarm and registers it for resets.
    pub(crate) fn timed<D: Device + 'static>(&mut self, make: impl FnOnce(Arc<dyn TimerSlot>) -> D) -> Arc<Mutex<D>> {
        let slot = self.timers.slot();
        let device = self.plain(make(slot.clone()));
        slot.bind(device.clone());
        device
    }

    /// Registers a device for resets.
    pub(crate) fn plain<D: Device + 'static>(&mut self, device: D) -> Arc<Mutex<D>> {
        let device = Arc::new(Mutex::new(device));
        self.built.devices.push(device.clone());
        device
    }

    /// As [`Board::timed`], for a device that keeps its state in S3.
    pub(crate) fn kept<D: Device + 'static>(&mut self, make: impl FnOnce(Arc<dyn TimerSlot>) -> D) -> Arc<Mutex<D>> {
        let device = self.timed(make);
        self.built.kept.extend(self.built.devices.pop());
        device
    }

    /// Puts a function at a fixed place.
    pub(crate) fn function(&mut self, at: PciAddress, function: impl PciDevice + 'static) -> Result<(), MachineError> {
        let pci = self.built.pci.clone().ok_or(PciError::Full)?;
        let mut pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(pci.add(at, Arc::new(Mutex::new(function)))?)
    }

    /// Puts a virtio device into the next free slot, and tells which.
    pub(crate) fn virtio(&mut self, device: impl VirtioDevice + 'static) -> Result<PciAddress, MachineError> {
        self.pci_function(|w| VirtioPci::new(Box::new(device), w.memory, w.msi, w.intx))
    }

    /// Puts what `make` makes into the next free slot of the PCI bus, and tells which.
    pub(crate) fn pci_function<D: PciDevice + 'static>(
        &mut self,
        make: impl FnOnce(PciWires) -> Result<D, PciError>,
    ) -> Result<PciAddress, MachineError> {
        let pci = self.built.pci.clone().ok_or(PciError::Full)?;
        let mut pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pci.free_device()?;
        let function = make(self.pci_wires(at, pci.intx(at, IntxPin::A)))?;
        pci.add(at, Arc::new(Mutex::new(function)))?;
        Ok(at)
    }

    /// What connects the function at `at` with the machine, through the IOMMU if there is one.
    pub(crate) fn pci_wires(&self, at: PciAddress, intx: IntxLine) -> PciWires {
        PciWires::new(&self.memory, &self.vm, self.iommu.as_ref(), at, intx)
    }
}

/// A PCI function's connections.
pub(crate) struct PciWires {
    pub(crate) memory: DmaMemory,
    pub(crate) msi: Arc<dyn MsiSink>,
    pub(crate) intx: IntxLine,
}

impl PciWires {
    /// What connects the function at `at` with `vm`, through the IOMMU if there is one.
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        vm: &Arc<dyn Vm>,
        iommu: Option<&Arc<Iommu>>,
        at: PciAddress,
        intx: IntxLine,
    ) -> Self {
        let source = SourceId::from(at);
        match iommu {
            Some(iommu) => PciWires { memory: iommu.memory(source), msi: iommu.msi(source), intx },
            None => PciWires { memory: memory.clone().into(), msi: vm.msi(), intx },
        }
    }
}

/// Port writes of a BIOS: both 8259s with vectors, cascade, 8086 mode and masks (timer, cascade, keyboard; inputs 8 to 15
/// open), PCI interrupts 10 and 11 level-triggered, timer channel 0 in mode 3 with the longest count.
const BIOS_PORTS: &[(u16, u8)] = &[
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xa0, 0x11),
    (0xa1, 0x70),
    (0xa1, 0x02),
    (0xa1, 0x01),
    (0x21, 0xf8),
    (0xa1, 0x00),
    (0x4d1, 0x0c),
    (0x43, 0x36),
    (0x40, 0),
    (0x40, 0),
];

/// CMOS register and value by which firmware learns that the machine wakes from S3.
const SHUTDOWN_STATUS: u8 = 0x0f;
const RESUME: u8 = 0xfe;

/// Configuration registers and what a BIOS leaves there: in the host bridge RAM at F0000h, read-only, and at E0000h; the ports of
/// power management at 600h.
const BIOS_CONFIG: &[(u32, [u8; 4])] = &[
    (0x8000_0058, [0, 0x10, 0, 0]),
    (0x8000_005c, [0, 0, 0x33, 0x33]),
    (0x8000_0b40, [0x01, 0x06, 0, 0]),
    (0x8000_0b80, [0x01, 0, 0, 0]),
];

/// The host bridge's attribute maps (82441FX §3.2.18). They outlast S3: a BIOS that has copied itself to RAM is to find itself there, and
/// knows by its variables that this is no first start.
const SHADOW_CONFIG: [u32; 2] = [0x8000_0058, 0x8000_005c];

impl Built {
    /// Back to the state after power-on, with addresses assigned as firmware would.
    pub(crate) fn reset(&self) -> Result<(), MachineError> {
        reset_all(&self.kept);
        reset_all(&self.devices);
        self.initialise()
    }

    /// Whether something has come that ends a sleep in S3.
    pub(crate) fn wakes(&self) -> bool {
        self.pm.as_ref().is_some_and(|pm| pm.lock().unwrap_or_else(PoisonError::into_inner).wakes())
    }

    /// Back from S3.
    pub(crate) fn wake(&self) -> Result<(), MachineError> {
        let shadow = self.firmware.then(|| SHADOW_CONFIG.map(|at| (at, self.read_config(at))));
        reset_all(&self.devices);
        for (at, value) in shadow.into_iter().flatten() {
            self.write_config(at, value);
        }
        if let Some(pm) = &self.pm {
            pm.lock().unwrap_or_else(PoisonError::into_inner).wake();
        }
        if let Some(rtc) = self.rtc.as_ref().filter(|_| self.firmware) {
            rtc.lock().unwrap_or_else(PoisonError::into_inner).set_byte(SHUTDOWN_STATUS, RESUME);
        }
        self.initialise()
    }

    /// What firmware would have done before a directly booted kernel runs: interrupt controllers and timer as a BIOS leaves them
    /// (vectors 8 and 70h, the timer at 18.2 Hz), RAM in the BIOS area, addresses for the PCI functions.
    pub(crate) fn initialise(&self) -> Result<(), MachineError> {
        if self.firmware {
            return Ok(());
        }
        for (address, value) in BIOS_CONFIG {
            self.write_config(*address, *value);
        }
        for (port, value) in BIOS_PORTS {
            self.ports.write(*port, &[*value]);
        }
        if let Some(pci) = &self.pci {
            pci.lock().unwrap_or_else(PoisonError::into_inner).assign_resources()?;
        }
        Ok(())
    }
}

impl Built {
    fn read_config(&self, address: u32) -> [u8; 4] {
        let mut value = [0; 4];
        self.ports.write(0xcf8, &address.to_le_bytes());
        self.ports.read(0xcfc, &mut value);
        value
    }

    fn write_config(&self, address: u32, value: [u8; 4]) {
        self.ports.write(0xcf8, &address.to_le_bytes());
        self.ports.write(0xcfc, &value);
    }
}

fn reset_all(devices: &[Arc<Mutex<dyn Device>>]) {
    for d in devices {
        d.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }
}
