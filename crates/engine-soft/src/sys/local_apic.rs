//! The CPU's side of its local APIC: the register page, time, and interrupts for other CPUs.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use visor_apic::{Effect, GeneralProtection, Interrupt, LocalApic, Now};
use visor_x86::exception::Exception;

use crate::cpu::{Cpu, attention};
use crate::op::Guest;

impl Cpu {
    fn lock_apic(&self) -> MutexGuard<'_, LocalApic> {
        self.apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present on both clocks of the local APIC.
    pub(crate) fn apic_now(&self) -> Now {
        let host = super::time::host_tsc();
        Now { nanos: super::time::guest_nanos(host), tsc: host.wrapping_add(self.tsc_offset) }
    }

    /// A load from the register page.
    pub(crate) fn apic_read(&mut self, offset: u32, data: &mut [u8]) {
        let now = self.apic_now();
        self.lock_apic().mmio_read(offset, data, now);
    }

    /// A store to the register page.
    pub(crate) fn apic_write(&mut self, offset: u32, data: &[u8]) {
        let now = self.apic_now();
        let effect = self.lock_apic().mmio_write(offset, data, now);
        self.apic_changed(effect);
    }

    /// RDMSR of an APIC register.
    pub(super) fn apic_read_msr(&mut self, msr: u32) -> Guest<u64> {
        let now = self.apic_now();
        let value = self.lock_apic().read_msr(msr, now);
        value.or_else(|GeneralProtection| self.fail(Exception::gp(0)))
    }

    /// WRMSR to an APIC register.
    pub(super) fn apic_write_msr(&mut self, msr: u32, value: u64) -> Guest<()> {
        let now = self.apic_now();
        let effect = self.lock_apic().write_msr(msr, value, now);
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
        u64::from(self.lock_apic().cr8())
    }

    pub(super) fn set_cr8(&mut self, value: u8) {
        self.lock_apic().set_cr8(value);
        self.apic_changed(Effect::None);
    }

    /// The local APIC was reset or restored, or its registers moved.
    pub(super) fn apic_moved(&mut self) {
        let page = self.lock_apic().page().map_or(!0, |p| p.0);
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
            Effect::Ipi(ipi) => self.fabric.send_ipi(&ipi),
        }
        self.refresh_timer();
        if self.apic_pending() {
            self.irq_waiting = true;
            self.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Lets the timer expire and keeps its next deadline.
    pub(crate) fn tick_apic(&mut self) {
        let now = self.apic_now();
        if self.timer_tsc.load(Ordering::Relaxed) <= now.tsc {
            self.lock_apic().tick(now);
            self.refresh_timer();
        }
    }

    /// Computes `timer_tsc` from the APIC timer.
    pub(super) fn refresh_timer(&mut self) {
        let now = self.apic_now();
        let deadline = self.lock_apic().next_deadline(now);
        let at = match deadline {
            Some(nanos) => now.tsc.saturating_add(super::time::ticks(nanos.saturating_sub(now.nanos))),
            None => u64::MAX,
        };
        self.timer_tsc.store(at, Ordering::Relaxed);
    }

    /// The CPU would take an interrupt if RFLAGS.IF were set.
    pub(super) fn apic_pending(&self) -> bool {
        let mut apic = self.lock_apic();
        if self.id.0 == 0 {
            let _ = apic.set_lint0(self.intr.load(Ordering::Acquire) != 0);
        }
        apic.has_pending()
    }

    pub(super) fn acknowledge_apic(&self) -> Option<Interrupt> {
        self.lock_apic().acknowledge()
    }
}

impl Cpu {
    /// IA32_APIC_BASE.EN.
    pub(super) fn apic_enabled(&self) -> bool {
        self.lock_apic().mode() != visor_apic::ApicMode::Disabled
    }
}
