//! The MC146818 real-time clock with 128 bytes of CMOS RAM (Motorola MC146818A data sheet).
//!
//! ```text
//! 70h  write  bit 7 masks NMI, bits 6:0 the index; reads give FFh
//! 71h  the byte at the index
//!
//! 00h s  01h alarm s  02h min  03h alarm min  04h h  05h alarm h  06h weekday (1 = Sunday)  07h day  08h month  09h year
//! 0Ah A [ UIP | DV2:0 | RS3:0 ]           0Bh B [ SET PIE AIE UIE SQWE DM 24/12 DSE ]
//! 0Ch C [ IRQF PF AF UF 0000 ]            0Dh D [ VRT 0000000 ]           32h century
//! ```
//!
//! The time of day is the machine's wall clock plus an offset, in whole seconds, that setting the time changes; flags of
//! register C are worked out when somebody looks, so the alarm is armed only for enabled interrupts whose flag is clear.
//! Periodic interrupts follow multiples of the period of guest time. Differences from the chip: no daylight saving, no
//! square-wave pin, and holding the divider in reset does not shift the phase of seconds.
//!
//! RAM sizes are where PC firmware keeps them: base memory 15h, extended 17h and 30h (KiB), above 16 MiB 34h (64 KiB), above
//! 4 GiB 5Bh–5Dh (64 KiB).

mod calendar;
mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use visor_device::{Clock, IrqLine, Nanos, TimerDevice, TimerSlot};

use crate::LegacyReplacement;
use calendar::{Format, TimeRegs};

const SECOND: u64 = 1_000_000_000;
/// UIP rises this long before an update, in nanoseconds.
const UIP: u64 = 244_000;

const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;
const REG_CENTURY: usize = 0x32;

const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const C_IRQ: u8 = 0x80;

/// What an [`Rtc`] is connected to.
#[derive(Clone)]
pub struct RtcWires {
    /// Guest time and wall clock.
    pub clock: Arc<dyn Clock>,
    /// Alarm for its interrupts.
    pub timer: Arc<dyn TimerSlot>,
    /// IRQ 8.
    pub irq: IrqLine,
    /// The same request on its way to the wake logic, which sees it whoever drives IRQ 8.
    pub wake: IrqLine,
    /// Set while the HPET stands in for IRQ 8.
    pub legacy: LegacyReplacement,
}

/// What the CMOS RAM tells firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcConfig {
    /// RAM below 4 GiB in bytes.
    pub memory_below_4g: u64,
    /// RAM above 4 GiB in bytes.
    pub memory_above_4g: u64,
}

/// The clock with its CMOS RAM, which keeps its contents over a reset.
pub struct Rtc {
    wires: RtcWires,
    index: u8,
    nmi_masked: bool,
    /// All 128 bytes. Those of the time are current only while SET is on, register C only after `sync`.
    cmos: [u8; 128],
    /// Seconds that the guest's clock is ahead of the wall clock.
    offset: i64,
    /// Guest time and second up to which register C is worked out.
    synced: (Nanos, i64),
    /// What the pin shows.
    requests: bool,
}

impl Rtc {
    /// A clock that shows the wall clock's UTC.
    pub fn new(wires: RtcWires, config: RtcConfig) -> Self {
        let mut rtc =
            Rtc { wires, index: 0, nmi_masked: false, cmos: [0; 128], offset: 0, synced: (0, 0), requests: false };
        rtc.cmos[REG_A] = 0x26;
        rtc.cmos[REG_B] = 0x02;
        rtc.cmos[REG_D] = 0x80;
        rtc.describe_memory(&config);
        rtc.synced = (rtc.wires.clock.now(), rtc.seconds());
        rtc
    }

    /// Sets a byte of CMOS RAM for firmware to read, such as the boot order (3Dh, 38h); the checksum at 2Eh is kept right.
    /// Index 0 to 127; the clock's own registers (0 to 0Dh, 32h) and higher indices are ignored.
    pub fn set_byte(&mut self, index: u8, value: u8) {
        if let 0x0e..=0x31 | 0x33..=0x7f = index {
            self.cmos[usize::from(index)] = value;
            let sum = self.cmos[0x10..0x2e].iter().fold(0u16, |sum, b| sum + u16::from(*b));
            [self.cmos[0x2e], self.cmos[0x2f]] = sum.to_be_bytes();
        }
    }

    /// Whether port 70h masks NMI.
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    fn describe_memory(&mut self, config: &RtcConfig) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let capped = |bytes: u64, unit: u64, max: u64| (bytes / unit).min(max).to_le_bytes();
        let base = capped(config.memory_below_4g.min(640 * KIB), KIB, 640);
        let extended = capped(config.memory_below_4g.saturating_sub(MIB), KIB, 0xffff);
        let above_16m = capped(config.memory_below_4g.saturating_sub(16 * MIB), 64 * KIB, 0xffff);
        let above_4g = capped(config.memory_above_4g, 64 * KIB, 0xff_ffff);
        let bytes = [
            // Equipment: a coprocessor and a PS/2 mouse port.
            (0x14, 0x06),
            (0x15, base[0]),
            (0x16, base[1]),
            (0x17, extended[0]),
            (0x18, extended[1]),
            (0x30, extended[0]),
            (0x31, extended[1]),
            (0x34, above_16m[0]),
            (0x35, above_16m[1]),
            (0x5b, above_4g[0]),
            (0x5c, above_4g[1]),
            (0x5d, above_4g[2]),
        ];
        for (index, value) in bytes {
            self.set_byte(index, value);
        }
    }

    /// The guest's time in seconds since 1970.
    fn seconds(&self) -> i64 {
        (self.wires.clock.wall().as_secs() as i64).saturating_add(self.offset)
    }

    fn format(&self) -> Format {
        Format::from_register_b(self.cmos[REG_B])
    }

    fn is_set(&self) -> bool {
        self.cmos[REG_B] & B_SET != 0
    }

    fn time_regs(&self) -> TimeRegs {
        if self.is_set() {
            let mut bytes = [0; 8];
            for (to, index) in bytes.iter_mut().zip(calendar::INDICES) {
                *to = self.cmos[index];
            }
            TimeRegs(bytes)
        } else {
            TimeRegs::of(self.seconds(), self.format())
        }
    }

    fn store_time_regs(&mut self, regs: &TimeRegs) {
        for (value, index) in regs.0.iter().zip(calendar::INDICES) {
            self.cmos[index] = *value;
        }
    }

    /// Makes the clock show `regs` from now on.
    fn set_time(&mut self, regs: &TimeRegs, format: Format) {
        let wall = self.wires.clock.wall().as_secs() as i64;
        self.offset = regs.seconds(format).saturating_sub(wall);
        self.synced.1 = self.seconds();
    }

    /// The periodic interrupt's period in nanoseconds times 32768, if it runs (table 5 of the data sheet).
    fn period(&self) -> Option<u64> {
        let divider_runs = self.cmos[REG_A] & 0x70 == 0x20;
        let rate = match self.cmos[REG_A] & 0xf {
            0 => return None,
            n @ 1..=2 => n + 7,
            n => n,
        };
        divider_runs.then(|| SECOND << (rate - 1))
    }

    /// The first second after `after` that the alarm is set for, within a day.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        calendar::next_alarm([self.cmos[1], self.cmos[3], self.cmos[5]], self.format(), after)
    }

    /// Brings the flags of register C up to date.
    fn sync(&mut self) {
        let (now, second) = (self.wires.clock.now(), self.seconds());
        let (then, before) = std::mem::replace(&mut self.synced, (now, second));
        let mut flags = 0;
        if let Some(period) = self.period()
            && index_of(now, period) > index_of(then, period)
        {
            flags |= B_PERIODIC;
        }
        if !self.is_set() && second > before {
            flags |= B_UPDATE;
            if self.next_alarm(before).is_some_and(|at| at <= second) {
                flags |= B_ALARM;
            }
        }
        self.cmos[REG_C] |= flags;
        self.drive();
    }

    /// Sets IRQF and the line from the flags, and the alarm for the flags to come.
    fn drive(&mut self) {
        let (flags, enabled) = (self.cmos[REG_C] & 0x70, self.cmos[REG_B] & 0x70);
        let request = flags & enabled != 0;
        self.cmos[REG_C] = flags | if request { C_IRQ } else { 0 };
        if !self.wires.legacy.is_on() {
            self.wires.irq.set(request);
        }
        // The HPET takes over the interrupt controllers' input, not the RTC's pin (HPET 1.0a §2.3.5): an alarm sets RTC_STS as
        // ever, and Linux, whose HPET has IRQ 8, suspends in the belief that it does.
        if request != self.requests {
            self.requests = request;
            self.wires.wake.set(request);
        }
        self.wires.timer.arm(self.next_event(enabled & !flags));
    }

    /// Guest time at which one of the flags `wanted` is due.
    fn next_event(&self, wanted: u8) -> Option<Nanos> {
        let (now, wall) = (self.synced.0, self.wires.clock.wall());
        let to_next_second = SECOND - u64::from(wall.subsec_nanos());
        let mut next = None;
        let mut offer = |at: Nanos| next = Some(next.map_or(at, |n: Nanos| n.min(at)));
        if wanted & B_PERIODIC != 0
            && let Some(period) = self.period()
        {
            let at = (u128::from(index_of(now, period)) + 1) * u128::from(period);
            offer(u64::try_from(at.div_ceil(1 << 15)).unwrap_or(u64::MAX));
        }
        if self.is_set() {
            return next;
        }
        if wanted & B_UPDATE != 0 {
            offer(now.saturating_add(to_next_second));
        }
        if wanted & B_ALARM != 0
            && let Some(at) = self.next_alarm(self.synced.1)
        {
            let seconds = at.saturating_sub(self.synced.1 + 1) as u64;
            offer(now.saturating_add(to_next_second).saturating_add(seconds.saturating_mul(SECOND)));
        }
        next
    }

    fn update_in_progress(&self) -> bool {
        let left = SECOND - u64::from(self.wires.clock.wall().subsec_nanos());
        !self.is_set() && self.cmos[REG_A] & 0x60 != 0x60 && left <= UIP
    }
}

impl TimerDevice for Rtc {
    fn expired(&mut self, _now: Nanos) {
        self.sync();
    }
}

/// Which period `now` lies in; `period` is in units of 1/32768 ns.
fn index_of(now: Nanos, period: u64) -> u64 {
    ((u128::from(now) << 15) / u128::from(period)) as u64
}
