//! What was read of a file, kept on this host: a sparse file of its blocks, and a list of which of them are there.
//!
//! The list has eight bytes for each block: zero, or a part of the hash of the block's bytes. A block is believed when its bytes have
//! that hash, once in the life of a process. So nothing needs to be written in any order: after a crash, whatever is only half
//! there is fetched again.
//!
//! Several processes use one cache at a time; each holds a shared lock. Room is made only by who is alone (an exclusive lock), since
//! others may have checked a block already. Where that is not possible, or the host has no space, blocks are not kept.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use sha2::{Digest, Sha256};

use crate::{Identity, WebError};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 64 << 10;
/// Longest file: its list has 2 GiB at most, of which only used parts take space.
const MAX_LENGTH: u64 = 1 << 44;

/// Time between attempts to be alone.
const RETRY: Duration = Duration::from_secs(10);

/// The lock that says that a cache is in use.
struct Users {
    lock: Flock<File>,
    /// When it may be tried again to be alone.
    retry: Instant,
}

pub(crate) struct Cache {
    data: File,
    list: File,
    /// Held while blocks are read or added; exclusively while some are removed.
    order: RwLock<()>,
    /// Shared by all users of this cache.
    users: Mutex<Users>,
    /// Blocks that were found to be good, a bit each.
    checked: Vec<AtomicU64>,
    length: u64,
    limit: u64,
}

impl Cache {
    /// Opens or makes the cache of a version of a file in `folder`, for about `limit` bytes.
    pub(crate) fn open(folder: &Path, identity: &Identity, limit: u64) -> Result<Self, WebError> {
        let folder = folder.join(identity.key());
        let fail = |e| WebError::host(format!("cannot use the cache {}", folder.display()), e);
        if identity.length > MAX_LENGTH {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let open = |name: &str| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(folder.join(name))
                .map_err(fail)
        };
        let users = open("lock")?;
        let users = Flock::lock(users, FlockArg::LockShared).map_err(|(_, e)| fail(e.into()))?;
        let (data, list) = (open("data")?, open("list")?);
        // For people; nothing depends on it.
        let about = serde_json::to_vec_pretty(identity).unwrap_or_default();
        let _ = std::fs::write(folder.join("about.json"), about);
        let words = identity.length.div_ceil(BLOCK).div_ceil(64);
        Ok(Cache {
            data,
            list,
            order: RwLock::default(),
            users: Mutex::new(Users { lock: users, retry: Instant::now() }),
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
            length: identity.length,
            limit: limit.max(4 * BLOCK),
        })
    }

    /// Bytes of a block, fewer of the last one.
    fn len(&self, block: u64) -> usize {
        (self.length - block * BLOCK).min(BLOCK) as usize
    }

    fn is_checked(&self, block: u64) -> bool {
        let word = self.checked.get((block / 64) as usize);
        word.is_some_and(|w| w.load(Ordering::Relaxed) & 1 << (block % 64) != 0)
    }

    fn set_checked(&self, block: u64, good: bool) {
        if let Some(word) = self.checked.get((block / 64) as usize) {
            let bit = 1 << (block % 64);
            if good {
                word.fetch_or(bit, Ordering::Relaxed)
            } else {
                word.fetch_and(!bit, Ordering::Relaxed)
            };
        }
    }

    /// The block, if it is there and good.
    pub(crate) fn get(&self, block: u64) -> Option<Vec<u8>> {
        let _order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let mut data = vec![0; self.len(block)];
        if self.is_checked(block) {
            return self.data.read_exact_at(&mut data, block * BLOCK).ok().map(|()| data);
        }
        let mut entry = [0; 8];
        self.list.read_exact_at(&mut entry, block * 8).ok()?;
        if entry == [0; 8] {
            return None;
        }
        self.data.read_exact_at(&mut data, block * BLOCK).ok()?;
        if entry != hash(&data) {
            return None;
        }
        self.set_checked(block, true);
        Some(data)
    }

    /// Whether the block is probably there.
    pub(crate) fn has(&self, block: u64) -> bool {
        let mut entry = [0; 8];
        self.is_checked(block) || (self.list.read_exact_at(&mut entry, block * 8).is_ok() && entry != [0; 8])
    }

    /// Keeps a block, if there is room.
    pub(crate) fn put(&self, block: u64, data: &[u8]) {
        if data.len() != self.len(block) || !self.room() {
            return;
        }
        let _order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let kept =
            self.data.write_all_at(data, block * BLOCK).and_then(|()| self.list.write_all_at(&hash(data), block * 8));
        match kept {
            Ok(()) => self.set_checked(block, true),
            Err(e) => tracing::debug!("a block is not kept: {e}"),
        }
    }

    /// Bytes of the host's space that blocks take.
    pub(crate) fn taken(&self) -> u64 {
        self.data.metadata().map_or(u64::MAX, |m| m.blocks() * 512)
    }

    /// Whether another block may be kept; room is made if possible.
    fn room(&self) -> bool {
        if self.taken() + BLOCK <= self.limit {
            return true;
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < users.retry {
            return false;
        }
        let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        let alone = users.lock.relock(FlockArg::LockExclusiveNonblock).is_ok();
        let freed = alone && self.evict();
        let shared = users.lock.relock(FlockArg::LockShared).is_ok();
        if !alone || !shared {
            // Changing a lock gives it up for a moment, in which somebody else could have removed blocks.
            self.checked.iter().for_each(|w| w.store(0, Ordering::Relaxed));
            users.retry = Instant::now() + RETRY;
        }
        freed && shared
    }

    /// Removes blocks until a quarter of the limit is free, from a random place on.
    fn evict(&self) -> bool {
        let blocks = self.length.div_ceil(BLOCK);
        let start = getrandom::u64().unwrap_or(0) % blocks.max(1);
        let goal = self.limit / 4 * 3;
        let mut entries = vec![0; 4096 * 8];
        let mut done = 0;
        while done < blocks && self.taken() > goal {
            let at = (start + done) % blocks;
            let n = (blocks - at).min(4096).min(blocks - done);
            let part = &mut entries[..n as usize * 8];
            part.fill(0);
            let _ = read_some(&self.list, part, at * 8);
            for (i, entry) in part.chunks_exact(8).enumerate().filter(|(_, e)| **e != [0; 8]) {
                let _ = entry;
                let block = at + i as u64;
                self.set_checked(block, false);
                let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let gone = self.list.write_all_at(&[0; 8], block * 8).is_ok()
                    && fallocate(&self.data, mode, (block * BLOCK) as i64, BLOCK as i64).is_ok();
                if !gone {
                    return false;
                }
                if self.taken() <= goal {
                    return true;
                }
            }
            done += n;
        }
        self.taken() + BLOCK <= self.limit
    }
}

/// As much as there is.
fn read_some(file: &File, data: &mut [u8], at: u64) -> io::Result<()> {
    let mut got = 0;
    while got < data.len() {
        match file.read_at(&mut data[got..], at + got as u64)? {
            0 => return Ok(()),
            n => got += n,
        }
    }
    Ok(())
}

/// The entry of a block; never zero.
fn hash(data: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(data);
    let mut entry = [0; 8];
    entry.copy_from_slice(&digest[..8]);
    entry[0] |= 1;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(length: u64) -> Identity {
        Identity { url: "http://x/y".into(), length, etag: None, modified: None }
    }

    #[test]
    fn blocks_are_kept_and_believed_only_if_whole() {
        let dir = tempfile::TempDir::new().unwrap();
        let id = identity(3 * BLOCK + 100);
        let cache = Cache::open(dir.path(), &id, 1 << 20).unwrap();
        let block = |b: u8, len: u64| vec![b; len as usize];
        assert_eq!(cache.get(0), None);
        cache.put(0, &block(1, BLOCK));
        cache.put(2, &block(0, BLOCK));
        cache.put(3, &block(3, 100));
        cache.put(1, &block(1, 7));
        for _ in 0..2 {
            let again = Cache::open(dir.path(), &id, 1 << 20).unwrap();
            assert_eq!(again.get(0), Some(block(1, BLOCK)));
            assert_eq!(again.get(1), None, "of the wrong length");
            assert_eq!(again.get(2), Some(block(0, BLOCK)), "zeroes too");
            assert_eq!(again.get(3), Some(block(3, 100)));
        }
        // A power cut: the list says yes, the data is only half there.
        let data = dir.path().join(id.key()).join("data");
        OpenOptions::new().write(true).open(&data).unwrap().write_all_at(&[9; 4096], 4096).unwrap();
        let again = Cache::open(dir.path(), &id, 1 << 20).unwrap();
        assert_eq!((again.get(0), again.get(3)), (None, Some(block(3, 100))));
        // Anything in the list.
        let list = dir.path().join(id.key()).join("list");
        std::fs::write(&list, [0x5a; 32]).unwrap();
        let again = Cache::open(dir.path(), &id, 1 << 20).unwrap();
        assert!((0..4).all(|b| again.get(b).is_none()));
        // Another version has another cache.
        let other = Identity { etag: Some("2".into()), ..id };
        assert_eq!(Cache::open(dir.path(), &other, 1 << 20).unwrap().get(3), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let dir = tempfile::TempDir::new().unwrap();
        let id = identity(100 * BLOCK);
        let limit = 8 * BLOCK;
        let cache = Cache::open(dir.path(), &id, limit).unwrap();
        let block = |n: u64| vec![n as u8 + 1; BLOCK as usize];
        for n in 0..100 {
            cache.put(n, &block(n));
            assert!(cache.taken() <= limit, "{n}: {}", cache.taken());
        }
        let kept: Vec<u64> = (0..100).filter(|n| cache.get(*n).is_some()).collect();
        assert!(!kept.is_empty() && kept.len() <= 8);
        assert!(kept.iter().all(|n| cache.get(*n) == Some(block(*n))));
        // With a second user nothing is removed, and nothing is added once it is full.
        let second = Cache::open(dir.path(), &id, limit).unwrap();
        for n in 0..100 {
            cache.put(n, &block(n));
        }
        assert!(cache.taken() <= limit);
        assert!(kept.iter().all(|n| second.get(*n) == Some(block(*n))), "what was there is there");
    }
}
