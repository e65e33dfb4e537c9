//! A total reader of ELF executables of both classes: headers, segments and notes (System V gABI, chapters 4 and 5).

use crate::error::BootError;

/// Segment types.
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_NOTE: u32 = 4;
/// Machines.
pub(crate) const EM_386: u16 = 3;
pub(crate) const EM_X86_64: u16 = 62;
/// A fixed-address executable.
pub(crate) const ET_EXEC: u16 = 2;

/// More program headers than any kernel has: placing segments takes time quadratic in their number.
const MAX_SEGMENTS: u16 = 512;

/// An ELF file.
pub(crate) struct Elf<'a> {
    data: &'a [u8],
    pub(crate) is_64: bool,
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
}

/// A program header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) paddr: u64,
    pub(crate) filesz: u64,
    pub(crate) memsz: u64,
    pub(crate) align: u64,
}

/// A note: owner, type and contents.
pub(crate) struct Note<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) desc: &'a [u8],
}

/// Little-endian fields at fixed offsets of a byte slice.
pub(crate) fn le16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}
pub(crate) fn le32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}
pub(crate) fn le64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Whether the file starts as an ELF file does.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    /// Reads the headers of a little-endian ELF file.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, BootError> {
        let short = |need: u64| BootError::truncated("the ELF header", need, data.len() as u64);
        let class = *data.get(4).ok_or_else(|| short(52))?;
        let is_64 = match class {
            1 => false,
            2 => true,
            c => return Err(BootError::corrupt(format!("ELF class {c}"))),
        };
        if data.get(5) != Some(&1) {
            return Err(BootError::corrupt("the ELF header does not say little-endian"));
        }
        let header = header(data, is_64).ok_or_else(|| short(if is_64 { 64 } else { 52 }))?;
        let want = if is_64 { 56 } else { 32 };
        if header.count > MAX_SEGMENTS {
            return Err(BootError::corrupt(format!("{} program headers", header.count)));
        }
        if header.count > 0 && header.size != want {
            return Err(BootError::corrupt(format!("program headers of {} bytes instead of {want}", header.size)));
        }
        let mut segments = Vec::with_capacity(usize::from(header.count));
        for i in 0..u64::from(header.count) {
            let at = header.table.checked_add(i * u64::from(header.size));
            let segment = at.and_then(|at| usize::try_from(at).ok()).and_then(|at| segment(data, at, is_64));
            segments.push(segment.ok_or_else(|| {
                let need = header.table.saturating_add(u64::from(header.count) * u64::from(header.size));
                BootError::truncated("the program header table", need, data.len() as u64)
            })?);
        }
        Ok(Elf { data, is_64, kind: header.kind, machine: header.machine, entry: header.entry, segments })
    }

    /// The loadable segments.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD && s.memsz > 0)
    }

    /// A segment's bytes in the file.
    pub(crate) fn bytes(&self, s: &Segment) -> Result<&'a [u8], BootError> {
        if s.filesz > s.memsz && s.kind == PT_LOAD {
            return Err(BootError::corrupt("a segment is larger in the file than in memory"));
        }
        let end = s.offset.checked_add(s.filesz).ok_or_else(|| BootError::corrupt("a segment wraps around"))?;
        let range = usize::try_from(s.offset).ok().zip(usize::try_from(end).ok());
        range
            .and_then(|(from, to)| self.data.get(from..to))
            .ok_or_else(|| BootError::truncated("a segment", end, self.data.len() as u64))
    }

    /// The note of this owner and type, if the file has one. Damaged notes end the search of their segment.
    pub(crate) fn note(&self, name: &[u8], kind: u32) -> Option<Note<'a>> {
        self.segments
            .iter()
            .filter(|s| s.kind == PT_NOTE)
            .filter_map(|s| Some((self.bytes(s).ok()?, s.align)))
            .flat_map(|(data, align)| Notes { data, align: if align == 8 { 8 } else { 4 } })
            .find(|n| n.kind == kind && n.name == name)
    }
}

struct Header {
    kind: u16,
    machine: u16,
    entry: u64,
    table: u64,
    size: u16,
    count: u16,
}

fn header(data: &[u8], is_64: bool) -> Option<Header> {
    let (kind, machine) = (le16(data, 16)?, le16(data, 18)?);
    Some(if is_64 {
        let (entry, table) = (le64(data, 24)?, le64(data, 32)?);
        Header { kind, machine, entry, table, size: le16(data, 54)?, count: le16(data, 56)? }
    } else {
        let (entry, table) = (le32(data, 24)?.into(), le32(data, 28)?.into());
        Header { kind, machine, entry, table, size: le16(data, 42)?, count: le16(data, 44)? }
    })
}

fn segment(data: &[u8], at: usize, is_64: bool) -> Option<Segment> {
    let data = data.get(at..)?;
    let half = |o| le32(data, o).map(u64::from);
    Some(if is_64 {
        Segment {
            kind: le32(data, 0)?,
            offset: le64(data, 8)?,
            vaddr: le64(data, 16)?,
            paddr: le64(data, 24)?,
            filesz: le64(data, 32)?,
            memsz: le64(data, 40)?,
            align: le64(data, 48)?,
        }
    } else {
        Segment {
            kind: le32(data, 0)?,
            offset: half(4)?,
            vaddr: half(8)?,
            paddr: half(12)?,
            filesz: half(16)?,
            memsz: half(20)?,
            align: half(28)?,
        }
    })
}

struct Notes<'a> {
    data: &'a [u8],
    align: usize,
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let name_len = le32(self.data, 0)? as usize;
        let desc_len = le32(self.data, 4)? as usize;
        let kind = le32(self.data, 8)?;
        let name = self.data.get(12..12usize.checked_add(name_len)?)?;
        let desc_at = (12 + name_len).checked_next_multiple_of(self.align)?;
        let desc = self.data.get(desc_at..desc_at.checked_add(desc_len)?)?;
        let next = (desc_at + desc_len).checked_next_multiple_of(self.align)?;
        self.data = self.data.get(next..).unwrap_or_default();
        Some(Note { name: name.strip_suffix(b"\0").unwrap_or(name), kind, desc })
    }
}
