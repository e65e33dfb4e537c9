//! A disk that fails on purpose, to see what a guest - or the code above - does then.
//!
//! A [`FaultPlan`] is written `read:10` (every tenth read fails), `write@2048` (writes that touch sector 2048 fail), `flush:1`, several
//! joined by `+`. What fails is not carried out, so that a request either happened or was reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use visor_block::{
    BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, DiskLimits, DiskResize,
    DiskSnapshots, SECTOR,
};

/// Which requests fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan(Vec<Fault>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Every nth request of the kind.
    Every(u64),
    /// Those that touch this sector.
    Sector(u64),
}

impl FaultPlan {
    /// The plan that `text` describes.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split('+').map(fault).collect::<Result<_, _>>().map(FaultPlan)
    }
}

fn fault(text: &str) -> Result<Fault, String> {
    let bad = || format!("`{text}` is no fault; write for example read:10, write@2048 or flush:1");
    let (kind, rest) = text.split_at(text.find([':', '@']).ok_or_else(bad)?);
    let kind = match kind {
        "read" => Kind::Read,
        "write" => Kind::Write,
        "flush" => Kind::Flush,
        _ => return Err(bad()),
    };
    let number = rest.get(1..).and_then(|n| n.parse::<u64>().ok()).ok_or_else(bad)?;
    match (rest.starts_with('@'), number) {
        (true, sector) if kind != Kind::Flush => Ok(Fault { kind, when: When::Sector(sector) }),
        (false, n) if n > 0 => Ok(Fault { kind, when: When::Every(n) }),
        _ => Err(bad()),
    }
}

/// The disk.
pub struct FaultyDisk {
    inner: Arc<dyn BlockBackend>,
    plan: FaultPlan,
    /// Requests so far: reads, writes, flushes.
    seen: [AtomicU64; 3],
}

impl FaultyDisk {
    /// `inner`, which fails as `plan` says.
    pub fn new(inner: Arc<dyn BlockBackend>, plan: FaultPlan) -> Self {
        FaultyDisk { inner, plan, seen: Default::default() }
    }

    fn fails(&self, request: &BlockRequest) -> bool {
        let kind = match request.op {
            BlockOp::Read => Kind::Read,
            BlockOp::Write | BlockOp::WriteZeroes { .. } | BlockOp::Discard => Kind::Write,
            BlockOp::Flush => Kind::Flush,
        };
        let number = self.seen[kind as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let (first, end) = (request.sector.0, request.sector.0.saturating_add(request.len / SECTOR));
        self.plan.0.iter().filter(|f| f.kind == kind).any(|f| match f.when {
            When::Every(n) => number.is_multiple_of(n),
            When::Sector(sector) => (first..end).contains(&sector),
        })
    }
}

impl BlockBackend for FaultyDisk {
    fn geometry(&self) -> BlockGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        if self.fails(&request) {
            let what = format!("{request:?} fails on purpose");
            return request.complete(Err(BlockError::new(BlockErrorKind::Io, what)));
        }
        self.inner.submit(request);
    }

    fn drain(&self) {
        self.inner.drain();
    }

    fn means(&self) -> String {
        format!("{}, with faults", self.inner.means())
    }

    fn as_resize(&self) -> Option<&dyn DiskResize> {
        self.inner.as_resize()
    }

    fn as_snapshots(&self) -> Option<&dyn DiskSnapshots> {
        self.inner.as_snapshots()
    }

    fn as_limits(&self) -> Option<&dyn DiskLimits> {
        self.inner.as_limits()
    }
}

#[cfg(test)]
mod tests {
    use visor_block::Sector;

    use super::*;
    use crate::{Access, Alloc, RawDisk, RawOptions};
    use visor_block::SharedBuffer;

    #[test]
    fn plans_are_read() {
        let every = |kind, n| Fault { kind, when: When::Every(n) };
        assert_eq!(FaultPlan::parse("read:10").unwrap().0, [every(Kind::Read, 10)]);
        let two = FaultPlan::parse("write@2048+flush:1").unwrap().0;
        assert_eq!(two, [Fault { kind: Kind::Write, when: When::Sector(2048) }, every(Kind::Flush, 1)]);
        for bad in ["", "read", "read:0", "read:x", "flush@1", "erase:1", "read:1+"] {
            assert!(FaultPlan::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_fails_did_not_happen_and_the_rest_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        RawDisk::create(&path, 1 << 20, Alloc::Dynamic).unwrap();
        let raw = Arc::new(RawDisk::open(&path, Access::ReadWrite, &RawOptions::default()).unwrap());
        let disk = FaultyDisk::new(raw, FaultPlan::parse("write:3+write@9+read@100+flush:2").unwrap());
        let run = |op, sector, sectors: u64| {
            let (tx, rx) = std::sync::mpsc::channel();
            let len = if op == BlockOp::Flush { 0 } else { sectors * 512 };
            let buffer = Box::new(SharedBuffer::new(vec![7; len as usize]));
            disk.submit(BlockRequest::new(op, Sector(sector), len, buffer, move |r| tx.send(r).unwrap()));
            rx.recv().unwrap().is_ok()
        };
        let written: Vec<bool> = (0..6).map(|i| run(BlockOp::Write, i, 1)).collect();
        assert_eq!(written, [true, true, false, true, true, false]);
        assert!(!run(BlockOp::Write, 8, 4), "touches sector 9");
        assert!(run(BlockOp::Write, 10, 1));
        assert!(run(BlockOp::Read, 96, 4) && !run(BlockOp::Read, 99, 2));
        assert!(run(BlockOp::Flush, 0, 0) && !run(BlockOp::Flush, 0, 0) && run(BlockOp::Flush, 0, 0));
        let file = std::fs::read(&path).unwrap();
        let there: Vec<bool> = (0..12).map(|s| file[s * 512] == 7).collect();
        assert_eq!(there, [true, true, false, true, true, false, false, false, false, false, true, false]);
    }
}
