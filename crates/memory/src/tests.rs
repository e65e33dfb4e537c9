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
