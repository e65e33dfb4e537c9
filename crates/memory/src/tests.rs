use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::{Extra, Frame, Gpa, GuestMemory, MemoryError, PAGE, RamRange, Remap};

fn two_ranges() -> GuestMemory {
    let low = RamRange { start: Gpa(0), len: 0x4000 };
    let high = RamRange { start: Gpa(0x1_0000_0000), len: 0x2000 };
    GuestMemory::new(&[low, high]).unwrap()
}

#[test]
fn pages_and_frames_follow_the_layout() {
    let m = two_ranges();
    assert_eq!(m.len(), 0x6000);
    assert_eq!(m.page(Gpa(0x3fff)).unwrap().frame, Frame(3));
    assert_eq!(m.page(Gpa(0x1_0000_1008)).unwrap().frame, Frame(5));
    assert!(m.page(Gpa(0x4000)).is_none());
    assert!(m.page(Gpa(0xffff_f000)).is_none());
    m.view().write_obj(0xabcdu16, GuestAddress(0x1_0000_1000)).unwrap();
    // SAFETY: inside the mapping, which lives until the end of the test.
    assert_eq!(unsafe { m.base().add(0x5000).cast::<u16>().read_volatile() }, 0xabcd);
}

#[test]
fn bad_layouts_are_refused() {
    let r = |start, len| RamRange { start: Gpa(start), len };
    for bad in [
        vec![],
        vec![r(0, 0)],
        vec![r(0, 100)],
        vec![r(0, 0x2000), r(0x1000, 0x1000)],
        vec![r(u64::MAX - 0xfff, 0x1000)],
    ] {
        assert!(matches!(GuestMemory::new(&bad), Err(MemoryError::Layout(_))), "{bad:?}");
    }
}

#[test]
fn a_write_to_marked_code_moves_the_stamp_and_others_do_not() {
    let m = two_ranges();
    let f = m.frames();
    let before = f.mark_code(Frame(1), 0x100, 16);
    m.view().write_obj(1u8, GuestAddress(0x1000)).unwrap();
    assert_eq!(f.stamp(Frame(1)), before, "another granule of the same page");
    m.view().write_slice(&[0; 0x202], GuestAddress(0x0f00)).unwrap();
    assert_ne!(f.stamp(Frame(1)), before, "a write that runs across the page boundary into the code");
    let now = f.stamp(Frame(1));
    m.view().write_obj(1u8, GuestAddress(0x1100)).unwrap();
    assert_eq!(f.stamp(Frame(1)), now, "the mark is gone with the code");
}

#[test]
fn who_writes_over_code_it_made_finds_the_stamp_moved() {
    // Several CPUs make code of one granule and write to it: each write must move the stamp under which the writer's own code was
    // valid, whoever clears the marks meanwhile.
    let m = two_ranges();
    std::thread::scope(|scope| {
        for who in 0..3 {
            let m = &m;
            scope.spawn(move || {
                let f = m.frames();
                for round in 0..30_000 {
                    let stamp = f.mark_code(Frame(1), who * 8, 8);
                    m.view().write_obj(round, GuestAddress(0x1000 + who * 8)).unwrap();
                    assert_ne!(f.stamp(Frame(1)), stamp, "CPU {who}, round {round}");
                }
            });
        }
    });
}

#[test]
fn device_memory_is_seen_where_it_is_placed_and_tells_of_writes() {
    let low = RamRange { start: Gpa(0), len: 0x4000 };
    let m =
        std::sync::Arc::new(GuestMemory::with_extra(&[low], &Extra { devices: 0x5000, ..Extra::default() }).unwrap());
    let a = m.take_device_memory(0x2000).unwrap();
    let b = m.take_device_memory(0x3000).unwrap();
    assert!(m.take_device_memory(0x1000).is_err(), "all is taken");
    assert_eq!((a.first_frame(), b.first_frame()), (Frame(4), Frame(6)));
    b.place(Some(Gpa(0xe000_0000)));
    assert_eq!(m.page(Gpa(0xe000_1234)).unwrap().frame, Frame(7));
    assert!(m.page(Gpa(0xe000_3000)).is_none() && m.page(Gpa(0xdfff_ffff)).is_none());
    b.place(Some(Gpa(0xd000_0000)));
    assert!(m.page(Gpa(0xe000_0000)).is_none());
    b.place(None);
    assert!(m.page(Gpa(0xd000_0000)).is_none());

    let mut seen = b.unseen();
    let mut changed = |pages: std::ops::Range<usize>| {
        let mut out: Vec<usize> = Vec::new();
        b.collect(pages, &mut seen, |p| out.push(p));
        out
    };
    assert_eq!(changed(0..9), [0, 1, 2]);
    assert!(changed(0..3).is_empty());
    b.write(0xfff, &[1, 2]);
    b.store(0x2ffc, 0x0403_0201);
    b.store(0x3000, 9);
    assert_eq!(changed(0..3), [0, 1, 2]);
    b.write(0x1800, &[7]);
    assert!(changed(2..3).is_empty(), "another page");
    assert_eq!(changed(0..3), [1]);
    let mut bytes = [9; 6];
    b.read(0x2ffc, &mut bytes);
    assert_eq!((bytes, b.load(0xffc), b.load(0x3000)), ([1, 2, 3, 4, 0, 0], 0x0100_0000, 0));
    b.clear(0x1000..0x9999);
    assert_eq!((b.load(0x2ffc), b.load(0xffc)), (0, 0x0100_0000));
    assert_eq!(a.load(0), 0, "its neighbour");
}

#[test]
fn no_write_to_device_memory_is_missed_by_a_collector_on_another_thread() {
    let low = RamRange { start: Gpa(0), len: 0x1000 };
    let m =
        std::sync::Arc::new(GuestMemory::with_extra(&[low], &Extra { devices: 0x1000, ..Extra::default() }).unwrap());
    let d = m.take_device_memory(0x1000).unwrap();
    let (writer, done) = (d.clone(), std::sync::atomic::AtomicBool::new(false));
    let shown = std::thread::scope(|s| {
        s.spawn(|| {
            (1..=20_000).for_each(|i| writer.store(64, i));
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let (mut seen, mut shown) = (d.unseen(), 0);
        loop {
            let last = done.load(std::sync::atomic::Ordering::SeqCst);
            d.collect(0..1, &mut seen, |_| shown = d.load(64));
            if last {
                return shown;
            }
        }
    });
    assert_eq!(shown, 20_000, "the last value was shown");
}

#[test]
fn rom_and_shadowed_ram_are_what_mappings_say() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let range = |start, len| RamRange { start: Gpa(start), len };
    let extra = Extra { len: 2 * PAGE, shadow: Some(range(0x2000, 0x2000)), devices: 0 };
    let m = GuestMemory::with_extra(&[range(0, 0x8000)], &extra).unwrap();
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    m.on_remap(move || _ = count.fetch_add(1, Ordering::Relaxed));
    assert!(m.page(Gpa(0x1fff)).unwrap().writable);
    assert!(m.page(Gpa(0x2000)).is_none(), "shadowed, and nothing mapped");
    let rom = m.extra();
    assert_eq!(rom, 0x8000);
    m.load(rom + 0xfff, b"ab");
    m.load(rom + 2 * PAGE - 1, b"xyz");
    let show = |start, len, to| Remap { range: range(start, len), to };
    m.remap(&[show(0x2000, 0x2000, Some((rom, false))), show(0xffff_e000, 0x2000, Some((rom, false)))]);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    let page = m.page(Gpa(0x3000)).unwrap();
    assert_eq!((page.frame, page.writable), (Frame(9), false));
    assert_eq!(m.page(Gpa(0xffff_ffff)).unwrap().frame, Frame(9));
    let mut got = [0; 3];
    m.peek(rom + 0xfff, &mut got);
    assert_eq!(&got, b"ab\0");
    m.peek(rom + 2 * PAGE - 1, &mut got);
    assert_eq!(got, [b'x', 0xff, 0xff]);
    let ram = m.ram_offset(Gpa(0x3000)).unwrap();
    m.remap(&[show(0x3000, 0x1000, Some((ram, true)))]);
    assert_eq!(m.page(Gpa(0x3000)).unwrap().frame, Frame(3));
    assert!(!m.page(Gpa(0x2000)).unwrap().writable);
    let all: Vec<_> = m.mappings().iter().map(|m| (m.range.start.0, m.range.len, m.offset, m.writable)).collect();
    let expected = [
        (0, 0x2000, 0, true),
        (0x2000, 0x1000, 0x8000, false),
        (0x3000, 0x1000, 0x3000, true),
        (0x4000, 0x4000, 0x4000, true),
        (0xffff_e000, 0x2000, 0x8000, false),
    ];
    assert_eq!(all, expected);
    m.remap(&[show(0x3000, 0x1000, Some((ram, true)))]);
    m.remap(&[show(0x3001, 0x1000, None), show(0x3000, 0x1000, Some((rom + PAGE, true))), show(0x3000, 0, None)]);
    assert_eq!(told.load(Ordering::Relaxed), 3, "no change is not told");
    m.remap(&[show(0x3000, 0x1000, Some((rom + 2 * PAGE, true)))]);
    assert_eq!(m.page(Gpa(0x3000)).unwrap().frame, Frame(9), "beyond the end");
    m.remap(&[show(0xffff_e000, 0x2000, None), show(0x2000, 0x2000, None)]);
    assert_eq!(m.mappings().len(), 2);
}

#[test]
fn loading_rom_moves_the_stamp_of_its_code() {
    let extra = Extra { len: PAGE, ..Extra::default() };
    let m = GuestMemory::with_extra(&[RamRange { start: Gpa(0), len: PAGE }], &extra).unwrap();
    let stamp = m.frames().mark_code(Frame(1), 0x80, 1);
    m.load(m.extra(), &[0; 0x80]);
    assert_eq!(m.frames().stamp(Frame(1)), stamp);
    m.load(m.extra() + 0x10, &[0; 0x80]);
    assert_ne!(m.frames().stamp(Frame(1)), stamp);
}
