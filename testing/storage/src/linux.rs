//! The guest's kernel and its initial ramfs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use visor_image::{ImageStore, Silent, Unpacked};
use visor_machine::{FileSource, MachineSpec};
use visor_test_linux::ramfs::Ramfs;

/// What every script begins with: programs, the usual mounts, the modules in order.
const PRELUDE: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /m/*; do insmod $m || echo CANNOT LOAD $m; done
say() { echo \"@@ $*\"; }
";

/// A kernel with modules, and busybox.
pub struct Linux {
    kernel: PathBuf,
    busybox: Vec<u8>,
    modules: Vec<(String, Vec<u8>)>,
}

impl Linux {
    /// The kernel of the package `kernel` with the modules `names` and what they need.
    ///
    /// # Errors
    /// If the packages cannot be had or the kernel has no such module.
    pub fn new(kernel: &str, names: &[&str]) -> anyhow::Result<Self> {
        let store = ImageStore::open(&ImageStore::default_directory());
        let packages = Unpacked::get(&store, &["busybox-static", kernel], &mut Silent)?;
        let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        let mut modules = Vec::new();
        for (number, path) in packages.modules(names)?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            modules.push((format!("{number:02}-{name}"), read(path)?));
        }
        let busybox = read(&packages.directory().join("bin/busybox"))?;
        Ok(Linux { kernel: packages.kernel()?, busybox, modules })
    }

    /// A machine whose first program is `script`, for busybox's shell, after the modules are loaded. `say WORDS` reaches
    /// [`crate::Session::expect`].
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub fn spec(&self, script: &str) -> anyhow::Result<MachineSpec> {
        let mut ramfs = Ramfs::new();
        ramfs.program("bin/busybox", self.busybox.clone());
        for (name, bytes) in &self.modules {
            ramfs.file(&format!("m/{name}"), bytes.clone());
        }
        for directory in ["mnt", "tmp"] {
            ramfs.file(&format!("{directory}/.keep"), Vec::new());
        }
        let init = format!("{PRELUDE}{script}\npoweroff -f\n");
        ramfs.program("init", init.into_bytes());
        let mut archive = Vec::new();
        ramfs.write(&mut archive)?;
        let mut spec = MachineSpec::new(FileSource::Path(self.kernel.clone()));
        spec.initrd = Some(FileSource::Bytes(Arc::from(archive)));
        spec.cmdline = "console=ttyS0 quiet panic=-1 cryptomgr.notests=1 tsc=reliable no_timer_check".into();
        spec.memory = 256 << 20;
        spec.no_reboot = true;
        Ok(spec)
    }
}
