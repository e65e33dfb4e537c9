//! The tray of a CD-ROM drive, between the guest's drive and the host that puts discs into it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_block::BlockBackend;

use super::SECTORS_PER_BLOCK;
use crate::scsi::{Sense, sense};

/// The host's hand on a drive's tray; clones hold the same one.
///
/// A guest learns of changes as from a real drive: its next command fails once with "medium may have changed", and its polls for
/// media events tell of new, removed and wanted discs (MMC-6 §6.6).
#[derive(Clone)]
pub struct Tray(Arc<Mutex<State>>);

/// What is in a tray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrayState {
    /// Name of the disc, as it was given on insertion.
    pub disc: Option<String>,
    /// The tray is open.
    pub open: bool,
    /// The guest has locked it.
    pub locked: bool,
}

/// What a press of the eject button did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectOutcome {
    /// The tray is open and empty.
    Ejected,
    /// The guest has locked the tray. It has been told of the wish, and may eject the disc by itself.
    Requested,
}

/// Why a disc could not be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrayError {
    /// There is one already.
    #[error("the drive already has a disc; eject it first")]
    Occupied,
    /// It has not even one block of 2048 bytes.
    #[error("the disc is empty: it has less than 2048 bytes")]
    Empty,
}

/// Media events (MMC-6 table 347).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaEvent {
    None = 0,
    EjectRequest = 1,
    NewMedia = 2,
    Removal = 3,
}

#[derive(Default)]
struct State {
    disc: Option<Disc>,
    open: bool,
    locked: bool,
    attention: Option<Sense>,
    eject_request: bool,
    /// At most one of removal and insertion matters: the newer.
    change: Option<MediaEvent>,
}

/// A disc in the drive.
#[derive(Clone)]
pub(super) struct Disc {
    pub(super) name: String,
    pub(super) backend: Arc<dyn BlockBackend>,
    /// Capacity in blocks of 2048 bytes, at least 1.
    pub(super) blocks: u32,
}

impl Default for Tray {
    fn default() -> Self {
        Tray(Arc::new(Mutex::new(State { attention: Some(sense::POWER_ON), ..State::default() })))
    }
}

impl Tray {
    /// Puts a disc in and closes the tray. `name` is what [`Tray::state`] calls it.
    ///
    /// # Errors
    /// [`TrayError`]; nothing changes then.
    pub fn insert(&self, backend: Arc<dyn BlockBackend>, name: &str) -> Result<(), TrayError> {
        let blocks = (backend.geometry().sectors / SECTORS_PER_BLOCK).min(u32::MAX.into()) as u32;
        if blocks == 0 {
            return Err(TrayError::Empty);
        }
        let mut s = self.lock();
        if s.disc.is_some() {
            return Err(TrayError::Occupied);
        }
        s.disc = Some(Disc { name: name.into(), backend, blocks });
        s.arrived();
        Ok(())
    }

    /// Presses the eject button: opens the tray unless the guest has locked it, in which case the guest is asked. With `force`,
    /// the lock is overcome, as with a paper clip.
    pub fn eject(&self, force: bool) -> EjectOutcome {
        let mut s = self.lock();
        if s.locked && !force {
            s.eject_request = true;
            return EjectOutcome::Requested;
        }
        s.locked = false;
        s.remove();
        s.disc = None;
        EjectOutcome::Ejected
    }

    /// What is in it.
    pub fn state(&self) -> TrayState {
        let s = self.lock();
        TrayState { disc: s.disc.as_ref().map(|d| d.name.clone()), open: s.open, locked: s.locked }
    }

    /// The disc, if the tray is closed on one.
    pub(super) fn disc(&self) -> Option<Disc> {
        let s = self.lock();
        if s.open { None } else { s.disc.clone() }
    }

    /// Whether the tray is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    pub(super) fn is_locked(&self) -> bool {
        self.lock().locked
    }

    pub(super) fn set_locked(&self, locked: bool) {
        self.lock().locked = locked;
    }

    /// The guest opens the tray; false if it is locked. The disc stays in the tray until the host takes it, so that closing
    /// the tray finds it again.
    pub(super) fn open(&self) -> bool {
        let mut s = self.lock();
        if s.locked {
            return false;
        }
        if !s.open {
            s.remove();
        }
        true
    }

    /// The guest closes the tray.
    pub(super) fn close(&self) {
        let mut s = self.lock();
        if s.open {
            s.open = false;
            if s.disc.is_some() {
                s.arrived();
            }
        }
    }

    /// The condition that the next command must fail with, once.
    pub(super) fn take_attention(&self) -> Option<Sense> {
        self.lock().attention.take()
    }

    /// The oldest event that has not been told.
    pub(super) fn take_event(&self) -> MediaEvent {
        let mut s = self.lock();
        if let Some(change) = s.change.take() {
            return change;
        }
        if std::mem::take(&mut s.eject_request) { MediaEvent::EjectRequest } else { MediaEvent::None }
    }

    /// A reset: the lock falls; the guest learns of a hard one. The tray stays as it is, so that a machine which ejected its disc
    /// before it rebooted does not find the disc again.
    pub(super) fn reset(&self, hard: bool) {
        let mut s = self.lock();
        s.locked = false;
        s.eject_request = false;
        if hard {
            s.attention = Some(sense::POWER_ON);
            s.change = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn arrived(&mut self) {
        self.open = false;
        self.eject_request = false;
        self.attention = Some(sense::MEDIUM_CHANGED);
        self.change = Some(MediaEvent::NewMedia);
    }

    /// The medium goes out of reach. What was said of its arrival and not yet heard is void.
    fn remove(&mut self) {
        self.open = true;
        self.eject_request = false;
        if self.attention == Some(sense::MEDIUM_CHANGED) {
            self.attention = None;
        }
        self.change = self.disc.is_some().then_some(MediaEvent::Removal);
    }
}

impl std::fmt::Debug for Tray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state().fmt(f)
    }
}
