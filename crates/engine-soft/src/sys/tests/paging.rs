use visor_x86::exception::{Exception, pf};
use visor_x86::paging::{ACCESSED, DIRTY, NX};
use visor_x86::regs::{Cr0, Cr4, Efer};

use super::guest::*;
use crate::mmu::{Access, Privilege};

fn translate(g: &mut Guest, lin: u64, access: Access, who: Privilege) -> Result<u64, u32> {
    g.cpu.translate(lin, access, who).map(|t| t.gpa.0).map_err(|_| {
        let Exception { error, info, .. } = g.cpu.fault;
        assert_eq!(info, lin);
        error
    })
}

#[test]
fn accessed_and_dirty_bits_follow_use() {
    let mut g = Guest::long();
    let entry = PT + 8 * 5;
    g.put64(entry, 0x5000 | 7);
    assert_eq!(translate(&mut g, 0x5123, Access::Load, Privilege::User), Ok(0x5123));
    assert_eq!(g.get64(entry), 0x5000 | 7 | ACCESSED);
    assert_eq!(g.get64(PML4) & (ACCESSED | DIRTY), ACCESSED);
    assert_eq!(translate(&mut g, 0x5123, Access::Store, Privilege::User), Ok(0x5123));
    assert_eq!(g.get64(entry), 0x5000 | 7 | ACCESSED | DIRTY);
}

#[test]
fn a_fault_sets_no_bits() {
    let mut g = Guest::long();
    let entry = PT + 8 * 5;
    g.put64(entry, 0x5000 | 5);
    assert_eq!(translate(&mut g, 0x5000, Access::Store, Privilege::User), Err(pf::PRESENT | pf::WRITE | pf::USER));
    assert_eq!(g.get64(entry), 0x5000 | 5);
}

#[test]
fn rights_of_4_level_paging() {
    let mut g = Guest::long();
    let (user, super_, ac) = (Privilege::User, Privilege::Supervisor, Privilege::SupervisorAc);
    // 5: supervisor, read-only. 6: user, no execute.
    g.put64(PT + 8 * 5, 0x5001);
    g.put64(PT + 8 * 6, 0x6007 | NX);
    assert_eq!(translate(&mut g, 0x5000, Access::Load, user), Err(pf::PRESENT | pf::USER));
    assert_eq!(translate(&mut g, 0x5000, Access::Load, super_), Ok(0x5000));
    assert_eq!(translate(&mut g, 0x5000, Access::Store, super_), Err(pf::PRESENT | pf::WRITE));
    g.cpu.cr0 &= !Cr0::WP.bits();
    assert_eq!(translate(&mut g, 0x5000, Access::Store, super_), Ok(0x5000));
    assert_eq!(translate(&mut g, 0x6000, Access::Fetch, user), Err(pf::PRESENT | pf::USER | pf::FETCH));
    assert_eq!(translate(&mut g, 0x7000, Access::Fetch, super_), Ok(0x7000));
    g.cpu.cr4 |= (Cr4::SMEP | Cr4::SMAP).bits();
    assert_eq!(translate(&mut g, 0x7000, Access::Fetch, super_), Err(pf::PRESENT | pf::FETCH));
    assert_eq!(translate(&mut g, 0x7000, Access::Load, super_), Err(pf::PRESENT));
    assert_eq!(translate(&mut g, 0x7000, Access::Load, ac), Ok(0x7000));
    assert_eq!(translate(&mut g, 0x7000, Access::Load, user), Ok(0x7000));
    assert_eq!(translate(&mut g, 0x20_0000, Access::Load, user), Err(pf::USER), "not present");
}

#[test]
fn reserved_bits_fault() {
    let mut g = Guest::long();
    let reserved = Err(pf::PRESENT | pf::RESERVED);
    g.put64(PT + 8 * 5, 0x5007 | 1 << 45);
    assert_eq!(translate(&mut g, 0x5000, Access::Load, Privilege::Supervisor), reserved);
    g.put64(PT + 8 * 5, 0x5007 | NX);
    g.cpu.efer &= !Efer::NXE.bits();
    assert_eq!(translate(&mut g, 0x5000, Access::Load, Privilege::Supervisor), reserved);
    g.put64(PD + 8, 0x20_2087);
    assert_eq!(translate(&mut g, 0x20_0000, Access::Load, Privilege::Supervisor), reserved, "misaligned large page");
    g.put64(PML4 + 8, PDPT | 0x87);
    assert_eq!(translate(&mut g, 1 << 39, Access::Load, Privilege::Supervisor), reserved, "PS in a PML4E");
}

#[test]
fn large_pages() {
    let mut g = Guest::long();
    g.put64(PD + 8, 0x40_0083);
    g.put64(PDPT + 8, 0x4000_0083);
    let t = g.cpu.translate(0x20_1234, Access::Load, Privilege::Supervisor).unwrap();
    assert_eq!((t.gpa.0, t.large), (0x40_1234, true));
    let t = g.cpu.translate(0x4012_3456, Access::Store, Privilege::Supervisor).unwrap();
    assert_eq!((t.gpa.0, t.large), (0x4012_3456, true));
    assert_eq!(g.get64(PDPT + 8), 0x4000_0083 | ACCESSED | DIRTY);
}

#[test]
fn legacy_and_pae_paging() {
    let mut g = Guest::protected();
    g.put(0x10000, &(0x11000u32 | 7).to_le_bytes());
    g.put(0x11000 + 4 * 5, &(0x6000u32 | 7).to_le_bytes());
    // 4 MiB page at linear 4 MiB, physical 1_0080_0000h by PSE-36.
    g.put(0x10004, &(0x0080_0000u32 | 0x87 | 1 << 13).to_le_bytes());
    g.cpu.cr3 = 0x10000;
    g.cpu.cr4 |= Cr4::PSE.bits();
    g.cpu.cr0 |= Cr0::PG.bits();
    g.cpu.mode_changed();
    assert_eq!(translate(&mut g, 0x5008, Access::Store, Privilege::User), Ok(0x6008));
    assert_eq!(g.get32(0x11000 + 4 * 5), 0x6000 | 7 | 0x60);
    assert_eq!(translate(&mut g, 0x40_0004, Access::Load, Privilege::User), Ok(0x1_0080_0004));
    // PAE: PDPT at 12020h.
    g.put64(0x12020, 0x13001);
    g.put64(0x13000, 0x14007);
    g.put64(0x14000 + 8 * 5, 0x7007);
    g.cpu.cr4 |= Cr4::PAE.bits();
    g.cpu.load_pdptes(0x12020).unwrap();
    g.cpu.mode_changed();
    assert_eq!(translate(&mut g, 0x5008, Access::Load, Privilege::User), Ok(0x7008));
    assert_eq!(translate(&mut g, 0x4000_0000, Access::Load, Privilege::User), Err(pf::USER));
    g.put64(0x12028, 0x13007);
    assert!(g.cpu.load_pdptes(0x12020).is_err(), "R/W and U/S are reserved in a PDPTE");
}

#[test]
fn a_store_through_the_tlb_needs_a_dirty_page() {
    let mut g = Guest::long();
    g.put64(PT + 8 * 5, 0x5007);
    g.cpu.read::<u64>(0x5000, 3).unwrap();
    assert_eq!(g.get64(PT + 8 * 5) & DIRTY, 0);
    g.cpu.write::<u64>(0x5000, 3, 7, None).unwrap();
    assert_ne!(g.get64(PT + 8 * 5) & DIRTY, 0);
    assert_eq!(g.get64(0x5000), 7);
}

#[test]
fn a_page_crossing_store_that_faults_writes_nothing() {
    let mut g = Guest::long();
    g.put64(0x5ff8, 0);
    g.put64(PT + 8 * 6, 0);
    assert!(g.cpu.write::<u64>(0x5ffc, 3, !0, None).is_err());
    assert_eq!(g.cpu.fault, Exception::pf(pf::WRITE, 0x6000));
    assert_eq!(g.get64(0x5ff8), 0);
}

#[test]
fn alignment_checks_concern_ring_3_only() {
    let mut g = Guest::long();
    g.cpu.cr0 |= Cr0::AM.bits();
    g.cpu.sysflags |= 1 << 18;
    g.cpu.mode_changed();
    assert!(g.cpu.read::<u32>(0x5001, 3).is_ok());
    g.cpu.cpl = 3;
    g.cpu.mode_changed();
    assert!(g.cpu.read::<u32>(0x5004, 3).is_ok());
    assert!(g.cpu.read::<u32>(0x5005, 3).is_err());
    assert_eq!(g.cpu.fault.vector, visor_x86::Vector::AlignmentCheck);
    assert!(g.cpu.read::<u8>(0x5005, 3).is_ok());
}

#[test]
fn protection_keys_add_to_the_rights() {
    let mut g = Guest::long();
    let (user, super_) = (Privilege::User, Privilege::Supervisor);
    // 5: user page with key 2. 6: supervisor page with key 3.
    g.put64(PT + 8 * 5, 0x5007 | 2 << 59);
    g.put64(PT + 8 * 6, 0x6003 | 3 << 59);
    g.cpu.msr.keys.pkru = 1 << 4;
    g.cpu.msr.keys.pkrs = 2 << 6;
    assert_eq!(translate(&mut g, 0x5000, Access::Load, user), Ok(0x5000), "not enabled");
    g.cpu.cr4 |= (Cr4::PKE | Cr4::PKS).bits();
    let denied = pf::PRESENT | pf::KEY;
    assert_eq!(translate(&mut g, 0x5000, Access::Load, user), Err(denied | pf::USER));
    assert_eq!(translate(&mut g, 0x5000, Access::Load, super_), Err(denied), "of user pages, whoever accesses them");
    assert_eq!(translate(&mut g, 0x5000, Access::Fetch, user), Ok(0x5000), "fetches are not concerned");
    assert_eq!(translate(&mut g, 0x7000, Access::Load, user), Ok(0x7000), "key 0");
    assert_eq!(translate(&mut g, 0x6000, Access::Load, super_), Ok(0x6000));
    assert_eq!(translate(&mut g, 0x6000, Access::Store, super_), Err(denied | pf::WRITE));
    assert_eq!(translate(&mut g, 0x6000, Access::Load, user), Err(pf::PRESENT | pf::USER), "not the key's fault");
    g.cpu.msr.keys.pkru = 2 << 4;
    assert_eq!(translate(&mut g, 0x5000, Access::Load, user), Ok(0x5000));
    assert_eq!(translate(&mut g, 0x5000, Access::Store, user), Err(denied | pf::WRITE | pf::USER));
    assert_eq!(translate(&mut g, 0x5000, Access::Store, super_), Err(denied | pf::WRITE));
    g.cpu.cr0 &= !Cr0::WP.bits();
    assert_eq!(translate(&mut g, 0x5000, Access::Store, super_), Ok(0x5000));
    assert_eq!(translate(&mut g, 0x5000, Access::Store, user), Err(denied | pf::WRITE | pf::USER));
}

#[test]
fn a_changed_key_reaches_what_is_cached() {
    let mut g = Guest::long();
    g.put64(PT + 8 * 5, 0x5007 | 2 << 59);
    g.cpu.cr4 |= (Cr4::PKE | Cr4::OSXSAVE).bits();
    g.cpu.xcr0 = 0x207;
    assert!(g.cpu.read::<u64>(0x5000, 3).is_ok());
    // xor ecx, ecx; xor edx, edx; mov eax, 10h; wrpkru; rdpkru; mov ebx, eax; mov eax, 200h; xsave [6000h]; xor eax, eax;
    // wrpkru; mov eax, 200h; xrstor [6000h]; xor edx, edx; mov eax, [5000h]
    g.put(CODE, &[0x31, 0xc9, 0x31, 0xd2, 0xb8, 0x10, 0, 0, 0, 0x0f, 0x01, 0xef, 0x0f, 0x01, 0xee, 0x89, 0xc3]);
    g.put(CODE + 17, &[0xb8, 0, 2, 0, 0, 0x0f, 0xae, 0x24, 0x25, 0, 0x60, 0, 0, 0x31, 0xc0, 0x0f, 0x01, 0xef]);
    g.put(CODE + 35, &[0xb8, 0, 2, 0, 0, 0x0f, 0xae, 0x2c, 0x25, 0, 0x60, 0, 0]);
    g.put(CODE + 48, &[0x8b, 0x04, 0x25, 0, 0x50, 0, 0, 0xf4]);
    g.handler(14, 0x8e, &[0x5e, 0xf4]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[3], g.cpu.gpr[6]), (0x10, u64::from(pf::PRESENT | pf::KEY)));
    assert_eq!((g.get64(0x6000 + 512), g.get64(0x6000 + 832)), (0x200, 0x10));
    assert_eq!(g.cpu.cr2, 0x5000);
}
