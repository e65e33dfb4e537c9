//! MSI-X: the vector table, the pending bits and the capability (PCI 3.0 §6.8.2).

use std::sync::Arc;

use visor_engine::MsiSink;

use crate::Capability;

/// The vector number that stands for "none" in devices that let software choose vectors.
pub const NO_VECTOR: u16 = 0xffff;

const ENTRY: usize = 16;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
const VECTOR_MASKED: u32 = 1;

/// Where a function keeps its MSI-X structures, all in one BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Vectors, 1 to 2048.
    pub vectors: u16,
    /// The BAR.
    pub bar: u8,
    /// Offset of the table (16 bytes a vector) in the BAR, a multiple of 8.
    pub table: u32,
    /// Offset of the pending bits in the BAR, a multiple of 8.
    pub pending: u32,
}

impl MsixLayout {
    /// The body of the capability (id 11h) and its writable bits.
    pub(crate) fn capability(&self) -> [u8; 10] {
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(self.vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(self.table | u32::from(self.bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(self.pending | u32::from(self.bar)).to_le_bytes());
        body
    }

    pub(crate) fn describe(body: &[u8; 10]) -> Capability<'_> {
        Capability { id: 0x11, body, writable: &[0, 0xc0] }
    }
}

/// The run-time state of a function's MSI-X.
pub(crate) struct Msix {
    sink: Arc<dyn MsiSink>,
    layout: MsixLayout,
    /// Address low, address high, data, vector control of each vector.
    table: Vec<[u32; 4]>,
    pending: Vec<u64>,
    enabled: bool,
    masked: bool,
}

impl Msix {
    pub(crate) fn new(layout: MsixLayout, sink: Arc<dyn MsiSink>) -> Self {
        let mut m = Msix { sink, layout, table: Vec::new(), pending: Vec::new(), enabled: false, masked: false };
        m.reset();
        m
    }

    pub(crate) fn reset(&mut self) {
        let n = usize::from(self.layout.vectors);
        self.table = vec![[0, 0, 0, VECTOR_MASKED]; n];
        self.pending = vec![0; n.div_ceil(64)];
        self.enabled = false;
        self.masked = false;
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn vectors(&self) -> u16 {
        self.layout.vectors
    }

    /// Takes the message control register and whether messages may be sent at all.
    pub(crate) fn control(&mut self, control: u16, bus_master: bool) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.masked = control & CONTROL_MASK != 0 || !bus_master;
        self.flush();
    }

    /// Sends the message of `vector`, or notes it as pending while it is masked.
    pub(crate) fn signal(&mut self, vector: u16) {
        let v = usize::from(vector);
        let Some(entry) = self.table.get(v) else { return };
        if !self.enabled {
            return;
        }
        if self.masked || entry[3] & VECTOR_MASKED != 0 {
            self.pending[v / 64] |= 1 << (v % 64);
        } else if entry[1] == 0 {
            // An address above 4 GiB is a write to memory, not an interrupt, and its high half is no device's to use.
            self.sink.send(u64::from(entry[0]), entry[2]);
        }
    }

    /// Whether `offset` of the BAR belongs to the table or the pending bits.
    fn locate(&self, offset: u64) -> Option<(bool, usize)> {
        let within =
            |base: u32, len: usize| offset.checked_sub(u64::from(base)).filter(|o| *o < len as u64).map(|o| o as usize);
        within(self.layout.table, self.table.len() * ENTRY)
            .map(|o| (true, o))
            .or_else(|| within(self.layout.pending, self.pending.len() * 8).map(|o| (false, o)))
    }

    /// A load from the BAR; zeroes between the structures.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        for (i, d) in data.iter_mut().enumerate() {
            *d = match self.locate(offset + i as u64) {
                Some((true, o)) => self.table[o / ENTRY][o % ENTRY / 4].to_le_bytes()[o % 4],
                Some((false, o)) => self.pending[o / 8].to_le_bytes()[o % 8],
                None => 0,
            };
        }
    }

    /// A store to the BAR: aligned words of 4 or 8 bytes in the table (PCI 3.0 §6.8.2); others are ignored.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (i, word) in data.chunks_exact(4).enumerate() {
            let Some((true, o)) = self.locate(offset + 4 * i as u64) else { continue };
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let field = o % ENTRY / 4;
            self.table[o / ENTRY][field] = match field {
                0 => value & !3,
                3 => value & VECTOR_MASKED,
                _ => value,
            };
        }
        self.flush();
    }

    /// Sends what was held back and is now free to go.
    fn flush(&mut self) {
        if !self.enabled || self.masked {
            return;
        }
        for word in 0..self.pending.len() {
            let mut bits = self.pending[word];
            while bits != 0 {
                let v = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if self.table.get(v).is_some_and(|e| e[3] & VECTOR_MASKED == 0) {
                    self.pending[word] &= !(1 << (v % 64));
                    self.signal(v as u16);
                }
            }
        }
    }
}
