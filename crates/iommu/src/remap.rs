//! Interrupt requests and the table that remaps them (VT-d §5.1, §9.9).
//!
//! ```text
//! request in remappable format   address 31   20 19      5  4   3      2       data 15        0
//!                                       [ FEEh  | handle  | 1 |SHV| handle 15]     [ subhandle ]
//!
//! entry   63       32 31 24 23 16 15 14 12 11 8 7  5  4  3  2  1   0     127 84 83 82 81 80 79    64
//!        [ APIC id   |  0  |vector| IM| 0  | -  |mode|TM|RH|DM|FPD| P ] [  0   | SVT | SQ  | source ]
//! ```

use visor_pci::SourceId;

use crate::tables::Blocked;

/// Where the interrupt remapping table is, and how it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) at: u64,
    /// Entries.
    pub(crate) len: u32,
    /// Destinations have 32 bits.
    pub(crate) extended: bool,
}

impl Table {
    /// What the interrupt remapping table address register says.
    pub(crate) fn from_register(value: u64) -> Self {
        Table { at: value & !0xfff, len: 2 << (value & 15), extended: value & 1 << 11 != 0 }
    }
}

/// An interrupt request as a device or the I/O APIC sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The format without remapping.
    Compatible,
    /// An index into the table.
    Remappable(u32),
}

impl Request {
    /// Takes a message apart; the error comes with the index.
    pub(crate) fn parse(address: u32, data: u32) -> Result<Self, (Blocked, u32)> {
        if address & 1 << 4 == 0 {
            return Ok(Request::Compatible);
        }
        let handle = address >> 5 & 0x7fff | (address & 4) << 13;
        let with_subhandle = address & 1 << 3 != 0;
        let index = if with_subhandle { handle + (data & 0xffff) } else { handle };
        // §5.1.2.2: with a subhandle, the upper half of the data is reserved.
        if with_subhandle && data >> 16 != 0 {
            return Err((Blocked::InterruptReserved, index));
        }
        Ok(Request::Remappable(index))
    }
}

/// An entry of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(pub(crate) [u64; 2]);

impl Entry {
    /// Faults of this entry are not recorded.
    pub(crate) fn quiet(&self) -> bool {
        self.0[0] & 2 != 0
    }

    /// The message for the local APICs: address and data. `source` is `None` for a requester that is not checked.
    pub(crate) fn message(&self, source: Option<SourceId>, extended: bool) -> Result<(u64, u32), Blocked> {
        let [low, high] = self.0;
        if low & 1 == 0 {
            return Err(Blocked::InterruptNotPresent);
        }
        let destination = (low >> 32) as u32;
        let narrow = !extended && destination & !0xff00 != 0;
        // Posted interrupts (bit 15) do not exist; three delivery modes are reserved in effect by being one value.
        if low & 0xff00_f000 != 0 || high >> 20 != 0 || narrow || low >> 5 & 7 == 3 {
            return Err(Blocked::InterruptEntryReserved);
        }
        if let Some(source) = source {
            self.verify(source)?;
        }
        let id = if extended { destination } else { destination >> 8 };
        let (logical, hint) = (low >> 2 & 1, low >> 3 & 1);
        let address = u64::from(id >> 8) << 40 | 0xfee0_0000 | u64::from(id & 0xff) << 12 | hint << 3 | logical << 2;
        let trigger = if low & 1 << 4 != 0 { 0xc000 } else { 0 };
        let (mode, vector) = ((low >> 5 & 7) as u32, (low >> 16 & 0xff) as u32);
        Ok((address, trigger | mode << 8 | vector))
    }

    /// Whether the entry is meant for `source` (§9.9, SVT, SQ and SID).
    fn verify(&self, source: SourceId) -> Result<(), Blocked> {
        let high = self.0[1];
        let id = high as u16;
        let ok = match high >> 18 & 3 {
            0 => true,
            1 => {
                // SQ leaves out function bits: none, bit 2, bits 2:1, all three.
                let ignored = [0, 4, 6, 7][(high >> 16 & 3) as usize];
                (source.0 ^ id) & !ignored == 0
            }
            2 => {
                // A range of buses: first in the upper byte, last in the lower.
                let (first, last) = (id >> 8, id & 0xff);
                (first..=last).contains(&(source.0 >> 8))
            }
            _ => return Err(Blocked::InterruptEntryReserved),
        };
        if ok { Ok(()) } else { Err(Blocked::InterruptSource) }
    }
}
