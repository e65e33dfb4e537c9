//! The rules of ARCHITECTURE.md that a program can check.

mod layers;
mod lengths;
mod map;
mod texts;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::root;

/// Checks all rules; with `bless`, records the current lengths in the ratchet file.
pub(crate) fn run(bless: bool) -> anyhow::Result<()> {
    let files = tracked()?;
    let mut faults = Vec::new();
    layers::check(&mut faults)?;
    texts::check(&files, &mut faults)?;
    map::check(&files, &mut faults)?;
    lengths::check(&files, bless, &mut faults)?;
    if faults.is_empty() {
        eprintln!("tidy: {} files, no faults", files.len());
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} faults", faults.len());
}

/// The files that git tracks or would track, relative to the root.
fn tracked() -> anyhow::Result<Vec<PathBuf>> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("cannot run git")?;
    let list = String::from_utf8_lossy(&out.stdout);
    let files: Vec<_> = list.lines().map(PathBuf::from).filter(|f| root().join(f).is_file()).collect();
    if files.is_empty() {
        bail!("git lists no files: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(files)
}
