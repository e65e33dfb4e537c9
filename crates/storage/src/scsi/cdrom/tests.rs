use std::sync::Arc;

use super::*;
use crate::Step;
use crate::testing::{MemoryDisk, Pace, Random};

/// A disc of `blocks` blocks that takes no memory to speak of.
struct Blank(u64);

impl visor_block::BlockBackend for Blank {
    fn geometry(&self) -> visor_block::BlockGeometry {
        visor_block::BlockGeometry { sectors: self.0 * 4, physical_block: 2048, read_only: true }
    }
    fn submit(&self, request: visor_block::BlockRequest) {
        request.complete(Ok(()));
    }
    fn drain(&self) {}
}

fn drive(blocks: u64) -> Cdrom {
    let mut cd = Cdrom::new("TEST");
    cd.tray().insert(Arc::new(Blank(blocks)), "disc").unwrap();
    cd.tray.take_attention();
    run(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).unwrap();
    cd.tray.take_attention();
    cd
}

/// Data of a command, or its sense data as key, code and qualifier.
fn run(cd: &mut Cdrom, cdb: &[u8]) -> Result<Vec<u8>, (u8, u8, u8)> {
    match cd.execute(cdb) {
        Step::Done(0) => Ok(Vec::new()),
        Step::Done(key) => {
            let Step::DataIn(d) = cd.execute(&[3, 0, 0, 0, 18]) else { panic!("no sense data") };
            assert_eq!(d[2], key);
            Err((d[2], d[12], d[13]))
        }
        Step::DataIn(data) => Ok(data),
        Step::Transfer(t) => Ok(vec![0; t.len as usize]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_of_discs_is_told_once() {
    let mut cd = drive(100);
    let tray = cd.tray();
    assert_eq!(run(&mut cd, &[0]), Ok(vec![]));
    assert_eq!(tray.eject(false), EjectOutcome::Ejected);
    let event = |cd: &mut Cdrom| run(cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).unwrap()[4..6].to_vec();
    assert_eq!(event(&mut cd), [3, 1], "removed, tray open");
    assert_eq!(event(&mut cd), [0, 1]);
    assert_eq!(run(&mut cd, &[0]), Err((2, 0x3a, 2)));
    assert_eq!(run(&mut cd, &[0x25]), Err((2, 0x3a, 2)));
    tray.insert(Arc::new(Blank(7)), "other").unwrap();
    assert_eq!(tray.insert(Arc::new(Blank(7)), "third"), Err(TrayError::Occupied));
    assert_eq!(event(&mut cd), [2, 2], "new medium; polling takes nothing from the attention");
    assert_eq!(run(&mut cd, &[0]), Err((6, 0x28, 0)));
    assert_eq!(run(&mut cd, &[0]), Ok(vec![]));
    assert_eq!(run(&mut cd, &[0x25]), Ok(vec![0, 0, 0, 6, 0, 0, 8, 0]));
    assert_eq!(tray.state().disc.as_deref(), Some("other"));
    assert_eq!(Tray::default().insert(Arc::new(Blank(0)), "none"), Err(TrayError::Empty));
}

#[test]
fn locks_hold_until_force() {
    let mut cd = drive(100);
    let tray = cd.tray();
    run(&mut cd, &[0x1e, 0, 0, 0, 1]).unwrap();
    assert_eq!(run(&mut cd, &[0x1b, 0, 0, 0, 2]), Err((5, 0x53, 2)));
    assert_eq!(tray.eject(false), EjectOutcome::Requested);
    assert!(tray.state().locked && tray.state().disc.is_some());
    let event = |cd: &mut Cdrom| run(cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).unwrap()[4];
    assert_eq!((event(&mut cd), event(&mut cd)), (1, 0), "the guest is asked once");
    // It unlocks and ejects: the disc lies in the open tray, and goes back in with it.
    run(&mut cd, &[0x1e, 0, 0, 0, 0]).unwrap();
    run(&mut cd, &[0x1b, 0, 0, 0, 2]).unwrap();
    assert_eq!(run(&mut cd, &[0]), Err((2, 0x3a, 2)));
    assert!(tray.state().open);
    run(&mut cd, &[0x1b, 0, 0, 0, 3]).unwrap();
    assert_eq!(run(&mut cd, &[0]), Err((6, 0x28, 0)));
    run(&mut cd, &[0x1e, 0, 0, 0, 1]).unwrap();
    assert_eq!(tray.eject(true), EjectOutcome::Ejected);
    assert_eq!(tray.state(), TrayState { disc: None, open: true, locked: false });
    // A reset takes the lock away.
    tray.insert(Arc::new(Blank(7)), "x").unwrap();
    cd.tray.set_locked(true);
    cd.reset(false);
    assert!(!tray.state().locked);
}

#[test]
fn reading_stays_on_the_disc() {
    let mut cd = drive(100);
    assert_eq!(run(&mut cd, &[0x28, 0, 0, 0, 0, 98, 0, 0, 2]).unwrap().len(), 4096);
    assert_eq!(run(&mut cd, &[0x28, 0, 0, 0, 0, 98, 0, 0, 3]), Err((5, 0x21, 0)));
    assert_eq!(run(&mut cd, &[0xa8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err((5, 0x21, 0)));
    assert_eq!(run(&mut cd, &[0x28, 0, 0, 0, 0, 5]), Ok(vec![]));
    assert_eq!(run(&mut cd, &[0xbe, 0, 0, 0, 0, 4, 0, 0, 2, 0x10]).unwrap().len(), 4096);
    assert_eq!(run(&mut cd, &[0xbe, 0, 0, 0, 0, 4, 0, 0, 2, 0xf8]), Err((5, 0x24, 0)), "raw blocks");
    assert_eq!(run(&mut cd, &[0xbe, 4, 0, 0, 0, 4, 0, 0, 2, 0x10]), Err((5, 0x64, 0)), "audio");
    assert_eq!(run(&mut cd, &[0xb9, 0, 0, 0, 2, 4, 0, 2, 6, 0x10]).unwrap().len(), 4096);
    assert_eq!(run(&mut cd, &[0x2a, 0, 0, 0, 0, 4, 0, 0, 2]), Err((5, 0x20, 0)), "nothing writes");
}

#[test]
fn contents_and_kinds_of_discs() {
    let mut cd = drive(100);
    let toc = run(&mut cd, &[0x43, 0, 0, 0, 0, 0, 0, 0, 64]).unwrap();
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 100]);
    let toc = run(&mut cd, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12]).unwrap();
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 3, 25]);
    // The first session, asked for in the old way too.
    assert_eq!(run(&mut cd, &[0x43, 0, 1, 0, 0, 0, 0, 0, 12]).unwrap()[..4], [0, 10, 1, 1]);
    assert_eq!(run(&mut cd, &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40]).unwrap()[..4], [0, 10, 1, 1]);
    assert_eq!(run(&mut cd, &[0x43, 0, 2, 0, 0, 0, 0, 0, 255]).unwrap().len(), 48);
    assert_eq!(run(&mut cd, &[0x43, 0, 5, 0, 0, 0, 0, 0, 255]), Err((5, 0x24, 0)));
    let profile = |cd: &mut Cdrom| run(cd, &[0x46, 0, 0, 0, 0, 0, 0, 0, 8]).unwrap()[6..8].to_vec();
    assert_eq!(profile(&mut cd), [0, 8]);
    assert_eq!(run(&mut cd, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 0]), Err((5, 0x30, 0)), "not a DVD");
    let mut dvd = drive(2_000_000);
    assert_eq!(profile(&mut dvd), [0, 0x10]);
    let layer = run(&mut dvd, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4]).unwrap();
    assert_eq!((layer.len(), &layer[..2]), (2052, &[8, 2][..]));
    assert_eq!(run(&mut dvd, &[0xad, 0, 0, 0, 0, 0, 1, 0, 8, 4]), Err((5, 0x24, 0)), "a second layer");
    dvd.tray().eject(false);
    assert_eq!(profile(&mut dvd), [0, 0]);
}

#[test]
fn features_are_chosen_and_lengths_kept() {
    let mut cd = drive(100);
    let all = run(&mut cd, &[0x46, 0, 0, 0, 0, 0, 0, 4, 0]).unwrap();
    assert_eq!(u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize, all.len() - 4);
    let mut at = 8;
    let mut codes = Vec::new();
    while at < all.len() {
        codes.push(u16::from(all[at]) << 8 | u16::from(all[at + 1]));
        at += 4 + usize::from(all[at + 3]);
    }
    assert_eq!(at, all.len(), "lengths add up");
    assert!(codes.is_sorted() && codes.contains(&0x1e) && codes.contains(&0x1f));
    let one = run(&mut cd, &[0x46, 2, 0, 3, 0, 0, 0, 4, 0]).unwrap();
    assert_eq!((one.len(), one[9], one[12]), (16, 3, 0x39));
    assert_eq!(run(&mut cd, &[0x46, 2, 0x77, 0, 0, 0, 0, 4, 0]).unwrap().len(), 8);
    let current = run(&mut cd, &[0x46, 1, 0, 0x1e, 0, 0, 0, 4, 0]).unwrap();
    assert!(current.windows(2).all(|w| w != [0, 0x1f]), "no DVD is in");
}

#[test]
fn mode_pages() {
    let mut cd = drive(100);
    let page = run(&mut cd, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128]).unwrap();
    assert_eq!((page.len(), &page[..3], page[8], page[14]), (30, &[0, 28, 1][..], 0x2a, 0x29));
    let all = run(&mut cd, &[0x5a, 0, 0x3f, 0, 0, 0, 0, 4, 0]).unwrap();
    assert_eq!(usize::from(all[1]), all.len() - 2);
    assert_eq!(run(&mut cd, &[0x5a, 0, 0x0e, 0, 0, 0, 0, 0, 128]), Err((5, 0x24, 0)), "no audio");
    assert_eq!(run(&mut cd, &[0x5a, 0, 0xea, 0, 0, 0, 0, 0, 128]), Err((5, 0x39, 0)), "nothing is saved");
    assert_eq!(run(&mut cd, &[0x1a, 0, 0x01, 0, 128]).unwrap()[0], 15);
    // What was sensed may be selected; other pages, lengths and halves not.
    let mut select = |data: &[u8]| {
        let step = cd.execute(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, data.len() as u8]);
        assert!(matches!(step, Step::DataOut(n) if n == data.len()), "{step:?}");
        match cd.data(data) {
            Step::Done(key) => key,
            other => panic!("{other:?}"),
        }
    };
    let mut list = vec![0; 8];
    list.extend(&all[8..20]);
    assert_eq!(select(&list), 0);
    assert_eq!(select(&list[..15]), 5);
    list[8] = 0x3e;
    assert_eq!(select(&list), 5);
    assert_eq!(select(&[0; 3]), 5);
}

/// Random packets to a drive whose discs come and go: answers stay within their allocation, transfers on the disc.
#[test]
fn random_packets() {
    let mut random = Random(99);
    let mut cd = drive(50);
    let tray = cd.tray();
    for _ in 0..200_000 {
        let mut cdb = [0u8; 12];
        for b in &mut cdb {
            *b = (random.next() & random.next()) as u8;
        }
        if random.below(3) > 0 {
            const KNOWN: [u8; 31] = [
                0, 3, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x2f, 0x42, 0x43, 0x46, 0x4a, 0x4e, 0x51, 0x52,
                0x55, 0x5a, 0xa4, 0xa7, 0xa8, 0xac, 0xad, 0xb9, 0xbb, 0xbd, 0xbe, 0xbe, 0xa0,
            ];
            cdb[0] = KNOWN[random.below(31) as usize];
        }
        match cd.execute(&cdb) {
            Step::Done(key) => assert!(key < 16),
            Step::DataIn(data) => assert!(data.len() <= 4096, "{cdb:x?} gives {} bytes", data.len()),
            Step::DataOut(len) => {
                assert!(len <= 512);
                let data: Vec<u8> = (0..len).map(|_| random.below(40) as u8).collect();
                assert!(matches!(cd.data(&data), Step::Done(_)));
            }
            Step::Transfer(t) => assert!(t.len > 0 && t.sector.0 + t.len / 512 <= t.backend.geometry().sectors),
            Step::Jobs(disc, jobs) => {
                assert!(jobs.iter().all(|j| j.sector.0 + j.len / 512 <= disc.geometry().sectors));
            }
            Step::Packet => panic!("a packet in a packet"),
        }
        match random.below(100) {
            0 => _ = tray.eject(random.below(2) == 0),
            1 => _ = tray.insert(MemoryDisk::numbered(random.below(60), Pace::AtOnce), "x"),
            2 => _ = tray.insert(Arc::new(Blank(random.next() >> (8 + random.below(50)))), "y"),
            _ => {}
        }
    }
}
