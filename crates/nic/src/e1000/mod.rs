//! The Intel 82540EM Gigabit Ethernet controller ("PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual"
//! 317453, SDM below) over any [`visor_net::NetPort`].
//!
//! ```text
//! BAR 0  128 KiB of registers       BAR 1  64 ports: address of a register, its data (SDM §13.2.2)
//! rings  legacy receive descriptors (§3.2.3); legacy, context and data transmit descriptors (§3.3.3 to §3.3.7)
//! ```
//! It interrupts through INTA#, throttled by ITR. Frames leave on the thread of the vCPU that moves the transmit tail; frames to the
//! guest are the pump's work ([`E1000Handle`]). Frames for which the driver has no descriptors wait in the port.
//!
//! **Lock order.** The function's lock covers everything; under it: the port, the alarm, the interrupt pin.

mod device;
mod eeprom;
mod filter;
mod interrupt;
mod phy;
mod receive;
mod regs;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use visor_device::{Clock, Device, Nanos, TimerDevice, TimerSlot};
use visor_net::{MacAddr, NetPort, Nic, Notify, Traffic};
use visor_pci::{ConfigSpace, DmaMemory, IntxLine};

use eeprom::Eeprom;
use interrupt::Throttle;
use phy::Phy;
use transmit::Transmit;

/// What the device is wired to.
pub struct E1000Wires {
    /// Guest memory as the function sees it.
    pub memory: DmaMemory,
    /// Its interrupt pin.
    pub intx: IntxLine,
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Its alarm; [`E1000Timer`] answers it.
    pub timer: Arc<dyn TimerSlot>,
    /// The network.
    pub port: Box<dyn NetPort>,
    /// Called from any thread, with locks held, when [`Nic::pump`] should be called.
    pub wake: Notify,
}

/// The device.
pub struct E1000 {
    config: ConfigSpace,
    wires: E1000Wires,
    mac: MacAddr,
    /// The registers that are only memory, by their offset divided by 4.
    regs: Vec<u32>,
    /// The register that BAR 1 shows.
    io_address: u32,
    eeprom: Eeprom,
    phy: Phy,
    throttle: Throttle,
    transmit: Transmit,
    /// A frame waits for descriptors.
    starved: bool,
    /// The host's wish.
    plugged: bool,
    traffic: Traffic,
}

/// The host's hold on the device: see [`Nic`].
#[derive(Clone)]
pub struct E1000Handle(Arc<Mutex<E1000>>);

impl E1000Handle {
    /// The hold on `device`.
    pub fn new(device: Arc<Mutex<E1000>>) -> Self {
        E1000Handle(device)
    }

    fn lock(&self) -> MutexGuard<'_, E1000> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nic for E1000Handle {
    fn pump(&self) {
        self.lock().pump();
    }

    fn traffic(&self) -> Traffic {
        self.lock().traffic
    }

    fn mac(&self) -> MacAddr {
        self.lock().address()
    }

    fn set_link(&self, up: bool) {
        let mut d = self.lock();
        d.plugged = up;
        (d.wires.wake)();
    }
}

/// What answers the device's alarm. The alarm belongs to the device, so it does not keep it alive.
pub struct E1000Timer(pub Weak<Mutex<E1000>>);

impl Device for E1000Timer {
    fn name(&self) -> &str {
        "e1000"
    }

    /// The PCI bus resets the function.
    fn reset(&mut self) {}

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl TimerDevice for E1000Timer {
    fn expired(&mut self, now: Nanos) {
        if let Some(device) = self.0.upgrade() {
            device.lock().unwrap_or_else(PoisonError::into_inner).throttle_over(now);
        }
    }
}
