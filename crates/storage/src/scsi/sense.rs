//! Sense data: why a command failed (SPC-4 §4.5).

/// Key, code and qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sense {
    /// The sense key, 4 bits.
    pub(crate) key: u8,
    /// Additional sense code.
    pub(crate) code: u8,
    /// Additional sense code qualifier.
    pub(crate) qualifier: u8,
}

// The conditions that units report (SPC-4 annex F, MMC-6 annex F).

const fn of(key: u8, code: u8, qualifier: u8) -> Sense {
    Sense { key, code, qualifier }
}

pub(crate) const NONE: Sense = of(0, 0, 0);
pub(crate) const NO_MEDIUM_CLOSED: Sense = of(2, 0x3a, 1);
pub(crate) const NO_MEDIUM_OPEN: Sense = of(2, 0x3a, 2);
pub(crate) const READ_ERROR: Sense = of(3, 0x11, 0);
pub(crate) const TRANSPORT: Sense = of(4, 0x44, 0);
pub(crate) const BAD_LENGTH: Sense = of(5, 0x1a, 0);
pub(crate) const BAD_COMMAND: Sense = of(5, 0x20, 0);
pub(crate) const BAD_ADDRESS: Sense = of(5, 0x21, 0);
pub(crate) const BAD_FIELD: Sense = of(5, 0x24, 0);
pub(crate) const NO_UNIT: Sense = of(5, 0x25, 0);
pub(crate) const BAD_PARAMETER: Sense = of(5, 0x26, 0);
pub(crate) const WRONG_MEDIUM: Sense = of(5, 0x30, 0);
pub(crate) const NO_SAVED_PAGES: Sense = of(5, 0x39, 0);
pub(crate) const LOCKED: Sense = of(5, 0x53, 2);
pub(crate) const WRONG_TRACK: Sense = of(5, 0x64, 0);
pub(crate) const MEDIUM_CHANGED: Sense = of(6, 0x28, 0);
pub(crate) const POWER_ON: Sense = of(6, 0x29, 0);
pub(crate) const CAPACITY_CHANGED: Sense = of(6, 0x2a, 9);
pub(crate) const WRITE_PROTECTED: Sense = of(7, 0x27, 0);
pub(crate) const NO_SPACE: Sense = of(7, 0x27, 7);

impl Sense {
    /// In fixed format (SPC-4 §4.5.3).
    pub(crate) fn fixed(self) -> Vec<u8> {
        let mut data = vec![0; 18];
        data[0] = 0x70; // current error
        data[2] = self.key;
        data[7] = 10; // bytes that follow
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }

    /// In descriptor format (SPC-4 §4.5.2), without descriptors.
    pub(crate) fn descriptor(self) -> Vec<u8> {
        vec![0x72, self.key, self.code, self.qualifier, 0, 0, 0, 0]
    }
}
