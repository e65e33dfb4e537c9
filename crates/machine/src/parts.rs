//! The table of devices: what a PC of ours consists of, and how each part is made and wired.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use visor_apic::{IOAPIC_BASE, IOAPIC_LEN};
use visor_block::BlockBackend;
use visor_chipset::{
    AcpiPm, CharSink, DEBUG_CONSOLE_PORTS, DEBUG_EXIT_PORT, DebugConsole, DebugExit, HPET_BASE, HPET_LEN, Hpet,
    HpetWires, I8042, I8042Wires, Pit, PitWires, PmBlock, PowerEvent, Rtc, RtcConfig, RtcWires, TEST_IRQ_PORT,
    TEST_MEMORY, TEST_MEMORY_LEN, TEST_PORT, TEST_PORTS, TestIrqs, TestMemory, TestPorts, UART_LEN, Uart, UartWires,
    claim_ports,
};
use visor_device::{Bus, IrqLine, IrqSink, MmioDevice, Pio};
use visor_firmware::flash::{Flash, FlashStore};
use visor_firmware::fw_cfg::{FW_CFG_PORT, FW_CFG_PORTS, FwCfg, FwCfgConfig};
use visor_firmware::{HIGH_RAM, SHADOW};
use visor_iommu::{IOMMU_BASE, IOMMU_LEN};
use visor_pci::edu::Edu;
use visor_pci::{Apertures, ChipsetSink, PciBus, ShadowArea};
use visor_virtio::blk::{Blk, BlkConfig};
use visor_virtio::console::{Console, ConsoleConfig, PortConfig};
use visor_virtio::rng::{HostEntropy, Rng};

use crate::board::{Board, Part};
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{Bootable, FirmwareKind, Overheard, Shadow, ShadowWrites, VarsFile};
use crate::spec::MachineConfig;
use crate::storage::{self, DiskBus};
use crate::timeline::Phase;

/// Name of the port through which the host talks to a program in the guest.
pub const AGENT_PORT: &str = "org.visor.agent.0";

/// First and last input of the I/O APIC that the HPET may use; nobody else drives them.
const HPET_INPUTS: std::ops::RangeInclusive<u32> = 20..=23;
/// COM1.
const COM1: u16 = 0x3f8;
const COM1_IRQ: u32 = 4;
/// Where firmware writes what it does.
const FIRMWARE_LOG_PORT: u16 = 0x402;
const SCI: u32 = 9;
const RTC_IRQ: u32 = 8;
/// Configuration ports of the PCI bus, and the reset control register among them.
const PCI_PORTS: (u64, u64) = (0xcf8, 8);
/// Memory window above RAM, in bytes.
const MEM64: u64 = 64 << 30;

/// The parts in the order in which they are made and reset. PCI comes before what sits on it, disks after all else on the bus so
/// that device numbers of the rest do not depend on them.
pub(crate) const PARTS: &[Part] = &[
    Part { name: "interrupt controllers", wanted: always, build: interrupts },
    Part { name: "iommu", wanted: |c| c.iommu, build: iommu },
    Part { name: "pit", wanted: always, build: pit },
    Part { name: "acpi-pm", wanted: always, build: acpi_pm },
    Part { name: "rtc", wanted: always, build: rtc },
    Part { name: "hpet", wanted: always, build: hpet },
    Part { name: "i8042", wanted: always, build: i8042 },
    Part { name: "uart0", wanted: always, build: uart },
    Part { name: "debug-exit", wanted: |c| c.debug_exit, build: debug_exit },
    Part { name: "test device", wanted: |c| c.debug_exit, build: test_device },
    Part { name: "debug-console", wanted: |c| c.debug_exit, build: debug_console },
    Part { name: "fw_cfg", wanted: always, build: fw_cfg },
    Part { name: "firmware log", wanted: |c| c.firmware.is_some(), build: firmware_log },
    Part { name: "flash", wanted: |c| c.firmware.is_some(), build: flash },
    Part { name: "pci", wanted: always, build: pci },
    Part { name: "vga", wanted: |c| c.display, build: crate::screen::vga },
    Part { name: "ide", wanted: always, build: storage::ide },
    Part { name: "console", wanted: always, build: console },
    Part { name: "rng", wanted: always, build: rng },
    Part { name: "edu", wanted: |c| c.edu, build: edu },
    Part { name: "tablet", wanted: |c| c.display, build: crate::screen::tablet },
    Part { name: "network", wanted: |c| !c.nics.is_empty(), build: crate::net::build },
    Part { name: "scsi", wanted: storage::wants_scsi, build: storage::scsi },
    Part { name: "disks", wanted: |c| !c.disks.is_empty(), build: disks },
    Part { name: "plug", wanted: always, build: crate::disks::build },
];

fn always(_: &MachineConfig) -> bool {
    true
}

fn interrupts(b: &mut Board<'_>) -> Result<(), MachineError> {
    claim_ports(&b.pio, &b.irqs.pic)?;
    b.mmio.claim(IOAPIC_BASE, IOAPIC_LEN, b.irqs.ioapic.clone())?;
    b.built.devices.push(b.irqs.pic.clone());
    b.built.devices.push(b.irqs.ioapic.clone());
    Ok(())
}

fn iommu(b: &mut Board<'_>) -> Result<(), MachineError> {
    let Some(iommu) = b.iommu.clone() else { return Ok(()) };
    let registers = b.plain(iommu.registers());
    b.built.iommu = true;
    Ok(b.mmio.claim(IOMMU_BASE, IOMMU_LEN, registers)?)
}

fn edu(b: &mut Board<'_>) -> Result<(), MachineError> {
    b.pci_function(|w| Edu::new(w.memory, w.msi, w.intx))?;
    Ok(())
}

fn pit(b: &mut Board<'_>) -> Result<(), MachineError> {
    let (clock, irq, legacy) = (b.clock.clone(), b.irqs.line(0), b.legacy.clone());
    let pit = b.timed(|timer| Pit::new(PitWires { clock, timer, irq, legacy }));
    Ok(claim_ports(&b.pio, &pit)?)
}

/// The wake logic's input from the RTC.
struct RtcAlarm(Option<Arc<Mutex<AcpiPm>>>);

impl IrqSink for RtcAlarm {
    fn set(&self, _gsi: u32, level: bool) {
        if let Some(pm) = self.0.as_ref().filter(|_| level) {
            pm.lock().unwrap_or_else(PoisonError::into_inner).rtc_alarm();
        }
    }
}

fn rtc(b: &mut Board<'_>) -> Result<(), MachineError> {
    let wake = IrqLine::new(Arc::new(RtcAlarm(b.built.pm.clone())), RTC_IRQ);
    let irq = b.irqs.line(RTC_IRQ);
    let (clock, legacy) = (b.clock.clone(), b.legacy.clone());
    let config = RtcConfig { memory_below_4g: b.map.low_end(), memory_above_4g: b.map.high_end() - HIGH_RAM };
    let rtc = b.kept(|timer| Rtc::new(RtcWires { clock, timer, irq, wake, legacy }, config));
    b.built.rtc = Some(rtc.clone());
    Ok(claim_ports(&b.pio, &rtc)?)
}

fn hpet(b: &mut Board<'_>) -> Result<(), MachineError> {
    let clock = b.clock.clone();
    let legacy_irqs = [b.irqs.line(0), b.irqs.line(8)];
    let routes = HPET_INPUTS.map(|gsi| b.irqs.line(gsi)).collect();
    let legacy = b.legacy.clone();
    let hpet = b.timed(|timer| Hpet::new(HpetWires { clock, timer, legacy_irqs, routes, legacy }));
    let mut capabilities = [0; 4];
    if let Ok(mut h) = hpet.lock() {
        h.read(0, &mut capabilities);
    }
    b.built.hpet = Some(u32::from_le_bytes(capabilities));
    Ok(b.mmio.claim(HPET_BASE, HPET_LEN, hpet)?)
}

fn acpi_pm(b: &mut Board<'_>) -> Result<(), MachineError> {
    let (clock, sci, power) = (b.clock.clone(), b.irqs.line(SCI), b.power.clone());
    let pm = b.kept(|timer| AcpiPm::new(clock, timer, sci, power));
    b.built.pm = Some(pm.clone());
    Ok(claim_ports(&b.pio, &pm)?)
}

fn i8042(b: &mut Board<'_>) -> Result<(), MachineError> {
    let (clock, keyboard_irq, mouse_irq, power) = (b.clock.clone(), b.irqs.line(1), b.irqs.line(12), b.power.clone());
    let i8042 = b.timed(|timer| I8042::new(I8042Wires { clock, timer, keyboard_irq, mouse_irq, power }));
    b.built.i8042 = Some(i8042.clone());
    Ok(claim_ports(&b.pio, &i8042)?)
}

fn uart(b: &mut Board<'_>) -> Result<(), MachineError> {
    let uefi = b.config.firmware.as_ref().is_some_and(|f| f.kind == FirmwareKind::Uefi);
    let sink: Box<dyn CharSink> = match b.serial.sink() {
        sink if uefi => Box::new(Overheard::new(sink, b.timeline.clone())),
        sink => sink,
    };
    let (clock, irq) = (b.clock.clone(), b.irqs.line(COM1_IRQ));
    let uart = b.timed(|timer| Uart::new("uart0", UartWires { clock, timer, irq, sink }));
    b.built.uart = Some(uart.clone());
    Ok(b.pio.claim(COM1.into(), UART_LEN.into(), uart)?)
}

fn debug_exit(b: &mut Board<'_>) -> Result<(), MachineError> {
    let exit = b.plain(DebugExit::new(b.power.clone()));
    Ok(b.pio.claim(DEBUG_EXIT_PORT.into(), 4, exit)?)
}

/// What kernels that test a PC expect beside the exit port.
fn test_device(b: &mut Board<'_>) -> Result<(), MachineError> {
    let lines = (0..24).map(|gsi| b.irqs.line(gsi)).collect();
    let irqs = b.plain(TestIrqs::new(lines));
    b.pio.claim(TEST_IRQ_PORT.into(), 24, irqs)?;
    let ports = b.plain(TestPorts::default());
    b.pio.claim(TEST_PORT.into(), TEST_PORTS.into(), ports)?;
    let memory = b.plain(TestMemory::default());
    Ok(b.mmio.claim(TEST_MEMORY, TEST_MEMORY_LEN, memory)?)
}

/// Shares the serial line's output.
fn debug_console(b: &mut Board<'_>) -> Result<(), MachineError> {
    let console = b.plain(DebugConsole::new(b.serial.sink()));
    let log = b.config.firmware.as_ref().map(|_| FIRMWARE_LOG_PORT);
    for port in DEBUG_CONSOLE_PORTS.into_iter().filter(|p| Some(*p) != log) {
        b.pio.claim(port.into(), 1, console.clone())?;
    }
    Ok(())
}

fn fw_cfg(b: &mut Board<'_>) -> Result<(), MachineError> {
    let config = FwCfgConfig {
        ram_bytes: b.config.memory,
        cpus: b.config.cpus.min(u16::MAX.into()) as u16,
        uuid: b.config.uuid,
        boot_menu: false,
    };
    let fw_cfg = b.plain(FwCfg::new(&config, Some(b.memory.clone())));
    let timeline = b.timeline.clone();
    let first = move || timeline.note(Phase::Post, None);
    fw_cfg.lock().unwrap_or_else(PoisonError::into_inner).on_select(Box::new(first));
    b.built.fw_cfg = Some(fw_cfg.clone());
    Ok(b.pio.claim(FW_CFG_PORT.into(), FW_CFG_PORTS.into(), fw_cfg)?)
}

/// What the chipset's functions change on the board.
struct ChipsetWires {
    shadow: Arc<Shadow>,
    pio: Weak<Bus<Pio>>,
    block: Option<Arc<Mutex<PmBlock>>>,
    /// Where the block of power management is claimed.
    at: Mutex<Option<u16>>,
}

impl ChipsetSink for ChipsetWires {
    fn shadow_ram(&self, areas: &[ShadowArea]) {
        self.shadow.apply(areas);
    }

    fn pm_ports(&self, base: Option<u16>) {
        let (Some(pio), Some(block)) = (self.pio.upgrade(), &self.block) else { return };
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = at.take() {
            pio.release(old.into());
        }
        *at = base.filter(|b| pio.claim((*b).into(), PmBlock::LEN.into(), block.clone()).is_ok());
    }
}

fn firmware_log(b: &mut Board<'_>) -> Result<(), MachineError> {
    let console = b.plain(DebugConsole::new(Box::new(b.log.clone())));
    Ok(b.pio.claim(FIRMWARE_LOG_PORT.into(), 1, console)?)
}

/// The flash of UEFI's variables.
fn flash(b: &mut Board<'_>) -> Result<(), MachineError> {
    let Some((range, at)) = b.image.and_then(|i| i.vars(&b.memory)) else { return Ok(()) };
    let file = b.config.firmware.as_ref().and_then(|f| f.vars.as_ref()).and_then(|v| v.file.as_ref());
    let store: Box<dyn FlashStore> = match file {
        Some(path) => Box::new(VarsFile::open(path)?),
        None => Box::new(()),
    };
    let flash = b.plain(Flash::new(b.memory.clone(), range, at, store));
    Ok(b.mmio.claim(range.start.0, range.len, flash)?)
}

fn pci(b: &mut Board<'_>) -> Result<(), MachineError> {
    // RAM above 4 GiB ends at a multiple of 4 KiB; windows begin at one of 1 GiB.
    let above = b.map.high_end().next_multiple_of(1 << 30);
    // Firmware places BARs from 2 GiB, or from the end of RAM.
    let below = b.map.low_end().max(2 << 30);
    let apertures = Apertures { mem32: below..IOAPIC_BASE, mem64: above..above + MEM64, io: 0xc000..0x1_0000 };
    let power = b.power.clone();
    let reset = move || power.request(PowerEvent::Reset);
    let shadow = Shadow::new(b.memory.clone(), b.image);
    let writes = Arc::new(Mutex::new(ShadowWrites(shadow.clone())));
    b.mmio.claim(SHADOW.start.0, SHADOW.len, writes)?;
    let block = b.built.pm.clone().map(|pm| Arc::new(Mutex::new(PmBlock(pm))));
    let wires = ChipsetWires { shadow, pio: Arc::downgrade(&b.pio), block, at: Mutex::default() };
    let bus = PciBus::new(apertures, Arc::new(wires), &b.pio, &b.mmio, b.irqs.clone(), reset);
    let bus = b.plain(bus);
    b.built.pci = Some(bus.clone());
    Ok(b.pio.claim(PCI_PORTS.0, PCI_PORTS.1, bus)?)
}

fn console(b: &mut Board<'_>) -> Result<(), MachineError> {
    let ports = vec![PortConfig { name: AGENT_PORT.into(), console: false }];
    let (device, handle) = Console::new(&ConsoleConfig { ports, size: (80, 25) })
        .map_err(|e| MachineError::because(MachineErrorKind::Board, "the console's ports", e))?;
    b.built.agent = handle.port(AGENT_PORT);
    b.built.console = Some(handle);
    b.virtio(device)?;
    Ok(())
}

fn rng(b: &mut Board<'_>) -> Result<(), MachineError> {
    b.virtio(Rng::new(HostEntropy))?;
    Ok(())
}

fn disks(b: &mut Board<'_>) -> Result<(), MachineError> {
    let queues = b.config.cpus.min(4) as u16;
    for disk in b.config.disks.iter().filter(|d| d.bus == DiskBus::Virtio) {
        let config = BlkConfig { queues, serial: disk.serial.clone() };
        let attached: Arc<dyn BlockBackend> = b.built.disks.register(disk);
        let blk = Blk::new(b.timeline.note_requests(&attached), &config);
        let handle = blk.handle();
        let at = b.virtio(blk)?;
        b.built.disks.placed(at, handle);
        b.built.bootable.push(Bootable::virtio_disk(at, disk.serial.clone()));
    }
    Ok(())
}
