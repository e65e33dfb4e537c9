//! Unmasked SIMD and x87 exceptions, in cases worked out by hand.

use super::Machine;
use crate::FpuFault;

const HERE: usize = super::MEMORY / 2;
const DIVPS: &[u8] = &[0x0F, 0x5E, 0xC1];

fn dividing_by_zero(mxcsr: u32) -> Machine {
    let mut machine = Machine::new();
    machine.state.set_mxcsr(mxcsr);
    // 1.0 / 0.0, 1.0 / 3.0 and 0.0 / 0.0
    machine.state.set_xmm(0, 0x3F80_0000_3F80_0000);
    machine.state.set_xmm(1, 0x4040_0000_0000_0000);
    machine
}

#[test]
fn masked_exceptions_set_flags() {
    let mut machine = dividing_by_zero(0x1F80);
    machine.run_bytes(DIVPS).unwrap();
    assert_eq!(machine.state.mxcsr() & 0x3F, 0x25, "0/0 in the upper lanes, ZE, PE");
}

#[test]
fn pre_computation_faults_hide_later_flags() {
    // ZE unmasked.
    let mut machine = dividing_by_zero(0x1D80);
    let before = machine.state.xmm(0);
    assert_eq!(machine.run_bytes(DIVPS), Err(FpuFault::SimdFault));
    assert_eq!(machine.state.xmm(0), before);
    assert_eq!(machine.state.mxcsr(), 0x1D80 | 5);
}

#[test]
fn without_osxmmexcpt_it_is_undefined() {
    let mut machine = dividing_by_zero(0x1D80);
    machine.osxmmexcpt = false;
    assert_eq!(machine.run_bytes(DIVPS), Err(FpuFault::Undefined));
    assert_eq!(machine.state.mxcsr(), 0x1D80 | 5);
}

#[test]
fn a_sticky_flag_does_not_hide_a_new_exception() {
    let mut machine = dividing_by_zero(0x1D80 | 4);
    assert_eq!(machine.run_bytes(DIVPS), Err(FpuFault::SimdFault));
    // Nor does it cause one.
    let mut machine = Machine::new();
    machine.state.set_mxcsr(0x1D80 | 4);
    machine.run_bytes(&[0x0F, 0x58, 0xC1]).unwrap();
    assert_eq!(machine.state.mxcsr(), 0x1D84);
}

#[test]
fn exact_tiny_results_fault_when_underflow_is_unmasked() {
    // mulss: 2^-126 * 0.5 is exact but denormal.
    let run = |mxcsr| {
        let mut machine = Machine::new();
        machine.state.set_mxcsr(mxcsr);
        machine.state.set_xmm(0, 0x0080_0000);
        machine.state.set_xmm(1, 0x3F00_0000);
        let result = machine.run_bytes(&[0xF3, 0x0F, 0x59, 0xC1]);
        (result, machine.state.xmm(0), machine.state.mxcsr() & 0x3F)
    };
    assert_eq!(run(0x1F80), (Ok(()), 0x0040_0000, 0));
    assert_eq!(run(0x1780), (Err(FpuFault::SimdFault), 0x0080_0000, 0x10));
}

#[test]
fn general_registers_survive_a_fault() {
    // cvtss2si eax, xmm1 with IE unmasked and NaN.
    let mut machine = Machine::new();
    machine.state.set_mxcsr(0x1F00);
    machine.state.set_xmm(1, 0x7FC0_0000);
    machine.gpr[0] = 77;
    assert_eq!(machine.run_bytes(&[0xF3, 0x0F, 0x2D, 0xC1]), Err(FpuFault::SimdFault));
    assert_eq!(machine.gpr[0], 77);
    machine.rflags = 0x8D7;
    // ucomiss
    assert_eq!(machine.run_bytes(&[0x0F, 0x2F, 0xC1]), Err(FpuFault::SimdFault));
    assert_eq!(machine.rflags, 0x8D7);
}

#[test]
fn unmasked_x87_stores_are_suppressed() {
    // fist m16 of 1e10-ish with IE unmasked stores nothing; the fault comes with the next wait.
    let mut machine = Machine::new();
    machine.run_bytes(&[0xD9, 0xE8]).unwrap();
    machine.state.set_st(0, 0x4020_8000_0000_0000_0000);
    machine.state.set_fcw(0x37E);
    machine.memory.bytes.fill(0x55);
    machine.run_bytes(&[0xDF, 0x13]).unwrap();
    assert_eq!(machine.memory.bytes[HERE..HERE + 2], [0x55, 0x55]);
    assert_eq!(machine.state.fsw() & 0x8081, 0x8081);
    assert_eq!(machine.run_bytes(&[0x9B]), Err(FpuFault::MathFault));
    // An inexact result is stored even so.
    let mut machine = Machine::new();
    machine.run_bytes(&[0xD9, 0xEB]).unwrap();
    machine.state.set_fcw(0x35F);
    machine.memory.bytes.fill(0x55);
    machine.run_bytes(&[0xDB, 0x13]).unwrap();
    assert_eq!(machine.memory.bytes[HERE..HERE + 4], [3, 0, 0, 0]);
    assert_eq!(machine.run_bytes(&[0x9B]), Err(FpuFault::MathFault));
}

#[test]
fn the_host_is_left_as_it_was() {
    let mut machine = dividing_by_zero(0xFF80);
    machine.state.set_fcw(0x0000);
    machine.run_bytes(DIVPS).unwrap();
    machine.run_bytes(&[0xD9, 0xEB]).unwrap();
    let mut fcw = 0_u16;
    let mut mxcsr = 0_u32;
    // SAFETY: both instructions store to the given locations.
    unsafe {
        std::arch::asm!("fnstcw [{0}]", "stmxcsr [{1}]", in(reg) &mut fcw, in(reg) &mut mxcsr);
    }
    assert_eq!(fcw, 0x37F);
    assert_eq!(mxcsr & 0xFFC0, 0x1F80);
}
