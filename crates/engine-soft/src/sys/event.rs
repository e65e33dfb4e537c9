//! What interrupts the instruction stream, and when (SDM 3A §6.9: priority among simultaneous events).

use std::sync::atomic::{AtomicU32, Ordering};

use visor_apic::{Delivery, Interrupt};
use visor_x86::exception::{Exception, Vector};
use visor_x86::regs::Rflags;

use crate::cpu::{Cpu, attention};

/// Something to deliver through the interrupt table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An exception; `cpu.rip` is the address to report (the instruction's for faults, the next one's for traps, for
    /// which `cpu.fault_is_trap` is set).
    Exception(Exception),
    /// An external interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// What the CPU does next, after [`Cpu::take_events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Execute at `cpu.rip`.
    Run,
    /// Nothing until an interrupt arrives: HLT (or MWAIT).
    Halted {
        /// IF is set, so that interrupts can end it; otherwise only NMI, INIT and reset.
        maskable: bool,
    },
    /// Nothing until a start-up IPI arrives.
    WaitForSipi,
    /// Triple fault.
    Shutdown,
}

/// Signals other than vectored interrupts that other threads send to a CPU. Whoever posts sets the INTERRUPT bit of the
/// CPU's attention word afterwards and wakes it.
#[derive(Debug, Default)]
pub struct Signals(AtomicU32);

const NMI: u32 = 1 << 8;
const INIT: u32 = 1 << 9;
const START_UP: u32 = 1 << 10;

impl Signals {
    /// Posts what [`visor_apic::LocalApic::deliver`] or a LINT pin asks for. True if the CPU must look at it.
    pub fn post(&self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::Ignored | Delivery::Smi => return false,
            Delivery::Interrupt => {}
            Delivery::Nmi => drop(self.0.fetch_or(NMI, Ordering::Release)),
            // An INIT takes back an older start-up IPI.
            Delivery::Init => drop(self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |s| {
                Some((s & NMI) | INIT)
            })),
            Delivery::StartUp(vector) => {
                drop(self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |s| {
                    Some((s & !0xff) | START_UP | u32::from(vector))
                }));
            }
        }
        true
    }

    fn take(&self) -> u32 {
        if self.0.load(Ordering::Relaxed) == 0 { 0 } else { self.0.swap(0, Ordering::Acquire) }
    }
}

impl Cpu {
    /// At a block boundary with the INTERRUPT attention bit set or `timer_tsc` reached, in single mode, before sleeping and
    /// after waking: delivers at most one of INIT, start-up IPI, #DB trap, NMI, interrupt. Clears the INTERRUPT attention
    /// bit.
    pub(crate) fn take_events(&mut self) -> Activity {
        self.attention.fetch_and(!attention::INTERRUPT, Ordering::Acquire);
        let signals = self.signals.take();
        if signals != 0 {
            self.take_signals(signals);
        }
        if self.shutdown {
            return Activity::Shutdown;
        }
        if self.wait_for_sipi {
            return Activity::WaitForSipi;
        }
        if self.debug.pending != 0 {
            self.halted = false;
            self.take_debug_trap();
            self.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
            return if self.shutdown { Activity::Shutdown } else { Activity::Run };
        }
        if self.nmi_pending && !self.nmi_blocked && !self.shadow {
            self.nmi_pending = false;
            self.nmi_blocked = true;
            self.halted = false;
            self.deliver(Event::Nmi);
            self.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
        } else {
            self.take_interrupt();
        }
        if self.shutdown {
            return Activity::Shutdown;
        }
        if self.halted {
            return Activity::Halted { maskable: self.interrupts_enabled() };
        }
        Activity::Run
    }

    /// Delivers an interrupt from the local APIC or the 8259, if RFLAGS.IF and the shadow allow it.
    fn take_interrupt(&mut self) {
        self.tick_apic();
        self.irq_waiting = self.apic_pending();
        if !self.irq_waiting || self.shadow || !self.interrupts_enabled() {
            return;
        }
        let vector = match self.acknowledge_apic() {
            Some(Interrupt::Vector(vector)) => vector,
            Some(Interrupt::ExtInt) => match self.io().acknowledge_irq() {
                Some(vector) => vector,
                None => return,
            },
            None => return,
        };
        self.irq_waiting = self.apic_pending();
        self.halted = false;
        self.deliver(Event::Interrupt(vector));
    }

    /// Maskable external interrupts are taken.
    fn interrupts_enabled(&self) -> bool {
        self.sysflags & Rflags::IF.bits() != 0
    }

    /// To be called after RFLAGS.IF was set: has the run loop look at interrupts that wait.
    pub(crate) fn interrupts_opened(&mut self) {
        if self.irq_waiting {
            self.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
        }
    }

    fn take_signals(&mut self, signals: u32) {
        if signals & INIT != 0 {
            self.reset(ResetKind::Init);
        }
        if signals & NMI != 0 {
            self.nmi_pending = true;
        }
        if signals & START_UP != 0 && self.wait_for_sipi {
            self.start_up(signals as u8);
        }
    }

    fn take_debug_trap(&mut self) {
        let info = std::mem::take(&mut self.debug.pending);
        self.single_changed();
        self.fault_is_trap = true;
        self.deliver(Event::Exception(Exception { vector: Vector::Debug, error: 0, info }));
    }
}

/// Which reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetKind {
    /// RESET: everything.
    Power,
    /// INIT: caches, FPU and most MSRs survive.
    Init,
}
