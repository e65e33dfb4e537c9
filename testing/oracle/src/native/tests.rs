use super::*;
use crate::case::Mode;
use crate::layout::{CODE, DATA, STACK};

fn case(mode: Mode, code: &[u8]) -> Case {
    let mut case = Case { mode, ..Case::default() };
    if mode == Mode::Compat {
        case.regs.sel[1] = 0x23;
    }
    case.regs.gpr[4] = STACK + 0x800;
    case.set_code(code);
    case
}

fn run(case: Case) -> Outcome {
    Native::new().unwrap().run(&[case]).unwrap().remove(0)
}

#[test]
fn registers_flags_and_breakpoint() {
    let mut c = case(Mode::Long, &[0x48, 0x01, 0xd8]); // add rax, rbx
    c.regs.gpr[0] = u64::MAX;
    c.regs.gpr[3] = 1;
    let o = run(c);
    assert_eq!((o.status, o.vector, o.regs.rip), (Status::Exception, 3, CODE + 4));
    assert_eq!(o.regs.gpr[0], 0);
    assert_eq!(o.regs.rflags & 0x8d5, 0x55); // CF PF AF ZF
    assert_eq!(o.change_count, 0);
}

#[test]
fn page_fault_and_memory_change() {
    let mut c = case(Mode::Long, &[0x48, 0x89, 0x07, 0x48, 0x89, 0x06]); // mov [rdi], rax; mov [rsi], rax
    c.regs.gpr[0] = 0x1122_3344_5566_7788;
    c.regs.gpr[7] = DATA + 8;
    c.regs.gpr[6] = crate::layout::RODATA + 16;
    let o = run(c);
    assert_eq!((o.vector, o.error, o.cr2, o.regs.rip), (14, 7, crate::layout::RODATA + 16, CODE + 3));
    assert_eq!(o.changes(), [crate::case::Change { address: DATA + 8, value: 0x1122_3344_5566_7788 }]);
}

#[test]
fn compatibility_mode_and_ldt_segments() {
    let mut c = case(Mode::Compat, &[0x40, 0x64, 0x89, 0x03, 0x65, 0x89, 0x01]); // inc eax; mov fs:[ebx],eax; mov gs:[ecx],eax
    c.regs.sel[4] = u64::from(crate::layout::selector::LDT_FS);
    c.regs.sel[5] = u64::from(crate::layout::selector::LDT_GS);
    c.regs.gpr[0] = 5;
    c.regs.gpr[3] = 0;
    c.regs.gpr[1] = 0x7fd;
    let o = run(c);
    assert_eq!((o.vector, o.error, o.regs.rip), (13, 0, CODE + 4));
    assert_eq!(o.regs.gpr[0], 6);
    assert_eq!(o.changes()[0].address, u64::from(crate::layout::LDT_FS_BASE));
}

#[test]
fn endless_loop_system_call_and_the_case_after_them() {
    let cases = [
        case(Mode::Long, &[0xeb, 0xfe]),
        case(Mode::Long, &[0x0f, 0x05]),
        case(Mode::Long, &[0xcd, 0x80]),
        case(Mode::Long, &[0x0f, 0x0b]),
    ];
    let o = Native::new().unwrap().run(&cases).unwrap();
    assert_eq!(
        o.iter().map(|o| o.status).collect::<Vec<_>>(),
        [Status::Timeout, Status::Escaped, Status::Escaped, Status::Exception]
    );
    assert_eq!(o[3].vector, 6);
}

#[test]
fn vector_and_x87_state_round_trip() {
    let mut c = case(Mode::Long, &[0xc5, 0xf5, 0xfe, 0xc2, 0xd9, 0xe8]); // vpaddd ymm0, ymm1, ymm2; fld1
    c.regs.set_ymm(1, [1; 32]);
    c.regs.set_ymm(2, [2; 32]);
    let o = run(c);
    assert_eq!(o.regs.ymm(0), [3; 32]);
    assert_eq!(o.regs.st(0), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    assert_eq!(o.regs.fsw() >> 11 & 7, 7);
    assert_eq!(o.regs.xsave[4], 0x80);
}
