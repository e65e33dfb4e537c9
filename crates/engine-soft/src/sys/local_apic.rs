//! The CPU's side of its local APIC: the register page, its MSRs, and interrupts for other CPUs.

use visor_apic::{ApicMode, Effect, GeneralProtection, Interrupt};
use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::op::Guest;

impl Cpu {
    /// A load from the register page.
    pub(crate) fn apic_read(&mut self, offset: u32, data: &mut [u8]) {
        let now = self.now();
        self.port.apic().mmio_read(offset, data, now);
    }

    /// A store to the register page.
    pub(crate) fn apic_write(&mut self, offset: u32, data: &[u8]) {
        let now = self.now();
        let effect = self.port.apic().mmio_write(offset, data, now);
        self.apic_changed(effect);
    }

    /// RDMSR of an APIC register.
    pub(super) fn apic_read_msr(&mut self, msr: u32) -> Guest<u64> {
        let now = self.now();
        let value = self.port.apic().read_msr(msr, now);
        value.or_else(|GeneralProtection| self.fail(Exception::gp(0)))
    }

    /// WRMSR to an APIC register.
    pub(super) fn apic_write_msr(&mut self, msr: u32, value: u64) -> Guest<()> {
        let now = self.now();
        let effect = self.port.apic().write_msr(msr, value, now);
        match effect {
            Ok(effect) => {
                self.apic_changed(effect);
                if msr == visor_apic::IA32_APIC_BASE {
                    self.apic_moved();
                }
                Ok(())
            }
            Err(GeneralProtection) => self.fail(Exception::gp(0)),
        }
    }

    pub(super) fn cr8(&self) -> u64 {
        u64::from(self.port.apic().cr8())
    }

    pub(super) fn set_cr8(&mut self, value: u8) {
        self.port.apic().set_cr8(value);
        self.apic_changed(Effect::None);
    }

    /// The local APIC was reset or restored, or its registers moved.
    pub(super) fn apic_moved(&mut self) {
        let page = self.port.apic().page().map_or(!0, |p| p.0);
        if page != self.mmu.apic_page {
            self.mmu.apic_page = page;
            self.mmu.flush_all();
        }
        self.apic_changed(Effect::None);
    }

    /// After a write: passes on its effect, has interrupts looked at and the timer's deadline kept.
    fn apic_changed(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfInterrupt(vector) => self.io().end_of_interrupt(vector),
            Effect::Ipi(ipi) => self.fabric.ipi(&ipi),
        }
        self.rearm_timer();
        if self.apic_pending() {
            self.irq_waiting = true;
            self.look_again();
        }
    }

    /// The CPU would take an interrupt if RFLAGS.IF were set.
    pub(super) fn apic_pending(&self) -> bool {
        self.port.apic().has_pending()
    }

    pub(super) fn acknowledge_apic(&self) -> Option<Interrupt> {
        self.port.apic().acknowledge()
    }

    /// IA32_APIC_BASE.EN.
    pub(super) fn apic_enabled(&self) -> bool {
        self.port.apic().mode() != ApicMode::Disabled
    }
}
