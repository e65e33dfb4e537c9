//! Drives: which place each gets, and the controllers that they are on.
//!
//! IDE has four places. Disks take them from the front and CD-ROM drives the secondary master first, as people have wired PCs, so that a
//! disk does not change its place when a drive is added: `sda` is the primary master, `sdb` the primary slave, `sr0` the secondary
//! master.

use std::sync::{Arc, PoisonError};

use visor_block::BlockBackend;
use visor_pci::{IntxPin, PciAddress, PciError};
use visor_storage::ide::{self, IdeDrives, IdeWires};
use visor_storage::{AtaDisk, Cdrom, DiskIdentity, Link, PacketDrive, Tray, Unit};

use crate::board::Board;
use crate::disks::Disks;
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::{BootClass, Bootable};
use crate::spec::MachineConfig;
use crate::timeline::Timeline;

/// How a disk is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DiskBus {
    /// A virtio block device of its own: `vda`, `vdb`, ... Fast; needs a driver that not every system has.
    #[default]
    Virtio,
    /// A drive on the IDE controller: `sda`, `sdb`, ... At most [`IDE_PLACES`] with CD-ROM drives.
    Ide,
}

/// Drives that the IDE controller has room for.
pub const IDE_PLACES: usize = 4;

/// A CD-ROM drive, with or without a disc at the start.
#[derive(Clone, Default)]
pub struct Cd {
    /// The disc and its name.
    pub disc: Option<(Arc<dyn BlockBackend>, String)>,
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
const DISK_PLACES: [(usize, usize); IDE_PLACES] = [(0, 0), (0, 1), (1, 1), (1, 0)];
const CD_PLACES: [(usize, usize); IDE_PLACES] = [(1, 0), (1, 1), (0, 1), (0, 0)];

/// The IDE function of the chipset.
const IDE: PciAddress = PciAddress { device: 1, function: 1 };

/// Checks that every drive has a place.
pub(crate) fn check(disks: &[crate::Disk], cds: &[Cd]) -> Result<(), MachineError> {
    let on_ide = disks.iter().filter(|d| d.bus == DiskBus::Ide).count() + cds.len();
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
    for (cd, (channel, drive)) in config.cds.iter().zip(CD_PLACES) {
        let (unit, tray) = cd_unit(cd, trays.len());
        drives[channel][drive] = Some(unit);
        trays.push(tray);
        let name = cd.disc.as_ref().map_or_else(|| "an empty CD-ROM drive".into(), |(_, name)| name.clone());
        bootable.push(Bootable { class: BootClass::Cd, path: path(channel, drive), name });
    }
    let disks = config.disks.iter().filter(|d| d.bus == DiskBus::Ide);
    let free: Vec<_> = DISK_PLACES.into_iter().filter(|(c, d)| drives[*c][*d].is_none()).collect();
    for (disk, (channel, drive)) in disks.zip(free) {
        let identity = DiskIdentity { serial: disk.serial.clone(), model: "VISOR DISK".into() };
        let attached: Arc<dyn BlockBackend> = known.register(disk);
        drives[channel][drive] =
            Some(Unit::Disk(AtaDisk::new(timeline.note_requests(&attached), identity, Link::Parallel)));
        bootable.push(Bootable { class: BootClass::Disk, path: path(channel, drive), name: disk.serial.clone() });
    }
    Placed { drives, trays, bootable }
}

/// A drive's Open Firmware path.
fn path(channel: usize, drive: usize) -> String {
    format!("ide@{:x},{:x}/drive@{channel}/disk@{drive}", IDE.device, IDE.function)
}

fn cd_unit(cd: &Cd, number: usize) -> (Unit, Tray) {
    let cdrom = Cdrom::new("CD-ROM");
    let tray = cdrom.tray();
    if let Some((disc, name)) = &cd.disc
        && let Err(error) = tray.insert(disc.clone(), name)
    {
        tracing::warn!(disc = name, %error, "the drive starts without a disc");
    }
    let identity = DiskIdentity { serial: format!("CD{number}"), model: "VISOR CD-ROM".into() };
    (Unit::Packet(PacketDrive::new(cdrom, identity, Link::Parallel)), tray)
}
