//! The host's C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The C files of a directory, sorted.
///
/// # Errors
/// If it cannot be read or has none.
pub fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "c"));
    files.sort();
    if files.is_empty() {
        bail!("no C files in {}", directory.display());
    }
    Ok(files)
}

/// Compiles and links `sources` into the static program `output`, with `flags` after the usual ones.
///
/// # Errors
/// With the compiler's complaint.
pub fn compile(sources: &[PathBuf], flags: &[&str], output: &Path) -> anyhow::Result<()> {
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror"]).args(sources).args(flags);
    gcc.arg("-lm").arg("-o").arg(output);
    let done = gcc.output().context("the guest programs need gcc (apt-get install gcc libc6-dev)")?;
    if !done.status.success() {
        bail!("gcc failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
