//! What interrupts the instruction stream, and the run loop's view of it.

use visor_x86::exception::Exception;
use visor_x86::state::CpuState;

use crate::cpu::Cpu;

/// Something to deliver through the interrupt table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An exception; `cpu.rip` is the address to report (the instruction's for faults, the next one's for traps).
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
    /// Nothing until an interrupt arrives: HLT (or MWAIT). `maskable`: IF is set, so that interrupts can end it.
    Halted {
        /// Interrupts can end it; otherwise only NMI, INIT and reset.
        maskable: bool,
    },
    /// Nothing until a start-up IPI arrives.
    WaitForSipi,
    /// Triple fault.
    Shutdown,
}

/// Which reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetKind {
    /// RESET: everything.
    Power,
    /// INIT: caches, FPU and most MSRs survive.
    Init,
}

impl Cpu {
    /// Delivers `event`: pushes the frame and enters the handler, nesting exceptions as the SDM says. Sets `shutdown`
    /// on a triple fault.
    pub(crate) fn deliver(&mut self, event: Event) {
        let _ = event;
    }

    /// At a block boundary with the INTERRUPT attention bit set, in single mode, or after waking: delivers at most one of
    /// INIT, start-up IPI, #DB trap, NMI, interrupt. Clears the INTERRUPT attention bit.
    pub(crate) fn take_events(&mut self) -> Activity {
        Activity::Run
    }

    /// In single mode ([`crate::cpu::Mode::single`]), before the instruction at `cpu.rip`: instruction breakpoints. True
    /// if a #DB was delivered instead, so that the run loop starts over.
    pub(crate) fn before_single(&mut self) -> bool {
        false
    }

    /// In single mode, after an instruction (also after one that returned [`crate::op::Flow::Again`], with `again` set, but
    /// not after a fault), `cpu.rip` being exact: ends the interrupt shadow, clears RF, arms the TF trap, which
    /// [`Cpu::take_events`] then delivers.
    pub(crate) fn after_single(&mut self, again: bool) {
        let _ = again;
    }

    /// Recomputes what follows from CR0, CR4, EFER, RFLAGS, CS and SS: mode, masks, bases, TLB privilege.
    pub(crate) fn mode_changed(&mut self) {}

    /// Resets the CPU.
    pub(crate) fn reset(&mut self, kind: ResetKind) {
        let _ = kind;
    }

    /// The architectural state between two instructions.
    pub(crate) fn save_state(&mut self) -> CpuState {
        CpuState::default()
    }

    /// Takes over a state; false if no CPU of this model can be in it.
    pub(crate) fn restore_state(&mut self, state: &CpuState) -> bool {
        let _ = state;
        true
    }
}
