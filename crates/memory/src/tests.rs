use vm_memory::{Bytes, GuestAddress};

use crate::{Frame, Gpa, GuestMemory, MemoryError, RamRange};

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
fn device_memory_is_seen_where_it_is_placed_and_tells_of_writes() {
    let low = RamRange { start: Gpa(0), len: 0x4000 };
    let m = std::sync::Arc::new(GuestMemory::with_device_memory(&[low], 0x5000).unwrap());
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
    let m = std::sync::Arc::new(GuestMemory::with_device_memory(&[low], 0x1000).unwrap());
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
