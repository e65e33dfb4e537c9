//! Boot of one kernel and initramfs, from exec to its first user-space line.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::side::{Guest, Side};
use super::table::median;
use crate::shell::{root, step};

const LIMIT: Duration = Duration::from_secs(180);

pub(super) fn run(pairs: usize, files: Option<(String, String)>) -> anyhow::Result<()> {
    let visor = Side::visor("")?;
    let (kernel, initrd) = match files {
        Some(files) => files,
        None => tiny()?,
    };
    let qemu = Side::qemu("qemu".to_owned(), "qemu-system-x86_64")?;
    let guest = Guest { kernel, initrd, append: "console=ttyS0 quiet".to_owned(), cpus: 1 };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 1..=pairs.max(1) {
        theirs.push(qemu.run(&guest, true, LIMIT)?);
        ours.push(visor.run(&guest, true, LIMIT)?);
        let last = |runs: &[super::side::Run]| runs.last().map_or(f64::NAN, |r| r.ready);
        eprintln!("pair {pair}: qemu {:.2} s, visor {:.2} s", last(&theirs), last(&ours));
    }
    println!("{:<24}{:>10}{:>10}{:>14}", "boot to user space", "qemu tcg", "visor", "visor/qemu");
    let wall = |runs: &[super::side::Run]| median(&runs.iter().map(|r| r.ready).collect::<Vec<_>>());
    let cpu = |runs: &[super::side::Run]| median(&runs.iter().map(|r| r.cpu).collect::<Vec<_>>());
    for (row, a, b) in [("wall, s", wall(&theirs), wall(&ours)), ("host CPU, s", cpu(&theirs), cpu(&ours))] {
        println!("{row:<24}{a:>10.2}{b:>10.2}{:>14.2}", b / a);
    }
    Ok(())
}

/// Kernel and initramfs of the image `tiny`, made if it is not there.
fn tiny() -> anyhow::Result<(String, String)> {
    let visor = root().join("target/release/visor");
    step("image", Command::new(&visor).args(["image", "build", "tiny"]))?;
    let list = Command::new(&visor).args(["image", "ls", "--json"]).output()?;
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).context("visor image ls --json")?;
    let image = list.as_array().and_then(|l| l.iter().find(|i| i["name"] == "tiny")).context("no image `tiny`")?;
    let path = |key: &str| image[key].as_str().map(str::to_owned).with_context(|| format!("image without {key}"));
    Ok((path("kernel")?, path("initrd")?))
}
