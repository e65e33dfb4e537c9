//! Data of requests in the memory of this program, and a request that is waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use crate::{BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, Sector};

/// Bytes of which a request holds one handle and its maker another: what was read is there when the request has completed.
#[derive(Clone, Debug, Default)]
pub struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

impl SharedBuffer {
    /// A buffer with `data`, whose length it keeps.
    pub fn new(data: Vec<u8>) -> Self {
        SharedBuffer(Arc::new(Mutex::new(data)))
    }

    /// The data, leaving nothing.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock())
    }

    /// A copy of the data as it is now.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockBuffer for SharedBuffer {
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError> {
        let end = offset.checked_add(data.len()).ok_or_else(outside)?;
        self.lock().get_mut(offset..end).ok_or_else(outside)?.copy_from_slice(data);
        Ok(())
    }

    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError> {
        let end = offset.checked_add(data.len()).ok_or_else(outside)?;
        data.copy_from_slice(self.lock().get(offset..end).ok_or_else(outside)?);
        Ok(())
    }
}

fn outside() -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, "outside the buffer")
}

/// Submits a request of `len` bytes and waits until it has completed.
///
/// # Errors
/// The request's; [`BlockErrorKind::Lost`] if the back end dropped it.
pub fn run(
    backend: &dyn BlockBackend,
    op: BlockOp,
    sector: Sector,
    len: u64,
    buffer: Box<dyn BlockBuffer>,
) -> Result<(), BlockError> {
    let (tx, rx) = mpsc::channel();
    backend.submit(BlockRequest::new(op, sector, len, buffer, move |r| _ = tx.send(r)));
    rx.recv().unwrap_or_else(|_| Err(BlockError::new(BlockErrorKind::Lost, "the request was lost")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_handles_see_the_same_and_nothing_outside() {
        let ours = SharedBuffer::new(vec![1; 8]);
        let mut theirs = ours.clone();
        assert!(theirs.put(6, &[9, 9]).is_ok());
        assert_eq!(ours.bytes(), [1, 1, 1, 1, 1, 1, 9, 9]);
        let mut two = [0; 2];
        assert!(ours.get(5, &mut two).is_ok() && two == [1, 9]);
        for at in [7, 8, usize::MAX] {
            assert_eq!(theirs.put(at, &[0, 0]).map_err(|e| e.kind), Err(BlockErrorKind::BadBuffer));
            assert_eq!(ours.get(at, &mut two).map_err(|e| e.kind), Err(BlockErrorKind::BadBuffer));
        }
        assert_eq!((ours.take().len(), theirs.len(), theirs.is_empty()), (8, 0, true));
    }
}
