//! Copying a disk into a new image.
//!
//! Where something has to be compressed or unpacked, several threads do that; one writes, in order, so that the new image is not
//! fragmented. All else one thread copies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::thread;

use visor_qcow2::{Error, ErrorKind, FileStorage, Image, Result, Source, Storage};

/// Bytes read at a time.
const CHUNK: u64 = 2 << 20;
/// Zeroes of fewer bytes are copied as data, since a hole costs as much as it saves.
const GRAIN: usize = 4096;
/// Bytes moved at a time where one thread copies: what stays in the CPU's cache between reading and writing.
const INLINE: u64 = 512 << 10;
/// Chunks that are read ahead of the writer for each thread.
const AHEAD: u64 = 4;

/// Where a copy goes. It reads as zeroes before.
pub enum Target<'a> {
    /// A qcow2 image.
    Qcow2(&'a Image),
    /// A raw file of the disk's size.
    Raw(&'a FileStorage),
}

/// Details of copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Compress clusters (qcow2 only).
    pub compress: bool,
    /// Threads that read and compress, 1 to 16.
    pub threads: usize,
}

/// What a copy moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes written as data, before compression.
    pub data: u64,
    /// Bytes that were zeroes and take no space.
    pub zero: u64,
}

/// Part of a disk on its way.
struct Part {
    at: u64,
    data: Vec<u8>,
    packed: Option<Option<Vec<u8>>>,
}

/// What one reader hands over: the parts of a chunk that are not zero.
type Chunk = (u64, Result<Vec<Part>>);

/// Copies `source` to `target`, which is at least as large. `progress` is told the bytes done and to be done, and stops the
/// copy by returning false.
///
/// # Errors
/// [`ErrorKind::Cancelled`], or those of either side. The target is worthless then.
pub fn convert(
    source: &dyn Source,
    target: &Target<'_>,
    options: &ConvertOptions,
    progress: visor_qcow2::Progress<'_>,
) -> Result<Copied> {
    let total = source.size();
    if !options.compress && !source.is_packed() {
        return inline(source, target, total, progress);
    }
    let chunks = total.div_ceil(CHUNK);
    let state = Shared {
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        written: Mutex::new(0),
        moved: Condvar::new(),
        ahead: AHEAD * options.threads as u64,
    };
    thread::scope(|scope| {
        let (tx, rx) = mpsc::channel::<Chunk>();
        for _ in 0..options.threads.clamp(1, 16) {
            let (tx, state) = (tx.clone(), &state);
            scope.spawn(move || {
                while let Some(n) = state.take(chunks) {
                    let result = read_chunk(source, target, options, n * CHUNK, total);
                    if tx.send((n, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tx);
        let result = write_all(&rx, &state, target, total, progress);
        state.end();
        result
    })
}

/// Copies on the calling thread. What the host has to do is done by then - it reads ahead, and writes behind - so that handing chunks
/// from thread to thread would cost more than it gains.
fn inline(source: &dyn Source, target: &Target<'_>, total: u64, progress: visor_qcow2::Progress<'_>) -> Result<Copied> {
    let (mut data, mut copied, mut at) = (Vec::new(), Copied::default(), 0);
    while at < total {
        let end = total.min(at + INLINE);
        let (zero, len) = source.is_zero(at, end - at)?;
        let stop = (at + len.clamp(1, end - at)).min(end);
        let n = (stop - at) as usize;
        let mut moved = 0;
        if !zero {
            data.resize(n, 0);
            source.read(at, &mut data)?;
            for part in runs(&data, GRAIN) {
                moved += part.len() as u64;
                write_data(target, at + part.start as u64, &data[part])?;
            }
        }
        (copied.data, copied.zero) = (copied.data + moved, copied.zero + n as u64 - moved);
        at = stop;
        if !progress(at, total) {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
    }
    Ok(copied)
}

/// The stretches of `data` that are not zero, in grains.
fn runs(data: &[u8], grain: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, piece) in data.chunks(grain).enumerate().filter(|(_, piece)| !is_zero(piece)) {
        let at = i * grain;
        match runs.last_mut() {
            Some(last) if last.end == at => last.end = at + piece.len(),
            _ => runs.push(at..at + piece.len()),
        }
    }
    runs
}

fn write_data(target: &Target<'_>, at: u64, data: &[u8]) -> Result<()> {
    match target {
        Target::Qcow2(image) => image.write(at, data),
        Target::Raw(file) => file.write_at(data, at).map_err(|e| Error::host("cannot write the image", at, e)),
    }
}

struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    /// Chunks that the writer is done with.
    written: Mutex<u64>,
    moved: Condvar,
    ahead: u64,
}

impl Shared {
    /// The next chunk to read, when the writer is not too far behind.
    fn take(&self, chunks: u64) -> Option<u64> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while n < chunks && n >= *written + self.ahead && !self.stop.load(Ordering::Relaxed) {
            written = self.moved.wait(written).unwrap_or_else(PoisonError::into_inner);
        }
        (n < chunks && !self.stop.load(Ordering::Relaxed)).then_some(n)
    }

    fn wrote(&self, n: u64) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = n;
        self.moved.notify_all();
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Taken, so that nobody looks at `stop` before and waits after.
        drop(self.written.lock());
        self.moved.notify_all();
    }
}

fn write_all(
    rx: &mpsc::Receiver<Chunk>,
    state: &Shared,
    target: &Target<'_>,
    total: u64,
    progress: visor_qcow2::Progress<'_>,
) -> Result<Copied> {
    let (mut early, mut next, mut copied) = (BTreeMap::new(), 0, Copied::default());
    for (n, result) in rx {
        early.insert(n, result);
        while let Some(result) = early.remove(&next) {
            let at = next * CHUNK;
            let len = CHUNK.min(total - at);
            let mut data = 0;
            for part in result? {
                data += part.data.len() as u64;
                write_part(target, part)?;
            }
            (copied.data, copied.zero) = (copied.data + data, copied.zero + len.saturating_sub(data));
            next += 1;
            state.wrote(next);
            if !progress((at + len).min(total), total) {
                return Err(Error::new(ErrorKind::Cancelled, "stopped"));
            }
        }
    }
    Ok(copied)
}

fn write_part(target: &Target<'_>, part: Part) -> Result<()> {
    match (target, part.packed) {
        (Target::Qcow2(image), Some(packed)) => image.write_packed(part.at, &part.data, packed),
        _ => write_data(target, part.at, &part.data),
    }
}

/// The parts of a chunk that are not zero.
fn read_chunk(
    source: &dyn Source,
    target: &Target<'_>,
    options: &ConvertOptions,
    at: u64,
    total: u64,
) -> Result<Vec<Part>> {
    let end = total.min(at + CHUNK);
    let grain = match target {
        Target::Qcow2(image) if options.compress => image.cluster_size() as usize,
        _ => GRAIN,
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut pos = at;
    while pos < end {
        let (zero, len) = source.is_zero(pos, end - pos)?;
        // Whole grains: what is compressed together must not be split.
        let stop =
            if zero { (pos + len) / grain as u64 * grain as u64 } else { (pos + len).next_multiple_of(grain as u64) };
        let stop = if zero && pos + len == end { end } else { stop.min(end) };
        if zero && stop > pos {
            pos = stop;
            continue;
        }
        let stop = if stop > pos { stop } else { (pos + grain as u64).min(end) };
        let mut data = vec![0; (stop - pos) as usize];
        source.read(pos, &mut data)?;
        split(&data, pos, grain, options.compress, &mut parts);
        pos = stop;
    }
    if let (Target::Qcow2(image), true) = (target, options.compress) {
        for part in &mut parts {
            part.packed = Some(image.compress(&part.data)?);
        }
    }
    Ok(parts)
}

/// Leaves out the zeroes of `data`; neighbouring grains stay together, unless each is to be compressed.
fn split(data: &[u8], at: u64, grain: usize, single: bool, parts: &mut Vec<Part>) {
    let mut start = None;
    for (i, piece) in data.chunks(grain).enumerate() {
        let pos = i * grain;
        match (is_zero(piece), start) {
            (true, Some(from)) => {
                parts.push(Part { at: at + from as u64, data: data[from..pos].to_vec(), packed: None });
                start = None;
            }
            (false, _) if single => parts.push(Part { at: at + pos as u64, data: piece.to_vec(), packed: None }),
            (false, None) => start = Some(pos),
            _ => {}
        }
    }
    if let Some(from) = start {
        parts.push(Part { at: at + from as u64, data: data[from..].to_vec(), packed: None });
    }
}

/// Whether all bytes are zero.
fn is_zero(data: &[u8]) -> bool {
    let (head, body) = data.split_at(data.len().min(16));
    head.iter().all(|b| *b == 0) && body.chunks(256).all(|c| c.iter().fold(0, |a, b| a | b) == 0)
}

/// Number of threads that serve a copy well.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 16))
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions { compress: false, threads: threads() }
    }
}
