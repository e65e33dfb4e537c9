//! Causes, mask and throttle of the interrupt (SDM §3.2.7, §13.4.17 to §13.4.21).

use visor_device::Nanos;
use visor_pci::PciDevice;

use super::E1000;
use super::regs::*;

/// Unit of ITR.
const ITR_UNIT: Nanos = 256;

/// The throttle.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// The pin is asserted.
    pub(super) asserted: bool,
    /// No new assertion before this.
    next: Nanos,
    armed: bool,
}

impl E1000 {
    /// Notes causes and interrupts if they are wanted.
    pub(super) fn raise(&mut self, causes: u32) {
        *self.reg_mut(ICR) |= causes;
        self.drive();
    }

    /// Sets the pin as causes, mask and throttle want it.
    pub(super) fn drive(&mut self) {
        let wanted = self.reg(ICR) & self.reg(IMS) != 0;
        if !wanted {
            self.throttle.asserted = false;
        } else if !self.throttle.asserted {
            let now = self.wires.clock.now();
            if now < self.throttle.next {
                if !self.throttle.armed {
                    self.throttle.armed = true;
                    self.wires.timer.arm(Some(self.throttle.next));
                }
                return;
            }
            self.throttle.asserted = true;
            self.throttle.next = now + u64::from(self.reg(ITR) & 0xffff) * ITR_UNIT;
        }
        self.set_pin();
    }

    /// The pin follows unless software forbids it.
    pub(super) fn set_pin(&mut self) {
        let disabled = self.config().command().intx_disabled();
        let asserted = self.throttle.asserted;
        self.config_mut().set_interrupt_status(asserted);
        self.wires.intx.set(asserted && !disabled);
    }

    /// The alarm has gone off.
    pub(super) fn throttle_over(&mut self, _now: Nanos) {
        self.throttle.armed = false;
        self.drive();
    }

    /// A read of ICR acknowledges all causes.
    pub(super) fn take_causes(&mut self) -> u32 {
        let asserted = if self.throttle.asserted { INT_ASSERTED } else { 0 };
        let causes = std::mem::take(self.reg_mut(ICR));
        self.drive();
        causes | asserted
    }
}
