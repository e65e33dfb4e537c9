//! ACPI as a guest finds it: ACPICA's compiler, an outside judge, takes all tables apart and puts them together again.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::LazyLock;

use common::{run, stderr};
use visor_image::Unpacked;
use visor_test_linux::packages;

/// The tables of a machine with hot plug, an IOMMU and two CPUs.
const TABLES: [&str; 6] = ["APIC", "DMAR", "DSDT", "FACP", "FACS", "HPET"];
/// Names in the table that iasl must have understood.
const NAMES: [&str; 8] = ["_S3", "_S5", "_CRS", "_PRT", "_E01", "_EJ0", "Notify (S06", "OperationRegion"];
/// Bytes of a table's header, in which a compiler puts its own name (ACPI 6.5 §5.2.6).
const HEADER: usize = 36;

/// Where its package is unpacked.
static JUDGE: LazyLock<Unpacked> = LazyLock::new(|| packages(&["acpica-tools"]).unwrap());

/// Runs iasl of Debian's package with its own libraries.
fn iasl(directory: &Path, args: &[&str]) -> String {
    let out = (JUDGE.program("iasl").unwrap()).args(args).current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "iasl {args:?}: {said}");
    said
}

#[test]
fn the_tables_are_taken_apart_and_put_together_without_a_warning() {
    let directory = std::env::temp_dir().join(format!("visor-acpi-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let script =
        "cd /sys/firmware/acpi/tables && for t in *; do if [ -f $t ]; then echo $t $(od -An -v -tx1 $t); fi; done";
    let machine = ["--engine", "soft", "--timeout", "600s", "--cpus", "2", "--iommu", "--net", "none", "tiny"];
    let out = run(&[&["-q", "run"], &machine[..], &["--", "sh", "-c", script]].concat());
    assert!(out.status.success(), "{}", stderr(&out));
    let said = String::from_utf8(out.stdout).unwrap();
    let mut names = Vec::new();
    for line in said.lines() {
        let (name, bytes) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = bytes.split(' ').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        check(&directory, name, &bytes);
        names.push(name);
    }
    names.sort_unstable();
    assert_eq!(names, TABLES, "every table is checked");
    std::fs::remove_dir_all(directory).unwrap();
}

fn check(directory: &Path, name: &str, bytes: &[u8]) {
    let file = format!("{name}.dat");
    std::fs::write(directory.join(&file), bytes).unwrap();
    let said = iasl(directory, &["-d", &file]);
    let text = std::fs::read_to_string(directory.join(format!("{name}.dsl"))).unwrap();
    for bad in ["Invalid", "Unknown", "Incorrect", "Warning", "Error"] {
        assert!(!said.contains(bad) && !text.contains(bad), "{name}: {bad}: {said}\n{text}");
    }
    if name == "DSDT" {
        for word in NAMES {
            assert!(text.contains(word), "no {word}: {text}");
        }
    }
    // -oa: exactly what the text says, without the compiler's improvements.
    let said = iasl(directory, &["-oa", "-p", &format!("{name}-again"), &format!("{name}.dsl")]);
    let clean = said.contains("0 Errors, 0 Warnings, 0 Remarks");
    assert!(clean, "{name}: {said}");
    let again = std::fs::read(directory.join(format!("{name}-again.aml"))).unwrap();
    // The FACS has no such header.
    let from = if name == "FACS" { 0 } else { HEADER };
    assert!(bytes.len() == again.len() && bytes[from..] == again[from..], "{name} is not what its text says");
}
