//! Stand-ins for the tests of this crate.

use std::sync::{Arc, Mutex};

use visor_device::{IrqLine, IrqSink};

use crate::{CharSink, IntrSink, PowerEvent, PowerSink};

/// Counts rises and remembers levels of 32 inputs.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<([u64; 32], u32)>);

impl Lines {
    pub(crate) fn line(self: &Arc<Self>, gsi: u32) -> IrqLine {
        IrqLine::new(self.clone(), gsi)
    }

    pub(crate) fn rises(&self, gsi: u32) -> u64 {
        self.0.lock().unwrap().0[gsi as usize]
    }

    pub(crate) fn level(&self, gsi: u32) -> bool {
        self.0.lock().unwrap().1 & 1 << gsi != 0
    }
}

impl IrqSink for Lines {
    fn set(&self, gsi: u32, level: bool) {
        let (rises, levels) = &mut *self.0.lock().unwrap();
        rises[gsi as usize] += u64::from(level && *levels & 1 << gsi == 0);
        *levels = *levels & !(1 << gsi) | u32::from(level) << gsi;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Intr(pub(crate) Mutex<bool>);

impl IntrSink for Intr {
    fn set_intr(&self, level: bool) {
        *self.0.lock().unwrap() = level;
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Screen(pub(crate) Arc<Mutex<(Vec<u8>, u32)>>);

impl Screen {
    pub(crate) fn text(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    pub(crate) fn ready_calls(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

impl CharSink for Screen {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().0.extend_from_slice(bytes);
    }

    fn ready(&mut self) {
        self.0.lock().unwrap().1 += 1;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Power(Mutex<Vec<PowerEvent>>);

impl Power {
    pub(crate) fn take(&self) -> Vec<PowerEvent> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl PowerSink for Power {
    fn request(&self, event: PowerEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A fixed-seed sequence (xorshift64) for tests with random accesses.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
