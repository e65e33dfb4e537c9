//! The event timer's registers.

use visor_device::{Device, MmioDevice, TimerDevice};

use super::*;

const GCAP_ID: u64 = 0x000;
const GEN_CONF: u64 = 0x010;
const GINTR_STA: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const TIMER0: u64 = 0x100;

/// Revision 1, three timers, 64-bit counter, legacy replacement, Intel; a count lasts 10^7 fs.
const CAPABILITIES: u64 = (TICK * 1_000_000) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;

impl Device for Hpet {
    fn name(&self) -> &str {
        "hpet"
    }

    fn reset(&mut self) {
        (0..TIMERS).for_each(|n| self.lower(n));
        *self = Hpet::new(self.wires.clone());
        self.wires.legacy.set(false);
        self.arm();
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl MmioDevice for Hpet {
    /// Loads of any width within one 64-bit register; beyond it they give zeros.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = self.read_register(offset & !7).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get((offset & 7) as usize + i).copied().unwrap_or(0);
        }
    }

    /// Aligned stores of 32 and 64 bits; others are dropped (§2.3.1 requires them so).
    fn write(&mut self, offset: u64, data: &[u8]) {
        let register = offset & !7;
        if let Ok(value) = <[u8; 8]>::try_from(data)
            && offset == register
        {
            self.write_register(register, u64::from_le_bytes(value), u64::MAX);
        } else if let Ok(value) = <[u8; 4]>::try_from(data)
            && offset & 3 == 0
        {
            let shift = 8 * (offset & 7);
            self.write_register(register, u64::from(u32::from_le_bytes(value)) << shift, 0xffff_ffff << shift);
        }
    }
}

impl Hpet {
    fn read_register(&mut self, register: u64) -> u64 {
        match register {
            GCAP_ID => CAPABILITIES,
            GEN_CONF => self.conf,
            GINTR_STA => {
                self.sync();
                self.status
            }
            COUNTER => self.count(),
            _ => match self.timer_register(register) {
                Some((n, 0)) => self.timers[n].conf(),
                Some((n, 8)) => {
                    self.sync();
                    self.timers[n].comparator
                }
                _ => 0,
            },
        }
    }

    /// Writes the bits of `mask`.
    fn write_register(&mut self, register: u64, value: u64, mask: u64) {
        self.sync();
        match register {
            GEN_CONF => self.write_conf(self.conf & !mask | value & mask),
            GINTR_STA => {
                self.status &= !(value & mask);
                (0..TIMERS).filter(|n| self.timers[*n].is_level()).for_each(|n| self.drive_level(n));
            }
            // Only a counter that stands still can be set (§2.3.7).
            COUNTER if !self.enabled() => {
                self.counter = self.counter & !mask | value & mask;
                self.synced = self.counter;
            }
            _ => match self.timer_register(register) {
                Some((n, 0)) => {
                    self.lower(n);
                    let timer = &mut self.timers[n];
                    timer.set_conf(timer.conf() & !mask | value & mask);
                    if !self.timers[n].is_level() {
                        self.status &= !(1 << n);
                    }
                    self.restore_level(n);
                }
                Some((n, 8)) => {
                    let timer = &mut self.timers[n];
                    timer.set_comparator(timer.comparator & !mask | value & mask);
                }
                _ => {}
            },
        }
        self.arm();
    }

    fn write_conf(&mut self, value: u64) {
        let count = self.count();
        (0..TIMERS).for_each(|n| self.lower(n));
        self.conf = value & (CONF_ENABLE | CONF_LEGACY);
        self.counter = count;
        self.since = self.wires.clock.now();
        self.wires.legacy.set(self.conf & CONF_LEGACY != 0);
        if self.conf & CONF_LEGACY != 0 {
            // PIT and RTC may have left their lines high.
            self.wires.legacy_irqs.iter().for_each(|line| line.set(false));
        }
        (0..TIMERS).for_each(|n| self.restore_level(n));
    }

    /// Lets go of the line of timer `n`, if it holds one, before the line or its use changes.
    fn lower(&self, n: usize) {
        if self.timers[n].is_level()
            && let Some(line) = self.line(n)
        {
            line.set(false);
        }
    }

    fn restore_level(&self, n: usize) {
        if self.timers[n].is_level() {
            self.drive_level(n);
        }
    }

    /// The timer that a register belongs to, and the register's offset in it.
    fn timer_register(&self, register: u64) -> Option<(usize, u64)> {
        let at = register.checked_sub(TIMER0)?;
        let n = (at / 0x20) as usize;
        (n < TIMERS).then_some((n, at % 0x20))
    }
}
