//! From exec to the boot loader's first byte, through the firmware of Debian's packages seabios and ovmf; and what a screen costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use self::disk::{BootSector, efi_disk, efi_program};
use super::idle_screen;
use super::side::{Guest, Run, Side};
use super::table::median;
use crate::shell::{cargo, root, step};

/// The disks are those of the end-to-end tests.
#[path = "../../../crates/cli/tests/common/boot.rs"]
#[expect(dead_code, reason = "a benchmark needs part of it")]
mod disk;

const LIMIT: Duration = Duration::from_secs(300);
const QEMU: &str = "qemu-system-x86_64 -M pc -accel tcg,thread=multi -cpu max -m 512 -nodefaults -no-user-config -display none \
                    -serial stdio -no-reboot -drive file={kernel},format=raw,if=virtio,snapshot=on";
const QEMU_UEFI: &str = "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
                         -drive if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
const VISOR: &str = "-q run --engine soft --memory 512M --no-reboot --net none --bus virtio --disk {kernel},ro";

pub(super) fn run(pairs: usize, visor: Option<String>) -> anyhow::Result<()> {
    let visor = match visor {
        Some(program) => program,
        None => {
            step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
            root().join("target/release/visor").to_string_lossy().into_owned()
        }
    };
    if !Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        bail!("QEMU needs the same firmware (apt-get install ovmf seabios)");
    }
    let directory = std::env::temp_dir().join(format!("visor-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // All figures, whatever the first ones are.
    let done = [compare(pairs, &directory, &visor), idle_screen::run(&visor, &directory), screen()];
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    let failed: Vec<String> = done.into_iter().filter_map(|d| d.err().map(|e| format!("{e:#}"))).collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// What a screen costs, which the example of the crate `display` measures and compares with what is promised.
fn screen() -> anyhow::Result<()> {
    let args = ["run", "--release", "--locked", "--package", "visor-display", "--example", "screen_cost"];
    step("bench screen", &mut cargo(&args))
}

fn compare(pairs: usize, directory: &Path, program: &str) -> anyhow::Result<()> {
    // mov dx, 3f8h, then each byte: mov al, byte; out dx, al
    let ready = b"READY\n".iter().flat_map(|b| [0xb0, *b, 0xee]);
    let sector = BootSector::new().code(&[0xba, 0xf8, 0x03].into_iter().chain(ready).collect::<Vec<u8>>()).power_off();
    let rows = [
        ("SeaBIOS", sector.disk("\0"), "", ""),
        ("OVMF", efi_disk(&efi_program("READY", "READY")), QEMU_UEFI, "--firmware uefi"),
    ];
    println!("{:<24}{:>10}{:>10}{:>14}", "to the first byte, ms", "qemu tcg", "visor", "visor/qemu");
    let mut slower = Vec::new();
    for (name, contents, qemu, visor) in rows {
        let path = directory.join(name);
        std::fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        let kernel = path.to_string_lossy().into_owned();
        let guest = Guest { kernel, initrd: String::new(), append: String::new(), cpus: 1 };
        let qemu = Side::qemu("qemu".to_owned(), &format!("{QEMU} {qemu}"))?;
        let words: Vec<&str> = VISOR.split_whitespace().chain(visor.split_whitespace()).collect();
        let visor = Side::with("visor", &[program], &words, &[]);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..pairs.max(1) {
            theirs.push(qemu.run(&guest, true, LIMIT)?);
            ours.push(visor.run(&guest, true, LIMIT)?);
        }
        let of = |runs: &[Run], f: fn(&Run) -> f64| median(&runs.iter().map(f).collect::<Vec<_>>());
        for (row, f) in [("wall", (|r| r.ready) as fn(&Run) -> f64), ("host CPU", |r| r.cpu)] {
            let (a, b) = (of(&theirs, f), of(&ours, f));
            println!("{:<24}{:>10.1}{:>10.1}{:>14.2}", format!("{name}, {row}"), a * 1e3, b * 1e3, b / a);
            if row == "wall" && b > a {
                slower.push(name);
            }
        }
    }
    if slower.is_empty() { Ok(()) } else { bail!("slower than QEMU: {}", slower.join(", ")) }
}
