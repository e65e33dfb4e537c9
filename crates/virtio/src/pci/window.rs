//! The window to the BARs in configuration space (virtio 1.2 §4.1.4.9).
//!
//! ```text
//! 04  BAR    08  offset in the BAR    0C  length: 1, 2 or 4    10  data: an access here is an access there
//! ```

use visor_pci::ConfigSpace;

/// The offset of the capability.
pub(super) struct Window(pub(super) u8);

/// An access to a BAR that the window asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) len: usize,
}

impl Window {
    /// What an access of `len` bytes at `offset` of the configuration space means to the BARs.
    pub(super) fn access(&self, config: &ConfigSpace, offset: u8, len: usize) -> Option<Access> {
        let data = usize::from(self.0) + 16;
        if usize::from(offset) + len <= data || usize::from(offset) >= data + 4 {
            return None;
        }
        let word = |at: u8| {
            let mut w = [0; 4];
            config.read(self.0 + at, &mut w);
            u32::from_le_bytes(w)
        };
        let access = Access { bar: config.byte(self.0 + 4), offset: u64::from(word(8)), len: word(12) as usize };
        let size = config.bar(access.bar)?.size;
        let fits = matches!(access.len, 1 | 2 | 4)
            && access.offset.is_multiple_of(access.len as u64)
            && access.offset + access.len as u64 <= size;
        fits.then_some(access)
    }

    pub(super) fn data(&self, config: &ConfigSpace) -> [u8; 4] {
        let mut d = [0; 4];
        config.read(self.0 + 16, &mut d);
        d
    }

    pub(super) fn set_data(&self, config: &mut ConfigSpace, data: [u8; 4]) {
        config.write(self.0 + 16, &data);
    }
}
