//! Reading an image.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::boot::BootCatalog;
use crate::directory::{Record, joliet_name, plain_name, record};
use crate::error::{IsoError, IsoErrorKind};
use crate::hybrid::Hybrid;
use crate::rockridge;
use crate::volume::{Descriptors, Names, Volume};
use crate::{BLOCK, Entry, EntryKind, Extent};

/// Most bytes of a directory.
const DIRECTORY_LIMIT: u64 = 64 << 20;
/// Most entries that a walk visits.
const WALK_LIMIT: usize = 4_000_000;
/// Deepest directory.
const DEPTH_LIMIT: usize = 64;
/// Most links on a path.
const LINK_LIMIT: usize = 32;
/// Bytes moved at a time.
const CHUNK: usize = 256 << 10;

/// The bytes of an image.
pub(crate) struct Source<R> {
    io: R,
    size: u64,
}

impl<R: Read + Seek> Source<R> {
    /// Bytes in all.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// `len` bytes from `at`.
    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> Result<Vec<u8>, IsoError> {
        let mut bytes = vec![0; len];
        self.fill(at, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), IsoError> {
        self.io.seek(SeekFrom::Start(at)).and_then(|_| self.io.read_exact(bytes)).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                IsoError::new(IsoErrorKind::Truncated, format!("it is truncated: nothing is left at byte {at}"))
            }
            _ => IsoError::io(format!("cannot read byte {at} of the image"), e),
        })
    }
}

/// An open image.
pub struct Iso<R> {
    source: Source<R>,
    volume: Volume,
    root: Entry,
    names: Names,
    /// Bytes to skip in system use areas.
    skip: usize,
    catalog: Option<u32>,
}

impl<R: Read + Seek> Iso<R> {
    /// Opens the image in `io`. Names are Rock Ridge's where there are such, then Joliet's, then plain ones.
    ///
    /// # Errors
    /// [`IsoErrorKind::NotIso`], or [`IsoErrorKind::Truncated`] and [`IsoErrorKind::Corrupt`] where even its descriptors cannot
    /// be trusted.
    pub fn open(mut io: R) -> Result<Self, IsoError> {
        let size = io.seek(SeekFrom::End(0)).map_err(|e| IsoError::io("cannot read the image", e))?;
        let mut source = Source { io, size };
        let Descriptors { mut volume, root, joliet_root, catalog } = Descriptors::read(&mut source)?;
        // Rock Ridge shows in the root directory's own record.
        let first = root.extents.first().filter(|e| e.len >= 34).copied();
        let first = match first {
            Some(e) => {
                let bytes = source.bytes(u64::from(e.block) * BLOCK, (e.len as usize).min(BLOCK as usize))?;
                record(&bytes, &source)?
            }
            None => None,
        };
        let skip = first.and_then(|r| rockridge::detect(&r.system_use));
        volume.rock_ridge = skip.is_some();
        let (names, root) = match (skip, joliet_root) {
            (Some(_), _) => (Names::RockRidge, root),
            (None, Some(joliet)) => (Names::Joliet, joliet),
            (None, None) => (Names::Plain, root),
        };
        Ok(Iso { source, volume, root, names, skip: skip.unwrap_or(0), catalog })
    }

    /// What the image says of itself.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Which names are shown.
    pub fn names(&self) -> Names {
        self.names
    }

    /// Bytes in the image's file.
    pub fn size(&self) -> u64 {
        self.source.size
    }

    /// Bytes that are missing at the end, by what the image says of its size.
    pub fn missing(&self) -> u64 {
        (u64::from(self.volume.blocks) * BLOCK).saturating_sub(self.source.size)
    }

    /// The root directory.
    pub fn root(&self) -> &Entry {
        &self.root
    }

    /// How a CD drive boots it; `None` if it does not.
    ///
    /// # Errors
    /// [`IsoErrorKind::Corrupt`] for a catalogue that firmware would refuse, and errors of reading.
    pub fn boot(&mut self) -> Result<Option<BootCatalog>, IsoError> {
        match self.catalog {
            Some(block) => BootCatalog::read(&mut self.source, block).map(Some),
            None => Ok(None),
        }
    }

    /// How a disk drive would see it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn hybrid(&mut self) -> Result<Hybrid, IsoError> {
        Hybrid::read(&mut self.source)
    }

    /// The entries of `directory`, in the image's order, without itself and its parent.
    ///
    /// # Errors
    /// [`IsoErrorKind::WrongKind`] if it is none; [`IsoErrorKind::Corrupt`], [`IsoErrorKind::Truncated`] and errors of reading.
    pub fn list(&mut self, directory: &Entry) -> Result<Vec<Entry>, IsoError> {
        if !directory.is_directory() {
            return Err(IsoError::new(IsoErrorKind::WrongKind, format!("{} is no directory", directory.name)));
        }
        if directory.size > DIRECTORY_LIMIT {
            return Err(IsoError::corrupt(format!("a directory of {} bytes", directory.size)));
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut more = false;
        for extent in &directory.extents {
            let bytes = self.source.bytes(u64::from(extent.block) * BLOCK, extent.len as usize)?;
            // Records do not cross blocks; the rest of one is zero.
            for block in bytes.chunks(BLOCK as usize) {
                let mut rest = block;
                while let Some(r) = record(rest, &self.source)? {
                    rest = &rest[usize::from(rest[0])..];
                    if matches!(r.name[..], [] | [0] | [1]) {
                        continue;
                    }
                    let continues = std::mem::replace(&mut more, r.more);
                    match entries.last_mut() {
                        // Files of more than 4 GiB have several records.
                        Some(last) if continues => {
                            last.size += r.entry.size;
                            last.extents.extend(r.entry.extents);
                        }
                        _ => entries.extend(self.entry(r)?),
                    }
                }
            }
        }
        Ok(entries)
    }

    /// Calls `f` with the path (from `directory`, without a leading slash) and entry of everything below `directory`, depth first.
    ///
    /// # Errors
    /// As [`Iso::list`], and those of `f`.
    pub fn walk(
        &mut self,
        directory: &Entry,
        f: &mut dyn FnMut(&str, &Entry) -> Result<(), IsoError>,
    ) -> Result<(), IsoError> {
        let (mut seen, mut count) = (HashSet::new(), 0usize);
        let mut open: Vec<(String, std::vec::IntoIter<Entry>)> =
            vec![(String::new(), self.list(directory)?.into_iter())];
        seen.extend(directory.extents.first().map(|e| e.block));
        loop {
            let depth = open.len();
            let Some((path, entries)) = open.last_mut() else { return Ok(()) };
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            count += 1;
            if count > WALK_LIMIT || depth > DEPTH_LIMIT {
                return Err(IsoError::corrupt("its directories go on and on"));
            }
            let path = if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
            f(&path, &entry)?;
            if entry.is_directory() {
                if !entry.extents.first().is_none_or(|e| seen.insert(e.block)) {
                    return Err(IsoError::corrupt(format!("the directory {path} is in more than one place")));
                }
                let entries = self.list(&entry)?;
                open.push((path, entries.into_iter()));
            }
        }
    }

    /// The entry at `path`; links on the way are followed, one at its end only if `follow`.
    ///
    /// # Errors
    /// [`IsoErrorKind::NotFound`], and as [`Iso::list`].
    pub fn find(&mut self, path: &str, follow: bool) -> Result<Entry, IsoError> {
        let missing = |what: String| IsoError::new(IsoErrorKind::NotFound, what);
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut way = vec![self.root.clone()];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let here = way.last().unwrap_or(&self.root).clone();
            let at = self.list(&here)?;
            let any_case = self.names == Names::Plain;
            let same = |e: &Entry| e.name == name || any_case && e.name.eq_ignore_ascii_case(&name);
            let found = at.into_iter().find(same).ok_or_else(|| missing(format!("there is no {path} in the image")))?;
            match &found.kind {
                EntryKind::Link(target) if follow || !todo.iter().all(String::is_empty) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(missing(format!("{path} leads through too many links")));
                    }
                    if target.starts_with('/') {
                        way.truncate(1);
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                _ => way.push(found),
            }
        }
        Ok(way.pop().unwrap_or_else(|| self.root.clone()))
    }

    /// Writes the bytes of the file `entry` to `out`.
    ///
    /// # Errors
    /// [`IsoErrorKind::WrongKind`] if it is none, errors of reading and of writing.
    pub fn copy(&mut self, entry: &Entry, out: &mut dyn Write) -> Result<(), IsoError> {
        if entry.kind != EntryKind::File {
            return Err(IsoError::new(IsoErrorKind::WrongKind, format!("{} is no file", entry.name)));
        }
        let mut chunk = vec![0; CHUNK];
        for Extent { block, len } in &entry.extents {
            let (mut at, mut left) = (u64::from(*block) * BLOCK, *len as usize);
            while left > 0 {
                let n = left.min(CHUNK);
                self.source.fill(at, &mut chunk[..n])?;
                out.write_all(&chunk[..n]).map_err(|e| IsoError::io(format!("cannot write {}", entry.name), e))?;
                (at, left) = (at + n as u64, left - n);
            }
        }
        Ok(())
    }

    /// Makes an entry of a record; `None` if it is not shown.
    fn entry(&mut self, r: Record) -> Result<Option<Entry>, IsoError> {
        let mut entry = r.entry;
        match self.names {
            Names::Plain => entry.name = plain_name(&r.name),
            Names::Joliet => entry.name = joliet_name(&r.name),
            Names::RockRidge => {
                let area = r.system_use.get(self.skip..).unwrap_or_default();
                let fields = rockridge::fields(area, &mut self.source)?;
                if fields.moved {
                    return Ok(None);
                }
                entry.name = match fields.name {
                    Some(name) => String::from_utf8_lossy(&name).into_owned(),
                    None => plain_name(&r.name),
                };
                entry.mode = fields.mode;
                if let Some(child) = fields.child {
                    self.relocate(&mut entry, child)?;
                } else if let Some(target) = fields.link {
                    entry.kind = EntryKind::Link(target);
                } else if fields.mode.is_some_and(|m| !matches!(m & 0o170_000, 0 | 0o100_000 | 0o040_000)) {
                    entry.kind = EntryKind::Special;
                }
            }
        }
        // No name may lead out of the directory it is in.
        if entry.name.is_empty() || entry.name.contains(['/', '\0']) || matches!(&entry.name[..], "." | "..") {
            return Err(IsoError::corrupt(format!("a file is called {:?}", entry.name)));
        }
        Ok(Some(entry))
    }

    /// A directory whose records are elsewhere says its size there, in the record of itself.
    fn relocate(&mut self, entry: &mut Entry, block: u32) -> Result<(), IsoError> {
        let at = u64::from(block) * BLOCK;
        if at + BLOCK > self.source.size {
            return Err(IsoError::corrupt(format!("a directory at byte {at}, beyond the image")));
        }
        let bytes = self.source.bytes(at, BLOCK as usize)?;
        let own = record(&bytes, &self.source)?.filter(|r| r.entry.is_directory());
        let own = own.ok_or_else(|| IsoError::corrupt(format!("no directory at byte {at}")))?;
        (entry.kind, entry.size, entry.extents) = (EntryKind::Directory, own.entry.size, own.entry.extents);
        Ok(())
    }
}

/// A number of 32 bits, low byte first, which must be within `bytes`.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
