//! Where RAM lies, and the memory map the guest is told (ACPI 6.5 §15, INT 15h E820).
//!
//! ```text
//! 0000_0000 .. 0009_FC00  RAM
//! 0009_FC00 .. 000A_0000  RAM, reserved: extended BIOS data area
//! 000A_0000 .. 000C_0000  no RAM: VGA window
//! 000C_0000 .. 000E_0000  option ROMs, if firmware shadows them; else nothing
//! 000E_0000 .. 0010_0000  RAM, reserved: ACPI and SMBIOS tables, BIOS
//! 0010_0000 .. C000_0000  RAM as far as it goes
//! C000_0000 .. FEC0_0000  PCI memory windows
//! FEC0_0000 .. FF00_0000  I/O APIC, HPET, local APICs: reserved
//! 1_0000_0000 ..          the rest of RAM
//! ```

use visor_memory::{Gpa, PAGE, RamRange};

/// RAM below 4 GiB ends here at the latest; PCI windows follow.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
/// RAM beyond [`LOW_RAM_LIMIT`] continues here.
pub const HIGH_RAM: u64 = 1 << 32;

/// First byte of the extended BIOS data area.
pub(crate) const EBDA: u64 = 0x9_fc00;
/// The VGA window.
pub(crate) const VGA: u64 = 0xa_0000;
/// ACPI tables.
pub(crate) const TABLES: u64 = 0xe_0000;
/// RSDP: in the part of the BIOS area that every scan covers.
pub(crate) const RSDP: u64 = 0xf_0000;
/// SMBIOS entry point and tables.
pub(crate) const SMBIOS: u64 = 0xf_1000;
/// First byte above the BIOS area.
pub(crate) const ONE_MIB: u64 = 0x10_0000;

/// What a range of the memory map is (ACPI 6.5 table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// Free to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820 {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820 {
    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The memory map of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<E820>,
    low_end: u64,
    high_end: u64,
}

impl MemoryMap {
    /// The map of a machine with `bytes` of RAM, a multiple of 4096 and at least 2 MiB.
    pub fn new(bytes: u64) -> Self {
        let (low_end, high) = split(bytes);
        let ram = |start, end| E820 { start, len: end - start, kind: E820Kind::Ram };
        let reserved = |start: u64, end: u64| E820 { start, len: end - start, kind: E820Kind::Reserved };
        let mut entries = vec![ram(0, EBDA), reserved(EBDA, VGA), reserved(TABLES, ONE_MIB), ram(ONE_MIB, low_end)];
        entries.push(reserved(0xfec0_0000, 0xff00_0000));
        if high > 0 {
            entries.push(ram(HIGH_RAM, HIGH_RAM + high));
        }
        MemoryMap { entries, low_end, high_end: HIGH_RAM + high }
    }

    /// The ranges, ascending.
    pub fn entries(&self) -> &[E820] {
        &self.entries
    }

    /// End of RAM below 4 GiB.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// End of RAM above 4 GiB; 4 GiB if there is none.
    pub fn high_end(&self) -> u64 {
        self.high_end
    }
}

/// RAM that the host bridge shows and hides: option ROMs and the BIOS area.
pub const SHADOW: RamRange = RamRange { start: Gpa(0xc_0000), len: ONE_MIB - 0xc_0000 };

/// The RAM ranges of a machine with `bytes` of RAM, for [`visor_memory::GuestMemory::with_extra`]. The VGA window has none; what
/// is in [`SHADOW`] the host bridge decides.
pub fn ram_layout(bytes: u64) -> Vec<RamRange> {
    let (low_end, high) = split(bytes);
    let range = |start, end| RamRange { start: Gpa(start), len: end - start };
    let mut ranges = vec![range(0, VGA), range(SHADOW.start.0, low_end)];
    if high > 0 {
        ranges.push(range(HIGH_RAM, HIGH_RAM + high));
    }
    ranges
}

fn split(bytes: u64) -> (u64, u64) {
    let bytes = (bytes & !(PAGE - 1)).clamp(2 * ONE_MIB, 1 << 44);
    let low = bytes.min(LOW_RAM_LIMIT);
    (low, bytes - low)
}
