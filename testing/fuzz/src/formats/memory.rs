//! A file in memory that never holds more than a little.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use visor_luks::Medium;
use visor_qcow2::Storage;

const PAGE: u64 = 4096;
/// Pages that are held; more is no space.
const MOST: usize = 4096;

/// The file.
#[derive(Default)]
pub(super) struct MemoryFile(Mutex<State>);

#[derive(Default)]
struct State {
    size: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl MemoryFile {
    /// A file with this content.
    pub(super) fn new(content: &[u8]) -> Self {
        let file = MemoryFile::default();
        let _ = Storage::write_at(&file, content, 0);
        file.with(|s| s.size = content.len() as u64);
        file
    }

    /// All of it.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut data = vec![0; self.with(|s| s.size) as usize];
        let _ = Storage::read_at(self, &mut data, 0);
        data
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The pieces of `len` bytes at `at`: page, first byte in it, offset in the data, bytes.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = at.checked_add(done as u64)?;
        let within = (at % PAGE) as usize;
        let n = (PAGE as usize - within).min(len - done);
        let piece = (n > 0).then_some((at / PAGE, within, done, n));
        done += n;
        piece
    })
}

impl Storage for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.with(|s| s.size))
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        data.fill(0);
        self.with(|s| {
            for (page, within, from, n) in pieces(at, data.len()) {
                if let Some(p) = s.pages.get(&page) {
                    data[from..from + n].copy_from_slice(&p[within..within + n]);
                }
            }
        });
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.with(|s| {
            let end = at.checked_add(data.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            for (page, within, from, n) in pieces(at, data.len()) {
                if s.pages.len() >= MOST && !s.pages.contains_key(&page) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let p = s.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize]);
                p[within..within + n].copy_from_slice(&data[from..from + n]);
            }
            s.size = s.size.max(end);
            Ok(())
        })
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.with(|s| {
            let end = at.saturating_add(len).min(s.size);
            for (page, p) in s.pages.range_mut(at / PAGE..end.div_ceil(PAGE)) {
                let (from, to) = (at.saturating_sub(page * PAGE), (end - page * PAGE).min(PAGE));
                p[from as usize..to as usize].fill(0);
            }
        });
        Ok(())
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero_at(at, len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let end = at.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        self.with(|s| s.size = s.size.max(end));
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.with(|s| {
            s.pages.retain(|page, _| page * PAGE < size);
            if let Some(p) = s.pages.get_mut(&(size / PAGE)) {
                p[(size % PAGE) as usize..].fill(0);
            }
            s.size = size;
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Medium for MemoryFile {
    fn size(&self) -> u64 {
        self.with(|s| s.size)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        if at.checked_add(data.len() as u64).is_none_or(|end| end > Medium::size(self)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Storage::read_at(self, data, at)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        Storage::write_at(self, data, at)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
