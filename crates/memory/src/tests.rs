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
fn rom_and_shadowed_ram_are_what_mappings_say() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let range = |start, len| RamRange { start: Gpa(start), len };
    let extra = Extra { len: 2 * PAGE, shadow: Some(range(0x2000, 0x2000)) };
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
    let extra = Extra { len: PAGE, shadow: None };
    let m = GuestMemory::with_extra(&[RamRange { start: Gpa(0), len: PAGE }], &extra).unwrap();
    let stamp = m.frames().mark_code(Frame(1), 0x80, 1);
    m.load(m.extra(), &[0; 0x80]);
    assert_eq!(m.frames().stamp(Frame(1)), stamp);
    m.load(m.extra() + 0x10, &[0; 0x80]);
    assert_ne!(m.frames().stamp(Frame(1)), stamp);
}
