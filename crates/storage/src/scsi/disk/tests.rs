use visor_block::BlockOp;

use crate::step::{Step, Way};
use crate::testing::{MemoryDisk, Pace, Random};
use crate::{DiskIdentity, ScsiUnit, no_such_unit};

const SECTORS: u64 = 256;

fn identity() -> DiskIdentity {
    DiskIdentity { serial: "s-1".into(), model: "TEST DISK".into() }
}

/// A disk whose first attention has been heard.
fn disk() -> ScsiUnit {
    let mut d = ScsiUnit::disk(MemoryDisk::numbered(SECTORS, Pace::AtOnce), identity());
    assert_eq!(run(&mut d, &[0; 6]), Err((6, 0x29, 0)));
    d
}

/// Data of a command, or sense key, code and qualifier.
fn run(d: &mut ScsiUnit, cdb: &[u8]) -> Result<Vec<u8>, (u8, u8, u8)> {
    with(d, cdb, &[])
}

fn with(d: &mut ScsiUnit, cdb: &[u8], out: &[u8]) -> Result<Vec<u8>, (u8, u8, u8)> {
    let mut step = d.execute(cdb);
    if let Step::DataOut(len) = step {
        assert_eq!(len, out.len());
        step = d.data(out);
    }
    match step {
        Step::Done(0) | Step::Jobs(..) => Ok(Vec::new()),
        Step::Done(key) => {
            let s = d.sense();
            assert_eq!((s[0], s[2]), (0x70, key));
            assert_eq!(d.sense()[2], 0, "delivered once");
            Err((s[2], s[12], s[13]))
        }
        Step::DataIn(data) => Ok(data),
        other => panic!("{other:?}"),
    }
}

fn transfer(step: Step) -> (Way, u64, u64, bool) {
    let Step::Transfer(t) = step else { panic!("{step:?}") };
    (t.way, t.sector.0, t.len, t.durable)
}

fn jobs(step: Step) -> Vec<(BlockOp, u64, u64)> {
    let Step::Jobs(_, jobs) = step else { panic!("{step:?}") };
    jobs.iter().map(|j| (j.op, j.sector.0, j.len)).collect()
}

#[test]
fn transfers_of_all_lengths() {
    let mut d = disk();
    assert_eq!(transfer(d.execute(&[0x08, 0xe0, 0, 5, 3, 0])), (Way::In, 5, 3 * 512, false), "old bits are no address");
    assert_eq!(transfer(d.execute(&[0x0a, 0, 0, 0, 0, 0])), (Way::Out, 0, SECTORS * 512, false), "0 is 256");
    assert_eq!(transfer(d.execute(&[0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0])), (Way::In, 9, 1024, false));
    assert_eq!(transfer(d.execute(&[0x2a, 8, 0, 0, 0, 9, 0, 0, 2, 0])), (Way::Out, 9, 1024, true), "FUA");
    assert_eq!(transfer(d.execute(&[0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0])), (Way::In, 7, 512, false));
    let long = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 1, 0, 0];
    assert_eq!(transfer(d.execute(&long)), (Way::In, 255, 512, false));
    assert_eq!(run(&mut d, &[0x28, 0, 0, 0, 0, 255, 0, 0, 2, 0]), Err((5, 0x21, 0)));
    assert_eq!(run(&mut d, &[&[0x88, 0][..], &[0xff; 12], &[0, 0]].concat()), Err((5, 0x21, 0)), "no overflow");
    assert_eq!(run(&mut d, &[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), Err((5, 0x24, 0)), "protection");
    assert_eq!(run(&mut d, &[0x28, 0, 0, 0, 1, 0, 0, 0, 0, 0]), Ok(vec![]), "nothing, at the end");
    assert_eq!(jobs(d.execute(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0])), [(BlockOp::Flush, 0, 0)]);
    assert_eq!(jobs(d.execute(&[0x2f, 0, 0, 0, 0, 1, 0, 0, 4, 0])), [(BlockOp::Read, 1, 2048)]);
    assert_eq!(run(&mut d, &[0xff; 16]), Err((5, 0x20, 0)));
}

#[test]
fn the_disk_describes_itself() {
    let mut d = ScsiUnit::disk(MemoryDisk::numbered(SECTORS, Pace::AtOnce), identity());
    let inquiry = run(&mut d, &[0x12, 0, 0, 0, 255, 0]).unwrap();
    assert_eq!((inquiry.len(), &inquiry[8..26]), (36, &b"VISOR   TEST DISK "[..]));
    assert_eq!(run(&mut d, &[3, 0, 0, 0, 252, 0]).unwrap()[12], 0x29, "the attention, by asking");
    assert_eq!(run(&mut d, &[0; 6]), Ok(vec![]));
    assert_eq!(run(&mut d, &[0x12, 1, 0x80, 0, 255, 0]).unwrap(), b"\x00\x80\x00\x03s-1");
    for page in run(&mut d, &[0x12, 1, 0, 0, 255, 0]).unwrap()[4..].iter().copied() {
        let vital = run(&mut d, &[0x12, 1, page, 0, 255, 0]).unwrap();
        assert_eq!((vital[1], usize::from(vital[3])), (page, vital.len() - 4));
    }
    assert_eq!(run(&mut d, &[0x12, 1, 0x99, 0, 255, 0]), Err((5, 0x24, 0)));
    assert_eq!(run(&mut d, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap(), [0, 0, 0, 255, 0, 0, 2, 0]);
    let long = run(&mut d, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]).unwrap();
    assert_eq!((long.len(), long[7], long[14]), (32, 255, 0x80));
    let luns = run(&mut d, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    assert_eq!((luns.len(), luns[3]), (16, 8));
    assert_eq!(no_such_unit(&[0x12, 0, 0, 0, 5, 0]).unwrap(), [0x7f, 0, 0, 0, 31]);
    assert_eq!(no_such_unit(&[0]).unwrap_err()[12], 0x25);
}

#[test]
fn the_write_cache_can_be_switched() {
    let mut d = disk();
    let cache = |d: &mut ScsiUnit| run(d, &[0x1a, 8, 8, 0, 255, 0]).unwrap()[6];
    assert_eq!(cache(&mut d), 4);
    let select = |d: &mut ScsiUnit, page: &[u8]| {
        let data = [&[0, 0, 0, 0][..], page].concat();
        with(d, &[0x15, 0x10, 0, 0, data.len() as u8, 0], &data)
    };
    let mut page = [0; 20];
    (page[0], page[1]) = (8, 18);
    assert_eq!(select(&mut d, &page), Ok(vec![]));
    assert_eq!(cache(&mut d), 0);
    assert!(transfer(d.execute(&[0x2a, 0, 0, 0, 0, 9, 0, 0, 2, 0])).3, "durable");
    page[2] = 1;
    assert_eq!(select(&mut d, &page), Err((5, 0x26, 0)), "what cannot be changed");
    assert_eq!(select(&mut d, &page[..12]), Err((5, 0x1a, 0)));
    assert_eq!(run(&mut d, &[0x1a, 0, 0x3f, 0, 255, 0]).unwrap().len(), 4 + 8 + 20 + 12);
    d.reset();
    assert_eq!(run(&mut d, &[0; 6]), Err((6, 0x29, 0)));
    assert_eq!(cache(&mut d), 4);
}

#[test]
fn space_is_given_back_and_zeroed() {
    let mut d = disk();
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (first, count) in [(3u64, 5u32), (100, 0)] {
        list.extend(first.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    assert!(matches!(d.execute(&unmap), Step::DataOut(40)));
    assert_eq!(jobs(d.data(&list)), [(BlockOp::Discard, 3, 5 * 512)]);
    list[15] = 255; // the first range goes beyond the end
    assert!(matches!(d.execute(&unmap), Step::DataOut(40)));
    assert!(matches!(d.data(&list), Step::Done(5)));
    let same = [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0];
    assert!(matches!(d.execute(&same), Step::DataOut(512)));
    assert_eq!(jobs(d.data(&[0; 512])), [(BlockOp::WriteZeroes { may_unmap: true }, 9, 2048)]);
    assert_eq!(with(&mut d, &same, &[1; 512]), Err((5, 0x24, 0)), "patterns");
    let short = [0x41, 0, 0, 0, 0, 250, 0, 0, 0, 0];
    assert!(matches!(d.execute(&short), Step::DataOut(512)));
    assert_eq!(jobs(d.data(&[0; 512])), [(BlockOp::WriteZeroes { may_unmap: false }, 250, 6 * 512)]);
    let mut ro = ScsiUnit::disk(MemoryDisk::read_only(vec![0; 4096]), identity());
    let _ = run(&mut ro, &[0]);
    for cdb in [&unmap[..], &same, &short, &[0x0a, 0, 0, 0, 1, 0]] {
        assert_eq!(run(&mut ro, cdb), Err((7, 0x27, 0)), "{cdb:?}");
    }
    assert_eq!(run(&mut ro, &[0x1a, 8, 8, 0, 255, 0]).unwrap()[2], 0x90);
}

#[test]
fn nonsense_is_answered() {
    let mut d = disk();
    let mut r = Random(11);
    for _ in 0..200_000 {
        let ops = [0x12, 0x1a, 0x5a, 0x15, 0x55, 0x42, 0x41, 0x93, 0x9e, 0x2f, 0x8f, 0x88, 0x8a, 0xa0, 0x03];
        let mut cdb: Vec<u8> = (0..r.below(18)).map(|_| r.next() as u8 >> r.below(9).min(7)).collect();
        if let Some(op) = cdb.first_mut().filter(|_| r.below(4) != 0) {
            *op = ops[r.below(ops.len() as u64) as usize];
        }
        let mut step = d.execute(&cdb);
        if let Step::DataOut(len) = step {
            assert!(len <= 64 << 10);
            let shift = r.below(9).min(7);
            let out: Vec<u8> = (0..len).map(|_| r.next() as u8 >> shift).collect();
            step = d.data(&out);
        }
        match step {
            Step::Transfer(t) => assert!(t.sector.0 + t.len / 512 <= SECTORS),
            Step::Jobs(_, jobs) => {
                assert!(jobs.len() <= 64 && jobs.iter().all(|j| j.sector.0 + j.len / 512 <= SECTORS));
            }
            Step::DataIn(data) => assert!(data.len() <= 64 << 10),
            Step::Done(key) => assert_eq!(d.sense()[2], key),
            other => panic!("{other:?}"),
        }
    }
}
