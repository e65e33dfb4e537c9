//! ACPI tables (ACPI 6.5): the machine's hardware as its operating system discovers it.
//!
//! RSDP at F0000h; RSDT, XSDT, FADT, FACS, MADT, HPET, MCFG and DSDT from E0000h. Fixed hardware: PM1 event block, PM1 control
//! (4 ports on) and PM timer (8 ports on), SCI on interrupt 9, reset register CF9h.

mod dmar;
mod dsdt;
mod fixed;
mod hotplug;
mod loader;
#[cfg(test)]
mod tests;

use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, facs::FACS};
use visor_memory::GuestMemory;
use visor_x86::{CpuState, Seg, Segment};

use crate::error::{BootError, BootErrorKind};
use crate::layout::{RSDP, TABLES};
use crate::ram;

pub use hotplug::PlugConfig;
pub use loader::{LoaderFiles, loader};

/// Port of the reset register; writing [`RESET_VALUE`] resets the machine.
pub const RESET_PORT: u16 = 0xcf9;
/// See [`RESET_PORT`].
pub const RESET_VALUE: u8 = 6;
/// Input of the system control interrupt.
pub const SCI: u8 = 9;
/// Base address of the I/O APIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Base address of the HPET.
pub const HPET: u64 = 0xfed0_0000;
/// Base address of the local APICs.
pub const LAPIC: u32 = 0xfee0_0000;

const OEM: [u8; 6] = *b"VISOR ";
const OEM_TABLE: [u8; 8] = *b"VISORPC ";
/// CMOS register of the century (ACPI 6.5 §5.2.9).
const CENTURY: u8 = 0x32;

/// The hardware that the tables describe.
#[derive(Clone, Debug, Default)]
pub struct AcpiConfig {
    /// vCPUs, numbered from 0 as their local APIC ids are.
    pub cpus: u32,
    /// First port of power management.
    pub pm_base: u16,
    /// SLP_TYP value that powers off.
    pub s5: u8,
    /// SLP_TYP of S3, in which memory is kept.
    pub s3: u8,
    /// How to switch to ACPI mode; without it, ACPI mode is always on.
    pub smi: Option<SmiCommand>,
    /// A COM1 at 3F8h, interrupt 4.
    pub uart: bool,
    /// A PS/2 keyboard controller.
    pub keyboard: bool,
    /// A PS/2 mouse behind it.
    pub mouse: bool,
    /// Low half of the HPET's capability register, if there is one.
    pub hpet: Option<u32>,
    /// The PCI host bridge, if there is one.
    pub pci: Option<PciConfig>,
    /// The IOMMU, if there is one.
    pub iommu: Option<IommuConfig>,
    /// PCI slots for devices that come and go, if there are any; the general-purpose events are at 20h from the ports of power
    /// management.
    pub plug: Option<PlugConfig>,
}

/// A DMA remapping unit for all PCI functions and the I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuConfig {
    /// Its register page.
    pub base: u64,
    /// Bits of guest-physical addresses.
    pub address_bits: u8,
    /// As what the I/O APIC sends: bus in bits 15:8, device in 7:3, function in 2:0.
    pub ioapic_source: u16,
}

/// The SMI command port and what is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmiCommand {
    /// The port.
    pub port: u16,
    /// Sets SCI_EN.
    pub enable: u8,
    /// Clears SCI_EN.
    pub disable: u8,
}

/// A PCI host bridge with one bus.
#[derive(Clone, Debug, Default)]
pub struct PciConfig {
    /// Memory window below 4 GiB: first and last address.
    pub mem32: (u32, u32),
    /// Memory window above 4 GiB: first and last address.
    pub mem64: Option<(u64, u64)>,
    /// Where the INTx pins lead.
    pub routes: Vec<PciRoute>,
    /// Base of the memory-mapped configuration space of bus 0, if there is one.
    pub ecam: Option<u64>,
}

/// Where one INTx pin of one slot leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciRoute {
    /// Device number, 0 to 31.
    pub device: u8,
    /// 0 for INTA to 3 for INTD.
    pub pin: u8,
    /// Interrupt input; level-triggered, active low by PCI's convention.
    pub gsi: u32,
}

/// The tables with their addresses.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Signature, guest-physical address and contents of each.
    pub tables: Vec<(&'static str, u64, Vec<u8>)>,
}

/// Makes the tables.
pub fn tables(config: &AcpiConfig) -> Tables {
    tables_at(config, TABLES)
}

/// The tables from `base` on, a multiple of 64, and the root pointer.
fn tables_at(config: &AcpiConfig, base: u64) -> Tables {
    let mut next = base;
    let mut out = Vec::new();
    let mut place = |name: &'static str, bytes: Vec<u8>| {
        let at = next;
        // FACS needs 64-byte alignment; the rest do not mind.
        next = (at + bytes.len() as u64).next_multiple_of(64);
        out.push((name, at, bytes));
        at
    };
    let facs = place("FACS", bytes(&FACS::new()));
    let dsdt = place("DSDT", dsdt::dsdt(config));
    let mut roots = vec![place("FACP", fixed::fadt(config, facs, dsdt)), place("APIC", fixed::madt(config))];
    if let Some(capabilities) = config.hpet {
        roots.push(place("HPET", fixed::hpet(capabilities)));
    }
    if let Some(base) = config.pci.as_ref().and_then(|p| p.ecam) {
        roots.push(place("MCFG", fixed::mcfg(base)));
    }
    if let Some(iommu) = &config.iommu {
        roots.push(place("DMAR", dmar::dmar(iommu)));
    }
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM, OEM_TABLE, 1);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    for at in roots {
        rsdt.append_slice(&(at as u32).to_le_bytes());
        xsdt.add_entry(at);
    }
    let rsdt = place("RSDT", rsdt.as_slice().to_vec());
    let xsdt = place("XSDT", bytes(&xsdt));
    out.push(("RSD PTR ", RSDP, rsdp(rsdt as u32, xsdt)));
    Tables { tables: out }
}

/// The state in which the boot CPU resumes an operating system that sleeps in S3: in real mode at the waking vector that it left
/// in the FACS (ACPI 6.5 §5.2.10). `None` if there is none below 1 MiB.
///
/// # Errors
/// [`BootErrorKind::Memory`] if there is no RAM at the FACS.
pub fn resume(memory: &GuestMemory) -> Result<Option<CpuState>, BootError> {
    const WAKING_VECTOR: u64 = 12;
    let mut bytes = [0; 4];
    ram::read(memory, TABLES + WAKING_VECTOR, &mut bytes)?;
    let vector = u32::from_le_bytes(bytes);
    if vector == 0 || vector >= 1 << 20 {
        return Ok(None);
    }
    let mut cpu = CpuState { rip: u64::from(vector & 0xf), ..CpuState::default() };
    cpu.seg[Seg::Cs as usize] = Segment::real_mode((vector >> 4) as u16);
    cpu.idtr.limit = 0x3ff;
    Ok(Some(cpu))
}

/// Makes the tables and writes them to guest memory.
///
/// # Errors
/// [`BootErrorKind::Memory`] if they do not fit, which takes thousands of vCPUs.
pub fn install(memory: &GuestMemory, config: &AcpiConfig) -> Result<(), BootError> {
    for (name, at, bytes) in tables(config).tables {
        if at < RSDP && at + bytes.len() as u64 > RSDP {
            return Err(BootError::new(BootErrorKind::Memory, format!("the ACPI table {name} does not fit")));
        }
        ram::write(memory, at, &bytes)?;
    }
    Ok(())
}

/// The root pointer, which unlike that of `acpi_tables` has the 32-bit table too: small kernels know no other.
fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut b = b"RSD PTR \0".to_vec();
    b.extend(OEM);
    b.push(2);
    b.extend(rsdt.to_le_bytes());
    b.extend(36u32.to_le_bytes());
    b.extend(xsdt.to_le_bytes());
    b.extend([0; 4]);
    b[8] = checksum(&b[..20]);
    b[32] = checksum(&b);
    b
}

/// What makes the bytes sum to 0.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}
