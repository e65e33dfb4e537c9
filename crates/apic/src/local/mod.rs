//! The local APIC of one CPU (SDM 3A §11.4 to §11.12).
//!
//! How an engine uses it:
//!  * accesses: [`LocalApic::mmio_read`]/[`mmio_write`](LocalApic::mmio_write) for the page at [`LocalApic::page`],
//!    [`read_msr`](LocalApic::read_msr)/[`write_msr`](LocalApic::write_msr) for [`IA32_APIC_BASE`], [`IA32_TSC_DEADLINE`] and
//!    [`X2APIC_FIRST`]`..=`[`X2APIC_LAST`], [`set_cr8`](LocalApic::set_cr8);
//!  * a write returns an [`Effect`]; an [`Effect::Ipi`] is routed by asking each APIC [`LocalApic::takes`] and handing it to
//!    [`LocalApic::deliver`] (lowest priority: [`Lowest`] picks the one);
//!  * time: [`tick`](LocalApic::tick) at or after [`next_deadline`](LocalApic::next_deadline);
//!  * interrupts: after any call that changes state, [`has_pending`](LocalApic::has_pending) (a field) tells whether the
//!    CPU would take an interrupt with RFLAGS.IF set; [`acknowledge`](LocalApic::acknowledge) takes it.
//!
//! The timer counts at [`TIMER_HZ`]; CPUID leaf 15h should announce that frequency.
//!
//! Deviations: LINT polarity is stored but the pins carry their logical (asserted) state; the APIC id is read-only, as on
//! current processors; LVT CMCI does not exist (six LVT entries).

mod access;
mod deliver;
mod ipi;
mod regs;
mod state;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use visor_engine::Gpa;

use crate::DeliveryMode;
use regs::*;
use timer::Timer;
use vectors::Vectors;

pub use deliver::Delivery;
pub use ipi::{Ipi, Lowest, Shorthand};
pub use state::LocalApicState;

/// Frequency of the APIC timer before its divider, and of the core crystal clock that CPUID leaf 15h ECX reports, in Hz.
pub const TIMER_HZ: u64 = 25_000_000;
/// Address of the register page after reset.
pub const APIC_BASE: Gpa = Gpa(0xfee0_0000);
/// The MSR that places and enables the local APIC.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// The MSR that arms the timer in TSC-deadline mode.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8ff;

/// The instruction raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// The present, on the two clocks that a local APIC sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Guest time in nanoseconds; never goes backwards.
    pub nanos: u64,
    /// What RDTSC returns on this CPU.
    pub tsc: u64,
}

/// How the CPU reaches its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Not at all: LINT0 is the INTR pin, LINT1 the NMI pin.
    Disabled,
    /// Through the register page.
    XApic,
    /// Through MSRs.
    X2Apic,
}

/// What a register write causes outside of this local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an effect must reach the other APICs"]
pub enum Effect {
    /// Nothing.
    None,
    /// The end of this level-triggered vector must be told to the I/O APICs (`CpuIo::end_of_interrupt`).
    EndOfInterrupt(u8),
    /// An interrupt for other CPUs, and maybe this one.
    Ipi(Ipi),
}

/// An interrupt that the CPU takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// This vector; it is now in service.
    Vector(u8),
    /// The 8259 supplies the vector (`CpuIo::acknowledge_irq`).
    ExtInt,
}

/// An interrupt source within the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// The thermal sensor.
    Thermal,
    /// A performance counter's overflow; its LVT entry becomes masked.
    PerfCounter,
}

/// What a local APIC is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicConfig {
    /// The (x2)APIC id. In xAPIC mode only its low eight bits show.
    pub id: u32,
    /// This is the boot CPU.
    pub boot: bool,
    /// CPUID announces x2APIC (leaf 1 ECX bit 21).
    pub x2apic: bool,
    /// CPUID announces TSC deadline (leaf 1 ECX bit 24).
    pub tsc_deadline: bool,
    /// Width of physical addresses in bits, 32 to 52.
    pub phys_bits: u8,
    /// Frequency of the guest's TSC in Hz, not 0.
    pub tsc_hz: u64,
}

/// The local APIC of one CPU. See the module's documentation for the use of it.
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: LocalApicConfig,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// What software reads, and what has come in since its last write to ESR.
    esr: u32,
    esr_new: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    /// An ExtINT message has come that the CPU has not yet taken.
    ext_int_latched: bool,
    /// Cache: the CPU would take an interrupt.
    pending: bool,
}

impl LocalApic {
    /// A local APIC after power-up.
    pub fn new(config: LocalApicConfig) -> Self {
        let mut apic = LocalApic {
            config,
            base: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            esr_new: 0,
            icr: 0,
            lvt: [0; 6],
            timer: Timer::default(),
            lint: [false; 2],
            ext_int_latched: false,
            pending: false,
        };
        apic.reset();
        apic
    }

    /// RESET: xAPIC mode at [`APIC_BASE`], software-disabled (SDM 3A §11.4.7.1). On the boot CPU, LINT0 comes up as ExtINT and
    /// LINT1 as NMI: "virtual wire mode", which firmware sets up (MultiProcessor Specification 1.4 §3.6.2.2) and which a guest
    /// that is booted without firmware expects of the 8259. KVM does the same.
    pub fn reset(&mut self) {
        self.base = APIC_BASE.0 | BASE_ENABLE | if self.config.boot { BASE_BSP } else { 0 };
        self.init();
        if self.config.boot {
            self.lvt[LVT_LINT0] = DeliveryMode::ExtInt.bits() << 8;
            self.lvt[LVT_LINT1] = DeliveryMode::Nmi.bits() << 8;
            self.refresh();
        }
    }

    /// INIT: like RESET, but IA32_APIC_BASE (hence the mode) and the id stay (SDM 3A §11.4.7.3). The pins keep their level.
    pub fn init(&mut self) {
        self.tpr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.esr = 0;
        self.esr_new = 0;
        self.icr = 0;
        self.lvt = [LVT_MASKED; 6];
        self.timer = Timer::default();
        self.ext_int_latched = false;
        self.refresh();
    }

    /// The id that other APICs and CPUID know this one by.
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// How the CPU reaches the registers.
    pub fn mode(&self) -> ApicMode {
        match (self.base & BASE_ENABLE != 0, self.base & BASE_X2APIC != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
        }
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Where the 4 KiB register page is; `None` unless in xAPIC mode.
    pub fn page(&self) -> Option<Gpa> {
        (self.mode() == ApicMode::XApic).then_some(Gpa(self.base & !0xfff))
    }

    /// Writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`GeneralProtection`] for reserved bits and for the transitions that SDM 3A §11.12.5 forbids.
    pub fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let address = ((1u64 << self.config.phys_bits) - 1) & !0xfff;
        let flags = BASE_BSP | BASE_ENABLE | if self.config.x2apic { BASE_X2APIC } else { 0 };
        let (on, x2) = (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0);
        let forbidden = match self.mode() {
            ApicMode::Disabled => x2,
            ApicMode::XApic => x2 && !on,
            ApicMode::X2Apic => on != x2,
        };
        if value & !(address | flags) != 0 || forbidden {
            return Err(GeneralProtection);
        }
        let before = self.mode();
        self.base = value;
        match (before, self.mode()) {
            // §11.4.3: a disabled APIC loses its state.
            (ApicMode::XApic | ApicMode::X2Apic, ApicMode::Disabled) => self.init(),
            // §11.12.5.1: the destination half of ICR and the logical id take their x2APIC form.
            (ApicMode::XApic, ApicMode::X2Apic) => self.icr &= 0xffff_ffff,
            _ => {}
        }
        self.refresh();
        Ok(())
    }

    /// Whether the CPU would take an interrupt if RFLAGS.IF were set. Costs one load.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.pending
    }

    /// The interrupt that [`LocalApic::acknowledge`] would take.
    pub fn pending(&self) -> Option<Interrupt> {
        if self.ext_int_pending() {
            return Some(Interrupt::ExtInt);
        }
        if self.mode() == ApicMode::Disabled {
            return None;
        }
        let vector = self.irr.highest()?;
        (vector >> 4 > self.ppr() >> 4).then_some(Interrupt::Vector(vector))
    }

    /// Takes the pending interrupt: a vector moves from IRR to ISR (SDM 3A §11.8.4).
    pub fn acknowledge(&mut self) -> Option<Interrupt> {
        let interrupt = self.pending()?;
        match interrupt {
            Interrupt::Vector(vector) => {
                self.irr.remove(vector);
                self.isr.insert(vector);
            }
            Interrupt::ExtInt => self.ext_int_latched = false,
        }
        self.refresh();
        Some(interrupt)
    }

    /// CR8: bits 7:4 of the task priority, 0 to 15.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// MOV to CR8; only the low four bits count.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
        self.refresh();
    }

    /// Sets the level of LINT0, to which the 8259's INTR is wired on the boot CPU.
    pub fn set_lint0(&mut self, level: bool) -> Delivery {
        self.set_lint(0, level)
    }

    /// Sets the level of LINT1, a PC's NMI pin.
    pub fn set_lint1(&mut self, level: bool) -> Delivery {
        self.set_lint(1, level)
    }

    /// Signals a source within the CPU.
    pub fn raise(&mut self, source: LocalSource) -> Delivery {
        match source {
            LocalSource::Thermal => self.local(LVT_THERMAL),
            LocalSource::PerfCounter => {
                let delivery = self.local(LVT_PERF);
                self.lvt[LVT_PERF] |= LVT_MASKED;
                delivery
            }
        }
    }

    /// Lets the timer expire if its time has come.
    pub fn tick(&mut self, now: Now) {
        let fires = self.timer.advance(self.lvt[LVT_TIMER], now);
        if fires && self.lvt[LVT_TIMER] & LVT_MASKED == 0 {
            let _ = self.accept_local(self.lvt[LVT_TIMER] as u8);
        }
    }

    /// Guest time in nanoseconds at which [`LocalApic::tick`] must be called for the timer's interrupt to come; `None` while
    /// the timer cannot interrupt. Changes only with writes, ticks and, in TSC-deadline mode, with the TSC.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        let lvt = self.lvt[LVT_TIMER];
        if lvt & LVT_MASKED != 0 {
            return None;
        }
        self.timer.deadline(lvt, now, self.config.tsc_hz)
    }

    /// The processor priority (SDM 3A §11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    /// The arbitration priority (SDM 3A §11.6.2.4).
    fn apr(&self) -> u8 {
        let tpr = self.tpr >> 4;
        let irr = self.irr.highest().unwrap_or(0) >> 4;
        let isr = self.isr.highest().unwrap_or(0) >> 4;
        if tpr >= irr && tpr > isr { self.tpr } else { tpr.max(isr).max(irr) << 4 }
    }

    fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    fn ext_int_pending(&self) -> bool {
        if self.mode() == ApicMode::Disabled {
            return self.lint[0];
        }
        let lvt = self.lvt[LVT_LINT0];
        let wired = lvt & LVT_MASKED == 0 && DeliveryMode::from_bits(lvt >> 8) == Some(DeliveryMode::ExtInt);
        self.ext_int_latched || (wired && self.lint[0])
    }

    fn refresh(&mut self) {
        self.pending = self.pending().is_some();
    }
}
