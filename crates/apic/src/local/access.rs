//! Register accesses: the xAPIC page and the x2APIC MSRs (SDM 3A §11.4.1, §11.12.1).

use super::regs::*;
use super::{
    ApicMode, Effect, GeneralProtection, IA32_APIC_BASE, IA32_TSC_DEADLINE, LocalApic, Now, X2APIC_FIRST, X2APIC_LAST,
};
use crate::DeliveryMode;

impl LocalApic {
    /// A load from the register page: `offset` 0 to 4095, `data` of 1 to 8 bytes. Loads that leave the first four bytes of a
    /// register's 16 give zeros there.
    pub fn mmio_read(&mut self, offset: u32, data: &mut [u8], now: Now) {
        let value = self.read(offset >> 4, now).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get((offset & 0xf) as usize + i).copied().unwrap_or(0);
        }
    }

    /// A store to the register page. Registers take aligned 32-bit stores only; others are dropped.
    pub fn mmio_write(&mut self, offset: u32, data: &[u8], now: Now) -> Effect {
        match <[u8; 4]>::try_from(data) {
            Ok(value) if offset & 0xf == 0 => self.write(offset >> 4, u32::from_le_bytes(value), now),
            _ => Effect::None,
        }
    }

    /// RDMSR of [`IA32_APIC_BASE`], [`IA32_TSC_DEADLINE`] or an x2APIC register.
    ///
    /// # Errors
    /// [`GeneralProtection`] for an MSR that does not exist, is write-only, or needs x2APIC mode.
    pub fn read_msr(&mut self, msr: u32, now: Now) -> Result<u64, GeneralProtection> {
        match msr {
            IA32_APIC_BASE => Ok(self.base),
            IA32_TSC_DEADLINE if self.config.tsc_deadline => {
                self.tick(now);
                Ok(self.timer.tsc_deadline)
            }
            X2APIC_FIRST..=X2APIC_LAST if self.mode() == ApicMode::X2Apic => match msr - X2APIC_FIRST {
                ICR => Ok(self.icr),
                APR | EOI | RRD | DFR | ICR_HIGH | SELF_IPI => Err(GeneralProtection),
                reg if !exists(reg) => Err(GeneralProtection),
                reg => Ok(u64::from(self.read(reg, now))),
            },
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR to [`IA32_APIC_BASE`], [`IA32_TSC_DEADLINE`] or an x2APIC register.
    ///
    /// # Errors
    /// [`GeneralProtection`] for an MSR that does not exist, is read-only, or needs x2APIC mode, for reserved bits, and for
    /// what [`LocalApic::set_base`] refuses.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: Now) -> Result<Effect, GeneralProtection> {
        match msr {
            IA32_APIC_BASE => self.set_base(value).map(|()| Effect::None),
            IA32_TSC_DEADLINE if self.config.tsc_deadline => {
                self.tick(now);
                if self.lvt[LVT_TIMER] & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
                    self.timer.tsc_deadline = value;
                    self.tick(now);
                }
                Ok(Effect::None)
            }
            X2APIC_FIRST..=X2APIC_LAST if self.mode() == ApicMode::X2Apic => {
                self.write_x2apic(msr - X2APIC_FIRST, value, now)
            }
            _ => Err(GeneralProtection),
        }
    }

    fn write_x2apic(&mut self, reg: u32, value: u64, now: Now) -> Result<Effect, GeneralProtection> {
        if reg == ICR {
            if value as u32 & ICR_X2_RESERVED != 0 {
                return Err(GeneralProtection);
            }
            self.icr = value & !u64::from(!ICR_WRITABLE) & !(1 << 12);
            return Ok(self.send());
        }
        let writable = match reg {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => SVR_WRITABLE,
            // The read-only bits of an entry may be written with any value.
            LVT..=LVT_LAST => LVT_WRITABLE[(reg - LVT) as usize] | LVT_REMOTE_IRR | 1 << 12,
            INITIAL_COUNT => u32::MAX,
            DIVIDE => 0xb,
            _ => return Err(GeneralProtection),
        };
        if value & !u64::from(writable) != 0 {
            return Err(GeneralProtection);
        }
        if reg == SELF_IPI {
            self.self_ipi(value as u8);
            return Ok(Effect::None);
        }
        Ok(self.write(reg, value as u32, now))
    }

    fn read(&mut self, reg: u32, now: Now) -> u32 {
        self.tick(now);
        let x2 = self.mode() == ApicMode::X2Apic;
        match reg {
            ID if x2 => self.config.id,
            ID => self.config.id << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            APR => u32::from(self.apr()),
            PPR => u32::from(self.ppr()),
            LDR if x2 => self.x2apic_ldr(),
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.0[(reg - ISR) as usize],
            TMR..IRR => self.tmr.0[(reg - TMR) as usize],
            IRR..ESR => self.irr.0[(reg - IRR) as usize],
            ESR => self.esr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT..=LVT_LAST => self.lvt[(reg - LVT) as usize],
            INITIAL_COUNT => self.timer.initial,
            CURRENT_COUNT => self.timer.count(self.lvt[LVT_TIMER], now.nanos),
            DIVIDE => self.timer.divide,
            EOI | RRD => 0,
            _ => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    fn write(&mut self, reg: u32, value: u32, now: Now) -> Effect {
        self.tick(now);
        match reg {
            TPR => self.tpr = value as u8,
            EOI => return self.end_of_interrupt(),
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            SVR => self.write_svr(value),
            ESR => self.esr = std::mem::take(&mut self.esr_new),
            ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & ICR_WRITABLE & !(1 << 12));
                return self.send();
            }
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            LVT..=LVT_LAST => self.write_lvt((reg - LVT) as usize, value),
            // §11.5.4.1: ignored in TSC-deadline mode.
            INITIAL_COUNT if self.lvt[LVT_TIMER] & LVT_TIMER_MODE == LVT_TIMER_DEADLINE => {}
            INITIAL_COUNT => self.timer.start(value, now.nanos),
            DIVIDE => self.timer.set_divide(value, self.lvt[LVT_TIMER], now.nanos),
            _ if exists(reg) => {}
            _ => self.error(ESR_ILLEGAL_REGISTER),
        }
        self.refresh();
        Effect::None
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if !self.software_enabled() {
            // §11.4.7.2: the mask bits of all entries are set, and stay so when the APIC is enabled again.
            self.lvt.iter_mut().for_each(|lvt| *lvt |= LVT_MASKED);
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let mut writable = LVT_WRITABLE[index];
        if index == LVT_TIMER && !self.config.tsc_deadline {
            writable &= !LVT_TIMER_DEADLINE;
        }
        let before = self.lvt[index];
        let mut lvt = value & writable | before & LVT_REMOTE_IRR;
        if !self.software_enabled() {
            lvt |= LVT_MASKED;
        }
        self.lvt[index] = lvt;
        match index {
            // §11.5.4.1: a change to or from TSC-deadline mode disarms the timer.
            LVT_TIMER if (lvt ^ before) & LVT_TIMER_DEADLINE != 0 => self.timer.disarm(),
            LVT_LINT0 if self.is_level(index) => {
                let _ = self.sample_level(0);
            }
            LVT_LINT0 | LVT_LINT1 if DeliveryMode::from_bits(lvt >> 8) != Some(DeliveryMode::ExtInt) => {
                self.lvt[index] &= !LVT_REMOTE_IRR;
            }
            _ => {}
        }
    }

    /// SDM 3A §11.8.5.
    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else { return Effect::None };
        self.isr.remove(vector);
        let level = self.tmr.contains(vector);
        let lint0 = self.lvt[LVT_LINT0];
        if lint0 & LVT_REMOTE_IRR != 0 && lint0 as u8 == vector {
            self.lvt[LVT_LINT0] &= !LVT_REMOTE_IRR;
            let _ = self.sample_level(0);
        }
        self.refresh();
        if level && self.svr & SVR_NO_EOI_BROADCAST == 0 { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }
}

/// Registers that the page has; the others set the illegal-register error.
fn exists(reg: u32) -> bool {
    matches!(reg, ID | VERSION | TPR..=ESR | ICR..=CURRENT_COUNT | DIVIDE)
}
