//! What the CPUs of one VM share: how interrupts, IPIs and kicks reach a CPU that another thread runs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use visor_apic::{Delivery, DeliveryMode, Ipi, LocalApic, Lowest, Message};
use visor_engine::{MsiSink, VcpuId};
use visor_memory::Frame;

use crate::changed::{Changed, Writer};
use crate::cpu::attention;

/// NMIs that can wait: of two that come before the CPU looks, a processor would have the first in service when the second
/// arrives, and latch that one.
const NMI_LIMIT: u32 = 2;

/// One CPU as other threads reach it.
#[derive(Debug)]
pub(crate) struct CpuPort {
    /// Which CPU.
    pub(crate) id: VcpuId,
    /// Reasons to leave straight-line execution, see [`attention`].
    pub(crate) attention: AtomicU32,
    /// NMIs that wait, at most [`NMI_LIMIT`].
    nmi: AtomicU32,
    /// An INIT waits.
    pub(crate) init: AtomicBool,
    /// A start-up IPI waits: 100h plus its vector, or 0.
    pub(crate) sipi: AtomicU32,
    /// Code that has changed, for the translator.
    changed: Mutex<Changed>,
    apic: Mutex<LocalApic>,
    asleep: Mutex<()>,
    bell: Condvar,
}

impl CpuPort {
    /// A port around a fresh local APIC.
    pub(crate) fn new(id: VcpuId, apic: LocalApic) -> Self {
        CpuPort {
            id,
            attention: AtomicU32::new(0),
            nmi: AtomicU32::new(0),
            init: AtomicBool::new(false),
            sipi: AtomicU32::new(0),
            changed: Mutex::default(),
            apic: Mutex::new(apic),
            asleep: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// `writer` has changed code in `frame`.
    pub(crate) fn code_changed(&self, frame: Frame, writer: Writer) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(frame, writer);
        self.attention.fetch_or(attention::WORK, Ordering::SeqCst);
    }

    /// Takes what has changed since the last time.
    pub(crate) fn take_changed(&self) -> Changed {
        self.attention.fetch_and(!attention::WORK, Ordering::SeqCst);
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The local APIC. Never held while another port is locked or the machine is called.
    pub(crate) fn apic(&self) -> MutexGuard<'_, LocalApic> {
        self.apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets bits of `attention` and wakes the CPU if it sleeps.
    pub(crate) fn notify(&self, bits: u32) {
        let before = self.attention.fetch_or(bits, Ordering::SeqCst);
        if before & bits != bits {
            // Under the lock, so that the bell does not ring between the sleeper's last look and its sleep.
            drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }

    /// Sleeps until something wants attention or `timeout` is over.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) {
        let until = timeout.map(|t| Instant::now() + t);
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        while self.attention.load(Ordering::SeqCst) == 0 {
            guard = match until {
                None => self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.bell.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// An NMI arrives.
    pub(crate) fn add_nmi(&self) {
        let add = |n: u32| (n < NMI_LIMIT).then_some(n + 1);
        let _ = self.nmi.fetch_update(Ordering::SeqCst, Ordering::Relaxed, add);
    }

    /// Takes one of the NMIs that wait; false if none does.
    pub(crate) fn take_nmi(&self) -> bool {
        self.nmi.load(Ordering::Relaxed) != 0
            && self.nmi.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    /// NMIs are no longer blocked: those that came while they were count as one (SDM 3A §6.7.1). True if there is one.
    pub(crate) fn merge_nmis(&self) -> bool {
        self.nmi.load(Ordering::Relaxed) != 0 && self.nmi.fetch_min(1, Ordering::Relaxed) != 0
    }

    /// Forgets the NMIs that wait.
    pub(crate) fn clear_nmis(&self) {
        self.nmi.store(0, Ordering::Relaxed);
    }

    /// Acts on what the local APIC made of an interrupt.
    pub(crate) fn act(&self, delivery: Delivery) {
        match delivery {
            Delivery::Ignored | Delivery::Smi => return,
            Delivery::Interrupt => {}
            Delivery::Nmi => self.add_nmi(),
            Delivery::Init => self.init.store(true, Ordering::SeqCst),
            Delivery::StartUp(vector) => self.sipi.store(0x100 | u32::from(vector), Ordering::SeqCst),
        }
        self.notify(attention::INTERRUPT);
    }
}

/// The CPUs of one VM.
#[derive(Debug, Default)]
pub(crate) struct Fabric {
    ports: RwLock<Vec<Arc<CpuPort>>>,
    /// Level of the 8259's INTR line.
    intr: AtomicBool,
    /// Serialises locked operations that no host instruction can do at once (page crossings, MMIO).
    bus_lock: Mutex<()>,
}

impl Fabric {
    /// Keeps out other locked operations that the host cannot make atomic. They are atomic among themselves only.
    pub(crate) fn lock_bus(&self) -> MutexGuard<'_, ()> {
        self.bus_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a CPU; false if its id is taken.
    pub(crate) fn add(&self, port: Arc<CpuPort>) -> bool {
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        if ports.iter().any(|p| p.id == port.id) {
            return false;
        }
        ports.push(port);
        drop(ports);
        // The line may have risen before there was a CPU.
        self.drive_intr();
        true
    }

    /// All CPUs.
    pub(crate) fn ports(&self) -> Vec<Arc<CpuPort>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The boot CPU.
    pub(crate) fn boot(&self) -> Option<Arc<CpuPort>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).iter().find(|p| p.id == VcpuId(0)).cloned()
    }

    /// Delivers an interrupt of the machine.
    pub(crate) fn message(&self, message: &Message) {
        self.route(message, |apic| apic.matches(message.destination, message.logical));
    }

    /// Delivers an inter-processor interrupt. The sender's own APIC must not be locked.
    pub(crate) fn ipi(&self, ipi: &Ipi) {
        self.route(&ipi.message, |apic| apic.takes(ipi));
    }

    fn route(&self, message: &Message, takes: impl Fn(&LocalApic) -> bool) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if message.mode == DeliveryMode::LowestPriority {
            let mut lowest = Lowest::default();
            for (i, port) in ports.iter().enumerate() {
                let apic = port.apic();
                if takes(&apic) {
                    lowest.offer(i, &apic);
                }
            }
            if let Some(port) = lowest.winner().and_then(|i| ports.get(i)) {
                let delivery = port.apic().deliver(message);
                port.act(delivery);
            }
            return;
        }
        for port in ports.iter() {
            let delivery = {
                let mut apic = port.apic();
                if takes(&apic) { apic.deliver(message) } else { Delivery::Ignored }
            };
            port.act(delivery);
        }
    }

    /// Sets the level of the 8259's INTR line.
    pub(crate) fn set_intr(&self, level: bool) {
        self.intr.store(level, Ordering::SeqCst);
        self.drive_intr();
    }

    fn drive_intr(&self) {
        if let Some(boot) = self.boot() {
            let delivery = boot.apic().set_lint0(self.intr.load(Ordering::SeqCst));
            boot.act(delivery);
        }
    }
}

impl MsiSink for Fabric {
    fn send(&self, address: u64, data: u32) {
        if let Some(message) = Message::decode(address, data) {
            self.message(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use visor_apic::LocalApicConfig;

    use super::*;

    fn port() -> Arc<CpuPort> {
        let config = LocalApicConfig {
            id: 0,
            boot: true,
            x2apic: true,
            tsc_deadline: true,
            phys_bits: 40,
            tsc_hz: 1_000_000_000,
        };
        Arc::new(CpuPort::new(VcpuId(0), LocalApic::new(config)))
    }

    #[test]
    fn nmis_that_come_together_are_two_and_those_during_service_one() {
        let port = port();
        for _ in 0..3 {
            port.act(Delivery::Nmi);
        }
        assert!(port.take_nmi());
        assert!(port.merge_nmis(), "the second was latched");
        assert!(port.take_nmi());
        assert!(!port.take_nmi());
        (0..10).for_each(|_| port.act(Delivery::Nmi));
        assert!(port.merge_nmis());
        assert!(port.take_nmi());
        assert!(!port.merge_nmis());
    }

    #[test]
    fn an_intr_line_that_rose_before_the_boot_cpu_came_is_seen() {
        let fabric = Fabric::default();
        fabric.set_intr(true);
        let port = port();
        fabric.add(port.clone());
        assert!(port.apic().has_pending());
        fabric.set_intr(false);
        assert!(!port.apic().has_pending());
    }
}
