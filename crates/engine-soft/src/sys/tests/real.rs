use visor_engine::Stop;

use super::guest::*;

fn real(code: &[u8]) -> Guest {
    let mut g = Guest::new();
    g.put(CODE, code);
    g.cpu.seg[1] = visor_x86::Segment::real_mode(0);
    g.cpu.rip = CODE;
    g.cpu.gpr[4] = STACK;
    g.cpu.mode_changed();
    g
}

#[test]
fn interrupts_and_iret() {
    // mov ax, 1; int 21h; inc ax; hlt.     Handler at 0:500h: add ax, 10h; iret.
    let mut g = real(&[0xb8, 1, 0, 0xcd, 0x21, 0x40, 0xf4]);
    g.put(4 * 0x21, &[0x00, 0x05, 0, 0]);
    g.put(0x500, &[0x83, 0xc0, 0x10, 0xcf]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0] & 0xffff, 0x12);
    assert_eq!(g.cpu.gpr[4], STACK);
}

#[test]
fn far_call_and_return() {
    // call 0:600h; inc ax; hlt.     600h: mov ax, cs; mov ax, 5; retf 0.
    let mut g = real(&[0x9a, 0x00, 0x00, 0x60, 0x00, 0x40, 0xf4]);
    g.put(0x600, &[0x8c, 0xcb, 0xb8, 5, 0, 0xca, 0, 0]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0] & 0xffff, 6);
    assert_eq!(g.cpu.gpr[3] & 0xffff, 0x60);
}

#[test]
fn a_divide_error_reports_its_own_address() {
    // xor cx, cx; div cx; hlt.     Handler: pop ax; hlt.
    let mut g = real(&[0x31, 0xc9, 0xf7, 0xf1, 0xf4]);
    g.put(0, &[0x00, 0x05, 0, 0]);
    g.put(0x500, &[0x58, 0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0] & 0xffff, CODE + 2);
}

#[test]
fn single_stepping_traps_after_each_instruction() {
    // pushf; pop ax; or ah, 1; push ax; popf; nop; nop; nop; hlt.     Handler 1: inc bx; iret.
    let mut g = real(&[0x9c, 0x58, 0x80, 0xcc, 0x01, 0x50, 0x9d, 0x90, 0x90, 0x90, 0xf4]);
    g.put(4, &[0x00, 0x05, 0, 0]);
    g.put(0x500, &[0x43, 0xcf]);
    // After HLT the trap wakes the CPU, which then runs into this HLT; its trap comes next, and so on.
    g.put(CODE + 11, &[0xeb, 0xfe]);
    g.put(0x500, &[0x43, 0x83, 0xfb, 0x03, 0x74, 0x01, 0xcf, 0xf4]);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[3] & 0xffff, 3);
    assert_ne!(g.cpu.dr6 & 1 << 14, 0);
    // The third trap reports the address of HLT.
    let ip = g.get64(g.cpu.gpr[4]) & 0xffff;
    assert_eq!(ip, CODE + 10);
}

#[test]
fn unreal_mode_keeps_the_limit() {
    // mov ds, ax: base 0; then a load beyond 64 KiB through a 4 GiB limit.
    let mut g = real(&[0x31, 0xc0, 0x8e, 0xd8, 0x67, 0x66, 0xa1, 0x00, 0x00, 0x02, 0x00, 0xf4]);
    g.cpu.seg[3].limit = 0xffff_ffff;
    g.put64(0x20000, 0x1234_5678);
    g.runs_to_halt();
    assert_eq!(g.cpu.gpr[0], 0x1234_5678);
}

#[test]
fn no_interrupt_table_is_a_triple_fault() {
    let mut g = real(&[0xcd, 0x21]);
    g.cpu.idtr.limit = 0;
    assert_eq!(g.run(), Stop::TripleFault);
}

#[test]
fn into_protected_mode_and_long_mode_as_a_boot_loader_does() {
    let mut g = Guest::long();
    let start = visor_x86::CpuState::default();
    assert!(g.cpu.restore_state(&start));
    g.cpu.seg[1] = visor_x86::Segment::real_mode(0);
    g.cpu.rip = CODE;
    g.cpu.gdtr = visor_x86::segment::TableReg { base: GDT, limit: 0x3f };
    g.cpu.mode_changed();
    #[rustfmt::skip]
    let code = [
        0x66, 0xb8, 0x20, 0, 0, 0,             // mov eax, 20h
        0x0f, 0x22, 0xe0,                      // mov cr4, eax
        0x66, 0xb8, 0x00, 0x00, 0x01, 0x00,    // mov eax, PML4
        0x0f, 0x22, 0xd8,                      // mov cr3, eax
        0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,    // mov ecx, IA32_EFER
        0x0f, 0x32,                            // rdmsr
        0x66, 0x0d, 0x00, 0x01, 0, 0,          // or eax, LME
        0x0f, 0x30,                            // wrmsr
        0x66, 0xb8, 0x01, 0x00, 0x00, 0x80,    // mov eax, PG | PE
        0x0f, 0x22, 0xc0,                      // mov cr0, eax
        0xea, 0x00, 0x90, 0x08, 0x00,          // jmp 8:9000h
    ];
    g.put(CODE, &code);
    // 64-bit: mov rax, cr0; mov ecx, IA32_EFER; rdmsr; hlt.
    g.put(0x9000, &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x49, 0xff, 0xc0, 0xf4]);
    g.runs_to_halt();
    assert!(g.cpu.is_64());
    assert_eq!((g.cpu.gpr[0], g.cpu.gpr[8]), (0x500, 1));
}
