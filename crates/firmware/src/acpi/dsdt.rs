//! The differentiated system description table: devices that cannot be discovered otherwise.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, Package, PackageBuilder, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{AcpiConfig, HPET, OEM, OEM_TABLE, PciConfig};

/// The table.
pub(super) fn dsdt(config: &AcpiConfig) -> Vec<u8> {
    let mut t = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, 1);
    let mut body = Vec::new();
    // Suspend to RAM.
    let s3 = Package::new(vec![&config.s3, &config.s3, &ZERO, &ZERO]);
    Name::new(Path::new("\\_S3_"), &s3).to_aml_bytes(&mut body);
    // Soft off: SLP_TYPa, SLP_TYPb, two reserved.
    let s5 = Package::new(vec![&config.s5, &config.s5, &ZERO, &ZERO]);
    Name::new(Path::new("\\_S5_"), &s5).to_aml_bytes(&mut body);
    processors(config.cpus, &mut body);
    if let Some(pci) = &config.pci {
        host_bridge(pci, &mut body);
        if let Some(plug) = &config.plug {
            super::hotplug::hotplug(plug, &mut body);
        }
    }
    board(config, &mut body);
    t.append_slice(&body);
    t.as_slice().to_vec()
}

/// IRQ descriptor without flags: edge-triggered, active high (ACPI 6.5 §6.4.2.1).
struct IsaIrq(u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << (self.0 & 15));
    }
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// Processor devices; which of them exist is the MADT's business.
fn processors(cpus: u32, body: &mut Vec<u8>) {
    let mut all = Vec::new();
    // Names have three hexadecimal digits.
    for id in 0..cpus.min(0x1000) {
        let hid = Name::new(path("_HID"), &"ACPI0007");
        let uid = Name::new(path("_UID"), &id);
        Device::new(path(&format!("C{id:03X}")), vec![&hid, &uid]).to_aml_bytes(&mut all);
    }
    body.extend(Scope::raw(path("\\_SB_"), all));
}

fn host_bridge(pci: &PciConfig, body: &mut Vec<u8>) {
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0A03"));
    let uid = Name::new(path("_UID"), &ZERO);
    let bus = AddressSpace::<u16>::new_bus_number(0, 0);
    let config = IO::new(0xcf8, 0xcf8, 1, 8);
    let io_low = AddressSpace::<u16>::new_io(0, 0xcf7, None);
    let io_high = AddressSpace::<u16>::new_io(0xd00, 0xffff, None);
    let uncached = AddressSpaceCacheable::NotCacheable;
    let mem32 = AddressSpace::<u32>::new_memory(uncached, true, pci.mem32.0, pci.mem32.1, None);
    let mem64 = pci.mem64.map(|(first, last)| AddressSpace::<u64>::new_memory(uncached, true, first, last, None));
    let mut windows: Vec<&dyn Aml> = vec![&bus, &config, &io_low, &io_high, &mem32];
    if let Some(w) = &mem64 {
        windows.push(w);
    }
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(windows));
    let mut prt = PackageBuilder::new();
    // A package counts its elements in one byte.
    for r in pci.routes.iter().take(255) {
        let slot = u32::from(r.device) << 16 | 0xffff;
        prt.add_element(&Package::new(vec![&slot, &r.pin, &ZERO, &r.gsi]));
    }
    let prt = Name::new(path("_PRT"), &prt);
    Scope::new(path("\\_SB_"), vec![&Device::new(path("PCI0"), vec![&hid, &uid, &crs, &prt])]).to_aml_bytes(body);
}

/// Devices at fixed places.
fn board(config: &AcpiConfig, body: &mut Vec<u8>) {
    let mut all = Vec::new();
    let mut device = |name: &str, hid: &str, resources: Vec<&dyn Aml>| {
        let hid = Name::new(path("_HID"), &EISAName::new(hid));
        let uid = Name::new(path("_UID"), &ZERO);
        let crs = Name::new(path("_CRS"), &ResourceTemplate::new(resources));
        Device::new(path(name), vec![&hid, &uid, &crs]).to_aml_bytes(&mut all);
    };
    let io = |at: u16, len: u8| IO::new(at, at, 1, len);
    device("PIC_", "PNP0000", vec![&io(0x20, 2), &io(0xa0, 2), &io(0x4d0, 2), &IsaIrq(2)]);
    device("TMR_", "PNP0100", vec![&io(0x40, 4), &IsaIrq(0)]);
    device("RTC_", "PNP0B00", vec![&io(0x70, 2), &IsaIrq(8)]);
    if config.uart {
        device("COM1", "PNP0501", vec![&io(0x3f8, 8), &IsaIrq(4)]);
    }
    if config.keyboard {
        device("KBD_", "PNP0303", vec![&io(0x60, 1), &io(0x64, 1), &IsaIrq(1)]);
    }
    if config.keyboard && config.mouse {
        device("MOU_", "PNP0F13", vec![&IsaIrq(12)]);
    }
    if config.hpet.is_some() {
        device("HPET", "PNP0103", vec![&Memory32Fixed::new(false, HPET as u32, 0x400)]);
    }
    body.extend(Scope::raw(path("\\_SB_"), all));
}
