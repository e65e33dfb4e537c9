//! The guest of `cargo xtask bench guest`.

use std::path::Path;

use anyhow::Context;

use crate::ramfs::Ramfs;
use crate::{BUSYBOX, KERNEL, cc, packages, sources};

/// Makes the benchmark's guest in `directory`: `vmlinuz`, `initrd.cpio`, and for running natively the same `bench` and `busybox`.
///
/// # Errors
/// If packages cannot be fetched, or gcc is missing or fails.
pub fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let packages = packages(&[KERNEL, BUSYBOX])?;
    let busybox = std::fs::read(packages.directory().join("bin/busybox")).context("busybox")?;
    let source = sources("bench");
    let program = directory.join("bench");
    cc::compile(&cc::files(&source)?, &[], &program)?;

    let mut ramfs = Ramfs::new();
    ramfs.program("init", std::fs::read(source.join("init"))?);
    ramfs.program("bin/busybox", busybox);
    // The rows' command lines are run by a shell.
    ramfs.link("bin/sh", "busybox");
    ramfs.program("bin/bench", std::fs::read(&program)?);
    ramfs.write_file(&directory.join("initrd.cpio"))?;
    copy(&packages.directory().join("bin/busybox"), &directory.join("busybox"))?;
    copy(&packages.kernel()?, &directory.join("vmlinuz"))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}
