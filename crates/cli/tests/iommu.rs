//! A machine with an IOMMU, under the Linux of the image `tiny`, which enables all of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{file, run, stderr, stdout};

/// What the guest runs: whether its devices are confined and its interrupts remapped, and a disk both ways.
const CHECK: &str = "
set -e
ls /sys/kernel/iommu_groups | wc -l
grep -c IR-PCI-MSI /proc/interrupts
grep -c IR-IO-APIC /proc/interrupts
dmesg | grep -c 'DMAR: .*fault' || true
dd if=/dev/sdb bs=64K count=16 iflag=direct 2>/dev/null | md5sum | cut -c 1-32
dd if=/dev/sdb of=/dev/sdb bs=64K count=16 seek=16 iflag=direct oflag=direct 2>/dev/null
sync
";

#[test]
fn linux_confines_devices_and_remaps_interrupts() {
    assert!(run(&["-q", "image", "build", "tiny"]).status.success(), "the image cannot be built");
    let mut content = vec![0u8; 2 << 20];
    let mut x = 1u32;
    for byte in &mut content[..1 << 20] {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (x >> 24) as u8;
    }
    let disk = file("iommu.img", &content);
    let append = "intel_iommu=on iommu.strict=1";
    let args = ["run", "tiny", "--engine", "soft", "--iommu", "--cpus", "2", "--timeout", "10m", "--append", append];
    let command = ["--disk", disk.to_str().unwrap(), "--", "sh", "-c", CHECK];
    let output = run(&[&args[..], &command[..]].concat());
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    let number = |n: usize| lines[n].trim().parse::<u32>().unwrap();
    assert!(number(0) >= 5, "IOMMU groups: {text}");
    assert!(number(1) >= 4 && number(2) >= 2, "remapped interrupts: {text}");
    assert_eq!(number(3), 0, "faults: {text}");
    let after = std::fs::read(&disk).unwrap();
    assert_eq!(after[..1 << 20], content[..1 << 20], "what was read has not changed");
    assert_eq!(after[1 << 20..], content[..1 << 20], "the copy went through the IOMMU both ways");
    std::fs::write(&disk, &content[..1 << 20]).unwrap();
    let host = std::process::Command::new("md5sum").arg(&disk).output().unwrap();
    assert_eq!(lines[4], &stdout(&host)[..32]);
}
