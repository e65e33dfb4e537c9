//! Which regions of a volume may have copies that differ, since a write to them may be under way: a bit for each region, noted on
//! every current member before the first write to it.

use visor_qcow2::Storage;

/// Where the bits are in a part, behind the records.
pub(crate) const AT: u64 = crate::record::BOTH;
/// Bytes of bits.
pub(crate) const LEN: u64 = 256 << 10;
/// Smallest region.
const MIN_REGION: u64 = 4 << 20;

/// The bits of a volume, in memory.
pub(crate) struct Intent {
    pub(crate) region: u64,
    bits: Vec<u8>,
}

impl Intent {
    /// No region is noted of a volume of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let region = MIN_REGION.max(size.div_ceil(LEN * 8).next_power_of_two());
        let bytes = size.div_ceil(region).div_ceil(8).next_multiple_of(512).min(LEN);
        Intent { region, bits: vec![0; bytes as usize] }
    }

    /// Whether the region of byte `at` is noted.
    pub(crate) fn has(&self, at: u64) -> bool {
        let n = at / self.region;
        self.bits.get((n / 8) as usize).is_some_and(|b| b & 1 << (n % 8) != 0)
    }

    /// Notes it. Returns where in a part the sector with its bit goes, and that sector.
    pub(crate) fn set(&mut self, at: u64) -> (u64, Vec<u8>) {
        let n = at / self.region;
        let byte = (n / 8) as usize;
        if let Some(b) = self.bits.get_mut(byte) {
            *b |= 1 << (n % 8);
        }
        let sector = byte / 512 * 512;
        (AT + sector as u64, self.bits.get(sector..sector + 512).map(<[u8]>::to_vec).unwrap_or_default())
    }

    /// The same bits.
    pub(crate) fn clone_of(other: &Intent) -> Self {
        Intent { region: other.region, bits: other.bits.clone() }
    }

    /// Adds what is noted on a member.
    pub(crate) fn add(&mut self, part: &dyn Storage) -> std::io::Result<()> {
        let mut bytes = vec![0; self.bits.len()];
        part.read_at(&mut bytes, AT)?;
        self.bits.iter_mut().zip(bytes).for_each(|(a, b)| *a |= b);
        Ok(())
    }

    /// Regions that are noted: start and length, inside a volume of `size` bytes.
    pub(crate) fn regions(&self, size: u64) -> Vec<(u64, u64)> {
        let count = size.div_ceil(self.region);
        let noted = (0..count).filter(|n| self.has(n * self.region));
        noted.map(|n| (n * self.region, self.region.min(size - n * self.region))).collect()
    }

    /// Nothing is noted any more, in memory.
    pub(crate) fn clear(&mut self) {
        self.bits.fill(0);
    }

    /// Writes all bits to a member.
    pub(crate) fn write(&self, part: &dyn Storage) -> std::io::Result<()> {
        part.write_at(&self.bits, AT)
    }
}
