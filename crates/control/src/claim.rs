//! Owning a name. The lock file tells the living from the dead: the system releases a lock with its process, however that ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use crate::place::Place;
use crate::record::MachineRecord;

/// How often a lock is tried that may be held for a moment only, by somebody who looks or cleans up, or by a process that is ending.
const TRIES: u32 = 200;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// A name that is this process's as long as the value lives.
#[derive(Debug)]
pub struct Claim {
    place: Place,
    _lock: File,
}

/// Why a name cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A machine of that name runs.
    #[error("a machine called `{name}` runs already{}", holder(.record.as_deref()))]
    Taken {
        /// The name.
        name: String,
        /// What it tells of itself.
        record: Option<Box<MachineRecord>>,
    },
    /// The file system refuses.
    #[error("cannot register the machine `{name}`")]
    Io {
        /// The name.
        name: String,
        /// What it says.
        source: io::Error,
    },
}

fn holder(record: Option<&MachineRecord>) -> String {
    record.map(|r| format!(" (process {}, {})", r.pid, r.image)).unwrap_or_default()
}

/// Whether somebody owns a name.
pub(crate) enum Probe {
    Alive,
    Nobody,
}

impl Claim {
    /// Makes `place` this process's. What a killed machine left there is removed.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] with who has it.
    pub fn take(place: &Place) -> Result<Self, ClaimError> {
        let error = |source| ClaimError::Io { name: place.name().into(), source };
        for tries in 1.. {
            let lock = match open(place) {
                Ok(lock) => lock,
                // Somebody has just cleaned up.
                Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => continue,
                Err(e) => return Err(error(e)),
            };
            match lock.try_lock() {
                Ok(()) if is_at(&lock, place) => {
                    clear(place);
                    return Ok(Claim { place: place.clone(), _lock: lock });
                }
                // The file was removed between the two steps: this lock is nobody's.
                Ok(()) => {}
                // Who owns the name has written so; who only looks is gone in a moment.
                Err(TryLockError::WouldBlock) if tries < TRIES && !lives(place) => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let record = place.record().map(Box::new);
                    return Err(ClaimError::Taken { name: place.name().into(), record });
                }
                Err(TryLockError::Error(e)) => return Err(error(e)),
            }
        }
        Err(error(ErrorKind::WouldBlock.into()))
    }

    /// Whose it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Tells what the machine is, for lists and for who wants the same name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn describe(&self, record: &MachineRecord) -> io::Result<()> {
        let new = self.place.directory.join("machine.json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        fs::rename(new, self.place.directory.join("machine.json"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.place);
    }
}

/// Finds out whether somebody owns `place`, and removes what is left if nobody does.
pub(crate) fn probe(place: &Place) -> Probe {
    for _ in 0..TRIES {
        let Ok(lock) = File::open(lock_path(place)) else { return Probe::Nobody };
        match lock.try_lock() {
            Ok(()) => {
                if is_at(&lock, place) {
                    remove(place);
                }
                return Probe::Nobody;
            }
            Err(_) if lives(place) => return Probe::Alive,
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    Probe::Alive
}

/// Whether the process that described itself last is there and not about to end: one that was killed holds its locks until all its
/// threads have ended. Only the lock says whether it is a machine's.
fn lives(place: &Place) -> bool {
    let pid = place.record().and_then(|r| i32::try_from(r.pid).ok()).map(nix::unistd::Pid::from_raw);
    // proc_pid_stat(5): the state follows the name in parentheses.
    let stat = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let dying = |pid| stat(pid).rsplit(')').next().is_some_and(|s| s.trim_start().starts_with(['Z', 'X']));
    pid.is_some_and(|pid| nix::sys::signal::kill(pid, None).is_ok() && !dying(pid))
}

fn lock_path(place: &Place) -> std::path::PathBuf {
    place.directory.join("lock")
}

fn open(place: &Place) -> io::Result<File> {
    place.make()?;
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_path(place))
}

/// Whether `lock` is the file that others find.
fn is_at(lock: &File, place: &Place) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((&lock.metadata(), &fs::metadata(lock_path(place))), (Ok(a), Ok(b)) if same(a, b))
}

/// Removes everything but the lock, which the caller holds.
fn clear(place: &Place) {
    let entries = fs::read_dir(&place.directory).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name() != "lock").for_each(|e| _ = fs::remove_file(e.path()));
}

/// Removes everything, the lock last: until then the name is taken.
fn remove(place: &Place) {
    clear(place);
    let _ = fs::remove_file(lock_path(place));
    let _ = fs::remove_dir(&place.directory);
}
