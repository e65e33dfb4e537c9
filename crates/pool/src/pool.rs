//! A pool: its members, and the volumes on them.

mod info;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use visor_disk::Alloc;

use crate::layout::Layout;
use crate::member::{Member, Place};
use crate::record;
use crate::registry::{Registry, check_name};
use crate::volume::{DATA_AT, Fell, OpenVolume, Replica, VolumeRecord};
use crate::{Event, PoolError, PoolErrorKind, Result, Volume, unique};

pub use info::{MemberInfo, PoolInfo, VolumeInfo};

/// Bytes of a chunk of new volumes.
const CHUNK: u64 = 256 << 10;
/// From here on people are told that a member fills up, in parts of a hundred.
const WARN_AT: u8 = 85;
/// How often that is looked at.
const WATCH: Duration = Duration::from_secs(5);

/// A pool.
pub struct Pool {
    registry: Registry,
    file: PoolFile,
    members: Vec<(Entry, Result<Member>)>,
}

/// What is kept of a pool on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PoolFile {
    version: u32,
    id: String,
    name: String,
    copies: usize,
    members: Vec<Entry>,
    volumes: BTreeMap<String, VolumeEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    id: String,
    place: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeEntry {
    id: String,
    layout: Layout,
}

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Bytes, a multiple of 512.
    pub size: u64,
    /// How its space is taken.
    pub alloc: Alloc,
    /// Promise more than there is. Machines are paused when it runs out.
    pub overcommit: bool,
}

impl Pool {
    /// Makes a pool of the stores at `places`: groups of `copies` members in this order, each of which has a copy of everything
    /// in its group; volumes are striped over the groups.
    ///
    /// # Errors
    /// [`PoolErrorKind::Bad`] for a number of members that is no multiple of the copies, [`PoolErrorKind::Exists`], otherwise the host's.
    /// Nothing is left behind.
    pub fn create(registry: &Registry, name: &str, places: &[Place], copies: usize) -> Result<Self> {
        check_name(name)?;
        let _held = registry.lock(name, None)?;
        if registry.read(name).is_ok() {
            return Err(PoolError::new(PoolErrorKind::Exists, format!("there is a pool `{name}` already")));
        }
        let file = PoolFile {
            version: 1,
            id: unique()?,
            name: name.to_owned(),
            copies,
            members: Vec::new(),
            volumes: BTreeMap::new(),
        };
        let mut pool = Pool { registry: registry.clone(), file, members: Vec::new() };
        let made = pool.claim(places).and_then(|()| pool.save());
        if let Err(e) = made {
            pool.members.into_iter().filter_map(|(_, m)| m.ok()).for_each(|m| _ = m.release());
            let _ = registry.remove(name);
            return Err(e);
        }
        Ok(pool)
    }

    /// Opens a pool, with the members that can be reached.
    ///
    /// # Errors
    /// [`PoolErrorKind::NotFound`], [`PoolErrorKind::Corrupt`], otherwise the host's.
    pub fn open(registry: &Registry, name: &str) -> Result<Self> {
        let bytes = registry.read(name)?;
        let file: PoolFile = serde_json::from_slice(&bytes)
            .map_err(|e| PoolError::new(PoolErrorKind::Corrupt, format!("what is known of the pool {name}: {e}")))?;
        if file.version != 1 {
            return Err(PoolError::new(PoolErrorKind::Corrupt, format!("the pool {name} is of a newer version")));
        }
        let open = |e: &Entry| Place::parse(&e.place).and_then(|p| Member::open(p, &file.id, &e.id));
        let members = file.members.iter().map(|e| (e.clone(), open(e))).collect();
        Ok(Pool { registry: registry.clone(), file, members })
    }

    /// Removes the pool, with its volumes if `volumes` says so.
    ///
    /// # Errors
    /// [`PoolErrorKind::Exists`] if there are volumes, [`PoolErrorKind::Locked`] if one is in use.
    pub fn remove(mut self, volumes: bool) -> Result<()> {
        let names: Vec<String> = self.file.volumes.keys().cloned().collect();
        if !volumes && !names.is_empty() {
            let what = format!("the pool {} has volumes: {}", self.file.name, names.join(", "));
            return Err(PoolError::new(PoolErrorKind::Exists, what));
        }
        for name in names {
            self.remove_volume(&name)?;
        }
        for (_, member) in self.members {
            if let Ok(member) = member {
                member.release()?;
            }
        }
        self.registry.remove(&self.file.name)
    }

    /// Adds members: further groups, for volumes made from now on.
    ///
    /// # Errors
    /// As [`Pool::create`].
    pub fn add(&mut self, places: &[Place]) -> Result<()> {
        let _held = self.registry.lock(&self.file.name, None)?;
        let before = self.members.len();
        if let Err(e) = self.claim(places).and_then(|()| self.save()) {
            self.file.members.truncate(before);
            self.members.drain(before..).filter_map(|(_, m)| m.ok()).for_each(|m| _ = m.release());
            return Err(e);
        }
        Ok(())
    }

    fn claim(&mut self, places: &[Place]) -> Result<()> {
        let copies = self.file.copies;
        if copies == 0 || copies > 8 || places.is_empty() || !places.len().is_multiple_of(copies) {
            let what = format!("{} members do not make groups of {copies}", places.len());
            return Err(PoolError::new(PoolErrorKind::Bad, what));
        }
        for place in places {
            let id = unique()?[..12].to_owned();
            let member = Member::claim(place.clone(), &self.file.id, &id)?;
            let entry = Entry { id, place: place.to_string() };
            self.file.members.push(entry.clone());
            self.members.push((entry, Ok(member)));
        }
        Ok(())
    }

    /// Puts a new store in the place of a member. It is out of date until [`Volume::rebuild`] of each volume.
    ///
    /// # Errors
    /// [`PoolErrorKind::NotFound`], [`PoolErrorKind::Locked`] if a volume is in use, [`PoolErrorKind::Missing`] if the others do
    /// not have everything.
    pub fn replace(&mut self, old: &str, new: Place) -> Result<()> {
        let _held = self.registry.lock(&self.file.name, None)?;
        let none = || PoolError::new(PoolErrorKind::NotFound, format!("`{old}` is no member"));
        let index = self.file.members.iter().position(|m| m.place == old || m.id == old).ok_or_else(none)?;
        let names: Vec<String> = self.file.volumes.keys().cloned().collect();
        let locks: Result<Vec<_>> = names.iter().map(|n| self.registry.lock(&self.file.name, Some(n))).collect();
        let _locks = locks?;
        let old_id = self.file.members[index].id.clone();
        // Each volume must do without the old one: it is opened without it once, which makes a generation of that.
        for name in &names {
            let replicas = self.replicas(name)?.into_iter().filter(|r| r.member != old_id).collect();
            drop(Volume::open(name, replicas, self.how(name, false, Arc::new(|_| {})))?);
        }
        let id = unique()?[..12].to_owned();
        let member = Member::claim(new.clone(), &self.file.id, &id)?;
        for name in &names {
            self.reseat(name, &old_id, &member)?;
        }
        let entry = Entry { id, place: new.to_string() };
        self.file.members[index] = entry.clone();
        self.members[index] = (entry, Ok(member));
        self.save()
    }

    /// Gives the seat of a member in a volume to another one, whose part is empty and out of date.
    fn reseat(&mut self, name: &str, old: &str, member: &Member) -> Result<()> {
        let Some(entry) = self.file.volumes.get(name).cloned() else { return Ok(()) };
        if !entry.layout.groups.iter().flatten().any(|m| m == old) {
            return Ok(());
        }
        let mut layout = entry.layout.clone();
        layout.groups.iter_mut().flatten().filter(|m| *m == old).for_each(|m| *m = member.id.clone());
        let part = member.create_part(&entry.id, DATA_AT + layout.part_len(), false)?;
        let others: Vec<Replica> = self.replicas(name)?.into_iter().filter(|r| r.member != old).collect();
        let newest =
            others.iter().filter_map(|r| record::load(&*r.part, 0).ok().flatten()).max_by_key(|f| f.generation);
        let newest =
            newest.ok_or_else(|| PoolError::new(PoolErrorKind::Missing, format!("no member has the volume {name}")))?;
        let corrupt = |e: serde_json::Error| PoolError::host("a record of a volume", e.into());
        let mut next: VolumeRecord = serde_json::from_slice(&newest.payload).map_err(corrupt)?;
        let stale_before = next.stale.clone();
        next.layout = layout.clone();
        next.stale.remove(old);
        next.previous = std::mem::replace(&mut next.event, unique()?);
        let fell = Fell { generation: newest.generation + 1, events: vec![next.event.clone()] };
        next.stale.insert(member.id.clone(), fell);
        let payload = serde_json::to_vec(&next).map_err(corrupt)?;
        let current = others.iter().filter(|r| !stale_before.contains_key(&r.member)).map(|r| (&r.part, &r.place));
        let place = member.place.to_string();
        for (part, place) in current.chain([(&part, &place)]) {
            record::store(&**part, 0, newest.generation + 1, &payload)
                .map_err(|e| PoolError::host(format!("cannot write to {place}"), e))?;
        }
        self.registry.advance(&self.file.name, name, newest.generation + 1)?;
        if let Some(entry) = self.file.volumes.get_mut(name) {
            entry.layout = layout;
        }
        Ok(())
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// [`PoolErrorKind::NoSpace`] if more would be promised than there is, [`PoolErrorKind::Missing`] if a member is not there,
    /// [`PoolErrorKind::Exists`], otherwise the host's. Nothing is left behind.
    pub fn create_volume(&mut self, new: &NewVolume) -> Result<()> {
        check_name(&new.name)?;
        let _held = self.registry.lock(&self.file.name, None)?;
        if self.file.volumes.contains_key(&new.name) {
            let what = format!("there is a volume `{}/{}` already", self.file.name, new.name);
            return Err(PoolError::new(PoolErrorKind::Exists, what));
        }
        let ids: Vec<String> = self.file.members.iter().map(|m| m.id.clone()).collect();
        let groups = ids.chunks(self.file.copies).map(<[String]>::to_vec).collect();
        let layout = Layout { size: new.size, chunk: CHUNK, groups };
        layout.check().map_err(|e| PoolError { kind: PoolErrorKind::Bad, ..e })?;
        let len = DATA_AT + layout.part_len();
        if !new.overcommit {
            self.check_room(len)?;
        }
        let id = unique()?;
        let made = self.make_parts(&id, new, &layout, len);
        let saved = made.and_then(|()| {
            self.file.volumes.insert(new.name.clone(), VolumeEntry { id: id.clone(), layout });
            self.save()
        });
        if saved.is_err() {
            self.file.volumes.remove(&new.name);
            self.members.iter().filter_map(|(_, m)| m.as_ref().ok()).for_each(|m| _ = m.remove_part(&id));
        }
        saved
    }

    /// Whether parts of `len` bytes can be promised by all members.
    fn check_room(&self, len: u64) -> Result<()> {
        for (entry, member) in &self.members {
            let Ok(member) = member else { continue };
            let space = member.space()?;
            if space.promised.saturating_add(len) > space.total {
                let what = format!(
                    "{} has {} MiB, of which {} MiB are promised to volumes already: no room for {} MiB more",
                    entry.place,
                    space.total >> 20,
                    space.promised >> 20,
                    len >> 20
                );
                return Err(PoolError::new(PoolErrorKind::NoSpace, what));
            }
        }
        Ok(())
    }

    fn make_parts(&self, id: &str, new: &NewVolume, layout: &Layout, len: u64) -> Result<()> {
        let record = VolumeRecord {
            id: id.to_owned(),
            name: new.name.clone(),
            layout: layout.clone(),
            event: unique()?,
            previous: String::new(),
            stale: BTreeMap::new(),
            open: false,
        };
        let payload = serde_json::to_vec(&record).map_err(|e| PoolError::host("cannot write a record", e.into()))?;
        for (entry, member) in &self.members {
            let gone =
                |e: &PoolError| PoolError::new(PoolErrorKind::Missing, format!("{} is missing: {e}", entry.place));
            let part = member.as_ref().map_err(gone)?.create_part(id, len, new.alloc == Alloc::Static)?;
            record::store(&*part, 0, 1, &payload)
                .map_err(|e| PoolError::host(format!("cannot write to {}", entry.place), e))?;
        }
        Ok(())
    }

    /// Removes a volume.
    ///
    /// # Errors
    /// [`PoolErrorKind::NotFound`], [`PoolErrorKind::Locked`] if it is in use, otherwise the host's.
    pub fn remove_volume(&mut self, name: &str) -> Result<()> {
        let _held = self.registry.lock(&self.file.name, None)?;
        let entry = self.entry(name)?.clone();
        let volume = self.registry.lock(&self.file.name, Some(name))?;
        for member in self.members.iter().filter_map(|(_, m)| m.as_ref().ok()) {
            member.remove_part(&entry.id)?;
        }
        self.file.volumes.remove(name);
        self.save()?;
        drop(volume);
        self.registry.forget(&self.file.name, name);
        Ok(())
    }

    /// Opens a volume as a disk. `tell` hears what happens to it.
    ///
    /// # Errors
    /// [`PoolErrorKind::NotFound`], [`PoolErrorKind::Locked`], [`PoolErrorKind::Missing`], [`PoolErrorKind::Split`].
    pub fn open_volume(
        &self,
        name: &str,
        read_only: bool,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Volume> {
        self.entry(name)?;
        let held = self.registry.lock(&self.file.name, Some(name))?;
        let volume = Volume::open(name, self.replicas(name)?, self.how(name, read_only, Arc::new(tell)))?;
        Ok(volume.holding(held))
    }

    /// Names of the volumes.
    pub fn volumes(&self) -> Vec<String> {
        self.file.volumes.keys().cloned().collect()
    }

    fn how(&self, name: &str, read_only: bool, tell: Arc<dyn Fn(Event) + Send + Sync>) -> OpenVolume {
        let (registry, pool, volume) = (self.registry.clone(), self.file.name.clone(), name.to_owned());
        let known = registry.generation(&pool, &volume);
        OpenVolume {
            read_only,
            known,
            tell: tell.clone(),
            remember: Arc::new(move |g| registry.advance(&pool, &volume, g)),
            watch: self.watch(tell),
        }
    }

    /// What looks from time to time how full folders are, and says so once for each further part of a hundred.
    fn watch(&self, tell: Arc<dyn Fn(Event) + Send + Sync>) -> Box<dyn Fn() + Send + Sync> {
        let places: Vec<Place> =
            self.members.iter().filter_map(|(_, m)| m.as_ref().ok()).map(|m| m.place.clone()).collect();
        let folders: Vec<(Place, AtomicU8)> = places
            .into_iter()
            .filter(|p| matches!(p, Place::Dir(_)))
            .map(|p| (p, AtomicU8::new(WARN_AT - 1)))
            .collect();
        let next = Mutex::new(Instant::now());
        Box::new(move || {
            {
                let Ok(mut next) = next.try_lock() else { return };
                if Instant::now() < *next {
                    return;
                }
                *next = Instant::now() + WATCH;
            }
            for (place, told) in &folders {
                let Some(percent) = info::percent(place) else { continue };
                if percent > told.load(Ordering::Relaxed) {
                    told.store(percent, Ordering::Relaxed);
                    tell(Event::Filling { member: place.to_string(), percent });
                }
            }
        })
    }

    fn entry(&self, name: &str) -> Result<&VolumeEntry> {
        let none = || PoolError::new(PoolErrorKind::NotFound, format!("no volume `{}/{name}`", self.file.name));
        self.file.volumes.get(name).ok_or_else(none)
    }

    /// The parts of a volume that can be reached.
    fn replicas(&self, name: &str) -> Result<Vec<Replica>> {
        let entry = self.entry(name)?;
        let ours = |id: &String| entry.layout.groups.iter().flatten().any(|m| m == id);
        let mut replicas = Vec::new();
        for (e, member) in self.members.iter().filter(|(e, _)| ours(&e.id)) {
            match member.as_ref().map(|m| m.part(&entry.id)) {
                Ok(Ok(part)) => replicas.push(Replica { member: e.id.clone(), place: e.place.clone(), part }),
                Ok(Err(e)) => tracing::warn!("{e}"),
                Err(e) => tracing::warn!("{e}"),
            }
        }
        Ok(replicas)
    }

    fn save(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.file).map_err(|e| PoolError::host("cannot write", e.into()))?;
        self.registry.write(&self.file.name, &bytes)
    }
}
