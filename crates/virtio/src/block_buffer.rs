//! The data of a request to a block back end, in the guest memory of a chain.

use visor_block::{BlockBuffer, BlockError, BlockErrorKind};

use crate::{Buffer, BufferError};

/// Guest memory.
pub(crate) struct GuestBuffer(pub(crate) Buffer);

impl BlockBuffer for GuestBuffer {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError> {
        self.0.put(offset, data).map_err(convert)
    }

    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError> {
        self.0.get(offset, data).map_err(convert)
    }
}

/// So many bytes that nobody wants, or none at all.
pub(crate) struct Sink(pub(crate) usize);

impl BlockBuffer for Sink {
    fn len(&self) -> usize {
        self.0
    }

    fn put(&mut self, _offset: usize, _data: &[u8]) -> Result<(), BlockError> {
        Ok(())
    }

    fn get(&self, _offset: usize, _data: &mut [u8]) -> Result<(), BlockError> {
        Err(BlockError::new(BlockErrorKind::BadBuffer, "the request has no data"))
    }
}

fn convert(error: BufferError) -> BlockError {
    let kind = match error {
        BufferError::Stale => BlockErrorKind::Lost,
        _ => BlockErrorKind::BadBuffer,
    };
    BlockError::new(kind, error.to_string())
}
