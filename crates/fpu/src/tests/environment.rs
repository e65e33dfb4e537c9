//! x87 environments, pointers and control instructions.

use super::Machine;
use crate::FpuFault;

const FLD1: &[u8] = &[0xD9, 0xE8];
const FADD_M64: &[u8] = &[0xDC, 0x03];
const FNSTENV: &[u8] = &[0xD9, 0x33];
const FLDENV: &[u8] = &[0xD9, 0x23];
const FNSAVE: &[u8] = &[0xDD, 0x33];
const FRSTOR: &[u8] = &[0xDD, 0x23];
const HERE: usize = super::MEMORY / 2;

fn loaded() -> Machine {
    let mut machine = Machine::new();
    machine.run_bytes(FLD1).unwrap();
    machine.run_bytes(FADD_M64).unwrap();
    machine.state.set_fip(0xA_BCDE);
    machine.state.set_fdp(0x1_2345);
    machine
}

fn environment(real_mode: bool, bytes: &[u8], bitness: u32, length: usize) -> Vec<u8> {
    let mut machine = loaded();
    machine.real_mode = real_mode;
    machine.memory.bytes.fill(0x55);
    machine.run(&super::prepare(bytes, bitness)).unwrap();
    assert_eq!(machine.memory.bytes[HERE + length], 0x55);
    machine.memory.bytes[HERE..HERE + length].to_vec()
}

#[test]
fn pointers_follow_the_manual() {
    let mut machine = Machine::new();
    machine.run_bytes(FLD1).unwrap();
    assert_eq!(machine.state.fip(), 0x1_2345_6789);
    assert_eq!(machine.state.fdp(), 0, "no memory operand");
    assert_eq!(machine.state.selectors(), (0x33, 0));
    assert_eq!(machine.state.fop(), 0x1E8);
    machine.run_bytes(FADD_M64).unwrap();
    assert_eq!(machine.state.fdp(), 0x9_8765_4320);
    assert_eq!(machine.state.selectors(), (0x33, 0x2B));
    assert_eq!(machine.state.fop(), 0x403);
    // Control instructions leave the pointers alone.
    machine.state.set_fip(7);
    for control in [&[0x9B][..], &[0xD9, 0x3B], &[0xDF, 0xE0], &[0xDB, 0xE2]] {
        machine.run_bytes(control).unwrap();
        assert_eq!((machine.state.fip(), machine.state.fop()), (7, 0x403));
    }
    machine.run_bytes(&[0xDB, 0xE3]).unwrap();
    assert_eq!((machine.state.fip(), machine.state.fop()), (0, 0));
}

#[test]
fn environment_protected_32() {
    let expected = [
        0x7F, 3, 0xFF, 0xFF, 0, 0x38, 0xFF, 0xFF, 0xFF, 0x3F, 0xFF, 0xFF, 0xDE, 0xBC, 0xA, 0, 0x33, 0, 3, 4, 0x45,
        0x23, 1, 0, 0x2B, 0, 0xFF, 0xFF,
    ];
    assert_eq!(environment(false, FNSTENV, 64, 28), expected);
    assert_eq!(environment(false, FNSTENV, 32, 28), expected);
}

#[test]
fn environment_protected_16() {
    let expected = [0x7F, 3, 0, 0x38, 0xFF, 0x3F, 0xDE, 0xBC, 0x33, 0, 0x45, 0x23, 0x2B, 0];
    assert_eq!(environment(false, &[0x66, 0xD9, 0x33], 64, 14), expected);
}

#[test]
fn environment_real_mode() {
    let bits16 = [0x7F, 3, 0, 0x38, 0xFF, 0x3F, 0xDE, 0xBC, 3, 0xA4, 0x45, 0x23, 0, 0x10];
    // fnstenv [bx]
    assert_eq!(environment(true, &[0xD9, 0x37], 16, 14), bits16);
    let bits32 = [
        0x7F, 3, 0xFF, 0xFF, 0, 0x38, 0xFF, 0xFF, 0xFF, 0x3F, 0xFF, 0xFF, 0xDE, 0xBC, 0xFF, 0xFF, 3, 0xA4, 0, 0, 0x45,
        0x23, 0xFF, 0xFF, 0, 0x10, 0, 0,
    ];
    assert_eq!(environment(true, &[0x66, 0xD9, 0x37], 16, 28), bits32);
}

#[test]
fn environments_round_trip() {
    for real_mode in [false, true] {
        for prefix in [&[][..], &[0x66]] {
            let mut machine = loaded();
            machine.real_mode = real_mode;
            let store = [prefix, FNSTENV].concat();
            let load = [prefix, FLDENV].concat();
            let before = machine.state.clone();
            machine.run_bytes(&store).unwrap();
            assert_eq!(machine.state.fcw(), 0x37F);
            machine.run_bytes(&[0xDB, 0xE3]).unwrap();
            machine.run_bytes(&load).unwrap();
            let state = &machine.state;
            assert_eq!((state.fsw(), state.ftw()), (before.fsw(), before.ftw()));
            assert_eq!(state.st(0), before.st(0), "registers stay in place");
            let mask = if prefix.is_empty() || real_mode { !0 } else { 0xFFFF };
            assert_eq!(state.fip(), before.fip() & mask);
            assert_eq!(state.fdp(), before.fdp() & mask);
            if !real_mode {
                assert_eq!(state.selectors(), before.selectors());
            }
            if prefix.is_empty() || real_mode {
                assert_eq!(state.fop(), before.fop());
            }
        }
    }
}

#[test]
fn save_and_restore() {
    for prefix in [&[][..], &[0x66]] {
        let mut machine = loaded();
        for i in 0..8 {
            machine.state.set_st(i, 0x4000_8000_0000_0000_0000 + i as u128);
        }
        let before = machine.state.clone();
        machine.run_bytes(&[prefix, FNSAVE].concat()).unwrap();
        assert_eq!(machine.state.fsw(), 0);
        assert_eq!(machine.state.ftw(), 0);
        machine.run_bytes(&[prefix, FRSTOR].concat()).unwrap();
        assert_eq!(machine.state.fsw(), before.fsw());
        assert_eq!(machine.state.ftw(), before.ftw());
        for i in 0..8 {
            assert_eq!(machine.state.st(i), before.st(i));
        }
    }
}

#[test]
fn status_words() {
    let mut machine = loaded();
    machine.gpr[0] = !0;
    machine.run_bytes(&[0xDF, 0xE0]).unwrap();
    assert_eq!(machine.gpr[0], 0xFFFF_FFFF_FFFF_3800);
    machine.run_bytes(&[0xDD, 0x3B]).unwrap();
    assert_eq!(machine.memory.bytes[HERE..HERE + 2], [0, 0x38]);
    machine.run_bytes(&[0xD9, 0x3B]).unwrap();
    assert_eq!(machine.memory.bytes[HERE..HERE + 2], [0x7F, 3]);
}

#[test]
fn unmasking_a_flag_makes_it_pending() {
    let mut machine = Machine::new();
    machine.state.set_fsw(1);
    machine.memory.bytes[HERE..HERE + 2].copy_from_slice(&0x37E_u16.to_le_bytes());
    machine.run_bytes(&[0xD9, 0x2B]).unwrap();
    assert_eq!(machine.state.fsw(), 0x8081);
    assert_eq!(machine.run_bytes(&[0x9B]), Err(FpuFault::MathFault));
    assert_eq!(machine.run_bytes(FLD1), Err(FpuFault::MathFault));
    assert_eq!(machine.run_bytes(&[0x0F, 0xFC, 0xC1]), Err(FpuFault::MathFault));
    // Non-waiting instructions run.
    machine.run_bytes(&[0xDD, 0x3B]).unwrap();
    assert_eq!(machine.memory.bytes[HERE..HERE + 2], [0x81, 0x80]);
    machine.run_bytes(&[0xDB, 0xE2]).unwrap();
    machine.run_bytes(FLD1).unwrap();
}
