//! A set of the 256 vectors, laid out as IRR, ISR and TMR are.

/// Vectors 0 to 255, 32 per register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors(pub(super) [u32; 8]);

impl Vectors {
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|w| *w != 0)?;
        Some((word * 32) as u8 + (31 - self.0[word].leading_zeros()) as u8)
    }
}
