//! Storage in memory that fails, fills up, and loses its power.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use visor_qcow2::Storage;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Burns after a number of writes and flushes, of all that is connected to it.
pub(super) struct Fuse(AtomicI64);

impl Fuse {
    pub(super) fn new(budget: u64) -> Self {
        Fuse(AtomicI64::new(budget as i64))
    }

    fn spend(&self) -> io::Result<()> {
        if self.0.fetch_sub(1, Ordering::SeqCst) <= 0 { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    pub(super) fn is_burnt(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }
}

#[derive(Default)]
pub(super) struct Memory(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Not flushed.
    pending: Vec<(usize, Vec<u8>)>,
    fail: Option<io::ErrorKind>,
    full: bool,
    fuse: Option<Arc<Fuse>>,
}

impl Memory {
    pub(super) fn new(len: u64) -> Self {
        let bytes = vec![0; len as usize];
        Memory(Mutex::new(Inside { durable: bytes.clone(), bytes, ..Inside::default() }))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    pub(super) fn copy(&self) -> Self {
        let bytes = self.bytes();
        Memory(Mutex::new(Inside { durable: bytes.clone(), bytes, ..Inside::default() }))
    }

    pub(super) fn fail(&self, how: Option<io::ErrorKind>) {
        self.0.lock().unwrap().fail = how;
    }

    pub(super) fn full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    pub(super) fn connect(&self, fuse: &Arc<Fuse>) {
        self.0.lock().unwrap().fuse = Some(fuse.clone());
    }

    /// What is there afterwards: of what was not flushed, any of it, and of one write any sectors.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Self {
        let inside = self.0.lock().unwrap();
        let mut bytes = inside.durable.clone();
        for (at, data) in &inside.pending {
            match random.below(3) {
                0 => {}
                1 => bytes[*at..*at + data.len()].copy_from_slice(data),
                _ => {
                    for (i, sector) in data.chunks(512).enumerate().filter(|_| random.below(2) == 0) {
                        bytes[*at + i * 512..*at + i * 512 + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        Memory(Mutex::new(Inside { durable: bytes.clone(), bytes, ..Inside::default() }))
    }
}

impl Inside {
    fn may(&self) -> io::Result<()> {
        self.fail.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl Storage for Memory {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let inside = self.0.lock().unwrap();
        inside.may()?;
        let from = inside.bytes.get(at as usize..at as usize + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        data.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let mut inside = self.0.lock().unwrap();
        inside.may()?;
        if inside.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(at.is_multiple_of(512) && data.len().is_multiple_of(512));
        let power = inside.fuse.as_ref().map_or(Ok(()), |f| f.spend());
        // The one during which the power goes may have been on its way.
        if power.is_err() && inside.fuse.as_ref().is_some_and(|f| f.0.load(Ordering::SeqCst) < -1) {
            return power;
        }
        let range = at as usize..at as usize + data.len();
        inside.bytes.get_mut(range).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        inside.pending.push((at as usize, data.to_vec()));
        power
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_at(&vec![0; len as usize], at)
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_at(&vec![0; len as usize], at)
    }

    fn allocate(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        let mut inside = self.0.lock().unwrap();
        inside.may()?;
        if let Some(fuse) = &inside.fuse {
            fuse.spend()?;
        }
        inside.durable = inside.bytes.clone();
        inside.pending.clear();
        Ok(())
    }
}
