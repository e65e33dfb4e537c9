//! What the CPUs of one VM share: how interrupts, IPIs and kicks reach a CPU that another thread runs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use visor_apic::{Delivery, DeliveryMode, Ipi, LocalApic, Lowest, Message};
use visor_engine::{MsiSink, VcpuId};

use crate::cpu::attention;

/// One CPU as other threads reach it.
#[derive(Debug)]
pub struct CpuPort {
    /// Which CPU.
    pub(crate) id: VcpuId,
    /// Reasons to leave straight-line execution, see [`attention`].
    pub(crate) attention: AtomicU32,
    /// An NMI waits.
    pub(crate) nmi: AtomicBool,
    /// An INIT waits.
    pub(crate) init: AtomicBool,
    /// A start-up IPI waits: 100h plus its vector, or 0.
    pub(crate) sipi: AtomicU32,
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
            nmi: AtomicBool::new(false),
            init: AtomicBool::new(false),
            sipi: AtomicU32::new(0),
            apic: Mutex::new(apic),
            asleep: Mutex::new(()),
            bell: Condvar::new(),
        }
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

    /// Acts on what the local APIC made of an interrupt.
    pub(crate) fn act(&self, delivery: Delivery) {
        match delivery {
            Delivery::Ignored | Delivery::Smi => return,
            Delivery::Interrupt => {}
            Delivery::Nmi => self.nmi.store(true, Ordering::SeqCst),
            Delivery::Init => self.init.store(true, Ordering::SeqCst),
            Delivery::StartUp(vector) => self.sipi.store(0x100 | u32::from(vector), Ordering::SeqCst),
        }
        self.notify(attention::INTERRUPT);
    }
}

/// The CPUs of one VM.
#[derive(Debug, Default)]
pub struct Fabric {
    ports: RwLock<Vec<Arc<CpuPort>>>,
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
        if let Some(boot) = self.boot() {
            let delivery = boot.apic().set_lint0(level);
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
