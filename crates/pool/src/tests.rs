mod memory;
mod stores;

use std::sync::{Arc, Mutex};

use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockErrorKind, BlockOp};
use visor_disk::testing::{read, run, write};
use visor_qcow2::Storage;

use crate::record;
use crate::volume::{DATA_AT, OpenVolume, Replica};
use crate::*;
use memory::{Fuse, Memory, Random};

/// Bytes of the volumes here.
const SIZE: u64 = 640 << 10;
const CHUNK: u64 = 16 << 10;

/// A volume's members in memory, and what the host remembers.
struct Stage {
    members: Vec<Arc<Memory>>,
    known: Arc<Mutex<u64>>,
    events: Arc<Mutex<Vec<Event>>>,
}

fn name_of(i: usize) -> String {
    format!("m{i}")
}

impl Stage {
    /// Groups of `copies` members.
    fn new(groups: usize, copies: usize) -> Self {
        let len = testing::part_len(groups * copies, SIZE, CHUNK, copies);
        let members: Vec<_> = (0..groups * copies).map(|_| Arc::new(Memory::new(len))).collect();
        let parts: Vec<_> = members.iter().map(|m| m.clone() as Arc<dyn Storage>).collect();
        testing::format(&parts, SIZE, CHUNK, copies).unwrap();
        Stage { members, known: Arc::default(), events: Arc::default() }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.members.len()).collect()
    }

    fn open_with(&self, present: &[usize], known: u64) -> Result<Volume> {
        let replicas = present
            .iter()
            .map(|i| Replica { member: name_of(*i), place: name_of(*i), part: self.members[*i].clone() })
            .collect();
        let (remembered, events) = (self.known.clone(), self.events.clone());
        Volume::open(
            "test",
            replicas,
            OpenVolume {
                read_only: false,
                known,
                tell: Arc::new(move |e| events.lock().unwrap().push(e)),
                remember: Arc::new(move |g| {
                    *remembered.lock().unwrap() = g;
                    Ok(())
                }),
                watch: Box::new(|| {}),
            },
        )
    }

    fn open(&self, present: &[usize]) -> Result<Volume> {
        let known = *self.known.lock().unwrap();
        self.open_with(present, known)
    }

    fn degraded(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let names = events.iter().filter_map(|e| match e {
            Event::Degraded { member, .. } => Some(member.clone()),
            _ => None,
        });
        names.collect()
    }
}

fn flush(disk: &dyn BlockBackend) -> std::result::Result<(), visor_block::BlockError> {
    run(disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default()))
}

fn kind(r: Result<Volume>) -> PoolErrorKind {
    r.err().unwrap().kind
}

#[test]
fn a_failed_mirror_member_is_survived_and_rebuilt() {
    let stage = Stage::new(1, 2);
    let v = stage.open(&[0, 1]).unwrap();
    write(&v, 3, &[1; 1024]).unwrap();
    stage.members[0].fail(Some(std::io::ErrorKind::Other));
    assert_eq!(read(&v, 3, 2).unwrap(), [1; 1024], "the other one has it");
    write(&v, 3, &[2; 512]).unwrap();
    flush(&v).unwrap();
    assert_eq!(stage.degraded(), ["m0"]);
    assert_eq!((v.health().current, v.health().stale), (vec![name_of(1)], vec![name_of(0)]));
    drop(v);
    stage.members[0].fail(None);
    // It is back, but what it has is old.
    assert_eq!(kind(stage.open(&[0])), PoolErrorKind::Missing);
    let v = stage.open(&[0, 1]).unwrap();
    assert_eq!(read(&v, 3, 2).unwrap(), [[2; 512], [1; 512]].concat());
    assert_eq!(v.health().stale, [name_of(0)]);
    let mut last = 0;
    let mut progress = |done, all| {
        assert!(done > last && done <= all && all == SIZE);
        last = done;
        true
    };
    assert_eq!(v.rebuild(&mut progress).unwrap(), 1);
    assert_eq!(last, SIZE);
    assert_eq!(v.health().stale, Vec::<String>::new());
    write(&v, 9, &[7; 512]).unwrap();
    drop(v);
    for alone in [0, 1] {
        let copy = Stage {
            members: stage.members.iter().map(|m| Arc::new(m.copy())).collect(),
            known: Arc::new(Mutex::new(*stage.known.lock().unwrap())),
            events: Arc::default(),
        };
        let v = copy.open(&[alone]).unwrap();
        assert_eq!(read(&v, 3, 2).unwrap(), [[2; 512], [1; 512]].concat());
        assert_eq!(read(&v, 9, 1).unwrap(), [7; 512]);
    }
}

#[test]
fn a_rebuild_that_is_stopped_changes_nothing() {
    let stage = Stage::new(1, 2);
    drop(stage.open(&[1]).unwrap());
    let v = stage.open(&[0, 1]).unwrap();
    write(&v, 0, &[5; 512]).unwrap();
    let mut left = 3;
    let e = v.rebuild(&mut |_, _| {
        left -= 1;
        left > 0
    });
    assert_eq!(e.unwrap_err().kind, PoolErrorKind::Cancelled);
    assert_eq!(v.health().stale, [name_of(0)]);
    drop(v);
    assert_eq!(kind(stage.open(&[0])), PoolErrorKind::Missing);
    // A target that fails again.
    let v = stage.open(&[0, 1]).unwrap();
    stage.members[0].fail(Some(std::io::ErrorKind::Other));
    assert!(v.rebuild(&mut |_, _| true).is_err());
    write(&v, 0, &[6; 512]).unwrap();
    assert_eq!(read(&v, 0, 1).unwrap(), [6; 512]);
}

#[test]
fn a_striped_volume_needs_all_its_members() {
    let stage = Stage::new(3, 1);
    let v = stage.open(&[0, 1, 2]).unwrap();
    let data: Vec<u8> = (0..SIZE).map(|i| (i / 512) as u8).collect();
    write(&v, 0, &data).unwrap();
    stage.members[1].fail(Some(std::io::ErrorKind::Other));
    assert_eq!(write(&v, CHUNK / 512, &[1; 512]).unwrap_err().kind, BlockErrorKind::Io);
    assert_eq!(read(&v, CHUNK / 512, 1).unwrap_err().kind, BlockErrorKind::Io);
    write(&v, 0, &data[..512]).unwrap();
    stage.members[1].fail(None);
    assert!(read(&v, 0, SIZE / 512).unwrap() == data, "it was not given up");
    drop(v);
    assert_eq!(kind(stage.open(&[0, 2])), PoolErrorKind::Missing);
    assert!(read(&stage.open(&[0, 1, 2]).unwrap(), 0, SIZE / 512).unwrap() == data);
}

#[test]
fn a_full_member_has_not_failed() {
    let stage = Stage::new(1, 2);
    let v = stage.open(&[0, 1]).unwrap();
    write(&v, 0, &[1; 512]).unwrap();
    stage.members[1].full(true);
    assert_eq!(write(&v, 0, &[2; 512]).unwrap_err().kind, BlockErrorKind::NoSpace);
    assert_eq!(v.health().stale, Vec::<String>::new());
    stage.members[1].full(false);
    write(&v, 0, &[2; 512]).unwrap();
    assert!(stage.degraded().is_empty());
    let at = DATA_AT as usize;
    assert!(stage.members.iter().all(|m| m.bytes()[at..at + 512] == [2; 512]));
}

#[test]
fn separate_ways_are_told() {
    let stage = Stage::new(1, 2);
    drop(stage.open(&[0, 1]).unwrap());
    let known = *stage.known.lock().unwrap();
    // Two hosts, each with one member.
    let a = stage.open_with(&[0], known).unwrap();
    write(&a, 0, &[1; 512]).unwrap();
    drop(a);
    let b = stage.open_with(&[1], known).unwrap();
    write(&b, 0, &[2; 512]).unwrap();
    drop(b);
    assert_eq!(kind(stage.open_with(&[0, 1], 0)), PoolErrorKind::Split);
    // Also when one of them went further.
    drop(stage.open_with(&[1], 0).unwrap());
    assert_eq!(kind(stage.open_with(&[0, 1], 0)), PoolErrorKind::Split);
    drop(stage.open_with(&[0], 0).unwrap());
    drop(stage.open_with(&[0], 0).unwrap());
    assert_eq!(kind(stage.open_with(&[0, 1], 0)), PoolErrorKind::Split);
}

#[test]
fn a_member_that_was_put_back_from_a_copy_is_old() {
    let stage = Stage::new(1, 2);
    drop(stage.open(&[0, 1]).unwrap());
    let old = stage.members[0].copy();
    let v = stage.open(&[0, 1]).unwrap();
    write(&v, 0, &[9; 512]).unwrap();
    drop(v);
    let put_back = Stage { members: vec![Arc::new(old), stage.members[1].clone()], ..stage };
    let v = put_back.open(&[0, 1]).unwrap();
    assert_eq!(v.health().stale, [name_of(0)]);
    assert_eq!(read(&v, 0, 1).unwrap(), [9; 512]);
}

/// The power goes after each write or flush of a run; what was not flushed is lost, kept, or torn. Everything that was flushed is
/// there afterwards, and copies are equal.
#[test]
fn power_cuts() {
    let mut cuts = 0;
    for (groups, copies) in [(1, 2), (2, 2), (1, 3), (2, 1)] {
        let mut budget = 1;
        loop {
            let stage = Stage::new(groups, copies);
            let fuse = Arc::new(Fuse::new(budget));
            stage.members.iter().for_each(|m| m.connect(&fuse));
            let mut random = Random(budget * 7919 + copies as u64);
            let floor = scenario(&stage, &mut random);
            cuts += 1;
            let burnt = fuse.is_burnt();
            check_after_cut(&stage, &floor, &mut random, &format!("{groups}x{copies}, cut {budget}"));
            if !burnt {
                break;
            }
            budget += if budget < 40 { 1 } else { 5 };
        }
    }
    assert!(cuts > 120, "{cuts}");
}

/// For each sector, all values that it was given and the first of them that may be there after a cut.
struct Floor {
    given: Vec<Vec<u8>>,
    first: Vec<usize>,
}

fn scenario(stage: &Stage, random: &mut Random) -> Floor {
    let sectors = (SIZE / 512) as usize;
    let mut floor = Floor { given: vec![vec![0]; sectors], first: vec![0; sectors] };
    let Ok(v) = stage.open(&stage.all()) else { return floor };
    for step in 1..40u8 {
        if random.below(5) == 0 {
            if flush(&v).is_err() {
                break;
            }
            for (first, given) in floor.first.iter_mut().zip(&floor.given) {
                *first = given.len() - 1;
            }
            continue;
        }
        let at = random.below(sectors as u64 - 40) as usize;
        let count = 1 + random.below(40) as usize;
        floor.given[at..at + count].iter_mut().for_each(|g| g.push(step));
        if write(&v, at as u64, &vec![step; count * 512]).is_err() {
            break;
        }
    }
    floor
}

fn check_after_cut(stage: &Stage, floor: &Floor, random: &mut Random, what: &str) {
    let after = Stage {
        members: stage.members.iter().map(|m| Arc::new(m.after_power_cut(random))).collect(),
        known: stage.known.clone(),
        events: Arc::default(),
    };
    let v = after.open(&after.all()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(v.health().stale.is_empty(), "{what}: {:?}", v.health());
    let data = read(&v, 0, SIZE / 512).unwrap();
    for (s, sector) in data.chunks(512).enumerate() {
        let may = &floor.given[s][floor.first[s]..];
        assert!(
            sector.iter().all(|b| *b == sector[0]) && may.contains(&sector[0]),
            "{what}: sector {s}: {}",
            sector[0]
        );
    }
    let layout = v.layout().clone();
    drop(v);
    for group in 0..layout.groups.len() {
        let copies = layout.copies();
        let parts: Vec<Vec<u8>> = (0..copies).map(|c| after.members[group * copies + c].bytes()).collect();
        for other in &parts[1..] {
            assert!(parts[0][DATA_AT as usize..] == other[DATA_AT as usize..], "{what}: copies differ");
        }
    }
}

/// Random use of a mirror of three, with members that fail, go, come back and are rebuilt, against a list of bytes.
#[test]
fn model() {
    let stage = Stage::new(2, 3);
    let mut random = Random(20_261_121);
    let mut model = vec![0u8; SIZE as usize];
    let mut steps = 0;
    for round in 0..40 {
        // At least one of each group that has everything is there.
        let known = *stage.known.lock().unwrap();
        let present: Vec<usize> = stage.all().into_iter().filter(|_| random.below(4) > 0).collect();
        let v = match stage.open_with(&present, known) {
            Ok(v) => v,
            Err(e) => {
                assert!(matches!(e.kind, PoolErrorKind::Missing), "round {round}: {e}");
                stage.open(&stage.all()).unwrap()
            }
        };
        for _ in 0..60 {
            steps += 1;
            let sectors = SIZE / 512;
            let at = random.below(sectors);
            let count = 1 + random.below((sectors - at).min(100));
            let range = (at * 512) as usize..((at + count) * 512) as usize;
            match random.below(12) {
                0..4 => {
                    let fill = random.below(256) as u8;
                    write(&v, at, &vec![fill; range.len()]).unwrap();
                    model[range].fill(fill);
                }
                4 => {
                    let op = BlockOp::WriteZeroes { may_unmap: random.below(2) == 0 };
                    run(&v, op, at, count * 512, Box::new(SharedBuffer::default())).unwrap();
                    model[range].fill(0);
                }
                5 => flush(&v).unwrap(),
                6 if random.below(6) == 0 => {
                    // A member fails, if its group can do without.
                    let i = random.below(stage.members.len() as u64) as usize;
                    let group = i / 3;
                    let current = v.health().current;
                    let left = (group * 3..group * 3 + 3).filter(|m| current.contains(&name_of(*m))).count();
                    if left > 1 {
                        stage.members[i].fail(Some(std::io::ErrorKind::Other));
                    }
                    // Used once, it is known before another one fails.
                    write(&v, group as u64 * CHUNK / 512, &model[group * CHUNK as usize..][..512]).unwrap();
                    stage.members[i].fail(None);
                }
                7 if random.below(6) == 0 => {
                    v.rebuild(&mut |_, _| true).unwrap();
                }
                _ => assert!(read(&v, at, count).unwrap() == model[range], "round {round}"),
            }
        }
        assert!(read(&v, 0, SIZE / 512).unwrap() == model, "round {round}");
    }
    assert_eq!(steps, 2400);
    let v = stage.open(&stage.all()).unwrap();
    v.rebuild(&mut |_, _| true).unwrap();
    assert!(read(&v, 0, SIZE / 512).unwrap() == model);
}

/// Writes while a member is rebuilt reach it too.
#[test]
fn rebuilding_under_load() {
    let stage = Stage::new(1, 2);
    drop(stage.open(&[1]).unwrap());
    let v = Arc::new(stage.open(&[0, 1]).unwrap());
    let writer = std::thread::spawn({
        let v = v.clone();
        move || {
            for i in 0..400u64 {
                write(&*v, i * 37 % (SIZE / 512 - 8), &vec![(i % 250) as u8 + 1; 4096]).unwrap();
            }
        }
    });
    let slow = &mut |_, _| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        true
    };
    assert_eq!(v.rebuild(slow).unwrap(), 1);
    writer.join().unwrap();
    drop(Arc::into_inner(v).unwrap());
    let (a, b) = (stage.members[0].bytes(), stage.members[1].bytes());
    assert!(a[DATA_AT as usize..] == b[DATA_AT as usize..]);
}

/// Records with anything in them: errors, no panic.
#[test]
fn hostile_records() {
    let stage = Stage::new(2, 2);
    let found = record::load(&*stage.members[0], 0).unwrap().unwrap();
    let good = String::from_utf8(found.payload).unwrap();
    let mut random = Random(4711);
    let mut opened = 0;
    for round in 0..400 {
        let mut text = good.clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len() as u64) as usize;
            match random.below(3) {
                0 => text[at] = b' ' + random.below(95) as u8,
                1 => {
                    let number = [&b"0"[..], b"18446744073709551615", b"-1", b"[]", b"null", b"\"\"", b"4096"];
                    text.splice(at..(at + 5).min(text.len()), number[random.below(7) as usize].iter().copied());
                }
                _ => _ = text.drain(at..(at + 9).min(text.len())),
            }
        }
        let fresh = Stage::new(2, 2);
        let generation = if round % 2 == 0 { 2 } else { random.next() };
        record::store(&*fresh.members[round % 4], 0, generation, &text).unwrap();
        opened += usize::from(fresh.open_with(&[0, 1, 2, 3], 0).is_ok());
        // And what is no record at all.
        let mut bytes = vec![0; 1024];
        bytes.iter_mut().for_each(|b| *b = random.below(256) as u8);
        bytes[..8].copy_from_slice(b"VISRPOOL");
        fresh.members[0].write_at(&bytes, 0).unwrap();
        let _ = fresh.open_with(&[0, 1, 2, 3], 0);
    }
    assert!(opened > 20, "{opened}");
}
