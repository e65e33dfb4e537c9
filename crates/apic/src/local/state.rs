//! What a snapshot keeps of a local APIC.

use super::LocalApic;
use super::regs::*;
use super::timer::Timer;
use super::vectors::Vectors;

/// The state of a local APIC, as its registers hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LocalApicState {
    /// IA32_APIC_BASE.
    pub base: u64,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub isr: [u32; 8],
    pub tmr: [u32; 8],
    pub irr: [u32; 8],
    /// What ESR reads as.
    pub esr: u32,
    /// Errors since the last write to ESR.
    pub esr_new: u32,
    pub icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    pub initial_count: u32,
    pub divide: u32,
    /// Guest time in nanoseconds at which the count reaches zero.
    pub timer_zero_at: Option<u64>,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// Levels of LINT0 and LINT1.
    pub lint: [bool; 2],
    /// An ExtINT message waits.
    pub ext_int: bool,
}

impl LocalApic {
    /// The state, to be kept.
    pub fn save(&self) -> LocalApicState {
        LocalApicState {
            base: self.base,
            tpr: self.tpr,
            ldr: self.ldr,
            dfr: self.dfr,
            svr: self.svr,
            isr: self.isr.0,
            tmr: self.tmr.0,
            irr: self.irr.0,
            esr: self.esr,
            esr_new: self.esr_new,
            icr: self.icr,
            lvt: self.lvt,
            initial_count: self.timer.initial,
            divide: self.timer.divide,
            timer_zero_at: self.timer.zero_at,
            tsc_deadline: self.timer.tsc_deadline,
            lint: self.lint,
            ext_int: self.ext_int_latched,
        }
    }

    /// Takes over a state that was kept. Bits that no local APIC can hold are dropped.
    pub fn restore(&mut self, s: &LocalApicState) {
        let address = ((1u64 << self.config.phys_bits) - 1) & !0xfff;
        self.base = s.base & (address | BASE_BSP | BASE_ENABLE | BASE_X2APIC);
        self.tpr = s.tpr;
        self.ldr = s.ldr & 0xff00_0000;
        self.dfr = s.dfr | 0x0fff_ffff;
        self.svr = s.svr & SVR_WRITABLE;
        self.isr = Vectors(s.isr);
        self.tmr = Vectors(s.tmr);
        self.irr = Vectors(s.irr);
        // Vectors 0 to 15 never get there.
        self.isr.0[0] &= 0xffff_0000;
        self.irr.0[0] &= 0xffff_0000;
        self.esr = s.esr & 0xff;
        self.esr_new = s.esr_new & 0xff;
        self.icr = s.icr & (0xffff_ffff << 32 | u64::from(ICR_WRITABLE));
        for (own, (value, writable)) in self.lvt.iter_mut().zip(s.lvt.iter().zip(LVT_WRITABLE)) {
            *own = value & (writable | LVT_REMOTE_IRR);
        }
        self.timer = Timer {
            initial: s.initial_count,
            divide: s.divide & 0xb,
            zero_at: s.timer_zero_at,
            not_before: 0,
            tsc_deadline: s.tsc_deadline,
        };
        self.lint = s.lint;
        self.ext_int_latched = s.ext_int;
        self.refresh();
    }
}
