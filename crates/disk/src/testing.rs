//! What every [`BlockBackend`] must get right, as a suite: `testing::block(|sectors| backend)`.
//!
//! The functions panic where a back end fails, as tests do.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use visor_block::{
    BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR, Sector, SharedBuffer,
};

fn bad() -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, "outside the buffer")
}

/// A buffer that fails, as guest memory does that has gone away.
struct Broken(usize);

impl BlockBuffer for Broken {
    fn len(&self) -> usize {
        self.0
    }

    fn put(&mut self, _offset: usize, _data: &[u8]) -> Result<(), BlockError> {
        Err(bad())
    }

    fn get(&self, _offset: usize, _data: &mut [u8]) -> Result<(), BlockError> {
        Err(bad())
    }
}

/// Submits one request and waits for its result.
///
/// # Errors
/// The request's.
pub fn run(
    backend: &dyn BlockBackend,
    op: BlockOp,
    sector: u64,
    len: u64,
    buffer: Box<dyn BlockBuffer>,
) -> Result<(), BlockError> {
    visor_block::run(backend, op, Sector(sector), len, buffer)
}

/// Reads `count` sectors.
///
/// # Errors
/// The request's.
pub fn read(backend: &dyn BlockBackend, sector: u64, count: u64) -> Result<Vec<u8>, BlockError> {
    let buffer = SharedBuffer::new(vec![0xcc; (count * SECTOR) as usize]);
    run(backend, BlockOp::Read, sector, count * SECTOR, Box::new(buffer.clone())).map(|()| buffer.bytes())
}

/// Writes whole sectors.
///
/// # Errors
/// The request's.
pub fn write(backend: &dyn BlockBackend, sector: u64, data: &[u8]) -> Result<(), BlockError> {
    run(backend, BlockOp::Write, sector, data.len() as u64, Box::new(SharedBuffer::new(data.to_vec())))
}

/// Runs the whole suite. `make` gives a new writable disk of as many sectors as it is told, which reads as zeroes.
pub fn block<B: BlockBackend>(make: impl Fn(u64) -> B) {
    keeps_what_is_written(&make(64));
    refuses_what_is_outside(&make(64));
    reports_broken_buffers(&make(64));
    completes_many_at_once(&make(512));
    matches_a_model(&make(300), 0x1357_9bdf_2468_ace0);
    drains(&make(64));
}

fn keeps_what_is_written(disk: &dyn BlockBackend) {
    let g = disk.geometry();
    assert_eq!((g.sectors, g.read_only), (64, false));
    assert!(g.physical_block.is_power_of_two() && u64::from(g.physical_block) >= SECTOR);
    assert_eq!(read(disk, 0, 64).expect("read"), vec![0; 64 * 512]);
    let data: Vec<u8> = (0..3 * 512u32).map(|i| (i % 251) as u8).collect();
    write(disk, 61, &data).expect("write to the end");
    assert_eq!(read(disk, 61, 3).expect("read"), data);
    assert_eq!(read(disk, 60, 1).expect("read"), vec![0; 512]);
    flush(disk).expect("flush");
    for may_unmap in [false, true] {
        write(disk, 61, &data).expect("write");
        run(disk, BlockOp::WriteZeroes { may_unmap }, 62, SECTOR, empty()).expect("write zeroes");
        let got = read(disk, 61, 3).expect("read");
        assert_eq!((&got[..512], &got[1024..]), (&data[..512], &data[1024..]));
        assert_eq!(got[512..1024], [0; 512]);
    }
    match run(disk, BlockOp::Discard, 0, 8 * SECTOR, empty()) {
        Ok(()) => {}
        Err(e) => assert_eq!(e.kind, BlockErrorKind::Unsupported),
    }
    assert_eq!(read(disk, 61, 1).expect("read"), data[..512], "a discard keeps to its range");
}

fn refuses_what_is_outside(disk: &dyn BlockBackend) {
    let ops = [BlockOp::Read, BlockOp::Write, BlockOp::Discard, BlockOp::WriteZeroes { may_unmap: true }];
    for op in ops {
        for (sector, len) in [(64, 512), (63, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 65 * 512)] {
            let has_data = matches!(op, BlockOp::Read | BlockOp::Write);
            let buffer = SharedBuffer::new(vec![1; if has_data { len as usize } else { 0 }]);
            let e = run(disk, op, sector, len, Box::new(buffer)).expect_err("outside the disk");
            assert_eq!(e.kind, BlockErrorKind::OutOfRange, "{op:?} at {sector}");
        }
    }
    assert_eq!(read(disk, 0, 64).expect("read"), vec![0; 64 * 512], "nothing was changed");
}

fn reports_broken_buffers(disk: &dyn BlockBackend) {
    for op in [BlockOp::Read, BlockOp::Write] {
        let e = run(disk, op, 0, 1024, Box::new(Broken(1024))).expect_err("the buffer fails");
        assert_eq!(e.kind, BlockErrorKind::BadBuffer);
    }
}

/// Writes and then reads all sectors with one request each, all under way at once.
fn completes_many_at_once(disk: &dyn BlockBackend) {
    let sectors = disk.geometry().sectors;
    let content = |s: u64| vec![(s * 31 + 7) as u8; 512];
    for op in [BlockOp::Write, BlockOp::Read] {
        let (tx, rx) = mpsc::channel();
        let buffers: Vec<_> = (0..sectors)
            .map(|s| {
                let tx = tx.clone();
                let buffer = SharedBuffer::new(if op == BlockOp::Write { content(s) } else { vec![0; 512] });
                let done = move |r: Result<(), BlockError>| _ = tx.send((s, r.is_ok()));
                disk.submit(BlockRequest::new(op, Sector(s), SECTOR, Box::new(buffer.clone()), done));
                buffer
            })
            .collect();
        drop(tx);
        let mut seen: Vec<_> = rx.iter().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..sectors).map(|s| (s, true)).collect::<Vec<_>>(), "each completes once");
        for (s, buffer) in buffers.iter().enumerate() {
            assert_eq!(buffer.bytes(), content(s as u64));
        }
    }
}

/// Random operations, one at a time, against a list of bytes.
fn matches_a_model(disk: &dyn BlockBackend, seed: u64) {
    let sectors = disk.geometry().sectors;
    let mut model = vec![0u8; (sectors * SECTOR) as usize];
    let mut x = seed;
    let mut random = move |below: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % below
    };
    for step in 0..2000 {
        let sector = random(sectors);
        let count = 1 + random((sectors - sector).min(40));
        let range = (sector * SECTOR) as usize..((sector + count) * SECTOR) as usize;
        match random(8) {
            0..3 => {
                let data: Vec<u8> = (0..count * SECTOR).map(|_| random(256) as u8).collect();
                write(disk, sector, &data).expect("write");
                model[range].copy_from_slice(&data);
            }
            3 => {
                run(disk, BlockOp::WriteZeroes { may_unmap: random(2) == 0 }, sector, count * SECTOR, empty())
                    .expect("write zeroes");
                model[range].fill(0);
            }
            4 if random(4) == 0 => {
                // What is discarded reads as anything: give it a value again.
                let _ = run(disk, BlockOp::Discard, sector, count * SECTOR, empty());
                write(disk, sector, &vec![step as u8; range.len()]).expect("write");
                model[range].fill(step as u8);
            }
            5 if random(8) == 0 => flush(disk).expect("flush"),
            _ => assert!(
                read(disk, sector, count).expect("read") == model[range],
                "sector {sector}+{count}, step {step}"
            ),
        }
    }
    assert!(read(disk, 0, sectors).expect("read") == model, "the whole disk at the end");
}

fn drains(disk: &dyn BlockBackend) {
    let done = Arc::new(Mutex::new(0));
    for s in 0..64 {
        let done = done.clone();
        let buffer = Box::new(SharedBuffer::new(vec![1; 512]));
        let count = move |_| *done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        disk.submit(BlockRequest::new(BlockOp::Write, Sector(s), SECTOR, buffer, count));
    }
    disk.drain();
    assert_eq!(*done.lock().unwrap_or_else(PoisonError::into_inner), 64);
}

fn flush(disk: &dyn BlockBackend) -> Result<(), BlockError> {
    run(disk, BlockOp::Flush, 0, 0, empty())
}

fn empty() -> Box<dyn BlockBuffer> {
    Box::new(SharedBuffer::default())
}
