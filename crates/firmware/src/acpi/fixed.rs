//! The tables without code: FADT, MADT, HPET, MCFG.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, CENTURY, HPET, IOAPIC, LAPIC, OEM, OEM_TABLE, RESET_PORT, RESET_VALUE, SCI, bytes};

/// Status and enable bits of the general-purpose events: offset among the ports of power management, and bytes.
const GPE0: u16 = 0x20;
const GPE0_LEN: u8 = 8;

/// Fixed ACPI description table (ACPI 6.5 §5.2.9).
pub(super) fn fadt(config: &AcpiConfig, facs: u64, dsdt: u64) -> Vec<u8> {
    let (event, control, timer) = (config.pm_base, config.pm_base + 4, config.pm_base + 8);
    let port = |at: u16, bits: u8, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, at.into());
    let mut t = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton) // no fixed sleep button; the power button is fixed hardware
        .flag(Flags::ResetRegSup)
        .preferred_pm_profile(PmProfile::Unspecified);
    // Old kernels read the 32-bit fields alone, and both may be set if they agree.
    t.firmware_ctrl = (facs as u32).into();
    t.dsdt = (dsdt as u32).into();
    t.x_dsdt = dsdt.into();
    t.sci_int = u16::from(SCI).into();
    if let Some(smi) = config.smi {
        t.smi_cmd = u32::from(smi.port).into();
        t.acpi_enable = smi.enable;
        t.acpi_disable = smi.disable;
    }
    t.pm1a_evt_blk = u32::from(event).into();
    t.pm1a_cnt_blk = u32::from(control).into();
    t.pm_tmr_blk = u32::from(timer).into();
    if config.plug.is_some() {
        let events = config.pm_base + GPE0;
        t.gpe0_blk = u32::from(events).into();
        t.gpe0_blk_len = GPE0_LEN;
        t.x_gpe0_blk = port(events, 8 * GPE0_LEN, AccessSize::ByteAccess);
    }
    t.pm1_evt_len = 4;
    t.pm1_cnt_len = 2;
    t.pm_tmr_len = 4;
    t.x_pm1a_evt_blk = port(event, 32, AccessSize::WordAccess);
    t.x_pm1a_cnt_blk = port(control, 16, AccessSize::WordAccess);
    t.x_pm_tmr_blk = port(timer, 32, AccessSize::DwordAccess);
    // Latencies above 100 and 1000 µs say that there is no C2 and no C3.
    t.p_lvl2_lat = 101.into();
    t.p_lvl3_lat = 1001.into();
    t.century = CENTURY;
    // Bit 0: legacy devices; 1: 8042; 2: no VGA.
    let boot_arch = u16::from(config.uart) | u16::from(config.keyboard) << 1 | 1 << 2;
    t.iapc_boot_arch = boot_arch.into();
    t.reset_reg = port(RESET_PORT, 8, AccessSize::ByteAccess);
    t.reset_value = RESET_VALUE;
    t.hypervisor_vendor_identity = u64::from_le_bytes(*b"visor\0\0\0").into();
    bytes(&t.finalize())
}

/// Multiple APIC description table (ACPI 6.5 §5.2.12).
pub(super) fn madt(config: &AcpiConfig) -> Vec<u8> {
    let mut t = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, 1);
    let mut body = Vec::new();
    body.extend(LAPIC.to_le_bytes());
    body.extend(1u32.to_le_bytes()); // PCAT_COMPAT: there are two 8259s
    for id in 0..config.cpus {
        match u8::try_from(id) {
            // 255 is the broadcast id.
            Ok(id) if id < 255 => body.extend([0, 8, id, id, 1, 0, 0, 0]),
            _ => {
                body.extend([9, 16, 0, 0]);
                for field in [id, 1, id] {
                    body.extend(field.to_le_bytes());
                }
            }
        }
    }
    // I/O APIC with input 0 as GSI 0.
    body.extend([1, 12, 0, 0]);
    body.extend(IOAPIC.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    // ISA interrupt 0 (PIT) arrives at input 2; the SCI is level-triggered, active high.
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend([2, 10, 0, SCI, SCI, 0, 0, 0, 0b1101, 0]);
    // LINT1 of all CPUs is NMI.
    body.extend([4, 6, 0xff, 0, 0, 1]);
    if config.cpus > 255 {
        body.extend([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    t.append_slice(&body);
    t.as_slice().to_vec()
}

/// HPET description table (IA-PC HPET 1.0a §3.2.4).
pub(super) fn hpet(capabilities: u32) -> Vec<u8> {
    let mut t = Sdt::new(*b"HPET", 36, 1, OEM, OEM_TABLE, 1);
    let mut body = capabilities.to_le_bytes().to_vec();
    body.extend([0, 64, 0, 0]); // memory space, 64 bits
    body.extend(HPET.to_le_bytes());
    body.push(0); // sequence number
    body.extend(0x80u16.to_le_bytes()); // least periodic tick
    body.push(0);
    t.append_slice(&body);
    t.as_slice().to_vec()
}

/// Memory-mapped configuration space of bus 0 (PCI firmware specification 3.3 §4.1.2).
pub(super) fn mcfg(base: u64) -> Vec<u8> {
    let mut t = MCFG::new(OEM, OEM_TABLE, 1);
    t.add_ecam(base, 0, 0, 0);
    bytes(&t)
}
