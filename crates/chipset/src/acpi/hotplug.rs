//! Adding and removing PCI devices while the machine runs: ports that the DSDT's methods read and write after a general-purpose
//! event, as 440FX boards of virtual machines have them (QEMU's "ACPI PCI hotplug interface", bus 0 only).
//!
//! ```text
//! +0  up     slots with a device that was put in     read only, cleared by the read
//! +4  down   slots whose device is to be taken out   read only
//! +8  eject  slots whose device may go now           write only
//! +C  slots that can be plugged at all               read only
//! ```
//! Bit n is device n of bus 0. Registers are double words and are accessed as such; narrower accesses read their bytes, and
//! narrower writes do nothing.

use std::sync::{Arc, Mutex, PoisonError};

use visor_device::{Device, PioDevice};

use super::AcpiPm;

/// First of the [`PCI_PLUG_PORTS`] ports.
pub const PCI_PLUG_PORT: u16 = 0xae00;
/// Number of ports.
pub const PCI_PLUG_PORTS: u16 = 16;
/// The general-purpose event that says that a slot wants attention.
pub const PCI_PLUG_GPE: u8 = 1;

/// Takes devices from the bus when the guest has let go of them. Called from within the guest's port access.
pub trait EjectSink: Send + Sync {
    /// Device `slot` of bus 0 may go; nothing of it is in use by the guest any more.
    fn eject(&self, slot: u8);
}

/// The registers.
pub struct PciPlug {
    pm: Arc<Mutex<AcpiPm>>,
    sink: Arc<dyn EjectSink>,
    slots: u32,
    up: u32,
    down: u32,
}

impl PciPlug {
    /// The registers of a board where the devices of the bit map `slots` can be plugged.
    pub fn new(pm: Arc<Mutex<AcpiPm>>, sink: Arc<dyn EjectSink>, slots: u32) -> Self {
        PciPlug { pm, sink, slots, up: 0, down: 0 }
    }

    /// Slots that can be plugged, as a bit map.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Tells the guest that `slot` has a device now.
    pub fn added(&mut self, slot: u8) {
        self.up |= self.bit(slot);
        self.tell();
    }

    /// Asks the guest to let go of the device in `slot`. The [`EjectSink`] hears when it has.
    pub fn ask(&mut self, slot: u8) {
        self.up &= !self.bit(slot);
        self.down |= self.bit(slot);
        self.tell();
    }

    /// No longer asks for the device in `slot`.
    pub fn forget(&mut self, slot: u8) {
        self.down &= !self.bit(slot);
        self.up &= !self.bit(slot);
    }

    fn bit(&self, slot: u8) -> u32 {
        1u32.checked_shl(slot.into()).unwrap_or(0) & self.slots
    }

    fn tell(&self) {
        self.pm.lock().unwrap_or_else(PoisonError::into_inner).raise_gpe(PCI_PLUG_GPE);
    }

    fn eject(&mut self, slots: u32) {
        let slots = slots & self.slots;
        for slot in (0..32u8).filter(|s| slots & 1 << s != 0) {
            self.forget(slot);
            self.sink.eject(slot);
        }
    }
}

impl Device for PciPlug {
    fn name(&self) -> &str {
        "pci-plug"
    }

    /// Nobody uses devices any more, so that those that are to go do.
    fn reset(&mut self) {
        self.eject(self.down);
        (self.up, self.down) = (0, 0);
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for PciPlug {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let mut image = [0; PCI_PLUG_PORTS as usize];
        image[0..4].copy_from_slice(&self.up.to_le_bytes());
        image[4..8].copy_from_slice(&self.down.to_le_bytes());
        image[12..16].copy_from_slice(&self.slots.to_le_bytes());
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = image.get(usize::from(offset) + i).copied().unwrap_or(0);
        }
        if offset == 0 && data.len() == 4 {
            self.up = 0;
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        if let (8, &[a, b, c, d]) = (offset, data) {
            self.eject(u32::from_le_bytes([a, b, c, d]));
        }
    }
}

#[cfg(test)]
mod tests {
    use visor_device::testing::{ManualClock, ManualTimer};

    use super::*;
    use crate::testing::{Lines, Power};
    use crate::{GPE0_PORT, Ports};

    #[derive(Default)]
    struct Gone(Mutex<Vec<u8>>);

    impl EjectSink for Gone {
        fn eject(&self, slot: u8) {
            self.0.lock().unwrap().push(slot);
        }
    }

    struct Bench {
        plug: PciPlug,
        pm: Arc<Mutex<AcpiPm>>,
        lines: Arc<Lines>,
        gone: Arc<Gone>,
    }

    fn bench() -> Bench {
        let (clock, timer) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default());
        let lines = Arc::<Lines>::default();
        let pm = Arc::new(Mutex::new(AcpiPm::new(clock, timer, lines.line(9), Arc::new(Power::default()))));
        pm.lock().unwrap().write_port(GPE0_PORT + 4, 1 << PCI_PLUG_GPE);
        let gone = Arc::new(Gone::default());
        Bench { plug: PciPlug::new(pm.clone(), gone.clone(), 0xffff_fff0), pm, lines, gone }
    }

    impl Bench {
        fn read(&mut self, offset: u16) -> u32 {
            let mut data = [0; 4];
            self.plug.read(offset, &mut data);
            u32::from_le_bytes(data)
        }

        /// Clears the event, as the operating system does before it runs the method.
        fn clear(&self) {
            self.pm.lock().unwrap().write_port(GPE0_PORT, 1 << PCI_PLUG_GPE);
        }
    }

    #[test]
    fn a_new_device_is_told_of_once() {
        let mut b = bench();
        b.plug.added(5);
        assert!(b.lines.level(9));
        b.clear();
        assert!(!b.lines.level(9));
        assert_eq!([b.read(0), b.read(0), b.read(4)], [1 << 5, 0, 0]);
        assert_eq!(b.read(12), 0xffff_fff0);
        b.plug.added(3);
        b.plug.added(40);
        assert_eq!(b.read(0), 0, "slots that cannot be plugged");
    }

    #[test]
    fn a_device_goes_when_the_guest_lets_it() {
        let mut b = bench();
        b.plug.ask(6);
        assert!(b.lines.level(9));
        assert_eq!([b.read(4), b.read(4)], [1 << 6, 1 << 6], "until it is gone");
        b.plug.write(8, &[1 << 6]);
        b.plug.write(8, &0x0000_0001u32.to_le_bytes());
        assert!(b.gone.0.lock().unwrap().is_empty(), "a narrow write; a slot that cannot be plugged");
        b.plug.write(8, &(1u32 << 6).to_le_bytes());
        assert_eq!(*b.gone.0.lock().unwrap(), [6]);
        assert_eq!(b.read(4), 0);
    }

    #[test]
    fn a_reset_takes_out_what_was_to_go() {
        let mut b = bench();
        b.plug.added(7);
        b.plug.ask(8);
        b.plug.reset();
        assert_eq!(*b.gone.0.lock().unwrap(), [8]);
        assert_eq!([b.read(0), b.read(4)], [0, 0]);
        b.plug.ask(9);
        b.plug.forget(9);
        b.plug.reset();
        assert_eq!(*b.gone.0.lock().unwrap(), [8]);
    }
}
