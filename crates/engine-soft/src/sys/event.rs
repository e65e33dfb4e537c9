//! What interrupts the instruction stream, and when (SDM 3A §6.9: priority among simultaneous events).

use std::sync::atomic::Ordering;

use visor_apic::Interrupt;
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

impl Cpu {
    /// At a block boundary with the INTERRUPT attention bit set or `timer_tsc` reached, in single mode, before sleeping and
    /// after waking: delivers at most one of INIT, start-up IPI, #DB trap, NMI, interrupt. Clears the INTERRUPT attention
    /// bit.
    pub(crate) fn take_events(&mut self) -> Activity {
        self.port.attention.fetch_and(!attention::INTERRUPT, Ordering::SeqCst);
        self.take_signals();
        if self.shutdown {
            return Activity::Shutdown;
        }
        if self.wait_for_sipi {
            return Activity::WaitForSipi;
        }
        if self.debug_trap_due() {
            self.halted = false;
            self.take_debug_trap();
            self.look_again();
            return if self.shutdown { Activity::Shutdown } else { Activity::Run };
        }
        if !self.nmi_blocked && !self.shadow && self.port.take_nmi() {
            self.nmi_blocked = true;
            self.halted = false;
            self.deliver(Event::Nmi);
            self.look_again();
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
            self.look_again();
        }
    }

    /// Has the run loop call [`Cpu::take_events`] at the end of this block.
    pub(super) fn look_again(&self) {
        self.port.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
    }

    /// INIT and start-up IPIs.
    fn take_signals(&mut self) {
        if self.port.init.load(Ordering::Relaxed) && self.port.init.swap(false, Ordering::Acquire) {
            self.reset(ResetKind::Init);
        }
        if self.port.sipi.load(Ordering::Relaxed) != 0 {
            let vector = self.port.sipi.swap(0, Ordering::Acquire);
            if self.wait_for_sipi {
                self.start_up(vector as u8);
            }
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
