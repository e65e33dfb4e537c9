//! Seeds: operations written down as `input` reads them.

use crate::pc;

/// An input that is being made.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<u8>);

impl Script {
    /// An empty one.
    pub fn new() -> Self {
        Script::default()
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A string with its length in front.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let len = (bytes.len() as u16).to_le_bytes();
        self.raw(&len).raw(bytes)
    }

    /// OUT of `width` bytes to register `offset` of the device's range of ports `range`.
    #[must_use]
    pub fn outp(self, range: u8, offset: u16, width: u8, value: u32) -> Self {
        let head = [pc::OUT, range];
        self.raw(&head).raw(&offset.to_le_bytes()).raw(&[width.ilog2() as u8]).raw(&value.to_le_bytes())
    }

    /// One byte to a port.
    #[must_use]
    pub fn out(self, range: u8, offset: u16, value: u8) -> Self {
        self.outp(range, offset, 1, value.into())
    }

    /// Several of them.
    #[must_use]
    pub fn outs(self, range: u8, values: &[(u16, u8)]) -> Self {
        values.iter().fold(self, |s, (offset, value)| s.out(range, *offset, *value))
    }

    /// IN.
    #[must_use]
    pub fn inp(self, range: u8, offset: u16, width: u8) -> Self {
        self.raw(&[pc::IN, range]).raw(&offset.to_le_bytes()).raw(&[width.ilog2() as u8])
    }

    /// A store of `width` bytes to `offset` of the device's area `area`.
    #[must_use]
    pub fn store(self, area: u8, offset: u32, width: u8, value: u64) -> Self {
        let head = [pc::STORE, area];
        self.raw(&head).raw(&offset.to_le_bytes()).raw(&[width.ilog2() as u8]).raw(&value.to_le_bytes())
    }

    /// A load.
    #[must_use]
    pub fn load(self, area: u8, offset: u32, width: u8) -> Self {
        self.raw(&[pc::LOAD, area]).raw(&offset.to_le_bytes()).raw(&[width.ilog2() as u8])
    }

    /// A write to configuration space of function `function`.
    #[must_use]
    pub fn config(self, function: u8, offset: u8, width: u8, value: u32) -> Self {
        self.raw(&[pc::CONFIG_WRITE, function, offset, width.ilog2() as u8]).raw(&value.to_le_bytes())
    }

    /// Guest memory from `at` on.
    #[must_use]
    pub fn memory(self, at: u32, data: &[u8]) -> Self {
        self.raw(&[pc::MEMORY]).raw(&at.to_le_bytes()).bytes(data)
    }

    /// Time goes on.
    #[must_use]
    pub fn wait(self, nanos: u64) -> Self {
        self.raw(&[pc::WAIT]).raw(&nanos.to_le_bytes())
    }

    /// An operation of the device itself, the `n`th, whose operands follow.
    #[must_use]
    pub fn extra(self, n: u8) -> Self {
        self.raw(&[pc::EXTRA + n])
    }

    /// The input.
    pub fn end(self) -> Vec<u8> {
        self.0
    }
}
