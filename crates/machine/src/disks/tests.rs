use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use visor_block::{BlockBuffer, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, Sector};

use super::*;

/// A disk whose writes fail for lack of room while `full` is set; the rest succeeds.
#[derive(Default)]
struct Full {
    full: AtomicBool,
    broken: AtomicBool,
    seen: Mutex<Vec<(BlockOp, Sector)>>,
}

impl BlockBackend for Full {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry { sectors: 64, physical_block: 512, read_only: false }
    }

    fn submit(&self, request: BlockRequest) {
        self.seen.lock().unwrap().push((request.op, request.sector));
        let fail = |kind| Err(BlockError::new(kind, "as the test wants"));
        let op = request.op;
        request.complete(match op {
            _ if self.broken.load(Ordering::SeqCst) => fail(BlockErrorKind::Io),
            BlockOp::Write if self.full.load(Ordering::SeqCst) => fail(BlockErrorKind::NoSpace),
            _ => Ok(()),
        });
    }

    fn drain(&self) {}
}

struct NoBuffer;

impl BlockBuffer for NoBuffer {
    fn len(&self) -> usize {
        512
    }
    fn put(&mut self, _: usize, _: &[u8]) -> Result<(), BlockError> {
        Ok(())
    }
    fn get(&self, _: usize, _: &mut [u8]) -> Result<(), BlockError> {
        Ok(())
    }
}

fn rig() -> (Arc<Full>, Disks, Arc<Attached>) {
    let full = Arc::new(Full::default());
    let disks = Disks::default();
    let disk = Disk { backend: full.clone(), serial: "d".into(), file: None, bus: DiskBus::Virtio };
    let attached = disks.register(&disk);
    (full, disks, attached)
}

fn submit(disk: &Attached, op: BlockOp, sector: u64) -> mpsc::Receiver<Result<(), BlockErrorKind>> {
    let (tx, rx) = mpsc::channel();
    let done = move |r: Result<(), BlockError>| tx.send(r.map_err(|e| e.kind)).unwrap();
    disk.submit(BlockRequest::new(op, Sector(sector), 512, Box::new(NoBuffer), done));
    rx
}

#[test]
fn requests_without_room_wait_and_happen_when_there_is_some() {
    let (full, disks, disk) = rig();
    assert_eq!(submit(&disk, BlockOp::Write, 1).recv().unwrap(), Ok(()));
    full.full.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = (2..5).map(|s| submit(&disk, BlockOp::Write, s)).collect();
    assert_eq!(submit(&disk, BlockOp::Read, 9).recv().unwrap(), Ok(()), "what needs no room goes on");
    assert!(waiting.iter().all(|rx| rx.try_recv().is_err()));
    assert!(disks.waiting()[0].starts_with("d: as the test wants"));
    assert!(disks.space().wait(), "the machine is told");
    assert!(!disks.retry(), "still no room");
    assert!(waiting.iter().all(|rx| rx.try_recv().is_err()));
    full.full.store(false, Ordering::SeqCst);
    assert!(disks.retry());
    assert!(waiting.iter().all(|rx| rx.recv().unwrap() == Ok(())));
    assert!(disks.waiting().is_empty());
    let sectors: Vec<u64> = full.seen.lock().unwrap().iter().map(|(_, s)| s.0).collect();
    assert_eq!(sectors, [1, 2, 3, 4, 9, 2, 3, 4, 2, 3, 4], "each again, none twice at once");
    let stats = disks.list()[0].stats;
    assert_eq!((stats.reads, stats.writes, stats.written_bytes, stats.waited), (1, 4, 4 * 512, 6));
}

#[test]
fn other_errors_are_the_guests() {
    let (full, disks, disk) = rig();
    full.broken.store(true, Ordering::SeqCst);
    assert_eq!(submit(&disk, BlockOp::Write, 1).recv().unwrap(), Err(BlockErrorKind::Io));
    assert!(disks.waiting().is_empty());
}

#[test]
fn at_the_end_nothing_waits() {
    let (full, disks, disk) = rig();
    full.full.store(true, Ordering::SeqCst);
    let waiting = submit(&disk, BlockOp::Write, 1);
    disks.end();
    assert_eq!(waiting.recv().unwrap(), Err(BlockErrorKind::NoSpace));
    assert_eq!(submit(&disk, BlockOp::Write, 2).recv().unwrap(), Err(BlockErrorKind::NoSpace));
    assert!(!disks.space().wait() && !disks.space().pass());
    disk.drain();
}

#[test]
fn what_cannot_be_done_is_told() {
    let (_, disks, _) = rig();
    let missing = disks.detach("x", Duration::ZERO, true).unwrap_err();
    assert!(matches!(missing, DiskError::Missing(_)), "{missing}");
    assert!(matches!(disks.detach("d", Duration::ZERO, false), Err(DiskError::Unsupported(_))), "it has no slot");
    assert!(matches!(disks.resize("d", 128), Err(DiskError::Unsupported(_))));
    assert!(matches!(disks.snapshot("d", "s", 0), Err(DiskError::Unsupported(_))));
    assert!(matches!(disks.limit("d", 1, 1), Err(DiskError::Unsupported(_))));
    let again = Disk { backend: Arc::new(Full::default()), serial: "d".into(), file: None, bus: DiskBus::Virtio };
    disks.register(&again);
    let names: Vec<String> = disks.list().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["d", "d-2"], "names are told apart");
}
