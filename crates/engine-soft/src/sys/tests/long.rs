use visor_engine::Stop;
use visor_x86::exception::{Exception, Vector};

use super::guest::*;
use crate::sys::interrupt::nest;

const INTERRUPT: u64 = 0x8e;
const USER_TRAP: u64 = 0xef;

#[test]
fn nesting_follows_the_table() {
    let pf = Exception::pf(0, 0);
    let df = |first, second| nest(Some(first), second).map(|e| e.vector);
    assert_eq!(df(Vector::InvalidOpcode, pf), Some(Vector::PageFault));
    assert_eq!(df(Vector::GeneralProtection, pf), Some(Vector::PageFault));
    assert_eq!(df(Vector::GeneralProtection, Exception::np(0)), Some(Vector::DoubleFault));
    assert_eq!(df(Vector::PageFault, pf), Some(Vector::DoubleFault));
    assert_eq!(df(Vector::PageFault, Exception::gp(0)), Some(Vector::DoubleFault));
    assert_eq!(df(Vector::DoubleFault, pf), None);
    assert_eq!(nest(None, Exception::gp(0)).map(|e| e.vector), Some(Vector::GeneralProtection));
}

#[test]
fn a_page_fault_pushes_its_frame_and_returns() {
    let mut g = Guest::long();
    // mov rax, [200000h]; hlt. The handler maps the page: mov qword [PD+8], 400083h; add rsp, 8; iretq.
    g.put(CODE, &[0x48, 0x8b, 0x04, 0x25, 0, 0, 0x20, 0, 0xf4]);
    g.put64(0x40_0000, 0x55aa);
    #[rustfmt::skip]
    g.handler(14, INTERRUPT, &[
        0x48, 0x8b, 0x1c, 0x24,                                     // mov rbx, [rsp]
        0x48, 0x8b, 0x4c, 0x24, 0x08,                               // mov rcx, [rsp+8]
        0x0f, 0x20, 0xd2,                                           // mov rdx, cr2
        0x48, 0xc7, 0x04, 0x25, 0x08, 0x20, 0x01, 0, 0x83, 0, 0x40, 0, // mov qword [12008h], 400083h
        0x48, 0x83, 0xc4, 0x08,                                     // add rsp, 8
        0x48, 0xcf,                                                 // iretq
    ]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0], 0x55aa);
    assert_eq!((g.cpu.gpr[3], g.cpu.gpr[1], g.cpu.gpr[2]), (0, CODE, 0x20_0000));
    assert_eq!(g.cpu.gpr[4], STACK);
}

/// Code that goes to ring 3 at `USER_CODE` by IRETQ.
#[rustfmt::skip]
const TO_USER: [u8; 22] = [
    0x6a, 0x23,                    // push 23h
    0x68, 0x00, 0xa0, 0, 0,        // push USER_STACK
    0x68, 0x02, 0x02, 0, 0,        // push flags: IF
    0x6a, 0x2b,                    // push 2bh
    0x68, 0x00, 0x90, 0, 0,        // push USER_CODE
    0x48, 0xcf, 0xf4,              // iretq; hlt
];

#[test]
fn ring_3_and_back_by_interrupt() {
    let mut g = Guest::long();
    g.put(CODE, &TO_USER);
    // mov eax, 7; int 80h.     Handler: mov rbx, [rsp+8]; cli; hlt.
    g.put(USER_CODE, &[0xb8, 7, 0, 0, 0, 0xcd, 0x80]);
    g.handler(0x80, USER_TRAP, &[0x48, 0x8b, 0x5c, 0x24, 0x08, 0xfa, 0xf4]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[0], g.cpu.gpr[3]), (7, 0x2b));
    assert_eq!(g.cpu.gpr[4], INNER_STACK - 40);
    assert_eq!(g.cpu.cpl, 0);
    assert_eq!(g.get64(INNER_STACK - 40), USER_CODE + 7);
    assert_eq!(g.get64(INNER_STACK - 8), 0x23);
    assert_eq!(g.get64(INNER_STACK - 16), USER_STACK);
}

#[test]
fn syscall_and_sysret() {
    let mut g = Guest::long();
    g.put(CODE, &TO_USER);
    // syscall; mov ebx, 1; syscall (the second time the kernel halts).
    g.put(USER_CODE, &[0x0f, 0x05, 0xbb, 1, 0, 0, 0, 0x0f, 0x05]);
    // test ebx, ebx; jnz halt; mov r8, rcx; mov r9, r11; sysretq; halt: hlt.
    let kernel = HANDLERS;
    g.put(kernel, &[0x85, 0xdb, 0x75, 0x09, 0x49, 0x89, 0xc8, 0x4d, 0x89, 0xd9, 0x48, 0x0f, 0x07, 0xf4]);
    g.cpu.msr.star = 0x0018_0008 << 32;
    g.cpu.msr.lstar = kernel;
    g.cpu.msr.fmask = 0x200;
    g.cpu.efer |= 1;
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[8], USER_CODE + 2);
    assert_eq!(g.cpu.gpr[9] & 0x200, 0x200);
    assert_eq!(g.cpu.gpr[3], 1);
    assert_eq!((g.cpu.seg[1].selector, g.cpu.seg[2].selector), (8, 0x10));
    assert_eq!(g.cpu.gpr[4], USER_STACK, "SYSCALL does not touch RSP");
}

#[test]
fn privileged_instructions_fault_in_ring_3() {
    for code in [&[0xf4u8][..], &[0x0f, 0x20, 0xc0], &[0xfa], &[0x0f, 0x01, 0xf8], &[0x0f, 0x30], &[0xe6, 0x80]] {
        let mut g = Guest::long();
        g.put(CODE, &TO_USER);
        g.put(USER_CODE, code);
        g.handler(13, INTERRUPT, &[0x58, 0xf4]);
        g.runs_to_halt();
        assert_eq!((g.cpu.cpl, g.cpu.gpr[0]), (0, 0), "{code:x?}");
        assert_eq!(g.get64(INNER_STACK - 40), USER_CODE, "{code:x?}");
    }
}

#[test]
fn a_handler_that_cannot_be_entered_gives_double_and_triple_faults() {
    let mut g = Guest::long();
    // ud2 with no gate for #UD: #NP or #GP while delivering; both contributory after a benign one, so #GP is next.
    g.put(CODE, &[0x0f, 0x0b]);
    g.handler(8, INTERRUPT, &[0x5b, 0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[3], 0, "#DF pushes a zero error code");
    let mut g = Guest::long();
    g.put(CODE, &[0x0f, 0x0b]);
    assert_eq!(g.run(), Stop::TripleFault);
}

#[test]
fn interrupt_stack_table() {
    let mut g = Guest::long();
    g.put(CODE, &[0xcc]);
    g.handler(3, 0xee, &[0xf4]);
    g.put(IDT + 16 * 3 + 4, &[2]);
    g.put64(TSS + 0x24 + 8, 0x50f8);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[4], 0x50f0 - 40);
    assert_eq!(g.get64(0x50f0 - 16), STACK);
}

#[test]
fn the_apic_timer_interrupts_a_loop() {
    let mut g = Guest::long();
    g.put64(PDPT + 8 * 3, 0xc000_0083);
    // sti; jmp $.     Handler: cli; hlt.
    g.put(CODE, &[0xfb, 0xeb, 0xfe]);
    g.handler(0x40, INTERRUPT, &[0xfa, 0xf4]);
    let w = |g: &mut Guest, reg: u64, v: u32| g.cpu.write::<u32>(0xfee0_0000 + reg, 3, v, None).unwrap();
    w(&mut g, 0xf0, 0x1ff);
    w(&mut g, 0x320, 0x40);
    w(&mut g, 0x3e0, 0xb);
    w(&mut g, 0x380, 1000);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[4], STACK - 40);
    assert_eq!(g.cpu.port.apic().save().isr[2], 1, "in service");
}

#[test]
fn the_tsc_deadline_timer_wakes_from_hlt() {
    let mut g = Guest::long();
    g.put64(PDPT + 8 * 3, 0xc000_0083);
    #[rustfmt::skip]
    g.put(CODE, &[
        0x0f, 0x31,                      // rdtsc
        0x05, 0x00, 0x00, 0x10, 0x00,    // add eax, 100000h
        0x83, 0xd2, 0x00,                // adc edx, 0
        0xb9, 0xe0, 0x06, 0, 0,          // mov ecx, IA32_TSC_DEADLINE
        0x0f, 0x30,                      // wrmsr
        0xfb, 0xf4, 0xfa, 0xf4,          // sti; hlt; cli; hlt
    ]);
    g.handler(0x40, INTERRUPT, &[0xff, 0xc3, 0x48, 0xcf]);
    let w = |g: &mut Guest, reg: u64, v: u32| g.cpu.write::<u32>(0xfee0_0000 + reg, 3, v, None).unwrap();
    w(&mut g, 0xf0, 0x1ff);
    w(&mut g, 0x320, 0x4_0040);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[3], 1);
    assert_eq!(g.cpu.rip, CODE + 21);
}

#[test]
fn an_sti_covers_the_next_instruction() {
    let mut g = Guest::long();
    g.put64(PDPT + 8 * 3, 0xc000_0083);
    // self-IPI pending, then sti; inc eax; inc eax.
    g.put(CODE, &[0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4]);
    g.handler(0x41, INTERRUPT, &[0xf4]);
    let w = |g: &mut Guest, reg: u64, v: u32| g.cpu.write::<u32>(0xfee0_0000 + reg, 3, v, None).unwrap();
    w(&mut g, 0xf0, 0x1ff);
    w(&mut g, 0x300, 0x4_0041);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0], 1);
}

#[test]
fn debug_registers_catch_execution_and_data() {
    let mut g = Guest::long();
    // mov [5008h], eax; nop; nop; hlt.
    g.put(CODE, &[0x89, 0x04, 0x25, 0x08, 0x50, 0, 0, 0x90, 0x90, 0xf4]);
    // Handler: mov rbx, dr6; push rbx to the log at 5800h + 8 * rcx; keep the address in the log at 5900h; iretq.
    #[rustfmt::skip]
    g.handler(1, INTERRUPT, &[
        0x0f, 0x21, 0xf3,                            // mov rbx, dr6
        0x48, 0x89, 0x1c, 0xcd, 0x00, 0x58, 0, 0,    // mov [rcx*8+5800h], rbx
        0x48, 0x8b, 0x1c, 0x24,                      // mov rbx, [rsp]
        0x48, 0x89, 0x1c, 0xcd, 0x00, 0x59, 0, 0,    // mov [rcx*8+5900h], rbx
        0xff, 0xc1,                                  // inc ecx
        0x48, 0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0,    // or qword [rsp+16], RF
        0x48, 0xcf,                                  // iretq
    ]);
    g.cpu.dr[0] = 0x5008;
    g.cpu.dr[1] = CODE + 8;
    // DR0: write, 4 bytes; DR1: execute.
    g.cpu.set_dr7(0x000d_0005);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[1], 2);
    assert_eq!((g.get64(0x5800) & 0xf, g.get64(0x5900)), (1, CODE + 7), "a trap after the store");
    assert_eq!((g.get64(0x5808) & 0xf, g.get64(0x5908)), (2, CODE + 8), "a fault before the instruction");
}

#[test]
fn pcid_switches_keep_entries_that_the_guest_did_not_flush() {
    let mut g = Guest::long();
    g.cpu.cr4 |= 1 << 17;
    g.cpu.cpl = 3;
    g.cpu.mode_changed();
    g.cpu.read::<u64>(0x5000, 3).unwrap();
    g.put64(PT + 8 * 5, 0);
    g.cpu.write_cr3(PML4 | 1).unwrap();
    assert!(g.cpu.read::<u64>(0x5000, 3).is_err(), "another PCID");
    g.cpu.write_cr3(PML4 | 1 << 63).unwrap();
    assert!(g.cpu.read::<u64>(0x5000, 3).is_ok(), "still cached");
    g.cpu.write_cr3(PML4).unwrap();
    assert!(g.cpu.read::<u64>(0x5000, 3).is_err(), "flushed");
}

#[test]
fn non_canonical_addresses() {
    let mut g = Guest::long();
    assert!(g.cpu.read::<u64>(0x8000_0000_0000, 3).is_err());
    assert_eq!(g.cpu.fault, Exception::gp(0));
    assert!(g.cpu.read::<u64>(0x8000_0000_0000, 2).is_err());
    assert_eq!(g.cpu.fault, Exception::ss(0));
    assert!(g.cpu.read::<u64>(0xffff_8000_0000_5000, 3).is_ok());
}

#[test]
fn state_survives_a_save_and_restore() {
    let mut g = Guest::long();
    g.cpu.gpr[9] = 0x1234;
    g.cpu.msr.lstar = 0xffff_8000_0000_1000;
    g.cpu.fpu.set_xmm(3, 77);
    let s = g.cpu.save_state();
    let mut other = Guest::new();
    assert!(other.cpu.restore_state(&s));
    let mut again = other.cpu.save_state();
    for (n, value) in &mut again.msrs {
        if *n == visor_x86::msr::IA32_TSC {
            *value = s.msrs.iter().find(|(m, _)| m == n).unwrap().1;
        }
    }
    assert_eq!(again, s);
    let mut bad = s.clone();
    bad.cr0 &= !1;
    assert!(!other.cpu.restore_state(&bad));
}

#[test]
fn the_single_step_trap_of_a_load_of_ss_is_lost() {
    let mut g = Guest::long();
    #[rustfmt::skip]
    g.put(CODE, &[
        0x8c, 0xd0,                         // mov eax, ss
        0x9c,                               // pushfq
        0x81, 0x0c, 0x24, 0, 1, 0, 0,       // or dword [rsp], 100h
        0x9d,                               // popfq
        0x8e, 0xd0,                         // mov ss, eax
        0xff, 0xc1,                         // inc ecx
        0xf4,                               // hlt
    ]);
    #[rustfmt::skip]
    g.handler(1, INTERRUPT, &[
        0xff, 0xc3,                                     // inc ebx
        0x48, 0x8b, 0x14, 0x24,                         // mov rdx, [rsp]
        0x81, 0x64, 0x24, 0x10, 0xff, 0xfe, 0xff, 0xff, // and dword [rsp+16], ~100h
        0x48, 0xcf,                                     // iretq
    ]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[3], g.cpu.gpr[2]), (1, CODE + 15), "one trap, after INC");
}
