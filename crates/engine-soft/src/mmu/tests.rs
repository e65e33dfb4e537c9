//! The soft TLB.

use super::space::Fill;
use super::{Home, Mmu, Privilege};

fn mmu() -> Mmu {
    let ram = visor_memory::RamRange { start: visor_memory::Gpa(0), len: 0x10000 };
    Mmu::new(&visor_memory::GuestMemory::new(&[ram]).unwrap(), Home::new().unwrap())
}

fn put(m: &mut Mmu, lin: u64, global: bool, large: bool) {
    let host = (0x7000_0000 + (lin & 0xf_f000)) as *mut u8;
    m.fill(true, Privilege::Supervisor, &Fill { lin, host, global, large });
}

fn hit(m: &Mmu, lin: u64) -> bool {
    let hits = [m.load(Privilege::Supervisor).lookup(lin, 8), m.store(Privilege::Supervisor).lookup(lin, 8)]
        .map(|h| h.is_some());
    assert_eq!(hits[0], hits[1]);
    hits[0]
}

#[test]
fn an_empty_table_never_hits() {
    let m = mmu();
    for lin in [0, 0x1000, 0x3ff000, 0xffff_ffff_ffff_f000, 0xffff_8000_0000_0000] {
        assert!(!hit(&m, lin), "{lin:#x}");
    }
}

#[test]
fn a_cr3_load_keeps_global_pages_only() {
    let mut m = mmu();
    put(&mut m, 0x5000, false, false);
    put(&mut m, 0xffff_ffff_8000_3000, true, false);
    put(&mut m, 0, false, false);
    let generation = m.code_generation;
    m.switch(0, false);
    assert!(!hit(&m, 0x5000) && !hit(&m, 0) && hit(&m, 0xffff_ffff_8000_3000));
    assert_ne!(m.code_generation[0], generation[0]);
    assert_eq!(m.code_generation[1], generation[1], "all code in the upper half is global");
}

#[test]
fn spaces_keep_their_entries_and_generation() {
    let mut m = mmu();
    m.fill(true, Privilege::User, &Fill { lin: 0x5000, host: 0x7000_5000 as *mut u8, global: false, large: false });
    let hit = |m: &Mmu, lin| m.store(Privilege::User).lookup(lin, 8).is_some();
    let first = m.code_generation[0];
    m.switch(1, true);
    assert!(!hit(&m, 0x5000));
    assert_ne!(m.code_generation[0], first);
    m.switch(0, true);
    assert!(hit(&m, 0x5000));
    assert_eq!(m.code_generation[0], first);
    for pcid in 1..20 {
        m.switch(pcid, true);
    }
    m.switch(0, true);
    assert!(!hit(&m, 0x5000), "evicted");
    assert_ne!(m.code_generation[0], first);
}

#[test]
fn a_large_page_is_dropped_as_a_whole() {
    let mut m = mmu();
    put(&mut m, 0x4000_3000, false, true);
    put(&mut m, 0x4000_4000, false, false);
    m.flush_page(0x4000_0000);
    assert!(!hit(&m, 0x4000_3000) && hit(&m, 0x4000_4000));
}

#[test]
fn global_pages_are_dropped_in_every_space() {
    let mut m = mmu();
    put(&mut m, 0xffff_8000_0000_1000, true, false);
    m.switch(1, true);
    m.flush_page(0xffff_8000_0000_1000);
    m.switch(0, true);
    assert!(!hit(&m, 0xffff_8000_0000_1000));
}

#[test]
fn dropping_a_data_page_does_not_move_the_code_generation() {
    let mut m = mmu();
    m.fill_code(0x40_0000, true, 0x1000, None, false, false);
    let generation = m.code_generation;
    m.flush_page(0x7fff_0000);
    assert_eq!(m.code_generation, generation);
    assert!(m.code_page(0x40_0123, true).is_some());
    assert!(m.code_page(0x40_0123, false).is_none(), "other rights");
    m.flush_page(0x40_0000);
    assert_ne!(m.code_generation[0], generation[0]);
    assert!(m.code_page(0x40_0123, true).is_none());
}
