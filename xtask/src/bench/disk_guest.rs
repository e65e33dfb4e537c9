//! Requests of a guest (`testing/linux/disk`): the same kernel, program and image in visor and in QEMU with its software engine,
//! alternately, with a virtio block device and the host's page cache on both sides.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::disk::{Times, output, print_row};
use super::side::{Guest, Side, tail};
use super::table::rows;
use crate::shell::{cargo, root, step};

/// Bytes of the disk: more than the rows touch, and little enough to stay in the host's cache.
const DISK: &str = "512M";
/// Most that one run may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Prints the rows for raw and qcow2; images lie in `folder`.
pub(super) fn run(folder: &Path, visor: &str, pairs: usize) -> anyhow::Result<()> {
    let files = root().join("target/bench-disk-guest");
    let mut maker = cargo(&["run", "--quiet", "--package", "visor-test-linux", "--bin", "linux-guest", "--", "disk"]);
    step("guest", maker.arg(&files))?;
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let (kernel, initrd) = (text(&files.join("vmlinuz")), text(&files.join("initrd.cpio")));
    let guest = Guest { kernel, initrd, append: "console=ttyS0 quiet".into(), cpus: 1 };
    for format in ["raw", "qcow2"] {
        let disk = text(&folder.join(format!("guest.{format}")));
        let sides = [
            Side::with(
                "visor",
                &[visor, "-q", "run", "--engine", "soft", "--memory", "256M", "--no-reboot", "--cpus", "{cpus}"],
                &["--kernel", "{kernel}", "--initrd", "{initrd}", "--append", "{append}", "--bus", "virtio"],
                &["--disk", &format!("{disk},format={format}")],
            ),
            Side::with(
                "qemu",
                &["qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "{cpus}"],
                &["-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"],
                &[
                    "-kernel",
                    "{kernel}",
                    "-initrd",
                    "{initrd}",
                    "-append",
                    "{append}",
                    "-drive",
                    &format!("file={disk},format={format},if=virtio,cache=writeback,discard=unmap"),
                ],
            ),
        ];
        compare(&sides, &guest, format, &disk, pairs)?;
    }
    Ok(())
}

fn compare(sides: &[Side; 2], guest: &Guest, format: &str, disk: &str, pairs: usize) -> anyhow::Result<()> {
    let mut seconds: BTreeMap<String, [Times; 2]> = BTreeMap::new();
    for _ in 0..pairs {
        for (i, side) in sides.iter().enumerate() {
            let _ = std::fs::remove_file(disk);
            output(&["qemu-img", "create", "-q", "-f", format, disk, DISK])?;
            // Half of it holds data, so that reads find some.
            output(&["qemu-io", "-f", format, "-c", "write -P 9 0 256M", disk])?;
            // What the host still has to write would slow the first rows down.
            output(&["sync", disk])?;
            let run = side.run(guest, false, LIMIT)?;
            anyhow::ensure!(run.text.contains("DONE"), "{} did not finish:\n{}", side.name, tail(&run.text));
            for ((row, s), cpu) in rows(&run.text).into_iter().zip(&run.row_cpu) {
                seconds.entry(row).or_default()[i].push((s, *cpu));
            }
            output(&["qemu-img", "check", "-q", "-f", format, disk]).or_else(|e| match format {
                "raw" => Ok(String::new()),
                _ => Err(e),
            })?;
        }
    }
    for (row, [ours, theirs]) in seconds {
        anyhow::ensure!(!ours.is_empty() && !theirs.is_empty(), "the row {row} is missing");
        print_row(&format!("guest {row}, {format} / QEMU"), &ours, &theirs);
    }
    std::fs::remove_file(disk).context("the image has gone")
}
