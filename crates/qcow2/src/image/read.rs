//! Reading.

use std::sync::TryLockError;

use super::*;
use crate::entry::{Plain, Slot};

/// A stretch of a request whose bytes come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// From the data file at this position.
    Host(u64),
    Zero,
    Backing,
    /// Within a compressed cluster.
    Compressed {
        at: u64,
        len: u64,
        within: u64,
    },
}

impl Image {
    /// Fills `data` from position `at` of the disk.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] outside the disk, [`ErrorKind::Corrupt`] where the image is damaged, otherwise the host's.
    pub fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let (first, last) = self.span(at, data.len() as u64)?;
        let _held = self.ranges.lock(first, last, false);
        self.read_held(at, data)
    }

    /// Fills `data` from position `at` if that is possible without waiting for the host, another request or another thread; false if
    /// it may not be, and then `data` holds anything.
    pub fn read_now(&self, at: u64, data: &mut [u8]) -> bool {
        let Ok((first, last)) = self.span(at, data.len() as u64) else { return false };
        let Some(_held) = self.ranges.try_lock(first, last, false) else { return false };
        let Some(pieces) = self.pieces_now(at, data.len() as u64) else { return false };
        let (mut at, mut rest) = (at, data);
        for (piece, len) in pieces {
            let (part, behind) = rest.split_at_mut(len as usize);
            let done = match piece {
                Piece::Host(host) => self.data.read_now(part, host),
                Piece::Zero => {
                    part.fill(0);
                    true
                }
                Piece::Backing => self.read_backing_now(at, part),
                Piece::Compressed { .. } => false,
            };
            if !done {
                return false;
            }
            (at, rest) = (at + len, behind);
        }
        true
    }

    /// As [`Image::read`], by who holds the clusters already.
    pub(super) fn read_held(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let pieces = self.pieces(at, data.len() as u64)?;
        let (mut at, mut rest) = (at, data);
        for (piece, len) in pieces {
            let (part, behind) = rest.split_at_mut(len as usize);
            self.read_piece(piece, at, part)?;
            (at, rest) = (at + len, behind);
        }
        Ok(())
    }

    fn read_piece(&self, piece: Piece, at: u64, part: &mut [u8]) -> Result<()> {
        match piece {
            Piece::Host(host) => {
                self.data.read_at(part, host).map_err(|e| Error::host("cannot read the image", host, e))
            }
            Piece::Zero => {
                part.fill(0);
                Ok(())
            }
            Piece::Backing => self.read_backing(at, part),
            Piece::Compressed { at, len, within } => {
                let cluster = self.decompressed(at, len)?;
                part.copy_from_slice(&cluster[within as usize..within as usize + part.len()]);
                Ok(())
            }
        }
    }

    /// Where the bytes of a range are, neighbours joined.
    fn pieces(&self, at: u64, len: u64) -> Result<Vec<(Piece, u64)>> {
        self.pieces_of(&mut self.meta(), at, len)
    }

    /// The same if nobody has the metadata and all that is needed of it is in memory.
    fn pieces_now(&self, at: u64, len: u64) -> Option<Vec<(Piece, u64)>> {
        let mut meta = match self.meta.try_lock() {
            Ok(meta) => meta,
            Err(TryLockError::Poisoned(meta)) => meta.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let clusters =
            at >> self.layout.cluster_bits..=(at + len).saturating_sub(1).max(at) >> self.layout.cluster_bits;
        let known = clusters.into_iter().all(|index| meta.is_known(index));
        if known { self.pieces_of(&mut meta, at, len).ok() } else { None }
    }

    fn pieces_of(&self, meta: &mut Meta, at: u64, len: u64) -> Result<Vec<(Piece, u64)>> {
        let mut pieces: Vec<(Piece, u64)> = Vec::new();
        let (cluster, end) = (self.layout.cluster(), at + len);
        let mut pos = at;
        while pos < end {
            let within = pos % cluster;
            let n = (cluster - within).min(end - pos);
            match meta.lookup(pos / cluster)? {
                Slot::Compressed { at, len } => pieces.push((Piece::Compressed { at, len, within }, n)),
                Slot::Plain(p) => self.plain_pieces(p, within, n, &mut pieces),
            }
            pos += n;
        }
        Ok(pieces)
    }

    /// Adds the pieces of `len` bytes from `within` a cluster.
    fn plain_pieces(&self, p: Plain, within: u64, len: u64, pieces: &mut Vec<(Piece, u64)>) {
        let (sub, end) = (self.layout.sub(), within + len);
        let mut pos = within;
        while pos < end {
            let n = (sub - pos % sub).min(end - pos);
            let bit = 1 << (pos / sub);
            let piece = match p.host {
                Some(host) if p.alloc & bit != 0 => Piece::Host(host + pos),
                _ if p.zero & bit != 0 || self.backing.is_none() => Piece::Zero,
                _ => Piece::Backing,
            };
            match (pieces.last_mut(), piece) {
                (Some((Piece::Host(a), l)), Piece::Host(b)) if *a + *l == b => *l += n,
                (Some((Piece::Zero, l)), Piece::Zero) | (Some((Piece::Backing, l)), Piece::Backing) => *l += n,
                _ => pieces.push((piece, n)),
            }
            pos += n;
        }
    }

    /// The backing file's bytes; behind its end there are zeroes.
    pub(crate) fn read_backing(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            data.fill(0);
            return Ok(());
        };
        let have = backing.size().saturating_sub(at).min(data.len() as u64) as usize;
        data[have..].fill(0);
        if have > 0 { backing.read(at, &mut data[..have]) } else { Ok(()) }
    }

    fn read_backing_now(&self, at: u64, data: &mut [u8]) -> bool {
        let Some(backing) = &self.backing else {
            data.fill(0);
            return true;
        };
        let have = backing.size().saturating_sub(at).min(data.len() as u64) as usize;
        data[have..].fill(0);
        have == 0 || backing.read_now(at, &mut data[..have])
    }

    /// The contents of a compressed cluster.
    fn decompressed(&self, at: u64, len: u64) -> Result<Arc<[u8]>> {
        let lock = || self.decompressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, data)) = lock().iter().find(|(key, _)| *key == at) {
            return Ok(data.clone());
        }
        // Compressed data is never larger than a cluster, but counted in sectors.
        let len = len.min(self.layout.cluster() + 512);
        let mut packed = vec![0; len as usize];
        self.file.read_at(&mut packed, at).map_err(|e| Error::host("cannot read the image", at, e))?;
        let mut data = vec![0; self.layout.cluster() as usize];
        crate::compress::decompress(self.compression, &packed, &mut data)?;
        let data: Arc<[u8]> = data.into();
        let mut kept = lock();
        kept.truncate(DECOMPRESSED - 1);
        kept.push_front((at, data.clone()));
        Ok(data)
    }
}
