//! Address ranges and the devices that claim them.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::{Device, MmioDevice, PioDevice};

/// A bus: maps an access to the one device that claims its first byte. Ranges never overlap.
pub struct Bus<K> {
    ranges: RwLock<Vec<Range>>,
    kind: std::marker::PhantomData<K>,
}

/// The kind of [`Bus`] that carries port accesses, addresses 0 to FFFFh.
pub struct Pio;

/// The kind of [`Bus`] that carries memory accesses.
pub struct Mmio;

#[derive(Clone)]
struct Range {
    start: u64,
    len: u64,
    device: Arc<Mutex<dyn Device>>,
}

/// Why a range could not be claimed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Part of it belongs to another device.
    #[error("range {start:#x}+{len:#x} overlaps that of another device")]
    Overlap {
        /// First address asked for.
        start: u64,
        /// Length asked for.
        len: u64,
    },
    /// It is empty or wraps around.
    #[error("range {start:#x}+{len:#x} is empty or wraps around")]
    BadRange {
        /// First address asked for.
        start: u64,
        /// Length asked for.
        len: u64,
    },
}

impl<K> Default for Bus<K> {
    fn default() -> Self {
        Bus { ranges: RwLock::new(Vec::new()), kind: std::marker::PhantomData }
    }
}

impl<K> Bus<K> {
    /// Claims `len` addresses from `start` for `device`.
    ///
    /// # Errors
    /// [`BusError`] if the range is impossible or taken; nothing changes then.
    pub fn claim(&self, start: u64, len: u64, device: Arc<Mutex<dyn Device>>) -> Result<(), BusError> {
        if len == 0 || start.checked_add(len).is_none() {
            return Err(BusError::BadRange { start, len });
        }
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let at = ranges.partition_point(|r| r.start < start);
        let before = at.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|r| r.start + r.len > start);
        let after = ranges.get(at).is_some_and(|r| r.start < start + len);
        if before || after {
            return Err(BusError::Overlap { start, len });
        }
        ranges.insert(at, Range { start, len, device });
        Ok(())
    }

    /// Gives up the range that starts at `start`, if there is one.
    pub fn release(&self, start: u64) {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).retain(|r| r.start != start);
    }

    fn find(&self, at: u64, len: u64) -> Option<(u64, Arc<Mutex<dyn Device>>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let r = &ranges[ranges.partition_point(|r| r.start <= at).checked_sub(1)?];
        (at - r.start + len <= r.len).then(|| (at - r.start, r.device.clone()))
    }
}

impl Bus<Pio> {
    /// IN; false if nobody claims it (`data` is then all ones). An access that crosses the end of a range is split into bytes.
    pub fn read(&self, port: u16, data: &mut [u8]) -> bool {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(u64::from(port), data.len() as u64) {
            return with_pio(&device, |d| d.read(offset as u16, data));
        }
        let mut any = false;
        if data.len() > 1 {
            for (i, byte) in data.iter_mut().enumerate() {
                any |= self.read(port.wrapping_add(i as u16), std::slice::from_mut(byte));
            }
        }
        any
    }

    /// OUT; false if nobody claims it.
    pub fn write(&self, port: u16, data: &[u8]) -> bool {
        if let Some((offset, device)) = self.find(u64::from(port), data.len() as u64) {
            return with_pio(&device, |d| d.write(offset as u16, data));
        }
        let mut any = false;
        if data.len() > 1 {
            for (i, byte) in data.iter().enumerate() {
                any |= self.write(port.wrapping_add(i as u16), std::slice::from_ref(byte));
            }
        }
        any
    }
}

impl Bus<Mmio> {
    /// A load; false if nobody claims it (`data` is then all ones).
    pub fn read(&self, at: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        match self.find(at, data.len() as u64) {
            Some((offset, device)) => with_mmio(&device, |d| d.read(offset, data)),
            None => false,
        }
    }

    /// A store; false if nobody claims it.
    pub fn write(&self, at: u64, data: &[u8]) -> bool {
        match self.find(at, data.len() as u64) {
            Some((offset, device)) => with_mmio(&device, |d| d.write(offset, data)),
            None => false,
        }
    }
}

fn with_pio(device: &Mutex<dyn Device>, f: impl FnOnce(&mut dyn PioDevice)) -> bool {
    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
    device.as_pio().map(f).is_some()
}

fn with_mmio(device: &Mutex<dyn Device>, f: impl FnOnce(&mut dyn MmioDevice)) -> bool {
    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
    device.as_mmio().map(f).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Latch(u8);
    impl Device for Latch {
        fn name(&self) -> &str {
            "latch"
        }
        fn reset(&mut self) {
            self.0 = 0;
        }
        fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
            Some(self)
        }
    }
    impl PioDevice for Latch {
        fn read(&mut self, offset: u16, data: &mut [u8]) {
            data.fill(self.0 + offset as u8);
        }
        fn write(&mut self, _offset: u16, data: &[u8]) {
            self.0 = data[0];
        }
    }

    #[test]
    fn overlaps_are_refused_and_gaps_read_all_ones() {
        let bus = Bus::<Pio>::default();
        let latch = |v| Arc::new(Mutex::new(Latch(v)));
        bus.claim(0x60, 2, latch(1)).unwrap();
        bus.claim(0x62, 1, latch(7)).unwrap();
        assert_eq!(bus.claim(0x5f, 2, latch(0)), Err(BusError::Overlap { start: 0x5f, len: 2 }));
        assert_eq!(bus.claim(0x61, 1, latch(0)), Err(BusError::Overlap { start: 0x61, len: 1 }));
        let mut d = [0; 4];
        assert!(bus.read(0x60, &mut d));
        assert_eq!(d, [1, 2, 7, 0xff], "a wide access is split where it leaves a range");
        assert!(!bus.read(0x70, &mut d[..1]));
        bus.release(0x62);
        assert!(!bus.write(0x62, &[1]));
    }
}
