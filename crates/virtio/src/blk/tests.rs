use std::sync::Mutex;

use visor_block::{BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR};

use super::*;
use crate::testing::*;

const SECTORS: u64 = 256;
/// Where a request's header, status and data are.
const HEADER: u64 = 6 << 20;
const STATUS: u64 = HEADER + 0x100;
const DATA: u64 = HEADER + 0x1000;

/// A disk in memory; holds requests back while `hold` is set, fails them with `fail`.
pub(crate) struct MemDisk {
    data: Mutex<Vec<u8>>,
    pub(crate) log: Mutex<Vec<BlockOp>>,
    pub(crate) held: Mutex<Vec<BlockRequest>>,
    /// Its size, which may change.
    sectors: AtomicU64,
    pub(crate) hold: AtomicBool,
    pub(crate) fail: Mutex<Option<BlockErrorKind>>,
    read_only: bool,
}

impl MemDisk {
    pub(crate) fn new(read_only: bool) -> Arc<Self> {
        Arc::new(MemDisk {
            data: Mutex::new(vec![0; (SECTORS * SECTOR) as usize]),
            log: Mutex::default(),
            held: Mutex::default(),
            sectors: AtomicU64::new(SECTORS),
            hold: AtomicBool::new(false),
            fail: Mutex::default(),
            read_only,
        })
    }

    pub(crate) fn run(&self, mut r: BlockRequest) {
        if let Some(kind) = *self.fail.lock().unwrap() {
            return r.complete(Err(BlockError::new(kind, "as asked")));
        }
        let at = (r.sector.0 * SECTOR) as usize;
        let range = at..at + r.len as usize;
        let result = match r.op {
            BlockOp::Read => r.buffer.put(0, &self.data.lock().unwrap()[range]),
            BlockOp::Write => {
                let mut bytes = vec![0; r.buffer.len()];
                let ok = r.buffer.get(0, &mut bytes);
                if ok.is_ok() {
                    self.data.lock().unwrap()[range].copy_from_slice(&bytes);
                }
                ok
            }
            BlockOp::WriteZeroes { .. } => {
                self.data.lock().unwrap()[range].fill(0);
                Ok(())
            }
            BlockOp::Discard | BlockOp::Flush => Ok(()),
        };
        r.complete(result);
    }

    /// Lets held requests go, on another thread.
    pub(crate) fn release(self: &Arc<Self>) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        let disk = self.clone();
        std::thread::spawn(move || held.into_iter().rev().for_each(|r| disk.run(r))).join().unwrap();
    }

    pub(crate) fn ops(&self) -> Vec<BlockOp> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl BlockBackend for MemDisk {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry { sectors: self.sectors.load(Ordering::SeqCst), physical_block: 4096, read_only: self.read_only }
    }
    fn submit(&self, request: BlockRequest) {
        self.log.lock().unwrap().push(request.op);
        if self.hold.load(Ordering::SeqCst) {
            self.held.lock().unwrap().push(request);
        } else {
            self.run(request);
        }
    }
    fn drain(&self) {}
}

fn rig(disk: &Arc<MemDisk>) -> Rig {
    Rig::new(Blk::new(disk.clone(), &BlkConfig { queues: 2, serial: "visor-test-disk".into() }))
}

fn header(rig: &Rig, at: u64, kind: u32, sector: u64) {
    rig.store(at, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
}

/// Runs a request to its end; returns status and used length.
fn request(rig: &Rig, q: &mut Vq, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    header(rig, HEADER, kind, sector);
    rig.store(STATUS, &[0xee]);
    let parts = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
    let head = q.send(rig, &parts);
    let (id, len) = q.used(rig).unwrap();
    assert_eq!(id, head);
    (rig.bytes(STATUS, 1)[0], len)
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn the_configuration_describes_the_disk() {
    let rig = rig(&MemDisk::new(false));
    let read = |at: u64, len| rig.read(0x2000 + at, len);
    assert_eq!((read(0, 8), read(8, 4), read(0xc, 4)), (SECTORS, 1 << 20, 254));
    assert_eq!((read(0x14, 4), read(0x18, 1), read(0x1a, 2)), (512, 3, 8));
    assert_eq!((read(0x20, 1), read(0x22, 2), read(0x38, 1)), (1, 2, 1));
    assert_eq!(
        rig.offered() & 0xff_ffff,
        F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ | F_DISCARD | F_WRITE_ZEROES
    );
    let ro = super::tests::rig(&MemDisk::new(true));
    assert_eq!(ro.offered() & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
}

#[test]
fn a_new_size_is_shown_and_told() {
    let disk = MemDisk::new(false);
    let blk = Blk::new(disk.clone(), &BlkConfig { queues: 1, serial: "d".into() });
    let handle = blk.handle();
    let rig = Rig::new(blk);
    let mut q = rig.start(F_FLUSH).remove(0);
    let generation = rig.read(0x15, 1);
    assert_eq!(request(&rig, &mut q, 0, SECTORS, &[(DATA, 512, true)]).0, 1, "outside");
    disk.data.lock().unwrap().resize(2 * (SECTORS * SECTOR) as usize, 7);
    disk.sectors.store(2 * SECTORS, Ordering::SeqCst);
    assert_eq!(rig.read(0x2000, 8), SECTORS, "not before it is told");
    handle.resized();
    assert_eq!(rig.read(0x2000, 8), 2 * SECTORS);
    assert_ne!(rig.read(0x15, 1), generation, "the configuration's generation moves");
    assert_eq!(request(&rig, &mut q, 0, SECTORS, &[(DATA, 512, true)]).0, 0);
    assert_eq!(rig.bytes(DATA, 1), [7]);
}

#[test]
fn writes_are_read_back_through_scattered_memory() {
    let disk = MemDisk::new(false);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH | F_EVENT_IDX | F_INDIRECT).remove(0);
    let pattern: Vec<u8> = (0..2048u32).map(|i| (i * 7 / 3) as u8).collect();
    rig.store(DATA, &pattern);
    let out = [(DATA, 100, false), (DATA + 100, 1000, false), (DATA + 1100, 948, false)];
    assert_eq!(request(&rig, &mut q, 1, 9, &out), (0, 1));
    assert_eq!(disk.data.lock().unwrap()[9 * 512..13 * 512], pattern);
    let back = [(DATA + 0x2000, 512, true), (DATA + 0x4000, 1536, true)];
    assert_eq!(request(&rig, &mut q, 0, 9, &back), (0, 2049));
    let got = [rig.bytes(DATA + 0x2000, 512), rig.bytes(DATA + 0x4000, 1536)].concat();
    assert_eq!(got, pattern);
    assert_eq!(request(&rig, &mut q, 4, 0, &[]), (0, 1));
    assert_eq!(disk.ops(), [BlockOp::Write, BlockOp::Read, BlockOp::Flush]);
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    let disk = MemDisk::new(false);
    disk.data.lock().unwrap()[512..1024].fill(0x5a);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH).remove(0);
    header(&rig, HEADER, 0, 1);
    let head = q.send(&rig, &[(HEADER, 7, false), (HEADER + 7, 9, false), (DATA, 513, true)]);
    assert_eq!(q.used(&rig), Some((head, 513)));
    assert_eq!((rig.bytes(DATA + 511, 1), rig.bytes(DATA + 512, 1)), (vec![0x5a], vec![0]));
}

#[test]
fn the_serial_number_is_padded_or_cut() {
    let rig = rig(&MemDisk::new(false));
    let mut q = rig.start(0).remove(0);
    rig.store(DATA, &[0xff; 32]);
    assert_eq!(request(&rig, &mut q, 8, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(rig.bytes(DATA, 21), b"visor-test-disk\0\0\0\0\0\xff");
    assert_eq!(request(&rig, &mut q, 8, 0, &[(DATA, 5, true)]), (0, 6));
}

#[test]
fn bad_requests_get_an_error_status() {
    let disk = MemDisk::new(false);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH).remove(0);
    let sector = (DATA, 512, true);
    let out = (DATA, 512, false);
    for (kind, at, data, status) in [
        (0, SECTORS, sector, 1),
        (0, SECTORS - 1, (DATA, 1024, true), 1),
        (0, u64::MAX, sector, 1),
        (0, u64::MAX / 512, sector, 1),
        (0, 0, (DATA, 511, true), 1),
        (1, SECTORS, out, 1),
        (1, 0, (DATA, 513, false), 1),
        (2, 0, sector, 2),
        (99, 0, out, 2),
        (11, 0, (DATA, 15, false), 1),
        (13, 0, (DATA, 16 * 33, false), 1),
    ] {
        assert_eq!(request(&rig, &mut q, kind, at, &[data]).0, status, "type {kind} at {at:#x}");
    }
    assert_eq!(disk.ops(), [], "nothing reached the back end");
    *disk.fail.lock().unwrap() = Some(BlockErrorKind::Io);
    assert_eq!(request(&rig, &mut q, 0, 0, &[sector]).0, 1);
    *disk.fail.lock().unwrap() = Some(BlockErrorKind::Unsupported);
    assert_eq!(request(&rig, &mut q, 4, 0, &[]).0, 2);
    assert_eq!(rig.status(), 0xf);
    q.send(&rig, &[(HEADER, 15, false), (STATUS, 1, true)]);
    assert_eq!(rig.status(), 0x4f, "no whole header");
    let mut q = rig.start(0).remove(0);
    q.send(&rig, &[(HEADER, 16, false)]);
    assert_eq!(rig.status(), 0x4f, "no status");
}

#[test]
fn discards_and_zeroes_take_several_ranges() {
    let disk = MemDisk::new(false);
    disk.data.lock().unwrap().fill(1);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH | F_WRITE_ZEROES | F_DISCARD).remove(0);
    rig.store(DATA, &[range(1, 2, 0), range(8, 0, 0), range(10, 1, 1)].concat());
    assert_eq!(request(&rig, &mut q, 13, 0, &[(DATA, 48, false)]), (0, 1));
    let zeroed = |s: usize| disk.data.lock().unwrap()[s * 512..(s + 1) * 512] == [0; 512];
    assert_eq!([0, 1, 2, 3, 8, 10, 11].map(zeroed), [false, true, true, false, false, true, false]);
    let zeroes = |may_unmap| BlockOp::WriteZeroes { may_unmap };
    assert_eq!(disk.ops(), [zeroes(false), zeroes(true)]);
    rig.store(DATA, &[range(0, 8, 0), range(SECTORS - 1, 1, 0)].concat());
    assert_eq!(request(&rig, &mut q, 11, 0, &[(DATA, 32, false)]), (0, 1));
    assert_eq!(disk.ops(), [BlockOp::Discard, BlockOp::Discard]);
    for (kind, bad, status) in [
        (11, range(0, 8, 1), 2),
        (13, range(0, 8, 2), 2),
        (13, range(SECTORS, 1, 0), 1),
        (11, range(u64::MAX, 1, 0), 1),
        (11, range(0, MAX_RANGE + 1, 0), 1),
    ] {
        rig.store(DATA, &[range(0, 8, 0), bad].concat());
        assert_eq!(request(&rig, &mut q, kind, 0, &[(DATA, 32, false)]).0, status);
        assert_eq!(disk.ops(), [], "all or nothing");
    }
}

#[test]
fn read_only_disks_refuse_changes() {
    let disk = MemDisk::new(true);
    let rig = rig(&disk);
    let mut q = rig.start(F_RO).remove(0);
    rig.store(DATA, &range(0, 1, 0));
    for kind in [1, 11, 13] {
        let len = if kind == 1 { 512 } else { 16 };
        assert_eq!(request(&rig, &mut q, kind, 0, &[(DATA, len, false)]).0, 1);
    }
    assert_eq!(disk.ops(), []);
}

#[test]
fn write_through_flushes_after_each_write() {
    let disk = MemDisk::new(false);
    let rig = rig(&disk);
    let write = |q: &mut Vq| request(&rig, q, 1, 0, &[(DATA, 512, false)]);
    let mut q = rig.start(0).remove(0);
    write(&mut q);
    assert_eq!(disk.ops(), [BlockOp::Write, BlockOp::Flush], "a driver without flush");
    let mut q = rig.start(F_CONFIG_WCE | F_FLUSH).remove(0);
    write(&mut q);
    assert_eq!(disk.ops(), [BlockOp::Write]);
    rig.write(0x2020, 1, 0);
    assert_eq!(rig.read(0x2020, 1), 0);
    write(&mut q);
    assert_eq!(disk.ops(), [BlockOp::Write, BlockOp::Flush]);
    let _ = rig.start(F_FLUSH);
    rig.write(0x2020, 1, 0);
    assert_eq!(rig.read(0x2020, 1), 1, "not negotiated, and reset to write-back");
}

#[test]
fn requests_complete_out_of_order_on_other_threads() {
    let disk = MemDisk::new(false);
    disk.hold.store(true, Ordering::SeqCst);
    let rig = rig(&disk);
    rig.enable_msix();
    let mut q = rig.start(F_FLUSH | F_MQ).remove(1);
    let heads: Vec<u16> = (0..3)
        .map(|i| {
            header(&rig, HEADER + i * 16, 0, i);
            q.send(&rig, &[(HEADER + i * 16, 16, false), (DATA + i * 512, 512, true), (STATUS + i, 1, true)])
        })
        .collect();
    assert_eq!(q.used(&rig), None);
    disk.release();
    for head in heads.iter().rev() {
        assert_eq!(q.used(&rig), Some((*head, 513)));
    }
    assert_eq!(*rig.msi.0.lock().unwrap(), [0x102; 3]);
}

#[test]
fn requests_under_way_over_a_reset_are_void() {
    let disk = MemDisk::new(false);
    disk.hold.store(true, Ordering::SeqCst);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH).remove(0);
    disk.data.lock().unwrap().fill(9);
    rig.store(DATA, &[1; 1024]);
    rig.store(STATUS, &[0xee]);
    for (kind, write) in [(0, true), (1, false)] {
        let at = HEADER + 16 * u64::from(kind);
        header(&rig, at, kind, 3);
        q.send(&rig, &[(at, 16, false), (DATA + 512 * u64::from(kind), 512, write), (STATUS, 1, true)]);
    }
    let mut q = rig.start(F_FLUSH).remove(0);
    disk.release();
    assert_eq!((rig.bytes(DATA, 512), rig.bytes(STATUS, 1)), (vec![1; 512], vec![0xee]));
    assert_eq!(disk.data.lock().unwrap()[3 * 512], 9, "stale memory is not written to the disk");
    assert_eq!(q.used(&rig), None);
    disk.hold.store(false, Ordering::SeqCst);
    assert_eq!(request(&rig, &mut q, 0, 0, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn resets_race_with_completions() {
    let disk = MemDisk::new(false);
    disk.hold.store(true, Ordering::SeqCst);
    let rig = rig(&disk);
    let stop = Arc::new(AtomicBool::new(false));
    let (worker, end) = (disk.clone(), stop.clone());
    let worker = std::thread::spawn(move || {
        let mut done = 0;
        while !end.load(Ordering::SeqCst) {
            let held = std::mem::take(&mut *worker.held.lock().unwrap());
            done += held.len();
            held.into_iter().for_each(|r| worker.run(r));
        }
        done
    });
    header(&rig, HEADER, 0, 0);
    for _ in 0..300 {
        let mut q = rig.start(F_FLUSH | F_EVENT_IDX).remove(0);
        for _ in 0..40 {
            q.send(&rig, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        }
        rig.write(0x14, 1, 0);
        rig.store(DATA, &[3; 512]);
        rig.store(STATUS, &[0xee]);
        let ring = rig.bytes(q.base + 0x2000, 0x1000);
        std::thread::yield_now();
        assert_eq!(rig.bytes(q.base + 0x2000, 0x1000), ring, "nothing is used after the reset");
        assert_eq!((rig.bytes(DATA, 512), rig.bytes(STATUS, 1)), (vec![3; 512], vec![0xee]));
    }
    let mut q = rig.start(F_FLUSH).remove(0);
    let head = q.send(&rig, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    let used = (0..10_000).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        q.used(&rig)
    });
    assert_eq!(used, Some((head, 513)));
    stop.store(true, Ordering::SeqCst);
    assert!(worker.join().unwrap() > 0);
}

#[test]
fn a_driver_cannot_pile_up_requests_by_resetting() {
    let disk = MemDisk::new(false);
    disk.hold.store(true, Ordering::SeqCst);
    let rig = rig(&disk);
    header(&rig, HEADER, 0, 0);
    let parts = [(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)];
    for _ in 0..10 {
        let mut q = rig.start(F_FLUSH).remove(0);
        for _ in 0..85 {
            q.add(&rig, &parts);
        }
        q.kick(&rig);
    }
    let limit = 2 * usize::from(QUEUE_SIZE);
    assert_eq!(disk.held.lock().unwrap().len(), limit);
    let mut q = rig.start(F_FLUSH).remove(0);
    q.send(&rig, &parts);
    assert_eq!(q.used(&rig), None);
    disk.hold.store(false, Ordering::SeqCst);
    disk.release();
    assert_eq!(q.used(&rig), Some((0, 513)), "started when the others were done");
}

#[test]
fn a_lost_request_is_reported_as_an_error() {
    let disk = MemDisk::new(false);
    disk.hold.store(true, Ordering::SeqCst);
    let rig = rig(&disk);
    let mut q = rig.start(F_FLUSH).remove(0);
    header(&rig, HEADER, 0, 0);
    let head = q.send(&rig, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    disk.held.lock().unwrap().clear();
    assert_eq!((q.used(&rig), rig.bytes(STATUS, 1)), (Some((head, 513)), vec![1]));
}

#[test]
fn random_drivers_do_no_harm() {
    let disk = MemDisk::new(false);
    let rig = rig(&disk);
    fuzz(&rig, 0x5eed_5eed_5eed_5eed, 0xff_ffff | F_INDIRECT | F_EVENT_IDX | F_RING_RESET, |r| {
        if r.below(2) == 0 {
            disk.hold.fetch_xor(true, Ordering::SeqCst);
        } else {
            let some = std::mem::take(&mut *disk.held.lock().unwrap());
            some.into_iter().filter(|_| r.below(3) != 0).for_each(|q| disk.run(q));
        }
    });
    assert!(disk.log.lock().unwrap().len() > 100, "the fuzzer reaches the back end");
    disk.hold.store(false, Ordering::SeqCst);
    disk.release();
    let mut q = rig.start(0).remove(0);
    assert_eq!(request(&rig, &mut q, 0, 0, &[(DATA, 512, true)]), (0, 513));
}
