//! The guest of `cargo xtask bench net`.

use std::path::Path;

use anyhow::Context;

use crate::ramfs::Ramfs;
use crate::{BUSYBOX, KERNEL, cc, packages, sources};

/// Makes the network benchmark's guest in `directory`: `vmlinuz` and `initrd.cpio`.
///
/// # Errors
/// If packages cannot be fetched, or gcc is missing or fails.
pub fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let packages = packages(&[KERNEL, BUSYBOX])?;
    let source = sources("net");
    let program = directory.join("net");
    cc::compile(&cc::files(&source)?, &[], &program)?;
    let mut ramfs = Ramfs::new();
    ramfs.program("init", std::fs::read(source.join("init"))?);
    ramfs.copy("bin/busybox", &packages.directory().join("bin/busybox"))?;
    ramfs.program("bin/net", std::fs::read(&program)?);
    for (number, module) in packages.modules(&["virtio_pci", "virtio_net"])?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        ramfs.copy(&format!("m/{number:02}-{name}"), module)?;
    }
    ramfs.write_file(&directory.join("initrd.cpio"))?;
    let kernel = packages.kernel()?;
    std::fs::copy(&kernel, directory.join("vmlinuz")).with_context(|| kernel.display().to_string())?;
    Ok(())
}
