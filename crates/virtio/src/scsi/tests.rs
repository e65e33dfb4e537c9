use visor_block::{BlockErrorKind, BlockOp};
use visor_storage::{Cdrom, DiskIdentity};

use super::*;
use crate::blk::tests::MemDisk;
use crate::testing::*;

/// Where a request, its result and its data are.
const REQUEST: u64 = 6 << 20;
const RESULT: u64 = REQUEST + 0x100;
const DATA: u64 = REQUEST + 0x1000;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];

fn unit(disk: &Arc<MemDisk>) -> ScsiUnit {
    ScsiUnit::disk(disk.clone(), DiskIdentity { serial: "s".into(), model: "TEST".into() })
}

/// An adapter with a disk at target 3 and a CD-ROM drive at 5, which have been heard once.
struct Bus {
    rig: Rig,
    handle: ScsiHandle,
    disk: Arc<MemDisk>,
    control: Vq,
    events: Vq,
    queue: Vq,
}

fn bus() -> Bus {
    let (device, handle) = Scsi::new(2);
    let disk = MemDisk::new(false);
    handle.insert(3, unit(&disk)).unwrap();
    handle.insert(5, ScsiUnit::cdrom(Cdrom::new("TEST"))).unwrap();
    let rig = Rig::new(device);
    let mut queues = rig.start(F_HOTPLUG | F_EVENT_IDX | F_INDIRECT);
    assert_eq!(queues.len(), 4);
    let (queue, events, control) = (queues.remove(2), queues.remove(1), queues.remove(0));
    let mut bus = Bus { rig, handle, disk, control, events, queue };
    for target in [3, 5] {
        assert_eq!(bus.command(target, 0, &TEST_UNIT_READY, 0, 0).sense, Some((6, 0x29)));
    }
    bus
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    response: u8,
    status: u8,
    residual: u32,
    sense: Option<(u8, u8)>,
    used: u32,
}

impl Outcome {
    fn good(residual: u32, used: u32) -> Self {
        Outcome { response: response::OK, status: 0, residual, sense: None, used }
    }
}

impl Bus {
    fn store(&self, target: u8, lun: u8, cdb: &[u8], id: u64) {
        let mut header = vec![0; 19 + 32];
        header[..4].copy_from_slice(&[1, target, 0x40, lun]);
        header[8..16].copy_from_slice(&id.to_le_bytes());
        header[19..19 + cdb.len()].copy_from_slice(cdb);
        self.rig.store(REQUEST, &header);
        self.rig.store(RESULT, &[0xee; 108]);
    }

    /// Sends a command with room for data each way.
    fn send(&mut self, target: u8, lun: u8, cdb: &[u8], out: u32, into: u32) -> u16 {
        self.store(target, lun, cdb, 7);
        let all = [(REQUEST, 51, false), (DATA, out, false), (RESULT, 108, true), (DATA, into, true)];
        let parts: Vec<_> = all.into_iter().filter(|p| p.1 > 0).collect();
        self.queue.send(&self.rig, &parts)
    }

    fn outcome(&self, used: u32) -> Outcome {
        let r = self.rig.bytes(RESULT, 108);
        let word = |at: usize| u32::from_le_bytes([r[at], r[at + 1], r[at + 2], r[at + 3]]);
        let sense = (word(0) > 0).then(|| (r[14], r[24]));
        Outcome { response: r[11], status: r[10], residual: word(4), sense, used }
    }

    fn command(&mut self, target: u8, lun: u8, cdb: &[u8], out: u32, into: u32) -> Outcome {
        let head = self.send(target, lun, cdb, out, into);
        let (id, used) = self.queue.used(&self.rig).unwrap();
        assert_eq!(id, head);
        self.outcome(used)
    }

    /// A task management function; `None` if it is not answered at once.
    fn manage(&mut self, function: u32, target: u8, id: u64) -> Option<u8> {
        let request =
            [&0u32.to_le_bytes()[..], &function.to_le_bytes(), &[1, target, 0, 0, 0, 0, 0, 0], &id.to_le_bytes()];
        self.rig.store(REQUEST + 0x200, &request.concat());
        self.control.send(&self.rig, &[(REQUEST + 0x200, 24, false), (REQUEST + 0x280, 1, true)]);
        self.answer()
    }

    fn answer(&mut self) -> Option<u8> {
        self.control.used(&self.rig).map(|_| self.rig.bytes(REQUEST + 0x280, 1)[0])
    }
}

#[test]
fn data_moves_both_ways() {
    let mut b = bus();
    let data: Vec<u8> = (0..1024u32).map(|i| i as u8 ^ 0x5a).collect();
    b.rig.store(DATA, &data);
    assert_eq!(b.command(3, 0, &[0x2a, 8, 0, 0, 0, 9, 0, 0, 2, 0], 1024, 0), Outcome::good(0, 108));
    assert_eq!(b.disk.ops(), [BlockOp::Write, BlockOp::Flush], "FUA");
    b.rig.store(DATA, &[0; 2048]);
    assert_eq!(b.command(3, 0, &[0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0], 0, 2048), Outcome::good(1024, 108 + 1024));
    assert_eq!(b.rig.bytes(DATA, 1024), data);
    assert_eq!(b.command(3, 0, &INQUIRY, 0, 36), Outcome::good(0, 144));
    assert_eq!(b.rig.bytes(DATA + 8, 12), b"VISOR   TEST");
    // Many at once, through the other queue.
    b.queue = b.rig.set_up(3);
    assert_eq!(b.command(3, 0, &TEST_UNIT_READY, 0, 0), Outcome::good(0, 108));
}

#[test]
fn failures_say_why() {
    let mut b = bus();
    assert_eq!(b.command(4, 0, &INQUIRY, 0, 36).response, response::BAD_TARGET);
    assert_eq!(b.command(32, 0, &INQUIRY, 0, 36).response, response::BAD_TARGET);
    assert_eq!(b.command(3, 1, &TEST_UNIT_READY, 0, 0).sense, Some((5, 0x25)));
    assert_eq!(b.command(3, 1, &INQUIRY, 0, 36), Outcome::good(0, 144));
    assert_eq!(b.rig.bytes(DATA, 1), [0x7f]);
    assert_eq!(b.command(5, 0, &[0x25], 0, 8).sense, Some((2, 0x3a)), "no disc");
    let beyond = [0x28, 0, 0, 0, 1, 0, 0, 0, 1, 0];
    let outcome = b.command(3, 0, &beyond, 0, 512);
    assert_eq!((outcome.status, outcome.sense, outcome.residual), (2, Some((5, 0x21)), 512));
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(b.command(3, 0, &read, 0, 512).response, response::OVERRUN);
    *b.disk.fail.lock().unwrap() = Some(BlockErrorKind::Io);
    assert_eq!(b.command(3, 0, &read, 0, 1024).sense, Some((3, 0x11)));
    // Without room for the result there is nobody to tell.
    b.store(3, 0, &INQUIRY, 1);
    b.queue.send(&b.rig, &[(REQUEST, 51, false), (RESULT, 50, true)]);
    assert_eq!(b.rig.status() & 0x40, 0x40);
}

#[test]
fn field_sizes_are_the_drivers() {
    let b = bus();
    let read = |at: u64| b.rig.read(0x2000 + at, 4);
    assert_eq!((read(0), read(4), read(0x14), read(0x18), read(0x1c) >> 16), (2, 254, 96, 32, 31));
    b.rig.write(0x2018, 4, 16);
    b.rig.write(0x2014, 4, 0xffff_ffff);
    b.rig.write(0x2000, 4, 99);
    assert_eq!((read(0), read(0x14), read(0x18)), (2, 255, 16));
    b.rig.start(0);
    assert_eq!((read(0x14), read(0x18)), (96, 32), "a reset brings the sizes back");
}

#[test]
fn functions_wait_for_the_commands_that_they_end() {
    let mut b = bus();
    assert_eq!(b.manage(7, 3, 0), Some(0), "nothing is under way");
    b.disk.hold.store(true, Ordering::SeqCst);
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    b.send(3, 0, &read, 0, 512);
    assert_eq!((b.manage(6, 3, 7), b.manage(6, 3, 8)), (Some(10), Some(0)), "query");
    assert_eq!(b.manage(0, 3, 8), Some(0), "not under way");
    assert_eq!(b.manage(0, 3, 7), None, "waits");
    assert!(b.queue.used(&b.rig).is_none());
    b.disk.release();
    let (_, used) = b.queue.used(&b.rig).unwrap();
    assert_eq!((b.outcome(used).response, b.answer()), (response::ABORTED, Some(0)));
    b.send(3, 0, &read, 0, 512);
    assert_eq!(b.manage(5, 3, 0), None);
    b.disk.release();
    let (_, used) = b.queue.used(&b.rig).unwrap();
    assert_eq!((b.outcome(used).response, b.answer()), (response::RESET, Some(0)));
    assert_eq!(b.command(3, 0, &TEST_UNIT_READY, 0, 0).sense, Some((6, 0x29)), "told of the reset");
    assert_eq!((b.manage(5, 9, 0), b.manage(77, 3, 0)), (Some(3), Some(11)));
}

#[test]
fn units_come_and_go() {
    let mut b = bus();
    let event = |b: &mut Bus| b.events.used(&b.rig).map(|(_, len)| (len, b.rig.bytes(DATA + 0x800, 16)));
    assert_eq!(b.handle.insert(3, unit(&b.disk)), Err(ScsiError::Taken(3)));
    assert_eq!(b.handle.insert(32, unit(&b.disk)), Err(ScsiError::Target(32)));
    assert_eq!(b.handle.free(3..9), Some(4));
    b.handle.insert(4, unit(&b.disk)).unwrap();
    assert!(event(&mut b).is_none(), "no buffer yet");
    b.events.send(&b.rig, &[(DATA + 0x800, 16, true)]);
    assert_eq!(event(&mut b), Some((16, vec![1, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])));
    assert_eq!(b.command(4, 0, &INQUIRY, 0, 36), Outcome::good(0, 144));
    b.events.send(&b.rig, &[(DATA + 0x800, 16, true)]);
    assert!(b.handle.remove(4) && !b.handle.remove(4));
    assert_eq!(event(&mut b).unwrap().1[12], 2);
    assert_eq!(b.command(4, 0, &INQUIRY, 0, 36).response, response::BAD_TARGET);
    // More than are kept: the driver learns that some are missing.
    for _ in 0..20 {
        b.handle.insert(8, unit(&b.disk)).unwrap();
        b.handle.remove(8);
    }
    b.events.send(&b.rig, &[(DATA + 0x800, 16, true)]);
    assert_eq!(event(&mut b).unwrap().1[3], 0x80);
}

#[test]
fn random_drivers_do_no_harm() {
    let b = bus();
    let (rig, disk, handle) = (&b.rig, &b.disk, &b.handle);
    // Commands that reach the units lie where random chains take their data from.
    let place = |r: &mut Random| {
        let ops = [0x08, 0x0a, 0x28, 0x2a, 0x42, 0x41, 0x93, 0x2f, 0x12, 0x1a, 0x15, 0xa8, 0x4a];
        let mut header = vec![1, if r.below(2) == 0 { 3 } else { 5 }, 0x40, 0];
        header.resize(19, 0);
        let mut cdb = [0; 16];
        (cdb[0], cdb[5], cdb[8]) = (ops[r.below(ops.len() as u64) as usize], r.next() as u8, r.below(5) as u8);
        if r.below(4) == 0 {
            cdb[r.below(16) as usize] = r.next() as u8;
        }
        header.extend(cdb);
        header
    };
    fuzz(rig, 0x5c51_5c51_5c51_5c51, 0xff_ffff | F_INDIRECT | F_EVENT_IDX | F_RING_RESET, |r| match r.below(4) {
        0 => drop(disk.hold.fetch_xor(true, Ordering::SeqCst)),
        1 => {
            let some = std::mem::take(&mut *disk.held.lock().unwrap());
            some.into_iter().filter(|_| r.below(3) != 0).for_each(|q| disk.run(q));
        }
        2 => {
            let _ = handle.insert(9, unit(disk));
            handle.remove(r.below(12) as u8 | 8);
        }
        _ => {
            // What random chains break is mended first.
            let mut queue = rig.start(F_HOTPLUG).remove(2);
            for _ in 0..8 {
                rig.store(REQUEST, &place(r));
                let (out, into) = (512 * r.below(4) as u32, 512 * r.below(4) as u32);
                let all = [(REQUEST, 51, false), (DATA, out, false), (RESULT, 108, true), (DATA, into, true)];
                let parts: Vec<_> = all.into_iter().filter(|p| p.1 > 0).collect();
                queue.send(rig, &parts);
            }
        }
    });
    assert!(disk.log.lock().unwrap().len() > 100, "the fuzzer reaches the back end");
    disk.hold.store(false, Ordering::SeqCst);
    disk.release();
    let mut b = Bus { queue: b.rig.start(0).remove(2), ..b };
    let _ = b.command(3, 0, &TEST_UNIT_READY, 0, 0);
    assert_eq!(b.command(3, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0, 512), Outcome::good(0, 620));
}
