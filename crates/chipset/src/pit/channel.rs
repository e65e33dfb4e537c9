//! One counter of the 8254.

/// Which bytes of a count are accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    Low = 1,
    High = 2,
    #[default]
    Both = 3,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    /// The count in clocks, 1 to 65536 (10000 in BCD).
    count: u64,
    /// A count that takes over at the end of the period (modes 2, 3) or at the next trigger (1, 5).
    next: Option<u64>,
    /// Tick at which counting (re)started; `None` while it has not.
    start: Option<u64>,
    /// Clocks counted before the gate stopped the counter (modes 0, 4) .
    paused: Option<u64>,
    gate_low: bool,
    /// Low byte written, the high one still to come.
    write_low: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    latched: Option<u16>,
    status: Option<u8>,
    null_count: bool,
}

impl Channel {
    /// A control word with RW not 0.
    pub(super) fn control(&mut self, value: u8) {
        *self = Channel {
            mode: match value >> 1 & 7 {
                m @ 6.. => m & 3,
                m => m,
            },
            bcd: value & 1 != 0,
            access: match value >> 4 & 3 {
                1 => Access::Low,
                2 => Access::High,
                _ => Access::Both,
            },
            gate_low: self.gate_low,
            null_count: true,
            ..Channel::default()
        };
    }

    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.value(now));
        }
    }

    pub(super) fn latch_status(&mut self, now: u64) {
        if self.status.is_none() {
            let (out, null) = (u8::from(self.out(now)) << 7, u8::from(self.null_count) << 6);
            self.status = Some(out | null | (self.access as u8) << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latched.unwrap_or_else(|| self.value(now));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if self.access != Access::Both || high {
            self.latched = None;
        }
        if high { (value >> 8) as u8 } else { value as u8 }
    }

    /// A write to the counter's port; true if it completed a count.
    pub(super) fn write(&mut self, value: u8, now: u64) -> bool {
        let raw = match (self.access, self.write_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.write_low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the counter and OUT goes low.
                    self.start = None;
                    self.paused = None;
                }
                return false;
            }
        };
        self.load(if self.bcd { from_bcd(raw) } else { u64::from(raw) }, now);
        true
    }

    pub(super) fn set_gate(&mut self, level: bool, now: u64) {
        let rise = level && self.gate_low;
        let fall = !level && !self.gate_low;
        self.gate_low = !level;
        match self.mode {
            0 | 4 if fall => self.paused = self.start.take().map(|s| now.saturating_sub(s)),
            0 | 4 if rise => self.start = self.paused.take().map(|d| now.saturating_sub(d)).or(self.start),
            1 | 5 if rise && self.count != 0 => self.trigger(now),
            2 | 3 if rise && self.count != 0 => self.trigger(now),
            2 | 3 if fall => self.start = None,
            _ => {}
        }
    }

    pub(super) fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    pub(super) fn out(&mut self, now: u64) -> bool {
        self.roll_over(now);
        let Some(d) = self.elapsed(now) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => d >= self.count,
            2 => d % self.count != self.count - 1 || self.count == 1,
            3 => d % self.count < self.count.div_ceil(2),
            _ => d != self.count,
        }
    }

    /// The tick after `now` at which OUT rises.
    pub(super) fn next_rise(&mut self, now: u64) -> Option<u64> {
        self.roll_over(now);
        let (start, d) = (self.start?, self.elapsed(now)?);
        let after = match self.mode {
            0 | 1 => self.count,
            2 | 3 => (d / self.count + 1) * self.count,
            _ => self.count + 1,
        };
        (after > d).then(|| start.saturating_add(after))
    }

    fn load(&mut self, count: u64, now: u64) {
        let count = if count != 0 {
            count
        } else if self.bcd {
            10_000
        } else {
            0x1_0000
        };
        let counting = self.start.is_some();
        match self.mode {
            0 | 4 => {
                self.count = count;
                (self.start, self.paused) = if self.gate_low { (None, Some(0)) } else { (Some(now), None) };
            }
            2 | 3 if counting => self.next = Some(count),
            2 | 3 => {
                self.count = count;
                self.start = (!self.gate_low).then_some(now);
            }
            // Modes 1 and 5 wait for the gate.
            _ if self.count == 0 => self.count = count,
            _ => self.next = Some(count),
        }
        self.null_count = self.next.is_some();
    }

    fn trigger(&mut self, now: u64) {
        self.count = self.next.take().unwrap_or(self.count);
        self.null_count = false;
        self.start = Some(now);
    }

    /// Takes over a new count of modes 2 and 3 once the period is over.
    fn roll_over(&mut self, now: u64) {
        let (true, Some(d), Some(start)) = (self.is_periodic(), self.elapsed(now), self.start) else { return };
        if d >= self.count
            && let Some(next) = self.next.take()
        {
            self.start = Some(start + self.count);
            self.count = next;
            self.null_count = false;
        }
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        self.start.map(|s| now.saturating_sub(s)).or(self.paused)
    }

    /// The counting element as it reads, in BCD where the counter is.
    fn value(&mut self, now: u64) -> u16 {
        self.roll_over(now);
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let d = self.elapsed(now).unwrap_or(0);
        let value = match self.mode {
            2 if self.count != 0 => self.count - d % self.count,
            3 if self.count != 0 => {
                let even = (self.count & !1).max(2);
                even - 2 * d % even
            }
            _ => (self.count + modulus - d % modulus) % modulus,
        };
        let value = (value % modulus) as u16;
        if self.bcd { to_bcd(value) } else { value }
    }
}

fn from_bcd(raw: u16) -> u64 {
    let digit = |n: u16| u64::from(raw >> (4 * n) & 0xf);
    digit(3) * 1000 + digit(2) * 100 + digit(1) * 10 + digit(0)
}

fn to_bcd(value: u16) -> u16 {
    (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | (value % 10)
}
