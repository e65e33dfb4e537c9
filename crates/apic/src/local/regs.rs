//! Register numbers and bits. A register's number is its MMIO offset divided by 16, and its x2APIC MSR minus 800h
//! (SDM 3A table 11-1 and table 11-6).

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
pub(super) const APR: u32 = 0x09;
pub(super) const PPR: u32 = 0x0a;
pub(super) const EOI: u32 = 0x0b;
pub(super) const RRD: u32 = 0x0c;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
pub(super) const TMR: u32 = 0x18;
pub(super) const IRR: u32 = 0x20;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT: u32 = 0x32;
pub(super) const LVT_LAST: u32 = 0x37;
pub(super) const INITIAL_COUNT: u32 = 0x38;
pub(super) const CURRENT_COUNT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3e;
pub(super) const SELF_IPI: u32 = 0x3f;

/// Integrated APIC (14h), six LVT entries, EOI-broadcast suppression (SDM 3A §11.4.8).
pub(super) const VERSION_VALUE: u32 = 0x0105_0014;

/// Software enable.
pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Do not tell I/O APICs about the end of level-triggered interrupts.
pub(super) const SVR_NO_EOI_BROADCAST: u32 = 1 << 12;
pub(super) const SVR_WRITABLE: u32 = 0x11ff;

pub(super) const ESR_SEND_ILLEGAL: u32 = 1 << 5;
pub(super) const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Index of each entry of the local vector table, in register order.
pub(super) const LVT_TIMER: usize = 0;
pub(super) const LVT_THERMAL: usize = 1;
pub(super) const LVT_PERF: usize = 2;
pub(super) const LVT_LINT0: usize = 3;
pub(super) const LVT_LINT1: usize = 4;
pub(super) const LVT_ERROR: usize = 5;

pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;
pub(super) const LVT_LEVEL: u32 = 1 << 15;
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// The timer's mode: 0 one-shot, 1 periodic, 2 TSC deadline.
pub(super) const LVT_TIMER_MODE: u32 = 3 << 17;
pub(super) const LVT_TIMER_PERIODIC: u32 = 1 << 17;
pub(super) const LVT_TIMER_DEADLINE: u32 = 2 << 17;

/// Bits that software can write, by entry.
pub(super) const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

pub(super) const ICR_LOGICAL: u32 = 1 << 11;
pub(super) const ICR_ASSERT: u32 = 1 << 14;
pub(super) const ICR_LEVEL: u32 = 1 << 15;
/// Vector, mode, destination mode, level, trigger, shorthand; delivery status (12) always reads idle.
pub(super) const ICR_WRITABLE: u32 = 0xc_cfff;
/// Bits of the x2APIC ICR that must be zero. Bit 12 is ignored, as processors differ about it.
pub(super) const ICR_X2_RESERVED: u32 = 0xfff3_2000;

/// Bits of IA32_APIC_BASE.
pub(super) const BASE_BSP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLE: u64 = 1 << 11;
