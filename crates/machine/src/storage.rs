//! Drives: which place each gets, and the controllers that they are on.
//!
//! IDE has four places. Disks take them from the front, in the order in which systems look at them, and CD-ROM drives the secondary master
//! first, as people have wired PCs: `sda` is the primary master, `sdb` the primary slave, `sr0` the secondary master, and a third disk
//! takes what is left there. The SCSI adapter has room for more, and takes disks while the machine runs.

use std::sync::{Arc, PoisonError};

use visor_block::BlockBackend;
use visor_pci::{IntxPin, PciAddress, PciError};
use visor_storage::ide::{self, IdeDrives, IdeWires};
use visor_storage::{AtaDisk, Cdrom, DiskIdentity, Link, PacketDrive, ScsiUnit, Tray, Unit};
use visor_virtio::scsi::Scsi;

use crate::board::Board;
use crate::disks::Disks;
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{BootClass, Bootable};
use crate::spec::{Disk, MachineConfig};
use crate::timeline::Timeline;

/// How a disk is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DiskBus {
    /// A virtio block device of its own: `vda`, `vdb`, ... Fast; needs a driver that not every system has.
    #[default]
    Virtio,
    /// A drive on a virtio SCSI adapter: `sda`, `sdb`, ... Fast, any number; needs a driver that most systems of this century have.
    Scsi,
    /// A drive on the IDE controller: `sda`, `sdb`, ... At most [`IDE_PLACES`] with CD-ROM drives.
    Ide,
}

/// Drives that the IDE controller has room for.
pub const IDE_PLACES: usize = 4;

/// How a CD-ROM drive is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CdBus {
    /// On the IDE controller, where every system finds it.
    #[default]
    Ide,
    /// On the SCSI adapter.
    Scsi,
}

/// A CD-ROM drive, with or without a disc at the start.
#[derive(Clone, Default)]
pub struct Cd {
    /// The disc and its name.
    pub disc: Option<(Arc<dyn BlockBackend>, String)>,
    /// How it is connected.
    pub bus: CdBus,
}

impl std::fmt::Debug for Cd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.disc {
            Some((disc, name)) => write!(f, "{name:?} {:?}", disc.geometry()),
            None => f.write_str("no disc"),
        }
    }
}

/// The order in which places are given to disks, and to CD-ROM drives.
const DISK_PLACES: [(usize, usize); IDE_PLACES] = [(0, 0), (0, 1), (1, 0), (1, 1)];
const CD_PLACES: [(usize, usize); IDE_PLACES] = [(1, 0), (1, 1), (0, 1), (0, 0)];

/// The IDE function of the chipset.
const IDE: PciAddress = PciAddress { device: 1, function: 1 };

/// Checks that every drive has a place.
pub(crate) fn check(disks: &[crate::Disk], cds: &[Cd]) -> Result<(), MachineError> {
    let on_ide =
        disks.iter().filter(|d| d.bus == DiskBus::Ide).count() + cds.iter().filter(|c| c.bus == CdBus::Ide).count();
    if on_ide > IDE_PLACES {
        let what = format!(
            "{on_ide} drives on the IDE controller, which has room for {IDE_PLACES} disks and CD-ROM drives together"
        );
        return Err(MachineError::new(MachineErrorKind::Spec, what));
    }
    Ok(())
}

/// Every PC of the kind has the controller, drives or not.
pub(crate) fn ide(b: &mut Board<'_>) -> Result<(), MachineError> {
    let Placed { drives, trays, bootable } = place(b.config, &b.timeline, &b.built.disks);
    b.built.bootable.extend(bootable);
    let intx = {
        let pci = b.built.pci.clone().ok_or(PciError::Full)?;
        let pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
        // The function has no pin of its own: this line stays low.
        pci.intx(IDE, IntxPin::A)
    };
    let memory = b.pci_wires(IDE, intx).memory;
    let function = ide::build(IdeWires { memory, irqs: ide::IRQS.map(|irq| b.irqs.line(irq)) }, drives, &b.pio)?;
    b.built.trays = trays;
    b.function(IDE, function)
}

/// Drives in their places.
#[derive(Default)]
struct Placed {
    drives: IdeDrives,
    trays: Vec<Tray>,
    bootable: Vec<Bootable>,
}

fn place(config: &MachineConfig, timeline: &Timeline, known: &Disks) -> Placed {
    let Placed { mut drives, mut trays, mut bootable } = Placed::default();
    for (cd, (channel, drive)) in config.cds.iter().filter(|c| c.bus == CdBus::Ide).zip(CD_PLACES) {
        let (cdrom, tray) = cdrom(cd);
        let identity = DiskIdentity { serial: format!("CD{}", trays.len()), model: "VISOR CD-ROM".into() };
        drives[channel][drive] = Some(Unit::Packet(PacketDrive::new(cdrom, identity, Link::Parallel)));
        trays.push(tray);
        let (path, name) = (path(channel, drive), disc_name(cd));
        bootable.push(Bootable { class: BootClass::Cd, path, name, bios: true });
    }
    let disks = config.disks.iter().filter(|d| d.bus == DiskBus::Ide);
    let free: Vec<_> = DISK_PLACES.into_iter().filter(|(c, d)| drives[*c][*d].is_none()).collect();
    for (disk, (channel, drive)) in disks.zip(free) {
        let identity = DiskIdentity { serial: disk.serial.clone(), model: "VISOR DISK".into() };
        let attached: Arc<dyn BlockBackend> = known.register(disk);
        drives[channel][drive] =
            Some(Unit::Disk(AtaDisk::new(timeline.note_requests(&attached), identity, Link::Parallel)));
        let (path, name) = (path(channel, drive), disk.serial.clone());
        bootable.push(Bootable { class: BootClass::Disk, path, name, bios: true });
    }
    Placed { drives, trays, bootable }
}

/// A drive's Open Firmware path.
fn path(channel: usize, drive: usize) -> String {
    format!("ide@{:x},{:x}/drive@{channel}/disk@{drive}", IDE.device, IDE.function)
}

/// The drive's mechanism, with its disc.
fn cdrom(cd: &Cd) -> (Cdrom, Tray) {
    let cdrom = Cdrom::new("CD-ROM");
    let tray = cdrom.tray();
    if let Some((disc, name)) = &cd.disc
        && let Err(error) = tray.insert(disc.clone(), name)
    {
        tracing::warn!(disc = name, %error, "the drive starts without a disc");
    }
    (cdrom, tray)
}

fn disc_name(cd: &Cd) -> String {
    cd.disc.as_ref().map_or_else(|| "an empty CD-ROM drive".into(), |(_, name)| name.clone())
}

/// Addresses of disks on the SCSI bus; CD-ROM drives follow, so that a disk that is added keeps its order among disks.
pub(crate) const SCSI_DISKS: std::ops::Range<u8> = 0..24;
const SCSI_CDS: std::ops::Range<u8> = 24..visor_virtio::scsi::TARGETS;

/// Whether anything is to be on the SCSI adapter.
pub(crate) fn wants_scsi(config: &MachineConfig) -> bool {
    config.disks.iter().any(|d| d.bus == DiskBus::Scsi) || config.cds.iter().any(|c| c.bus == CdBus::Scsi)
}

/// The SCSI adapter and what is on it.
pub(crate) fn scsi(b: &mut Board<'_>) -> Result<(), MachineError> {
    let config = b.config;
    let (device, handle) = Scsi::new(config.cpus.min(4) as u16);
    let at = b.virtio(device)?;
    let full = |e| MachineError::because(MachineErrorKind::Spec, "too many drives on the SCSI adapter", e);
    for (target, disk) in SCSI_DISKS.zip(config.disks.iter().filter(|d| d.bus == DiskBus::Scsi)) {
        let attached: Arc<dyn BlockBackend> = b.built.disks.register(disk);
        handle.insert(target, scsi_disk(&attached, disk, &b.timeline)).map_err(full)?;
        b.built.disks.on_scsi(at, &handle, Some(target));
        b.built.bootable.push(Bootable::scsi(at, target, BootClass::Disk, disk.serial.clone()));
    }
    for (target, cd) in SCSI_CDS.zip(config.cds.iter().filter(|c| c.bus == CdBus::Scsi)) {
        let (cdrom, tray) = cdrom(cd);
        handle.insert(target, ScsiUnit::cdrom(cdrom)).map_err(full)?;
        b.built.trays.push(tray);
        b.built.bootable.push(Bootable::scsi(at, target, BootClass::Cd, disc_name(cd)));
    }
    b.built.disks.on_scsi(at, &handle, None);
    Ok(())
}

fn scsi_disk(backend: &Arc<dyn BlockBackend>, disk: &Disk, timeline: &Timeline) -> ScsiUnit {
    let identity = DiskIdentity { serial: disk.serial.clone(), model: "VISOR DISK".into() };
    ScsiUnit::disk(timeline.note_requests(backend), identity)
}
