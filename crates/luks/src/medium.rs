//! What a volume lies in.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use visor_block::{BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR, Sector};

/// Bytes that hold a volume. Positions and lengths of all accesses are multiples of 512.
pub trait Medium {
    /// Its length in bytes.
    fn size(&self) -> u64;
    /// Fills `data` from `at`.
    ///
    /// # Errors
    /// The host's, also outside the medium.
    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes `data` at `at`.
    ///
    /// # Errors
    /// The host's, also outside the medium.
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> io::Result<()>;
}

/// A disk as the medium, one request at a time.
pub struct BackendMedium(pub Arc<dyn BlockBackend>);

impl BackendMedium {
    fn run(&self, op: BlockOp, at: u64, buffer: Shared) -> io::Result<()> {
        let (tx, rx) = mpsc::channel();
        let len = buffer.len() as u64;
        let request = BlockRequest::new(op, Sector(at / SECTOR), len, Box::new(buffer), move |r| _ = tx.send(r));
        self.0.submit(request);
        match rx.recv() {
            Ok(result) => result.map_err(|e| match e.source {
                Some(source) => io::Error::new(source.kind(), format!("{}: {source}", e.what)),
                None => io::Error::other(e.what),
            }),
            Err(_) => Err(io::Error::other("the request was lost")),
        }
    }
}

impl Medium for BackendMedium {
    fn size(&self) -> u64 {
        self.0.geometry().sectors * SECTOR
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let buffer = Shared::new(vec![0; data.len()]);
        self.run(BlockOp::Read, at, buffer.clone())?;
        data.copy_from_slice(&buffer.take());
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.run(BlockOp::Write, at, Shared::new(data.to_vec()))
    }

    fn flush(&self) -> io::Result<()> {
        self.run(BlockOp::Flush, 0, Shared::default())
    }
}

/// Data of a request that its maker keeps.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn new(data: Vec<u8>) -> Self {
        Shared(Arc::new(Mutex::new(data)))
    }

    /// The data, leaving nothing.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BlockBuffer for Shared {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get_mut(offset..offset + data.len()).ok_or_else(outside)?.copy_from_slice(data);
        Ok(())
    }

    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        data.copy_from_slice(bytes.get(offset..offset + data.len()).ok_or_else(outside)?);
        Ok(())
    }
}

fn outside() -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, "outside the buffer")
}
