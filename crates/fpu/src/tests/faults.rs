//! Memory faults: what must not have changed, and alignment.

use super::cases::{Form, build, codes_in_scope};
use super::random::Random;
use super::{Machine, decode, unit};
use crate::{FpuFault, FpuOp};
use iced_x86::{InstructionInfoFactory, OpAccess};

fn fingerprint(machine: &Machine) -> String {
    format!("{:?}{:x?}{:x}", machine.state, machine.gpr, machine.rflags)
}

/// Every memory operand that cannot be accessed faults, and nothing changes.
#[test]
fn faults_leave_no_trace() {
    let mut random = Random::new(3);
    let mut count = 0;
    for code in codes_in_scope() {
        for _ in 0..3 {
            let Some(bytes) = build(code, Form::Memory, &mut random) else {
                continue;
            };
            let ins = decode(&bytes, 64);
            let op = FpuOp::prepare(unit(), &ins, 64).unwrap();
            let mut machine = Machine::new();
            machine.state = random.state(false);
            // Masked moves and gathers access memory only where the mask says so.
            for i in 0..16 {
                let ones = machine.state.xmm(i) | 0x8080_8080_8080_8080_8080_8080_8080_8080;
                machine.state.set_xmm(i, ones);
                machine.state.set_st(i, machine.state.st(i) | 0x8080_8080_8080_8080);
            }
            machine.memory.limit = -(super::MEMORY as i64);
            let before = fingerprint(&machine);
            let result = machine.run(&op);
            let suppressed = ins.mnemonic() == iced_x86::Mnemonic::Fbstp
                || InstructionInfoFactory::new().info(&ins).op_access(0) == OpAccess::None;
            assert!(result == Err(FpuFault::Memory) || suppressed, "{code:?}: {result:?}");
            if ins.mnemonic() == iced_x86::Mnemonic::Maskmovq {
                // Processors enter MMX mode first: only the tags and the top of stack have changed.
                assert_eq!((machine.state.ftw(), machine.state.fsw() >> 11 & 7), (0xFF, 0));
            } else {
                assert_eq!(before, fingerprint(&machine), "{code:?}");
            }
            count += 1;
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn stores_to_read_only_memory_do_not_pop() {
    let stores: [&[u8]; 5] = [
        &[0xDD, 0x1B], // fstp m64
        &[0xDB, 0x3B], // fstp m80
        &[0xDF, 0x3B], // fistp m64
        &[0xDB, 0x0B], // fisttp m32
        &[0xDF, 0x33], // fbstp
    ];
    for bytes in stores {
        let mut machine = Machine::new();
        machine.run_bytes(&[0xD9, 0xE8]).unwrap();
        machine.memory.writable = false;
        let before = fingerprint(&machine);
        assert_eq!(machine.run_bytes(bytes), Err(FpuFault::Memory));
        assert_eq!(before, fingerprint(&machine));
        machine.memory.writable = true;
        machine.run_bytes(bytes).unwrap();
        assert_eq!(machine.state.ftw(), 0, "popped");
    }
}

#[test]
fn alignment() {
    // (instruction, required alignment)
    let cases: [(&[u8], u64); 14] = [
        (&[0x0F, 0x28, 0x03], 16),               // movaps
        (&[0x0F, 0x10, 0x03], 1),                // movups
        (&[0x0F, 0x58, 0x03], 16),               // addps
        (&[0xF3, 0x0F, 0x58, 0x03], 1),          // addss
        (&[0xF2, 0x0F, 0xF0, 0x03], 1),          // lddqu
        (&[0x66, 0x0F, 0x38, 0x2A, 0x03], 16),   // movntdqa
        (&[0x66, 0x0F, 0x3A, 0x63, 0x03, 0], 1), // pcmpistri
        (&[0x0F, 0xFC, 0x03], 1),                // paddb mm
        (&[0xC5, 0xF8, 0x58, 0x03], 1),          // vaddps xmm
        (&[0xC5, 0xF8, 0x28, 0x03], 16),         // vmovaps xmm
        (&[0xC5, 0xFC, 0x28, 0x03], 32),         // vmovaps ymm
        (&[0xC5, 0xFD, 0xE7, 0x03], 32),         // vmovntdq ymm
        (&[0x0F, 0xAE, 0x03], 16),               // fxsave
        (&[0xDD, 0x03], 1),                      // fld m64
    ];
    for (bytes, align) in cases {
        for address in [1, 2, 4, 8, 16, 32_u64] {
            let mut machine = Machine::new();
            machine.memory.address = address;
            let expected = if address % align == 0 { Ok(()) } else { Err(FpuFault::Memory) };
            assert_eq!(machine.run_bytes(bytes), expected, "{bytes:x?} at {address}");
        }
    }
}

#[test]
fn gathers_keep_their_progress() {
    // vgatherdps xmm0, [rbx + xmm1*4], xmm2
    let gather = [0xC4, 0xE2, 0x69, 0x92, 0x04, 0x8B];
    let mut machine = Machine::new();
    machine.state.set_xmm(0, !0);
    machine.state.set_ymm_hi(0, !0);
    machine.state.set_xmm(1, 0x0000_0000_0000_0300_0000_0001_0000_0000);
    machine.state.set_xmm(2, 0x8000_0000_8000_0000_0000_0000_8000_0000);
    let here = super::MEMORY / 2;
    machine.memory.bytes[here..here + 4].copy_from_slice(&[1, 2, 3, 4]);
    machine.memory.limit = 64;
    assert_eq!(machine.run_bytes(&gather), Err(FpuFault::Memory));
    assert_eq!(machine.state.xmm(0), !0 << 32 | 0x0403_0201);
    assert_eq!(machine.state.xmm(2), 0x8000_0000_8000_0000_u128 << 64);
    machine.memory.limit = here as i64;
    machine.run_bytes(&gather).unwrap();
    assert_eq!(machine.state.xmm(0), 0x0403_0201_0000_0000_FFFF_FFFF_0403_0201);
    assert_eq!((machine.state.xmm(2), machine.state.ymm_hi(0)), (0, 0));
}

#[test]
fn masked_moves_touch_only_selected_bytes() {
    // vmaskmovps xmm0, xmm1, [rbx]; vmaskmovps [rbx], xmm1, xmm0; maskmovdqu xmm0, xmm1
    let load = [0xC4, 0xE2, 0x71, 0x2C, 0x03];
    let store = [0xC4, 0xE2, 0x71, 0x2E, 0x03];
    let bytes = [0x66, 0x0F, 0xF7, 0xC1];
    let here = super::MEMORY / 2;
    let mut machine = Machine::new();
    machine.state.set_xmm(1, 0x8000_0000_8000_0000);
    machine.memory.limit = 8;
    machine.memory.bytes[here..here + 8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    machine.run_bytes(&load).unwrap();
    assert_eq!(machine.state.xmm(0), 0x0807_0605_0403_0201);
    machine.memory.bytes.fill(0xEE);
    machine.run_bytes(&store).unwrap();
    assert_eq!(machine.memory.bytes[here + 7], 8);
    assert_eq!(machine.memory.bytes[here + 8], 0xEE);
    machine.memory.bytes.fill(0xEE);
    machine.run_bytes(&bytes).unwrap();
    assert_eq!(machine.memory.bytes[here..here + 8], [0xEE, 0xEE, 0xEE, 4, 0xEE, 0xEE, 0xEE, 8]);
    // The second element lies beyond the limit: nothing is stored.
    machine.memory.bytes.fill(0xEE);
    machine.memory.limit = 4;
    assert_eq!(machine.run_bytes(&store), Err(FpuFault::Memory));
    assert!(machine.memory.bytes.iter().all(|&b| b == 0xEE));
}

#[test]
fn reserved_mxcsr_bits_are_refused() {
    let here = super::MEMORY / 2;
    for bytes in [&[0x0F, 0xAE, 0x13][..], &[0xC5, 0xF8, 0xAE, 0x13]] {
        let mut machine = Machine::new();
        machine.memory.bytes[here + 2] = 1;
        assert_eq!(machine.run_bytes(bytes), Err(FpuFault::GeneralProtection));
        assert_eq!(machine.state.mxcsr(), 0x1F80);
        machine.memory.bytes[here..here + 4].copy_from_slice(&0xFFC0_u32.to_le_bytes());
        machine.run_bytes(bytes).unwrap();
        assert_eq!(machine.state.mxcsr(), 0xFFC0);
    }
}
