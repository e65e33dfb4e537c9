//! INTx pins, their swizzle over the four PIRQ lines of the PIIX, and the PIRQ route registers (PIIX4 §4.1.10).
//!
//! Pin *p* of device *d* drives PIRQ (*p* + *d* − 1) mod 4. A PIRQ goes to the ISA interrupt in its route register, after reset
//! 10, 10, 11, 11: inputs that exist with the same number on the 8259 pair and on the I/O APIC, so that one routing serves
//! guests with and without APIC. The inputs are level-triggered and active high.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use visor_device::IrqSink;

/// After reset, the interrupts of PIRQA to PIRQD.
pub(crate) const DEFAULT_ROUTES: [u8; 4] = [10, 10, 11, 11];

/// One of a device's four interrupt pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntxPin {
    /// INTA#
    A,
    /// INTB#
    B,
    /// INTC#
    C,
    /// INTD#
    D,
}

impl IntxPin {
    /// All four.
    pub const ALL: [IntxPin; 4] = [IntxPin::A, IntxPin::B, IntxPin::C, IntxPin::D];

    pub(crate) fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// The PIRQ line, 0 to 3, that this pin of `device` drives.
    pub fn pirq(self, device: u8) -> usize {
        (self as usize + usize::from(device) + 3) % 4
    }
}

/// One entry of the routing table, as ACPI's _PRT has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntxRoute {
    /// Device number.
    pub device: u8,
    /// Its pin.
    pub pin: IntxPin,
    /// Interrupt input, the same on the 8259 pair and on the I/O APIC; level-triggered, active high.
    pub gsi: u32,
}

/// Where the pins lead after reset: every pin of every device but the host bridge.
pub(crate) fn routing() -> Vec<IntxRoute> {
    let of =
        |device| IntxPin::ALL.map(|pin| IntxRoute { device, pin, gsi: u32::from(DEFAULT_ROUTES[pin.pirq(device)]) });
    (1..32).flat_map(of).collect()
}

/// Joins the pins into the machine's interrupt inputs: an input is high while any pin routed to it is.
pub struct IntxRouter {
    sink: Arc<dyn IrqSink>,
    state: Mutex<Wires>,
}

struct Wires {
    /// How many pins assert each PIRQ.
    asserted: [u32; 4],
    /// Bit 7: not routed; bits 3:0: interrupt.
    routes: [u8; 4],
    /// Levels of the interrupts.
    levels: u16,
}

impl IntxRouter {
    pub(crate) fn new(sink: Arc<dyn IrqSink>) -> Arc<Self> {
        let state = Mutex::new(Wires { asserted: [0; 4], routes: DEFAULT_ROUTES, levels: 0 });
        Arc::new(IntxRouter { sink, state })
    }

    /// A line from `pin` of `device`.
    pub(crate) fn line(self: &Arc<Self>, device: u8, pin: IntxPin) -> IntxLine {
        IntxLine { router: self.clone(), pirq: pin.pirq(device), level: AtomicBool::new(false) }
    }

    /// Sets a PIRQ's route register.
    pub(crate) fn route(&self, pirq: usize, register: u8) {
        self.change(|w| {
            if let Some(r) = w.routes.get_mut(pirq) {
                *r = register;
            }
        });
    }

    fn change(&self, f: impl FnOnce(&mut Wires)) {
        let mut w = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut w);
        let mut levels = 0u16;
        for (asserted, route) in w.asserted.iter().zip(w.routes) {
            // Interrupts 0, 1, 2, 8 and 13 cannot be chosen (PIIX4 §4.1.10).
            if *asserted > 0 && route & 0x80 == 0 && 0x2107 & 1u16 << (route & 15) == 0 {
                levels |= 1 << (route & 15);
            }
        }
        let changed = std::mem::replace(&mut w.levels, levels) ^ levels;
        for gsi in (0..16).filter(|i| changed & 1 << i != 0) {
            self.sink.set(gsi, levels & 1 << gsi != 0);
        }
    }
}

/// A function's interrupt pin. Falls when it is dropped.
pub struct IntxLine {
    router: Arc<IntxRouter>,
    pirq: usize,
    level: AtomicBool,
}

impl IntxLine {
    /// Sets the level; safe to repeat.
    pub fn set(&self, level: bool) {
        // The level changes under the router's lock, so that two setters cannot leave the count wrong.
        self.router.change(|w| {
            if self.level.swap(level, Ordering::Relaxed) != level {
                let n = &mut w.asserted[self.pirq];
                *n = if level { *n + 1 } else { n.saturating_sub(1) };
            }
        });
    }
}

impl Drop for IntxLine {
    fn drop(&mut self) {
        self.set(false);
    }
}
