//! The PCI transport (virtio 1.2 §4.1): a function whose BARs hold the device's registers.
//!
//! ```text
//! BAR 1  0000  MSI-X table              BAR 4  0000  common configuration (§4.1.4.3)
//!        0800  MSI-X pending bits              1000  interrupt status (§4.1.4.5)
//!                                              2000  device configuration (§4.1.4.6)
//!                                              3000  notification, 4 bytes a queue (§4.1.4.4)
//! ```
//! The capabilities say so to the driver; one more opens a window to the BARs in configuration space (§4.1.4.9), for firmware
//! that cannot reach memory space.

mod common;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use visor_engine::MsiSink;
use visor_pci::{
    BarKind, Capability, ConfigSpace, DmaMemory, Identity, Interrupts, IntxLine, IntxPin, MsixLayout, PciDevice,
    PciError, rom_for,
};

use crate::VirtioDevice;
use crate::queues::Queues;
use common::Common;
use window::Window;

const VENDOR: u16 = 0x1af4;
/// Device ids are this plus the virtio device type (§4.1.2.1).
const DEVICE_BASE: u16 = 0x1040;

const MSIX_BAR: u8 = 1;
const MSIX_BAR_SIZE: u64 = 0x1000;
const MSIX_PENDING: u32 = 0x800;
/// As many as fit before the pending bits.
const MAX_QUEUES: usize = 127;

const REGISTERS_BAR: u8 = 4;
const REGISTERS_SIZE: u64 = 0x4000;
const COMMON: u64 = 0x0000;
const COMMON_LEN: u64 = 0x40;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const NOTIFY_MULTIPLIER: u32 = 4;

/// Structure types in the capabilities (§4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI_CFG: u8 = 5;
const CAP_VENDOR: u8 = 0x09;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    interrupts: Arc<Interrupts>,
    queues: Arc<Queues>,
    device: Box<dyn VirtioDevice>,
    common: Common,
    window: Window,
}

impl VirtioPci {
    /// Puts `device` behind the transport. It accesses `mem`, interrupts through `msi` or `intx` (its INTA).
    ///
    /// # Errors
    /// [`PciError`] if the device asks for more queues than fit.
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        mem: impl Into<DmaMemory>,
        msi: Arc<dyn MsiSink>,
        intx: IntxLine,
    ) -> Result<Self, PciError> {
        let kind = device.device_type();
        let sizes = device.queue_sizes();
        if sizes.len() > MAX_QUEUES {
            return Err(PciError::Bar { index: MSIX_BAR, size: 16 * sizes.len() as u64 });
        }
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind.id,
            revision: 1,
            class: kind.class,
            subsystem_vendor: VENDOR,
            subsystem: DEVICE_BASE + kind.id,
        });
        config.add_bar(MSIX_BAR, BarKind::Mem32, MSIX_BAR_SIZE)?;
        config.add_bar(REGISTERS_BAR, BarKind::Mem64, REGISTERS_SIZE)?;
        config.set_interrupt_pin(IntxPin::A);
        let layout = MsixLayout { vectors: sizes.len() as u16 + 1, bar: MSIX_BAR, table: 0, pending: MSIX_PENDING };
        let interrupts = Arc::new(Interrupts::new(&mut config, layout, msi, Some(intx))?);
        let window = add_capabilities(&mut config, sizes.len())?;
        let mem = mem.into();
        // Behind an IOMMU, drivers must use the addresses that it translates (virtio 1.2 §6.1).
        let platform = if mem.is_remapped() { 1 << VIRTIO_F_ACCESS_PLATFORM } else { 0 };
        let queues = Queues::new(mem, interrupts.clone(), &sizes);
        device.attach(queues.clone());
        let common = Common::new(device.features() | platform, queues.clone());
        Ok(VirtioPci { config, interrupts, queues, device, common, window })
    }

    /// The same with an expansion ROM, from which firmware can drive the device.
    ///
    /// # Errors
    /// [`PciError::Rom`], [`PciError::Bar`] for an image that is none or too large.
    pub fn with_rom(mut self, image: &[u8]) -> Result<Self, PciError> {
        let device = DEVICE_BASE + self.device.device_type().id;
        self.config.set_rom(rom_for(image, VENDOR, device).ok_or(PciError::Rom(image.len()))?)?;
        Ok(self)
    }

    /// A load of the registers in BAR 4.
    fn read_registers(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..COMMON_LEN => self.common.read(offset, data),
            ISR => data[0] = self.queues.take_isr(),
            DEVICE..NOTIFY => self.device.read_config(offset - DEVICE, data),
            _ => {}
        }
    }

    /// A store to the registers in BAR 4.
    fn write_registers(&mut self, offset: u64, data: &[u8]) {
        match offset {
            COMMON..COMMON_LEN => {
                let change = self.common.write(offset, data);
                self.apply(change);
            }
            DEVICE..NOTIFY => self.device.write_config(offset - DEVICE, data),
            NOTIFY.. => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                if queue < u64::from(self.queues.count()) && self.queues.running() {
                    self.device.notify(queue as u16);
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, change: common::Change) {
        match change {
            common::Change::None => {}
            common::Change::Reset => self.reset_device(),
            common::Change::QueueReset(queue) => {
                self.queues.reset_queue(queue);
                self.device.queue_reset(queue);
            }
            common::Change::Ready(features) => {
                self.queues.set_running(self.config.command().bus_master());
                self.device.activate(features);
                self.kick();
            }
        }
    }

    /// Looks at all queues, since buffers may have come while nobody looked.
    fn kick(&mut self) {
        for queue in 0..self.queues.count() {
            if self.queues.running() {
                self.device.notify(queue);
            }
        }
    }

    fn reset_device(&mut self) {
        self.queues.reset();
        self.common.reset();
        self.device.reset();
    }
}

impl PciDevice for VirtioPci {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        if let Some(access) = self.window.access(&self.config, offset, data.len()) {
            let mut value = [0; 4];
            self.bar_read(access.bar, access.offset, &mut value[..access.len]);
            self.window.set_data(&mut self.config, value);
        }
        self.config.set_interrupt_status(self.interrupts.intx_pending());
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        let had_bus_master = self.config.command().bus_master();
        self.config.write(offset, data);
        self.interrupts.update(&self.config);
        let bus_master = self.config.command().bus_master();
        if bus_master != had_bus_master && self.common.ready() {
            self.queues.set_running(bus_master);
            self.kick();
        }
        if let Some(access) = self.window.access(&self.config, offset, data.len()) {
            let value = self.window.data(&self.config);
            self.bar_write(access.bar, access.offset, &value[..access.len]);
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            MSIX_BAR => self.interrupts.msix_read(offset, data),
            REGISTERS_BAR => self.read_registers(offset, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        match bar {
            MSIX_BAR => self.interrupts.msix_write(offset, data),
            REGISTERS_BAR => self.write_registers(offset, data),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.reset_device();
        self.interrupts.reset();
        self.config.reset();
    }
}

/// Adds the capabilities that describe BAR 4 (§4.1.4); returns the window in configuration space.
fn add_capabilities(config: &mut ConfigSpace, queues: usize) -> Result<Window, PciError> {
    let notify_len = queues as u32 * NOTIFY_MULTIPLIER;
    let body = |kind: u8, offset: u64, len: u32| {
        let mut b = [0u8; 18];
        b[1] = kind;
        b[2] = REGISTERS_BAR;
        b[6..10].copy_from_slice(&(offset as u32).to_le_bytes());
        b[10..14].copy_from_slice(&len.to_le_bytes());
        b
    };
    let mut add = |mut b: [u8; 18], len: usize, writable: &[u8]| {
        b[0] = len as u8 + 2;
        config.add_capability(Capability { id: CAP_VENDOR, body: &b[..len], writable })
    };
    add(body(CAP_COMMON, COMMON, COMMON_LEN as u32), 14, &[])?;
    add(body(CAP_ISR, ISR, 1), 14, &[])?;
    add(body(CAP_DEVICE, DEVICE, (NOTIFY - DEVICE) as u32), 14, &[])?;
    let mut notify = body(CAP_NOTIFY, NOTIFY, notify_len);
    notify[14..18].copy_from_slice(&NOTIFY_MULTIPLIER.to_le_bytes());
    add(notify, 18, &[])?;
    let mut window = body(CAP_PCI_CFG, 0, 0);
    window[2] = 0;
    // BAR, offset, length and data are the driver's.
    let writable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    add(window, 18, &writable).map(Window)
}
