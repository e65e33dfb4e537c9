//! What a pool looks like, for people.

use crate::member::{MemberState, Place};
use crate::volume::{DATA_AT, Replica};
use crate::{Health, Pool, Volume};

/// A pool as it is now.
#[derive(Clone, Debug)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// Copies of everything.
    pub copies: usize,
    /// Bytes that volumes can have in all.
    pub capacity: u64,
    /// Bytes of that which are left.
    pub free: u64,
    /// Bytes promised to volumes.
    pub promised: u64,
    /// Its members.
    pub members: Vec<MemberInfo>,
    /// Its volumes.
    pub volumes: Vec<VolumeInfo>,
}

/// A member.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// Where it is.
    pub place: String,
    /// Whether it is there.
    pub state: MemberState,
    /// Bytes for parts of volumes.
    pub total: u64,
    /// Bytes of that which are left.
    pub free: u64,
    /// Parts of a hundred of the whole store that are in use, by whomever.
    pub percent: u8,
}

/// A volume.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that all its copies take from the members.
    pub allocated: u64,
    /// Bytes of it that hold data. A part on an NBD server counts as full.
    pub used: u64,
    /// How it is, or why it cannot be used.
    pub health: Result<Health, String>,
}

impl Pool {
    /// What it looks like now.
    pub fn info(&self) -> PoolInfo {
        let mut members = Vec::new();
        let (mut capacity, mut free) = (0, 0);
        for group in self.members.chunks(self.file.copies.max(1)) {
            // The smallest member decides how much goes into a group.
            let (mut total, mut left) = (u64::MAX, u64::MAX);
            for (entry, member) in group {
                let space =
                    member.as_ref().map_err(ToString::to_string).and_then(|m| m.space().map_err(|e| e.to_string()));
                let state = match &space {
                    Ok(_) => MemberState::Up,
                    Err(e) => MemberState::Missing(e.clone()),
                };
                let space = space.unwrap_or_default();
                if state == MemberState::Up {
                    (total, left) = (total.min(space.total), left.min(space.free));
                }
                let place = entry.place.clone();
                members.push(MemberInfo { place, state, total: space.total, free: space.free, percent: space.percent });
            }
            if total != u64::MAX {
                (capacity, free) = (capacity + total, free + left);
            }
        }
        let volumes: Vec<VolumeInfo> = self.file.volumes.keys().map(|name| self.volume_info(name)).collect();
        let promised = volumes.iter().map(|v| v.size).sum();
        PoolInfo { name: self.file.name.clone(), copies: self.file.copies, capacity, free, promised, members, volumes }
    }

    fn volume_info(&self, name: &str) -> VolumeInfo {
        let size = self.file.volumes.get(name).map_or(0, |v| v.layout.size);
        let replicas = self.replicas(name);
        let (allocated, used) = replicas.as_ref().map_or((0, 0), |r| self.usage(name, r));
        let health = replicas.and_then(|r| Volume::look(name, r)).map_err(|e| e.to_string());
        VolumeInfo { name: name.to_owned(), size, allocated, used: used.min(size), health }
    }

    /// What all copies of a volume take, and what one of each holds.
    fn usage(&self, name: &str, replicas: &[Replica]) -> (u64, u64) {
        let Ok(entry) = self.entry(name) else { return (0, 0) };
        let (mut allocated, mut used) = (0, 0);
        for group in &entry.layout.groups {
            let parts = replicas.iter().filter(|r| group.contains(&r.member)).map(|r| {
                let len = r.part.size().unwrap_or(0);
                r.part.usage(DATA_AT).unwrap_or((len, len.saturating_sub(DATA_AT)))
            });
            let (taken, data) = parts.fold((0, 0), |(all, most), (taken, data)| (all + taken, data.max(most)));
            (allocated, used) = (allocated + taken, used + data);
        }
        (allocated, used)
    }
}

/// How full the file system of a folder is, in parts of a hundred.
pub(super) fn percent(place: &Place) -> Option<u8> {
    let Place::Dir(path) = place else { return None };
    let v = nix::sys::statvfs::statvfs(path).ok()?;
    let used = v.blocks().saturating_sub(v.blocks_free());
    Some((used * 100 / (used + v.blocks_available()).max(1)).min(100) as u8)
}
