//! What the CPUs of one VM share: the way of interrupts between them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use visor_apic::{Delivery, DeliveryMode, Ipi, LocalApic, Lowest, Message};

use crate::cpu::{Attention, attention};
use crate::sys::Signals;

/// How other threads reach one CPU.
#[derive(Clone)]
pub(crate) struct Port {
    /// Its local APIC.
    pub(crate) apic: Arc<Mutex<LocalApic>>,
    /// NMI, INIT and start-up IPIs.
    pub(crate) signals: Arc<Signals>,
    /// Its attention word.
    pub(crate) attention: Attention,
    /// Wakes its thread if it sleeps in HLT. Called after the attention bit is set, without locks held.
    pub(crate) wake: Arc<dyn Fn() + Send + Sync>,
}

/// The ports of all CPUs.
#[derive(Default)]
pub struct Fabric {
    ports: RwLock<Vec<Port>>,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric").finish_non_exhaustive()
    }
}

impl Port {
    fn lock(&self) -> MutexGuard<'_, LocalApic> {
        self.apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on what the local APIC made of a message.
    pub(crate) fn act(&self, delivery: Delivery) {
        if self.signals.post(delivery) {
            self.attention.fetch_or(attention::INTERRUPT, Ordering::Release);
            (self.wake)();
        }
    }
}

impl Fabric {
    /// Adds a CPU.
    pub(crate) fn add(&self, port: Port) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).push(port);
    }

    /// Delivers a message-signalled interrupt.
    pub(crate) fn send(&self, message: &Message) {
        self.route(message, |apic| apic.matches(message.destination, message.logical));
    }

    /// Delivers an inter-processor interrupt.
    pub(crate) fn send_ipi(&self, ipi: &Ipi) {
        self.route(&ipi.message, |apic| apic.takes(ipi));
    }

    /// Raises an NMI on CPU `index` through its LINT1 pin, as a PC does.
    pub(crate) fn nmi(&self, index: usize) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = ports.get(index) {
            let delivery = {
                let mut apic = port.lock();
                let delivery = apic.set_lint1(true);
                let _ = apic.set_lint1(false);
                delivery
            };
            port.act(delivery);
        }
    }

    fn route(&self, message: &Message, takes: impl Fn(&LocalApic) -> bool) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if message.mode == DeliveryMode::LowestPriority {
            let mut lowest = Lowest::default();
            for (i, port) in ports.iter().enumerate() {
                let apic = port.lock();
                if takes(&apic) {
                    lowest.offer(i, &apic);
                }
            }
            if let Some(port) = lowest.winner().and_then(|i| ports.get(i)) {
                let delivery = port.lock().deliver(message);
                port.act(delivery);
            }
            return;
        }
        for port in ports.iter() {
            let delivery = {
                let mut apic = port.lock();
                if takes(&apic) { apic.deliver(message) } else { Delivery::Ignored }
            };
            port.act(delivery);
        }
    }
}
