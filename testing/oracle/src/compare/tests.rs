use super::*;
use crate::native::Native;
use crate::subject::Subject;

fn case(code: &[u8]) -> Case {
    let mut case = Case::default();
    case.regs.gpr[4] = crate::layout::STACK + 0x800;
    case.regs.gpr[7] = crate::layout::DATA + 0x40;
    case.set_code(code);
    case
}

fn native(case: &Case) -> Outcome {
    Native::new().unwrap().run(std::slice::from_ref(case)).unwrap().remove(0)
}

fn kinds(case: &Case, native: &Outcome, change: impl FnOnce(&mut Outcome)) -> Option<String> {
    let mut wrong = native.clone();
    change(&mut wrong);
    compare(case, native, &wrong).map(|m| m.kind())
}

#[test]
fn every_injected_fault_is_found() {
    let c = case(&[0x48, 0x89, 0x07]); // mov [rdi], rax
    let n = native(&c);
    assert!(compare(&c, &n, &n).is_none());
    assert_eq!(kinds(&c, &n, |o| o.regs.gpr[13] ^= 1 << 63).as_deref(), Some("r13"));
    assert_eq!(kinds(&c, &n, |o| o.regs.rflags ^= 0x10).as_deref(), Some("rflags"));
    assert_eq!(kinds(&c, &n, |o| o.regs.rip += 1).as_deref(), Some("rip"));
    assert_eq!(kinds(&c, &n, |o| o.vector = 13).as_deref(), Some("exception 3 here 13"));
    assert_eq!(kinds(&c, &n, |o| o.error = 4).as_deref(), Some("error code"));
    assert_eq!(kinds(&c, &n, |o| o.regs.xsave[576 + 255] ^= 1).as_deref(), Some("ymm15"));
    assert_eq!(kinds(&c, &n, |o| o.regs.xsave[3] ^= 8).as_deref(), Some("fsw"));
    assert_eq!(kinds(&c, &n, |o| o.regs.sel[3] = 0).as_deref(), Some("ds"));
    assert_eq!(kinds(&c, &n, |o| o.status = Status::Timeout).as_deref(), Some("status"));
    let memory = kinds(&c, &n, |o| {
        o.changes[0].value ^= 1;
        o.change_hash ^= 1;
    });
    assert_eq!(memory.as_deref(), Some("[20000040]"));
}

#[test]
fn undefined_flags_are_left_out_and_defined_ones_are_not() {
    let and = case(&[0x21, 0xd8]); // and eax, ebx: AF undefined
    let n = native(&and);
    assert_eq!(kinds(&and, &n, |o| o.regs.rflags ^= 0x10), None);
    assert_eq!(kinds(&and, &n, |o| o.regs.rflags ^= 0x40).as_deref(), Some("rflags"));
    let mut shift = case(&[0xd3, 0xe0]); // shl eax, cl
    shift.regs.gpr[1] = 1;
    let n = native(&shift);
    assert_eq!(
        kinds(&shift, &n, |o| o.regs.rflags ^= 0x800).as_deref(),
        Some("rflags"),
        "OF is defined for a count of 1"
    );
    shift.regs.gpr[1] = 5;
    let n = native(&shift);
    assert_eq!(kinds(&shift, &n, |o| o.regs.rflags ^= 0x800), None);
    let redefined = case(&[0x21, 0xd8, 0x01, 0xd8]); // and; add defines AF again
    let n = native(&redefined);
    assert_eq!(kinds(&redefined, &n, |o| o.regs.rflags ^= 0x10).as_deref(), Some("rflags"));
}

#[test]
fn a_report_names_case_instruction_and_difference() {
    let mut c = case(&[0x48, 0x01, 0xd8]);
    (c.seed, c.index) = (5, 77);
    let n = native(&c);
    let mut wrong = n.clone();
    wrong.regs.gpr[0] = 0x1234;
    let text = compare(&c, &n, &wrong).unwrap().to_string();
    for part in ["--repro 5:77", "add rax,rbx", "rax", "0x1234"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn masked_stores_may_fault_in_any_turn_of_a_loop() {
    let differs = |code: &[u8]| {
        let mut c = case(code);
        (c.regs.gpr[7], c.regs.gpr[1]) = (0x3000_0000, 3);
        let n = native(&c);
        assert_eq!(n.vector, 14);
        kinds(&c, &n, |o| o.regs.gpr[1] -= 1)
    };
    // maskmovq mm0, mm0, whose mask is zero; loop
    assert_eq!(differs(&[0x0f, 0xf7, 0xc0, 0xe2, 0xfb]), None);
    // mov [rdi], eax; loop
    assert_eq!(differs(&[0x89, 0x07, 0xe2, 0xfc]).as_deref(), Some("rcx"));
}

#[test]
fn images_for_misaligned_sse_are_not_judged() {
    let differs = |mxcsr: u32| {
        let mut c = case(&[0x0f, 0xae, 0x0f]); // fxrstor [rdi]
        assert!(c.patch(c.regs.gpr[7] + 24, &mxcsr.to_le_bytes()));
        let n = native(&c);
        let other = if n.vector == 3 { 13 } else { 3 };
        kinds(&c, &n, |o| o.vector = other)
    };
    assert_eq!(differs(0x1f80).as_deref(), Some("exception 3 here 13"));
    assert_eq!(differs(0x11f80).as_deref(), Some("exception 13 here 3"));
    assert_eq!(differs(0x21f80), None);
}

#[test]
fn the_number_of_the_host_cpu_decides_nothing() {
    let differs = |code: &[u8]| {
        let mut c = case(code);
        c.regs.gpr[0] = 0x7b;
        let n = native(&c);
        kinds(&c, &n, |o| o.regs.gpr[3] = 0xf00)
    };
    // lsl ecx, eax; mov [rdi], ecx
    assert_eq!(differs(&[0x0f, 0x03, 0xc8, 0x89, 0x0f]), None);
    // lsl ecx, eax; mov [rdi], edx
    assert_eq!(differs(&[0x0f, 0x03, 0xc8, 0x89, 0x17]).as_deref(), Some("rbx"));
}

#[test]
fn memory_of_the_host_process_is_not_judged() {
    let mut c = case(&[0x48, 0x8b, 0x06]); // mov rax, [rsi]
    c.regs.gpr[6] = crate::layout::DATA;
    let through = native(&c);
    c.regs.gpr[6] = 0x7fff_bd04_27a1;
    let faulted = |cr2| {
        let mut outcome = through.clone();
        (outcome.vector, outcome.cr2, outcome.regs.rip) = (14, cr2, c.regs.rip);
        outcome
    };
    assert!(compare(&c, &through, &faulted(0x7fff_bd04_27a1)).is_none());
    assert!(compare(&c, &through, &faulted(0x7fff_bd04_0000)).is_some(), "not what the operand names");
}
