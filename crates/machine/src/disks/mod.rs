//! The disks of a machine while it runs: which there are, putting more in, taking them out, and changing them in use.
//!
//! - `attached`: what stands between a device and its back end: counters, and waiting for room;
//! - `space`: the machine stands still while requests wait for room;
//! - `plug`: virtio disks that come and go in PCI slots.

mod attached;
mod plug;
mod space;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use visor_block::{BlockBackend, BlockError};
use visor_pci::PciAddress;
use visor_storage::{DiskIdentity, ScsiUnit};
use visor_virtio::blk::{Blk, BlkConfig, BlkHandle};
use visor_virtio::scsi::{Scsi, ScsiHandle};

use crate::DiskBus;
use crate::spec::Disk;
use crate::storage::SCSI_DISKS;

pub(crate) use attached::Attached;
pub use attached::DiskStats;
use plug::Function;
pub(crate) use plug::{Plug, build};
pub(crate) use space::{Space, main};

/// What cannot be done with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No disk has the name.
    #[error("the machine has no disk `{0}`")]
    Missing(String),
    /// A disk has the name already.
    #[error("the machine has a disk `{0}` already")]
    Taken(String),
    /// All slots are in use.
    #[error("all {0} slots for disks are in use")]
    Full(usize),
    /// The disk or its bus cannot.
    #[error("{0}")]
    Unsupported(String),
    /// The guest has not let go of the disk in time. It may still do so.
    #[error("the guest has not let go of `{0}` yet")]
    Held(String),
    /// The image's error.
    #[error("the image refuses")]
    Image(#[from] BlockError),
}

/// A disk, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Its name, which is the serial number that the guest reads (the first 20 bytes).
    pub name: String,
    /// The image's file, absolute and without links, if it is one.
    pub file: Option<PathBuf>,
    /// How it is connected.
    pub bus: DiskBus,
    /// Its PCI device, or that of the adapter, if it can be taken out.
    pub at: Option<PciAddress>,
    /// Its address on the SCSI bus.
    pub target: Option<u8>,
    /// Capacity in sectors.
    pub sectors: u64,
    /// The guest cannot write.
    pub read_only: bool,
    /// The guest has been asked to let go of it.
    pub leaving: bool,
    /// How requests reach the host.
    pub means: String,
    /// Limits on requests and bytes per second, zero for none, if they can be changed.
    pub limits: Option<(u64, u64)>,
    /// What it has done.
    pub stats: DiskStats,
    /// Why requests wait for the host, if they do.
    pub waits: Option<String>,
}

/// The disks of a machine.
#[derive(Default)]
pub struct Disks {
    list: Mutex<Vec<Entry>>,
    /// One has left.
    left: Condvar,
    space: Arc<Space>,
    plug: OnceLock<Plug>,
    /// The SCSI adapter.
    scsi: Mutex<Option<(PciAddress, ScsiHandle)>>,
    /// Threads that close the images of disks that have left, by their names.
    closing: Mutex<Vec<(String, JoinHandle<()>)>>,
}

struct Entry {
    name: String,
    file: Option<PathBuf>,
    bus: DiskBus,
    at: Option<PciAddress>,
    disk: Arc<Attached>,
    blk: Option<BlkHandle>,
    /// Its place on the SCSI bus.
    scsi: Option<(ScsiHandle, u8)>,
    leaving: bool,
}

impl Entry {
    fn new(name: String, spec: &Disk, disk: Arc<Attached>) -> Self {
        Entry { name, file: spec.file.clone(), bus: spec.bus, at: None, disk, blk: None, scsi: None, leaving: false }
    }

    fn info(&self) -> DiskInfo {
        let geometry = self.disk.geometry();
        DiskInfo {
            name: self.name.clone(),
            file: self.file.clone(),
            bus: self.bus,
            at: self.at,
            target: self.scsi.as_ref().map(|(_, target)| *target),
            sectors: geometry.sectors,
            read_only: geometry.read_only,
            leaving: self.leaving,
            means: self.disk.means(),
            limits: self.disk.as_limits().map(visor_block::DiskLimits::limits),
            stats: self.disk.stats(),
            waits: self.disk.waits(),
        }
    }
}

impl Disks {
    /// All of them, in the order in which they came.
    pub fn list(&self) -> Vec<DiskInfo> {
        self.lock().iter().map(Entry::info).collect()
    }

    /// Puts `disk` into the machine and tells the guest: as a virtio block device in a free PCI slot, or on the SCSI adapter, which is
    /// plugged as well if the machine has none.
    ///
    /// # Errors
    /// [`DiskError::Taken`], [`DiskError::Full`], [`DiskError::Unsupported`] for another bus.
    pub fn attach(&self, disk: &Disk, queues: u16) -> Result<DiskInfo, DiskError> {
        let plug = self.plug.get().ok_or_else(|| DiskError::Unsupported("the machine has no slots".into()))?;
        let mut list = self.lock();
        if list.iter().any(|e| e.name == disk.serial) {
            return Err(DiskError::Taken(disk.serial.clone()));
        }
        let attached = Attached::new(disk.backend.clone(), &disk.serial, self.space.clone());
        let mut entry = Entry::new(disk.serial.clone(), disk, attached.clone());
        let new = match disk.bus {
            DiskBus::Virtio => {
                let blk = Blk::new(attached, &BlkConfig { queues, serial: disk.serial.clone() });
                entry.blk = Some(blk.handle());
                let at = plug.insert(Box::new(blk))?;
                entry.at = Some(at);
                Some(at)
            }
            DiskBus::Scsi => self.attach_scsi(plug, disk, attached, &mut entry, queues)?,
            DiskBus::Ide => {
                let what = "an IDE drive cannot be added while the machine runs; a virtio or SCSI disk can";
                return Err(DiskError::Unsupported(what.into()));
            }
        };
        let info = entry.info();
        list.push(entry);
        drop(list);
        if let Some(at) = new {
            plug.announce(at.device);
        }
        Ok(info)
    }

    /// Puts a disk on the SCSI bus; gives the adapter's address if the guest has to hear of that first.
    fn attach_scsi(
        &self,
        plug: &Plug,
        disk: &Disk,
        attached: Arc<Attached>,
        entry: &mut Entry,
        queues: u16,
    ) -> Result<Option<PciAddress>, DiskError> {
        let mut adapter = self.scsi.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, handle, new) = match &*adapter {
            Some((at, handle)) => (*at, handle.clone(), None),
            None => {
                let (device, handle) = Scsi::new(queues);
                let at = plug.insert(Box::new(device))?;
                *adapter = Some((at, handle.clone()));
                (at, handle, Some(at))
            }
        };
        let target = handle.free(SCSI_DISKS).ok_or(DiskError::Full(SCSI_DISKS.len()))?;
        let identity = DiskIdentity { serial: disk.serial.clone(), model: "VISOR DISK".into() };
        let full = |e| DiskError::Unsupported(format!("the SCSI bus does not take it: {e}"));
        handle.insert(target, ScsiUnit::disk(attached, identity)).map_err(full)?;
        (entry.at, entry.scsi) = (Some(at), Some((handle, target)));
        Ok(new)
    }

    /// Asks the guest to let go of the disk and waits for that up to `patience`; when this returns `Ok`, the image is closed. With
    /// `force`, it is pulled out if the guest does not let go.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Held`], [`DiskError::Unsupported`] for a disk that cannot be taken out.
    pub fn detach(&self, name: &str, patience: Duration, force: bool) -> Result<(), DiskError> {
        if let Some(done) = self.detach_scsi(name) {
            return done;
        }
        let slot = {
            let mut list = self.lock();
            let entry = list.iter_mut().find(|e| e.name == name).ok_or_else(|| DiskError::Missing(name.into()))?;
            let slot = entry.at.filter(|_| entry.blk.is_some());
            let Some(at) = slot else {
                return Err(DiskError::Unsupported(format!(
                    "`{name}` is an IDE drive, which stays while the machine runs"
                )));
            };
            entry.leaving = true;
            at.device
        };
        let Some(plug) = self.plug.get() else { return Err(DiskError::Held(name.into())) };
        plug.ask(slot);
        let here = |list: &mut Vec<Entry>| list.iter().any(|e| e.name == name);
        let waited = self.left.wait_timeout_while(self.lock(), patience, here);
        let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        match (timed_out, force) {
            (true, false) => return Err(DiskError::Held(name.into())),
            (true, true) => {
                plug.forget(slot);
                self.remove(slot);
            }
            (false, _) => {}
        }
        self.join(name);
        Ok(())
    }

    /// Takes a disk off the SCSI bus, of which the guest is told; there it need not be asked. `None` if the disk is not there.
    fn detach_scsi(&self, name: &str) -> Option<Result<(), DiskError>> {
        let mut list = self.lock();
        let index = list.iter().position(|e| e.name == name && e.scsi.is_some())?;
        let entry = list.remove(index);
        drop(list);
        if let Some((handle, target)) = &entry.scsi {
            handle.remove(*target);
        }
        self.close(vec![entry], Vec::new());
        self.join(name);
        Some(Ok(()))
    }

    /// Waits until the image of a disk that has left is closed.
    fn join(&self, name: &str) {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = closing.iter().position(|(n, _)| n == name) {
            let (_, thread) = closing.swap_remove(i);
            drop(closing);
            // A panic in it has dropped the image as well.
            let _ = thread.join();
        }
    }

    /// Gives the disk `sectors` and tells the guest.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Unsupported`] where bus or image cannot, [`DiskError::Image`].
    pub fn resize(&self, name: &str, sectors: u64) -> Result<DiskInfo, DiskError> {
        let (disk, blk, scsi) = self.find(name, |e| (e.disk.clone(), e.blk.clone(), e.scsi.clone()))?;
        if blk.is_none() && scsi.is_none() {
            let what = format!("`{name}` is an IDE drive: its size holds as long as the machine runs");
            return Err(DiskError::Unsupported(what));
        }
        let resize = disk.as_resize();
        let resize =
            resize.ok_or_else(|| DiskError::Unsupported(format!("the image of `{name}` cannot change its size")))?;
        resize.resize(sectors)?;
        if let Some(blk) = blk {
            blk.resized();
        }
        if let Some((adapter, target)) = scsi {
            adapter.resized(target);
        }
        self.find(name, Entry::info)
    }

    /// Keeps the disk as it is now under `snapshot`; `seconds` is the time since 1970. What the guest has not written yet is not in
    /// it.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Unsupported`], [`DiskError::Image`].
    pub fn snapshot(&self, name: &str, snapshot: &str, seconds: u32) -> Result<(), DiskError> {
        let disk = self.find(name, |e| e.disk.clone())?;
        let snapshots = disk.as_snapshots();
        let none = || DiskError::Unsupported(format!("the image of `{name}` has no snapshots; a qcow2 image has"));
        Ok(snapshots.ok_or_else(none)?.create(snapshot, seconds)?)
    }

    /// Allows so many requests and bytes per second, zero for any number.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Unsupported`] for a disk that was attached without the means for it.
    pub fn limit(&self, name: &str, requests: u64, bytes: u64) -> Result<(), DiskError> {
        let disk = self.find(name, |e| e.disk.clone())?;
        let limits = disk.as_limits();
        limits
            .ok_or_else(|| DiskError::Unsupported(format!("`{name}` cannot be limited")))?
            .set_limits(requests, bytes);
        Ok(())
    }

    /// Why requests wait for room on the host, for each disk where they do. The machine stands still meanwhile.
    pub fn waiting(&self) -> Vec<String> {
        self.lock().iter().filter_map(|e| e.disk.waits()).collect()
    }

    /// Notes a disk that the machine starts with, and gives what its device uses.
    pub(crate) fn register(&self, disk: &Disk) -> Arc<Attached> {
        let attached = Attached::new(disk.backend.clone(), &disk.serial, self.space.clone());
        let entry = Entry::new(self.free_name(&disk.serial), disk, attached.clone());
        self.lock().push(entry);
        attached
    }

    /// Tells where the disk registered last has got to.
    pub(crate) fn placed(&self, at: PciAddress, blk: BlkHandle) {
        if let Some(entry) = self.lock().last_mut() {
            (entry.at, entry.blk) = (Some(at), Some(blk));
        }
    }

    /// Tells that the disk registered last is at `target` of the SCSI adapter at `at`.
    pub(crate) fn on_scsi(&self, at: PciAddress, handle: &ScsiHandle, target: Option<u8>) {
        *self.scsi.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, handle.clone()));
        if let (Some(entry), Some(target)) = (self.lock().last_mut(), target) {
            (entry.at, entry.scsi) = (Some(at), Some((handle.clone(), target)));
        }
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Tries requests again that wait for room; true if none waits any more.
    pub(crate) fn retry(&self) -> bool {
        let disks: Vec<_> = self.lock().iter().map(|e| e.disk.clone()).filter(|d| d.waits().is_some()).collect();
        for disk in &disks {
            disk.retry();
        }
        disks.iter().for_each(|d| d.settle());
        disks.iter().all(|d| d.waits().is_none())
    }

    /// The machine ends: nothing waits.
    pub(crate) fn end(&self) {
        self.lock().iter().for_each(|e| e.disk.give_up());
        self.space.end();
    }

    /// `serial`, made different from the names there are.
    fn free_name(&self, serial: &str) -> String {
        let list = self.lock();
        let names = std::iter::once(serial.to_owned()).chain((2..).map(|n| format!("{serial}-{n}")));
        names.into_iter().find(|n| list.iter().all(|e| e.name != *n)).unwrap_or_default()
    }

    fn find<T>(&self, name: &str, f: impl FnOnce(&Entry) -> T) -> Result<T, DiskError> {
        self.lock().iter().find(|e| e.name == name).map(f).ok_or_else(|| DiskError::Missing(name.into()))
    }

    /// Takes what is in `slot` off the bus.
    fn remove(&self, slot: u8) {
        let functions = self.plug.get().map(|p| p.remove(slot)).unwrap_or_default();
        let at = PciAddress::device(slot);
        let mut adapter = self.scsi.lock().unwrap_or_else(PoisonError::into_inner);
        if adapter.as_ref().is_some_and(|(a, _)| *a == at) {
            *adapter = None;
        }
        drop(adapter);
        let mut list = self.lock();
        let (gone, kept) = std::mem::take(&mut *list).into_iter().partition(|e| e.at == Some(at));
        *list = kept;
        drop(list);
        self.close(gone, functions);
        self.left.notify_all();
    }

    /// Closes the images of disks that have left. Their requests may take time, so another thread waits for them.
    fn close(&self, gone: Vec<Entry>, functions: Vec<Function>) {
        let Some(name) = gone.first().map(|e| e.name.clone()) else { return };
        let work = move || {
            drop(functions);
            gone.iter().for_each(|e| e.disk.give_up());
            gone.iter().for_each(|e| e.disk.settle());
        };
        // Without a thread all that is dropped here.
        if let Ok(thread) = std::thread::Builder::new().name("detach".into()).spawn(work) {
            let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
            closing.retain(|(_, t)| !t.is_finished());
            closing.push((name, thread));
        }
    }

    pub(crate) fn set_plug(&self, plug: Plug) {
        // A machine is put together once.
        let _ = self.plug.set(plug);
    }

    /// Slots of disks, as a bit map.
    pub(crate) fn slots(&self) -> u32 {
        self.lock().iter().filter(|e| e.blk.is_some()).filter_map(|e| e.at).fold(0, |map, at| map | 1 << at.device)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
