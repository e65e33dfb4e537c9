//! Segment registers with their hidden part, and descriptor formats (SDM 3A §3.4, §5.8, §8.2).

/// A segment register: the visible selector and the hidden descriptor cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Index, table indicator and RPL.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Last valid offset, in bytes (already scaled by the granularity bit).
    pub limit: u32,
    /// Access rights.
    pub attr: SegAttr,
}

/// Access rights as bits 8 to 23 of a descriptor's second doubleword hold them, shifted right by 8, without the
/// limit bits; bit 16 marks an unusable (null) segment, as in VMX (SDM 3C §25.4.1).
///
/// ```text
///  16 15 14 13 12 11..8 7 6 5 4 3..0
///  U  G  DB L  AVL  0   P DPL S type
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegAttr(pub u32);

impl SegAttr {
    /// Segment type: 4 bits.
    pub fn kind(self) -> u8 {
        (self.0 & 0xf) as u8
    }
    /// Code or data segment (descriptor bit S).
    pub fn is_code_or_data(self) -> bool {
        self.0 & (1 << 4) != 0
    }
    /// A code segment.
    pub fn is_code(self) -> bool {
        self.0 & 0x18 == 0x18
    }
    /// Data: writable; code: readable.
    pub fn is_rw(self) -> bool {
        self.0 & 2 != 0
    }
    /// Data: expand-down; code: conforming.
    pub fn is_down_or_conforming(self) -> bool {
        self.0 & 4 != 0
    }
    /// Descriptor privilege level.
    pub fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }
    /// Present.
    pub fn present(self) -> bool {
        self.0 & (1 << 7) != 0
    }
    /// 64-bit code.
    pub fn long(self) -> bool {
        self.0 & (1 << 13) != 0
    }
    /// 32-bit operands (code), big stack (data).
    pub fn db(self) -> bool {
        self.0 & (1 << 14) != 0
    }
    /// Limit counts 4 KiB units.
    pub fn granular(self) -> bool {
        self.0 & (1 << 15) != 0
    }
    /// Null segment: any access through it faults.
    pub fn unusable(self) -> bool {
        self.0 & (1 << 16) != 0
    }
    /// The rights of an unusable segment.
    pub const UNUSABLE: SegAttr = SegAttr(1 << 16);
}

impl Segment {
    /// A real-mode or virtual-8086 segment: base = selector × 16, limit 64 KiB, read-write data or code.
    pub fn real_mode(selector: u16) -> Self {
        Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attr: SegAttr(0x93) }
    }

    /// Decodes a code, data or 32-bit system descriptor; for 64-bit system descriptors the caller adds the high base.
    pub fn from_descriptor(selector: u16, raw: u64) -> Self {
        let base = ((raw >> 16) & 0xff_ffff) | ((raw >> 32) & 0xff00_0000);
        let attr = SegAttr(((raw >> 40) & 0xf0ff) as u32);
        let limit = ((raw & 0xffff) | ((raw >> 32) & 0xf_0000)) as u32;
        let limit = if attr.granular() { (limit << 12) | 0xfff } else { limit };
        Segment { selector, base, limit, attr }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableReg {
    /// Linear base address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u16,
}
