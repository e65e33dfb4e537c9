use visor_x86::exception::Exception;

use super::guest::*;

const INTERRUPT: u64 = 0x8e;

/// Code that goes to ring 3 at `USER_CODE` by IRET, with flags in the fourth argument.
fn to_user(flags: u32) -> Vec<u8> {
    let mut code = vec![0x6a, 0x23, 0x68, 0x00, 0xa0, 0, 0, 0x68];
    code.extend(flags.to_le_bytes());
    code.extend([0x6a, 0x1b, 0x68, 0x00, 0x90, 0, 0, 0xcf]);
    code
}

#[test]
fn segment_loads_are_checked() {
    let mut g = Guest::protected();
    // 30h: not present data; 38h: code, execute-only; 40h: ring-0 data for ring 3.
    g.put64(GDT + 0x30, Guest::descriptor(0, 0xfffff, 0xc013));
    g.put64(GDT + 0x38, Guest::descriptor(0, 0xfffff, 0xc099));
    let mut load = |seg, selector| g.cpu.load_segment(seg, selector).map_err(|_| g.cpu.fault);
    assert_eq!(load(3, 0x30), Err(Exception::np(0x30)));
    assert_eq!(load(2, 0x30), Err(Exception::ss(0x30)));
    assert_eq!(load(3, 0x38), Err(Exception::gp(0x38)));
    assert_eq!(load(3, 0x100), Err(Exception::gp(0x100)), "beyond the limit");
    assert_eq!(load(2, 0), Err(Exception::gp(0)));
    assert_eq!(load(3, 0x14), Err(Exception::gp(0x14)), "no LDT");
    assert_eq!(load(3, 3), Ok(()));
    assert!(g.cpu.checked_linear(3, 0, 1, false).is_err(), "a null segment");
    assert_eq!(g.cpu.fault, Exception::gp(0));
}

#[test]
fn loading_marks_the_descriptor_accessed() {
    let mut g = Guest::protected();
    g.put64(GDT + 0x30, Guest::descriptor(0x1000, 0xfff, 0x4092));
    g.cpu.load_segment(3, 0x30).unwrap();
    assert_eq!(g.get64(GDT + 0x30) >> 40 & 0xff, 0x93);
    assert_eq!(g.cpu.checked_linear(3, 0xfff, 1, true).ok(), Some(0x1fff));
    assert!(g.cpu.checked_linear(3, 0xfff, 2, true).is_err());
}

#[test]
fn ring_3_interrupts_to_ring_0() {
    let mut g = Guest::protected();
    g.put(CODE, &to_user(0x202));
    g.put(USER_CODE, &[0xcd, 0x30]);
    g.handler(0x30, 0xee, &[0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[4], INNER_STACK - 20);
    assert_eq!(g.get32(INNER_STACK - 20), USER_CODE as u32 + 2);
    assert_eq!((g.get32(INNER_STACK - 16), g.get32(INNER_STACK - 4)), (0x1b, 0x23));
}

#[test]
fn a_software_interrupt_needs_the_gates_privilege() {
    let mut g = Guest::protected();
    g.put(CODE, &to_user(0x202));
    g.put(USER_CODE, &[0xcd, 0x30]);
    g.handler(0x30, INTERRUPT, &[0xf4]);
    g.handler(13, INTERRUPT, &[0x58, 0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0], 0x30 * 8 + 2);
    assert_eq!(g.get32(INNER_STACK - 20), USER_CODE as u32);
}

#[test]
fn call_gates_copy_parameters() {
    let mut g = Guest::protected();
    g.put(CODE, &to_user(0x202));
    // push 11h; push 22h; call 30h:0
    g.put(USER_CODE, &[0x6a, 0x11, 0x6a, 0x22, 0x9a, 0, 0, 0, 0, 0x30, 0, 0xcd, 0x30]);
    // Gate: 32-bit call, DPL 3, two parameters, to 8:HANDLERS. There: mov eax, [esp+8]; mov ebx, [esp+12]; retf 8.
    g.put64(GDT + 0x30, (HANDLERS & 0xffff) | 8 << 16 | 2 << 32 | 0xec << 40 | (HANDLERS >> 16) << 48);
    g.put(HANDLERS, &[0x8b, 0x44, 0x24, 8, 0x8b, 0x5c, 0x24, 12, 0xca, 8, 0]);
    g.handler(0x30, 0xee, &[0xf4]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[0], g.cpu.gpr[3]), (0x22, 0x11));
    // Back in ring 3 the parameters were dropped from both stacks.
    assert_eq!(g.get32(INNER_STACK - 8), USER_STACK as u32);
}

/// A 32-bit TSS at `at` that runs `eip`.
fn task(g: &Guest, at: u64, eip: u64, flags: u64) {
    for i in 0..13 {
        g.put64(at + 8 * i, 0);
    }
    g.put(at + 0x20, &(eip as u32).to_le_bytes());
    g.put(at + 0x24, &(flags as u32).to_le_bytes());
    g.put(at + 0x38, &(USER_STACK as u32).to_le_bytes());
    for (i, selector) in [0x10u16, 8, 0x10, 0x10, 0x10, 0x10].into_iter().enumerate() {
        g.put(at + 0x48 + 4 * i as u64, &selector.to_le_bytes());
    }
}

#[test]
fn a_task_call_nests_and_returns() {
    let mut g = Guest::protected();
    let other = 0x4000;
    task(&g, other, HANDLERS, 2);
    g.put64(GDT + 0x30, Guest::descriptor(other, 0x67, 0x89));
    // mov ecx, 5; call 30h:0; hlt.     Task: mov ecx, 9; iret.
    g.put(CODE, &[0xb9, 5, 0, 0, 0, 0x9a, 0, 0, 0, 0, 0x30, 0, 0xf4]);
    g.put(HANDLERS, &[0xb9, 9, 0, 0, 0, 0xcf]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[1], 5);
    assert_eq!(g.cpu.tr.selector, 0x28);
    assert_eq!(g.cpu.sysflags & 1 << 14, 0, "NT");
    assert_eq!(g.get64(GDT + 0x30) >> 40 & 0xff, 0x89, "no longer busy");
    assert_eq!(g.get64(GDT + 0x28) >> 40 & 0xff, 0x8b, "busy");
    assert_eq!(g.get32(other + 0x2c), 9, "the nested task was saved");
    assert_eq!(g.get32(other) & 0xffff, 0x28, "back link");
    assert_ne!(g.cpu.cr0 & 8, 0, "TS");
}

#[test]
fn a_double_fault_through_a_task_gate_pushes_the_error_code() {
    let mut g = Guest::protected();
    let other = 0x4000;
    task(&g, other, HANDLERS, 2);
    g.put64(GDT + 0x30, Guest::descriptor(other, 0x67, 0x89));
    g.put64(IDT + 8 * 8, 0x30 << 16 | 0x85 << 40);
    g.put(CODE, &[0x0f, 0x0b]);
    g.put(HANDLERS, &[0x58, 0xf4]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[0], g.cpu.tr.selector), (0, 0x30));
    assert_eq!(g.get32(TSS + 0x20), CODE as u32);
    assert_eq!(g.cpu.gpr[4], USER_STACK);
}

#[test]
fn virtual_8086_mode() {
    let mut g = Guest::protected();
    // IRET to V86: gs, fs, ds, es, ss, esp, eflags (VM, IOPL 0), cs, eip.
    let mut code = Vec::new();
    for v in [0u32, 0, 0x100, 0, 0, USER_STACK as u32, 0x2_0002, 0, USER_CODE as u32] {
        code.push(0x68);
        code.extend(v.to_le_bytes());
    }
    code.push(0xcf);
    g.put(CODE, &code);
    // mov al, [10h] through DS 100h; cli faults.
    g.put(USER_CODE, &[0xa0, 0x10, 0, 0xfa]);
    g.put(0x1010, &[0x77]);
    // The handler is the INT's; IDT is at 1000h, so use another place for data: vector 2's gate is free.
    g.handler(13, INTERRUPT, &[0x5b, 0xf4]);
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[0] & 0xff, g.cpu.gpr[3]), (0x77, 0));
    assert_eq!(g.cpu.cpl, 0);
    assert_eq!(g.get32(INNER_STACK - 36), USER_CODE as u32 + 3);
    assert_ne!(g.get32(INNER_STACK - 28) & 0x2_0000, 0, "VM in the frame");
    assert_eq!(g.get32(INNER_STACK - 12), 0x100, "DS");
    assert!(g.cpu.seg[3].attr.unusable());
}

#[test]
fn virtual_interrupts_with_vme() {
    let mut g = Guest::protected();
    g.cpu.cr4 |= 1;
    g.cpu.mode_changed();
    // TSS: I/O map at 88h, redirection bitmap of zeros below it.
    g.cpu.tr.limit = 0x200;
    g.put(TSS + 0x66, &0x88u16.to_le_bytes());
    let mut code = Vec::new();
    for v in [0u32, 0, 0, 0, 0, USER_STACK as u32, 0x2_0002, 0, USER_CODE as u32] {
        code.push(0x68);
        code.extend(v.to_le_bytes());
    }
    code.push(0xcf);
    g.put(CODE, &code);
    // sti; int 21h; hlt (faults).     8086 handler at 0:500h: pushf; pop bx; iret.
    g.put(USER_CODE, &[0xfb, 0xcd, 0x21, 0xf4]);
    g.put(4 * 0x21, &[0, 5, 0, 0]);
    g.put(0x500, &[0x9c, 0x5b, 0xcf]);
    g.handler(13, INTERRUPT, &[0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[3] & 0x3200, 0x3000, "the handler saw IF clear and IOPL 3");
    let flags = g.get32(INNER_STACK - 28);
    assert_ne!(flags & 1 << 19, 0, "VIF is back on");
    assert_eq!(flags & 0x200, 0, "the real IF never moved");
}

#[test]
fn ports_of_ring_3_follow_the_bitmap() {
    let mut g = Guest::protected();
    g.cpu.tr.limit = 0xff;
    g.put(TSS + 0x66, &0x68u16.to_le_bytes());
    // All allowed but port 40h.
    g.put(TSS + 0x68 + 8, &[1]);
    g.put(CODE, &to_user(0x202));
    // in al, 41h; mov bl, al; in al, 40h.
    g.put(USER_CODE, &[0xe4, 0x41, 0x88, 0xc3, 0xe4, 0x40]);
    g.handler(13, INTERRUPT, &[0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[3] & 0xff, 0x41);
    assert_eq!(g.get32(INNER_STACK - 20), USER_CODE as u32 + 4);
}

#[test]
fn string_output_counts_down() {
    let mut g = Guest::protected();
    // mov esi, 5000h; mov ecx, 3; mov dx, 60h; rep outsb; hlt.
    g.put(CODE, &[0xbe, 0, 0x50, 0, 0, 0xb9, 3, 0, 0, 0, 0x66, 0xba, 0x60, 0, 0xf3, 0x6e, 0xf4]);
    g.put(0x5000, b"abc");
    g.runs_to_halt();
    let writes = g.bus.writes.lock().unwrap().clone();
    assert_eq!(writes, [(0x60, b"a".to_vec()), (0x60, b"b".to_vec()), (0x60, b"c".to_vec())]);
    assert_eq!((g.cpu.gpr[1], g.cpu.gpr[6]), (0, 0x5003));
}

#[test]
fn lar_lsl_verr() {
    let mut g = Guest::protected();
    // lar eax, ebx; lsl ecx, ebx; verw bx; hlt
    g.put(CODE, &[0x0f, 0x02, 0xc3, 0x0f, 0x03, 0xcb, 0x0f, 0x00, 0xeb, 0xf4]);
    g.cpu.gpr[3] = 0x10;
    g.runs_to_halt();
    assert_eq!((g.cpu.gpr[0], g.cpu.gpr[1]), (0xcf_9300, 0xffff_ffff));
    assert_ne!(g.cpu.status & 0x40, 0);
}
