//! Structure of the tables, and their disassembly where iasl is installed.

use std::process::Command;

use super::*;
use crate::elf::{le32, le64};

fn full(cpus: u32) -> AcpiConfig {
    AcpiConfig {
        cpus,
        s5: 5,
        s3: 1,
        pm_base: 0x600,
        smi: Some(SmiCommand { port: 0xb2, enable: 0xf1, disable: 0xf0 }),
        uart: true,
        keyboard: true,
        mouse: true,
        hpet: Some(0x8086_a201),
        pci: Some(PciConfig {
            mem32: (0xc000_0000, 0xfebf_ffff),
            mem64: Some((0x80_0000_0000, 0xff_ffff_ffff)),
            routes: (1..32).flat_map(|d| (0..4).map(move |p| PciRoute { device: d, pin: p, gsi: 10 })).collect(),
            ecam: Some(0xb000_0000),
        }),
        iommu: Some(IommuConfig { base: 0xfed9_0000, address_bits: 46, ioapic_source: 0xf0f8 }),
        plug: Some(PlugConfig { port: 0xae00, gpe: 1, slots: 0xffff_ffe0 }),
    }
}

fn find<'a>(t: &'a Tables, name: &str) -> &'a (&'static str, u64, Vec<u8>) {
    t.tables.iter().find(|t| t.0 == name).unwrap()
}

#[test]
fn every_checksum_and_length_is_right_and_tables_do_not_overlap() {
    for cpus in [1, 2, 254, 255, 256, 300] {
        let t = tables(&full(cpus));
        let mut end = 0;
        for (name, at, bytes) in &t.tables {
            assert!(*at >= end, "{name}");
            end = at + bytes.len() as u64;
            if *name == "RSD PTR " {
                assert_eq!(checksum(&bytes[..20]), 0);
                assert_eq!(checksum(bytes), 0);
                continue;
            }
            assert_eq!(&bytes[..4], name.as_bytes());
            assert_eq!(le32(bytes, 4).unwrap() as usize, bytes.len(), "{name}");
            if *name != "FACS" {
                assert_eq!(checksum(bytes), 0, "{name}");
            }
        }
        assert_eq!(find(&t, "FACS").1 % 64, 0);
    }
}

#[test]
fn both_root_tables_list_the_same_tables() {
    let t = tables(&full(2));
    let rsdp = &find(&t, "RSD PTR ").2;
    let (_, rsdt_at, rsdt) = find(&t, "RSDT");
    let (_, xsdt_at, xsdt) = find(&t, "XSDT");
    assert_eq!(u64::from(le32(rsdp, 16).unwrap()), *rsdt_at);
    assert_eq!(le64(rsdp, 24).unwrap(), *xsdt_at);
    let narrow: Vec<u64> = rsdt[36..].chunks(4).map(|c| le32(c, 0).unwrap().into()).collect();
    let wide: Vec<u64> = xsdt[36..].chunks(8).map(|c| le64(c, 0).unwrap()).collect();
    assert_eq!(narrow, wide);
    assert_eq!(narrow, ["FACP", "APIC", "HPET", "MCFG", "DMAR"].map(|n| find(&t, n).1));
    let fadt = &find(&t, "FACP").2;
    assert_eq!(le64(fadt, 140).unwrap(), find(&t, "DSDT").1, "X_DSDT");
    assert_eq!(u64::from(le32(fadt, 36).unwrap()), find(&t, "FACS").1);
}

#[test]
fn madt_counts_cpus_of_both_kinds() {
    let t = tables(&full(300));
    let (mut apics, mut x2apics) = (0, 0);
    let mut rest = &find(&t, "APIC").2[44..];
    while let [kind, len, ..] = rest {
        apics += u32::from(*kind == 0);
        x2apics += u32::from(*kind == 9);
        rest = &rest[usize::from(*len)..];
    }
    assert_eq!((apics, x2apics), (255, 45));
    assert!(rest.is_empty());
}

#[test]
fn absent_hardware_has_no_table() {
    let t = tables(&AcpiConfig { cpus: 1, ..AcpiConfig::default() });
    assert!(t.tables.iter().all(|t| t.0 != "HPET" && t.0 != "MCFG"));
    let fadt = &find(&t, "FACP").2;
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 2, "no legacy devices, no 8042, no VGA");
}

#[test]
fn iasl_reads_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let t = tables(&full(2));
    let dump = |name: &str| {
        let file = dir.path().join(format!("{}.aml", name.to_lowercase()));
        std::fs::write(&file, &find(&t, name).2).unwrap();
        let out = Command::new("iasl").arg("-d").arg(&file).output().expect("iasl, of acpica-tools");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = std::fs::read_to_string(file.with_extension("dsl")).unwrap();
        assert!(!text.contains("Invalid") && !text.contains("**** "), "{text}");
        text
    };
    for name in ["FACP", "APIC", "HPET", "MCFG", "DMAR"] {
        dump(name);
    }
    let dsdt = dump("DSDT");
    for want in [
        "Name (\\_S3, Package (0x04)",
        "Name (\\_S5, Package (0x04)",
        "Device (C001)",
        "EisaId (\"PNP0A03\")",
        "0xC0000000,         // Range Minimum",
        "0xFEBFFFFF,         // Range Maximum",
        "EisaId (\"PNP0501\")",
        "EisaId (\"PNP0F13\")",
        "Memory32Fixed (ReadOnly,",
        "0x001FFFFF,",
        "Device (S1F)",
        "Method (_E01, 0, Serialized)",
        "OperationRegion (PCRG, SystemIO, 0xAE00, 0x10)",
    ] {
        assert!(dsdt.contains(want), "no {want:?} in\n{dsdt}");
    }
    let source = dir.path().join("dsdt.dsl");
    let out = Command::new("iasl").arg("-p").arg(dir.path().join("again")).arg(&source).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let again = std::fs::read(dir.path().join("again.aml")).unwrap();
    assert!(again.starts_with(b"DSDT"), "compiles back");
}
