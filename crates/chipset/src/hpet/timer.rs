//! One timer: configuration and comparator.

const LEVEL: u64 = 1 << 1;
const ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_ACCUMULATOR: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const WRITABLE: u64 = LEVEL | ENABLE | PERIODIC | SET_ACCUMULATOR | MODE_32 | ROUTE;
/// Periodic and 64-bit operation are possible.
const CAPABILITIES: u64 = 0x30;

#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    conf: u64,
    pub(super) comparator: u64,
    period: u64,
}

impl Timer {
    /// A disabled timer that can be routed to the inputs whose bit is set.
    pub(super) fn new(routes: u32) -> Self {
        Timer { conf: u64::from(routes) << 32 | CAPABILITIES, comparator: u64::MAX, period: 0 }
    }

    pub(super) fn conf(&self) -> u64 {
        self.conf
    }

    pub(super) fn set_conf(&mut self, value: u64) {
        let before = self.conf;
        self.conf = before & !WRITABLE | value & WRITABLE;
        // A route that is not possible is not taken.
        if self.conf >> 32 & 1 << self.route() == 0 {
            self.conf = self.conf & !ROUTE | before & ROUTE;
        }
        if !self.is_periodic() {
            self.conf &= !SET_ACCUMULATOR;
        }
        if self.conf & MODE_32 != 0 {
            self.comparator &= 0xffff_ffff;
            self.period &= 0xffff_ffff;
        }
    }

    /// A write to the comparator: in periodic mode the period, and the comparator itself only if "set accumulator" said so
    /// (HPET 1.0a §2.3.9.2.2).
    pub(super) fn set_comparator(&mut self, value: u64) {
        let value = value & self.mask();
        if !self.is_periodic() || self.conf & SET_ACCUMULATOR != 0 {
            self.comparator = value;
        }
        if self.is_periodic() {
            self.period = value;
        }
        self.conf &= !SET_ACCUMULATOR;
    }

    pub(super) fn interrupts(&self) -> bool {
        self.conf & ENABLE != 0
    }

    pub(super) fn is_level(&self) -> bool {
        self.conf & LEVEL != 0
    }

    pub(super) fn is_periodic(&self) -> bool {
        self.conf & PERIODIC != 0
    }

    pub(super) fn route(&self) -> u32 {
        (self.conf & ROUTE) as u32 >> 9
    }

    /// Counts from `count` until the comparator matches; a match right now has been and comes again after a full turn.
    pub(super) fn distance(&self, count: u64) -> u64 {
        match self.comparator.wrapping_sub(count) & self.mask() {
            0 => self.mask(),
            n => n,
        }
    }

    /// Moves the counter from `before` to `now`; true if it passed the comparator, which then moves on in periodic mode.
    pub(super) fn advance(&mut self, before: u64, now: u64) -> bool {
        let (distance, passed) = (self.distance(before), now.wrapping_sub(before));
        if passed == 0 || distance > passed {
            return false;
        }
        if self.is_periodic() && self.period != 0 {
            let periods = (passed - distance) / self.period + 1;
            self.comparator = self.comparator.wrapping_add(periods.wrapping_mul(self.period)) & self.mask();
        }
        true
    }

    fn mask(&self) -> u64 {
        if self.conf & MODE_32 != 0 { 0xffff_ffff } else { u64::MAX }
    }
}
