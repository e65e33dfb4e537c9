//! DMA remapping table (Intel VT-d §8).

use acpi_tables::sdt::Sdt;

use super::{IommuConfig, OEM, OEM_TABLE};

/// Interrupts are remapped, with 32-bit destinations if software wants them.
const INTR_REMAP: u8 = 1;
/// The unit serves all PCI functions of its segment.
const INCLUDE_PCI_ALL: u8 = 1;
/// A device scope that is an I/O APIC.
const SCOPE_IOAPIC: u8 = 3;

pub(super) fn dmar(config: &IommuConfig) -> Vec<u8> {
    let mut t = Sdt::new(*b"DMAR", 36, 1, OEM, OEM_TABLE, 1);
    let mut body = vec![config.address_bits.saturating_sub(1), INTR_REMAP];
    body.extend([0; 10]);
    // The unit (type 0, 24 bytes), of segment 0.
    body.extend([0, 0, 24, 0, INCLUDE_PCI_ALL, 0, 0, 0]);
    body.extend(config.base.to_le_bytes());
    // Its I/O APIC, which the MADT numbers 0.
    let [function, bus] = config.ioapic_source.to_le_bytes();
    body.extend([SCOPE_IOAPIC, 8, 0, 0, 0, bus, function >> 3, function & 7]);
    t.append_slice(&body);
    t.as_slice().to_vec()
}
