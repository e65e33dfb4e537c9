//! Bytes as a stream of numbers and strings that never ends early: what is missing is zero.

use arbitrary::Unstructured;

/// An input that is being used up.
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Input(Unstructured::new(data))
    }

    /// Whether all is used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Two bytes, the low one first, as in all numbers here.
    pub fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// A byte as a number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n.max(1)
    }

    /// A byte as the length of an access: 1, 2, 4 or 8 bytes, at most `most`.
    pub fn width(&mut self, most: usize) -> usize {
        (1 << (self.u8() & 3)).min(most)
    }

    /// A string: two bytes of length, then as many bytes as there are.
    pub fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16()).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let len = self.0.len();
        self.0.bytes(len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_zero() {
        let mut input = Input::new(&[1, 2, 3, 3, 0, 9, 9]);
        assert_eq!((input.u8(), input.u16()), (1, 0x302));
        assert_eq!(input.bytes(), [9, 9], "three are announced, two are there");
        assert!(input.is_empty());
        assert_eq!((input.u32(), input.bytes()), (0, &[][..]));
    }
}
