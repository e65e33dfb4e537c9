//! What a machine is made of: the user's wish, and the same validated.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use visor_block::BlockBackend;
use visor_disk::{Access, ImageOptions, RawDisk, RawOptions, open_disk};

use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{FirmwareKind, FirmwareSpec};
use crate::storage::{self, Cd, DiskBus};

/// Least RAM in bytes.
pub const MIN_MEMORY: u64 = 2 << 20;
/// Most RAM in bytes: what fits in 40 bits of address beside the devices.
pub const MAX_MEMORY: u64 = 1 << 39;

/// A machine as the user wishes it. Plain data; [`MachineSpec::validate`] makes a [`MachineConfig`] of it.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// Its name, for messages and thread names.
    pub name: String,
    /// RAM in bytes; a multiple of 4096 from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: u64,
    /// vCPUs, at least 1.
    pub cpus: u32,
    /// A CPU model of [`crate::CPU_MODELS`].
    pub cpu_model: String,
    /// The kernel to boot. With firmware: what that boots instead of a device (UEFI only).
    pub kernel: Option<FileSource>,
    /// The firmware to boot through; without it the kernel is entered directly.
    pub firmware: Option<FirmwareSpec>,
    /// The initial ramdisk.
    pub initrd: Option<FileSource>,
    /// The kernel command line.
    pub cmdline: String,
    /// Unpack the kernel on the host where that is possible ([`visor_firmware::BootSource::decompress`]).
    pub decompress: bool,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// A screen: a VGA with 16 MiB of memory.
    pub display: bool,
    /// The VGA's option ROM: what a BIOS needs to show anything.
    pub video_bios: Option<FileSource>,
    /// CD-ROM drives, in the order in which the guest finds them.
    pub cds: Vec<Cd>,
    /// Network devices, in the order in which the guest finds them.
    pub nics: Vec<crate::net::NicSpec>,
    /// Give the guest a port (F4h) with which it ends the machine.
    pub debug_exit: bool,
    /// Put an IOMMU (Intel VT-d) between PCI functions and memory, and between interrupt requests and CPUs.
    pub iommu: bool,
    /// Add the teaching device that test kernels use ([`visor_pci::edu`]).
    pub edu: bool,
    /// Stop instead of rebooting when the guest resets itself.
    pub no_reboot: bool,
    /// Watch how far the boot comes ([`crate::Timeline`]).
    pub timeline: bool,
    /// Stop after this much of the host's time.
    pub time_limit: Option<Duration>,
    /// The system's UUID.
    pub uuid: [u8; 16],
}

impl MachineSpec {
    /// A machine with 512 MiB, one CPU and nothing else that boots `kernel`.
    pub fn new(kernel: FileSource) -> Self {
        MachineSpec { kernel: Some(kernel), ..Self::default() }
    }

    /// The same that boots through `firmware`.
    pub fn with_firmware(firmware: FirmwareSpec) -> Self {
        MachineSpec { firmware: Some(firmware), ..Self::default() }
    }

    /// Checks everything that can be checked without a host.
    ///
    /// # Errors
    /// [`MachineErrorKind::Spec`] for the first value that is out of range.
    pub fn validate(self) -> Result<MachineConfig, MachineError> {
        let bad = |what: String| Err(MachineError::new(MachineErrorKind::Spec, what));
        if !self.memory.is_multiple_of(4096) || !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return bad(format!("{} bytes of memory: give a multiple of 4096 from 2 MiB to 512 GiB", self.memory));
        }
        match (&self.kernel, &self.firmware) {
            (None, None) => return bad("nothing to boot: neither a kernel nor a firmware".into()),
            (Some(_), Some(f)) if f.kind == FirmwareKind::Bios => {
                let mut e = MachineError::new(MachineErrorKind::Spec, "a BIOS boots no kernel that is not on a disk");
                e.hint = Some("leave the firmware out, or take UEFI".into());
                return Err(e);
            }
            _ => {}
        }
        if self.cpus == 0 {
            return bad("a machine needs at least one CPU".into());
        }
        if !crate::cpu::MODELS.iter().any(|m| m.name == self.cpu_model) {
            let names: Vec<_> = crate::cpu::MODELS.iter().map(|m| m.name).collect();
            return bad(format!("no CPU model is called {:?}; models are {}", self.cpu_model, names.join(", ")));
        }
        // Devices 0 and 1 are the chipset, three more are taken by console, entropy and a spare.
        if self.disks.len() > MAX_DISKS {
            return bad(format!("{} disks; {MAX_DISKS} is the most", self.disks.len()));
        }
        storage::check(&self.disks, &self.cds)?;
        crate::net::check(&self.nics)?;
        Ok(MachineConfig(self))
    }
}

impl Default for MachineSpec {
    /// A machine with 512 MiB and one CPU that has nothing to boot yet.
    fn default() -> Self {
        MachineSpec {
            name: "vm".into(),
            memory: 512 << 20,
            cpus: 1,
            cpu_model: "max".into(),
            kernel: None,
            firmware: None,
            initrd: None,
            cmdline: String::new(),
            decompress: true,
            disks: Vec::new(),
            nics: Vec::new(),
            cds: Vec::new(),
            display: false,
            video_bios: None,
            debug_exit: false,
            iommu: false,
            edu: false,
            no_reboot: false,
            timeline: false,
            time_limit: None,
            uuid: [0; 16],
        }
    }
}

/// Most disks of a machine.
pub const MAX_DISKS: usize = 24;

/// A machine whose values are in range.
#[derive(Clone, Debug)]
pub struct MachineConfig(MachineSpec);

impl MachineConfig {
    /// The same without disks and discs: who keeps it must not keep them open when they leave the machine.
    pub(crate) fn without_drives(&self) -> Self {
        MachineConfig(MachineSpec { disks: Vec::new(), cds: Vec::new(), ..self.0.clone() })
    }
}

impl std::ops::Deref for MachineConfig {
    type Target = MachineSpec;

    fn deref(&self) -> &MachineSpec {
        &self.0
    }
}

/// Where the contents of a file come from.
#[derive(Clone)]
pub enum FileSource {
    /// A file of the host, read when the guest boots and again when it reboots.
    Path(PathBuf),
    /// The contents themselves.
    Bytes(Arc<[u8]>),
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileSource::Path(p) => write!(f, "{}", p.display()),
            FileSource::Bytes(b) => write!(f, "{} bytes", b.len()),
        }
    }
}

/// A disk.
#[derive(Clone)]
pub struct Disk {
    /// The opened image.
    pub backend: Arc<dyn BlockBackend>,
    /// Serial number that the guest can read, up to 20 bytes.
    pub serial: String,
    /// The image's file, absolute and without links, if it is one: by this others find out who uses it.
    pub file: Option<PathBuf>,
    /// How it is connected.
    pub bus: DiskBus,
}

impl Disk {
    /// The raw image (or block device) at `path`; its serial number is the file's name.
    ///
    /// # Errors
    /// [`MachineErrorKind::File`] if it cannot be opened or is in use.
    pub fn open_raw(path: &Path, access: Access) -> Result<Self, MachineError> {
        let disk = RawDisk::open(path, access, &RawOptions::default()).map_err(|e| {
            // The reason names the file.
            MachineError::because(MachineErrorKind::File, "cannot use a disk", e)
        })?;
        Ok(Disk::new(Arc::new(disk), path))
    }

    /// The same disk, connected to `bus`.
    pub fn on(mut self, bus: DiskBus) -> Self {
        self.bus = bus;
        self
    }

    /// The image at `path` of whatever format `options` say or its contents show; its serial number is the file's name.
    ///
    /// # Errors
    /// [`MachineErrorKind::File`] if it cannot be opened or is in use.
    pub fn open(path: &Path, options: &ImageOptions) -> Result<Self, MachineError> {
        let backend = open_disk(path, options).map_err(|e| {
            // The reason names the file.
            MachineError::because(MachineErrorKind::File, "cannot use a disk", e)
        })?;
        Ok(Disk::new(backend, path))
    }

    fn new(backend: Arc<dyn BlockBackend>, path: &Path) -> Self {
        Disk { backend, serial: serial(path), file: path.canonicalize().ok(), bus: DiskBus::default() }
    }
}

fn serial(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.serial, self.backend.geometry())
    }
}

impl Cd {
    /// A drive with the image at `path` as its disc. Images are only read, and any number of users may have them open.
    ///
    /// # Errors
    /// [`MachineErrorKind::File`] if it cannot be opened or holds no disc.
    pub fn open(path: &Path) -> Result<Self, MachineError> {
        let options = RawOptions { lock: false, ..RawOptions::default() };
        let what = || format!("cannot use the disc {}", path.display());
        let disc = RawDisk::open(path, Access::ReadOnly, &options)
            .map_err(|e| MachineError::because(MachineErrorKind::File, what(), e))?;
        if disc.geometry().sectors < 4 {
            let what = format!("{}: it has less than 2048 bytes", what());
            return Err(MachineError::new(MachineErrorKind::File, what));
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Cd { disc: Some((Arc::new(disc), name)), ..Cd::default() })
    }
}
