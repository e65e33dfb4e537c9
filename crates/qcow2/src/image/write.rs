//! Writing.
//!
//! A write either goes in place, into clusters that are the image's alone and hold the data already, or takes new space: then
//! the data is written first, and only afterwards L2 entries point to it.

use std::borrow::Cow;

use super::*;
use crate::entry::{Plain, Slot};

/// Bytes written at a time at most when space has to be taken, so that no request needs much memory.
const STEP: u64 = 2 << 20;

/// A cluster of a write that takes space.
struct Plan<'a> {
    /// Which cluster of the disk.
    index: u64,
    /// The entry before.
    old: Slot,
    /// The entry afterwards.
    new: Plain,
    /// What is written, from a position within the cluster.
    from: u64,
    /// Of the request alone, or put together with what lies around it.
    data: Cow<'a, [u8]>,
    /// Where that begins in the request, if it is of the request alone.
    within: usize,
    /// The host cluster was taken for this write.
    taken: bool,
}

impl Image {
    /// Writes `data` to position `at` of the disk.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::ReadOnly`], [`ErrorKind::NoSpace`] (nothing is lost, and the write may be tried
    /// again), [`ErrorKind::Corrupt`], otherwise the host's.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<()> {
        self.must_write()?;
        let (first, last) = self.span(at, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        self.touch_bitmaps(at, data.len() as u64);
        let held = self.ranges.lock(first, last, false);
        if let Some(pieces) = self.in_place(at, data.len() as u64)? {
            return self.write_pieces(&pieces, data);
        }
        drop(held);
        let _held = self.ranges.lock(first, last, true);
        let mut done = 0;
        while done < data.len() as u64 {
            let start = at + done;
            let n = (STEP - start % STEP).max(self.layout.cluster() - start % self.layout.cluster());
            let n = n.min(data.len() as u64 - done);
            self.write_new(start, &data[done as usize..(done + n) as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Writes whole clusters compressed where that makes them smaller. `at` is a cluster's; the last cluster of the disk may be
    /// shorter. Meant for filling an image; a compressed cluster is written as an ordinary one when it changes.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn write_compressed(&self, at: u64, data: &[u8]) -> Result<()> {
        let packed = self.compress(data)?;
        self.write_packed(at, data, packed)
    }

    /// The first half of [`Image::write_compressed`], which needs no image and may run on many threads: the cluster packed, or
    /// nothing if that would not make it smaller.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub fn compress(&self, data: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.layout.external || data.len() as u64 > self.layout.cluster() {
            return Ok(None);
        }
        let mut whole = data.to_vec();
        whole.resize(self.layout.cluster() as usize, 0);
        crate::compress::compress(self.compression, &whole)
    }

    /// The second half: stores a cluster that [`Image::compress`] packed.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn write_packed(&self, at: u64, data: &[u8], packed: Option<Vec<u8>>) -> Result<()> {
        self.must_write()?;
        let (first, last) = self.span(at, data.len() as u64)?;
        let whole = data.len() as u64 == self.layout.cluster() || at + data.len() as u64 == self.size();
        let Some(packed) = packed.filter(|_| first == last && at.is_multiple_of(self.layout.cluster()) && whole) else {
            return self.write(at, data);
        };
        self.touch_bitmaps(at, data.len() as u64);
        let _held = self.ranges.lock(first, last, true);
        let len = packed.len() as u64;
        let host = self.meta().allocate_compressed(len)?;
        let slot = Slot::Compressed { at: host, len: (host + len).next_multiple_of(512) - host };
        let written = self.file.write_at(&packed, host);
        // Whoever read what was at this place before is done, because what referred to it was changed since.
        self.forget_decompressed();
        let mut meta = self.meta();
        if let Err(e) = written {
            meta.free_slot(slot);
            return Err(Error::host("cannot write the image", host, e));
        }
        match meta.relieve().and_then(|()| meta.lookup(first)).and_then(|old| meta.store(first, slot).map(|()| old)) {
            Ok(old) => {
                meta.free_slot(old);
                Ok(())
            }
            Err(e) => {
                meta.free_slot(slot);
                Err(e)
            }
        }
    }

    /// Where a range lies in the data file, if all of it can be overwritten where it is.
    fn in_place(&self, at: u64, len: u64) -> Result<Option<Vec<(u64, u64)>>> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let (cluster, end) = (self.layout.cluster(), at + len);
        let mut meta = self.meta();
        meta.alive()?;
        let mut pos = at;
        while pos < end {
            let within = pos % cluster;
            let n = (cluster - within).min(end - pos);
            let Slot::Plain(Plain { host: Some(host), copied: true, alloc, .. }) = meta.lookup(pos / cluster)? else {
                return Ok(None);
            };
            let mask = self.layout.mask(within, n);
            if alloc & mask != mask {
                return Ok(None);
            }
            self.check_target(&mut meta, host)?;
            match pieces.last_mut() {
                Some((a, l)) if *a + *l == host + within => *l += n,
                _ => pieces.push((host + within, n)),
            }
            pos += n;
        }
        Ok(Some(pieces))
    }

    /// Refuses to write over the image's own tables, to which a damaged or malicious L2 entry may point.
    fn check_target(&self, meta: &mut Meta, host: u64) -> Result<()> {
        if self.layout.external || meta.inside(host) && !meta.is_reserved(host >> self.layout.cluster_bits) {
            return Ok(());
        }
        meta.set_corrupt();
        Err(Error::corrupt(format!("an L2 entry refers to byte {host:#x}, where no data can be")))
    }

    fn write_pieces(&self, pieces: &[(u64, u64)], mut data: &[u8]) -> Result<()> {
        for &(host, len) in pieces {
            let (part, rest) = data.split_at(len as usize);
            self.data.write_at(part, host).map_err(|e| Error::host("cannot write the image", host, e))?;
            data = rest;
        }
        Ok(())
    }

    /// Writes a range, which the caller holds, to new space where needed.
    pub(super) fn write_new(&self, at: u64, data: &[u8]) -> Result<()> {
        let mut plans = Vec::new();
        let done = self.plan(at, data, &mut plans).and_then(|()| self.carry_out(&mut plans, data));
        if done.is_err() {
            let mut meta = self.meta();
            for p in plans.iter().filter(|p| p.taken) {
                meta.free_slot(Slot::Plain(p.new));
            }
        }
        done
    }

    fn carry_out(&self, plans: &mut [Plan<'_>], data: &[u8]) -> Result<()> {
        for run in plans.chunk_by(follows) {
            let start = run[0].new.host.unwrap_or(0) + run[0].from;
            let joined: Vec<u8>;
            let bytes = match (run, in_request(run, data)) {
                ([one], _) => &one.data[..],
                (_, Some(part)) => part,
                (many, None) => {
                    joined = many.iter().flat_map(|p| p.data.iter().copied()).collect();
                    &joined
                }
            };
            self.data.write_at(bytes, start).map_err(|e| Error::host("cannot write the image", start, e))?;
        }
        let mut meta = self.meta();
        // All tables first: taking one may fail, and then nothing has changed.
        for p in &*plans {
            meta.own_table((p.index / self.layout.l2_entries()) as usize)?;
        }
        for p in plans {
            meta.store(p.index, Slot::Plain(p.new))?;
            if p.taken {
                meta.free_slot(p.old);
            }
            // A table refers to it now.
            p.taken = false;
        }
        Ok(())
    }

    /// Takes space for a write and puts together what has to be written.
    fn plan<'a>(&self, at: u64, data: &'a [u8], plans: &mut Vec<Plan<'a>>) -> Result<()> {
        let (cluster, end) = (self.layout.cluster(), at + data.len() as u64);
        let first = at / cluster;
        let count = (end - 1) / cluster - first + 1;
        let mut spare: Option<(u64, u64, bool)> = None;
        let mut meta = self.meta();
        meta.relieve()?;
        let slots: Vec<Slot> = (first..first + count).map(|i| meta.lookup(i)).collect::<Result<_>>()?;
        let wants = |s: &Slot| !matches!(s, Slot::Plain(Plain { host: Some(_), copied: true, .. }));
        let mut result = Ok(());
        let mut targets = Vec::new();
        for (i, slot) in slots.iter().enumerate() {
            let target = if wants(slot) {
                let more = slots[i..].iter().take_while(|s| wants(s)).count() as u64;
                self.take(&mut meta, first + i as u64, more, &mut spare)
            } else {
                let Slot::Plain(Plain { host: Some(host), .. }) = slot else { continue };
                self.check_target(&mut meta, *host).map(|()| (*host, false, false))
            };
            match target {
                Ok(t) => targets.push(t),
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        if let Some((next, n, _)) = spare.filter(|(_, n, _)| *n > 0) {
            meta.free(next, n);
        }
        drop(meta);
        for (i, (host, taken, fresh)) in targets.iter().copied().enumerate() {
            let index = first + i as u64;
            let from = at.max(index * cluster);
            let to = end.min((index + 1) * cluster);
            let within = (from - at) as usize;
            let part = &data[within..(to - at) as usize];
            let new = Plain { host: Some(host), copied: true, ..Plain::default() };
            let none = Cow::Borrowed(&[][..]);
            let mut plan = Plan { index, old: slots[i], new, from: from % cluster, data: none, within, taken };
            // Known to `write_new` before anything can fail, so that the cluster is given back.
            if result.is_ok() {
                result = self.fill(&mut plan, part, fresh);
            }
            plans.push(plan);
        }
        result
    }

    /// The host position for a cluster of the disk: a new one, out of a run that is taken for `more` of them at once.
    fn take(
        &self,
        meta: &mut Meta,
        index: u64,
        more: u64,
        spare: &mut Option<(u64, u64, bool)>,
    ) -> Result<(u64, bool, bool)> {
        if self.layout.external {
            return Ok((index << self.layout.cluster_bits, false, false));
        }
        let (next, n, fresh) = match *spare {
            Some(s) if s.1 > 0 => s,
            _ => {
                let run = meta.allocate(more)?;
                (run.first, run.count, run.fresh)
            }
        };
        *spare = Some((next + 1, n - 1, fresh));
        Ok((next << self.layout.cluster_bits, true, fresh))
    }

    /// Decides what is written to the cluster of `plan`: `part`, and around it what must move along.
    fn fill<'a>(&self, plan: &mut Plan<'a>, part: &'a [u8], fresh: bool) -> Result<()> {
        let (cluster, sub) = (self.layout.cluster(), self.layout.sub());
        let (from, to) = (plan.from, plan.from + part.len() as u64);
        let mask = self.layout.mask(from, part.len() as u64);
        let (old_alloc, old_zero) = match plan.old {
            Slot::Plain(p) => (p.alloc, p.zero),
            Slot::Compressed { .. } => (self.layout.all(), 0),
        };
        plan.new.zero = old_zero & !mask;
        plan.new.alloc = old_alloc | mask;
        let moved = plan.taken && old_alloc & !mask != 0;
        // Subclusters are valid as a whole, so that the rest of those at the edges comes along; of a cluster that moves, all.
        let (mut start, mut end) = if moved { (0, cluster) } else { (from / sub * sub, to.next_multiple_of(sub)) };
        if !plan.taken {
            // An edge that is in the cluster already stays.
            let valid = |at: u64| old_alloc & self.layout.mask(at, 1) != 0;
            start = if valid(from) { from } else { start };
            end = if valid(to - 1) { to } else { end };
        }
        // A cluster that was never used reads as zeroes already.
        let zeroes =
            |bits: u32| fresh && !moved && (self.backing.is_none() || old_zero & bits == bits) && old_alloc & bits == 0;
        if start < from && zeroes(self.layout.mask(start, 1)) {
            start = from;
        }
        if end > to && zeroes(self.layout.mask(end - 1, 1)) {
            end = to;
        }
        plan.from = start;
        if (start, end) == (from, to) {
            plan.data = Cow::Borrowed(part);
            return Ok(());
        }
        let base = plan.index * cluster;
        let mut data = vec![0; (end - start) as usize];
        self.fill_around(base + start, &mut data[..(from - start) as usize])?;
        data[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
        self.fill_around(base + to, &mut data[(to - start) as usize..])?;
        plan.data = Cow::Owned(data);
        Ok(())
    }

    /// What the disk shows now around a write; behind its end, zeroes.
    fn fill_around(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let have = self.size().saturating_sub(at).min(data.len() as u64) as usize;
        if have > 0 { self.read_held(at, &mut data[..have]) } else { Ok(()) }
    }
}

/// What a run of plans writes as one part of the request, if it is that.
fn in_request<'a>(run: &[Plan<'_>], request: &'a [u8]) -> Option<&'a [u8]> {
    let (first, last) = (run.first()?, run.last()?);
    let whole = run.iter().all(|p| matches!(p.data, Cow::Borrowed(_)));
    let next = run.windows(2).all(|p| p[0].within + p[0].data.len() == p[1].within);
    if whole && next { request.get(first.within..last.within + last.data.len()) } else { None }
}

/// Whether the bytes of `b` lie directly behind those of `a`.
fn follows(a: &Plan<'_>, b: &Plan<'_>) -> bool {
    let end = a.new.host.map(|h| h + a.from + a.data.len() as u64);
    end.is_some() && end == b.new.host.map(|h| h + b.from)
}
