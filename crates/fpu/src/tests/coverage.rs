//! Every code of the supported sets can be prepared, in every form.

use super::cases::{Form, build, codes_in_scope, is_engines};
use super::random::Random;
use super::{decode, unit};
use crate::{FpuClass, FpuOp};
use iced_x86::Code;

#[test]
fn every_code_in_scope_is_prepared() {
    let mut random = Random::new(1);
    let (mut codes, mut forms, mut missing) = (0, 0, Vec::new());
    for code in codes_in_scope() {
        codes += 1;
        let before = forms;
        for form in [Form::Register, Form::Memory] {
            for _ in 0..4 {
                let Some(bytes) = build(code, form, &mut random) else {
                    continue;
                };
                forms += 1;
                let ins = decode(&bytes, 64);
                if FpuOp::prepare(unit(), &ins, 64).is_none() {
                    missing.push((code, form));
                }
            }
        }
        assert!(forms > before, "{code:?} has no form");
    }
    println!("{codes} codes, {forms} instructions");
    assert!(missing.is_empty(), "{missing:?}");
    assert!(codes > 1000, "only {codes} codes");
}

/// Every code in scope exists in 64-bit mode, so the other tests miss none.
#[test]
fn no_code_is_limited_to_legacy_modes() {
    let limited: Vec<Code> = Code::values()
        .filter(|c| crate::features::required(*c).is_some() && !c.op_code().mode64())
        .filter(|c| c.op_code().is_instruction() && !is_engines(*c))
        .collect();
    assert!(limited.is_empty(), "{limited:?}");
}

#[test]
fn legacy_modes_are_prepared() {
    // 16-bit: fld dword [bx]; 32-bit: movaps xmm1, [edi]; movd eax, mm0; maskmovdqu xmm0, xmm1
    let cases: [(&[u8], u32); 4] =
        [(&[0xD9, 0x07], 16), (&[0x0F, 0x28, 0x0F], 32), (&[0x0F, 0x7E, 0xC0], 32), (&[0x66, 0x0F, 0xF7, 0xC1], 32)];
    for (bytes, bitness) in cases {
        let op = super::prepare(bytes, bitness);
        let mut machine = super::Machine::new();
        machine.run(&op).unwrap();
    }
}

#[test]
fn other_instructions_are_not_taken() {
    let foreign: [&[u8]; 9] = [
        &[0x90],                               // nop
        &[0x0F, 0xAE, 0xE8],                   // lfence
        &[0x0F, 0xC3, 0x03],                   // movnti [rbx], eax
        &[0xF2, 0x0F, 0x38, 0xF1, 0xC3],       // crc32
        &[0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1], // vaddps zmm0, zmm0, zmm1
        &[0x0F, 0x0F, 0xC1, 0x9E],             // pfadd
        &[0xC4, 0xE2, 0x78, 0xF2, 0xC1],       // andn
        &[0xDB, 0xE5],                         // frstpm
        &[0x0F, 0xAE, 0x23],                   // xsave [rbx]
    ];
    for bytes in foreign {
        let ins = decode(bytes, 64);
        assert!(FpuOp::prepare(unit(), &ins, 64).is_none(), "{:?}", ins.code());
    }
}

#[test]
fn classes() {
    let expected: [(&[u8], FpuClass); 10] = [
        (&[0xD8, 0xC1], FpuClass::X87),
        (&[0x9B], FpuClass::Wait),
        (&[0x0F, 0xFC, 0xC1], FpuClass::Mmx),
        (&[0x0F, 0x70, 0xC1, 3], FpuClass::Mmx),
        (&[0x0F, 0x77], FpuClass::Mmx),
        (&[0x0F, 0x58, 0xC1], FpuClass::Sse),
        (&[0x0F, 0x2A, 0xC1], FpuClass::Sse),
        (&[0x0F, 0xAE, 0x13], FpuClass::Sse),
        (&[0xC5, 0xF8, 0x77], FpuClass::Avx),
        (&[0xC5, 0xF8, 0x58, 0xC1], FpuClass::Avx),
    ];
    for (bytes, class) in expected {
        assert_eq!(super::prepare(bytes, 64).class(), class, "{bytes:x?}");
    }
}

#[test]
fn equal_instructions_share_a_thunk() {
    let unit = crate::FpuUnit::new().unwrap();
    let first = FpuOp::prepare(&unit, &decode(&[0x0F, 0x14, 0x03], 64), 64);
    let second = FpuOp::prepare(&unit, &decode(&[0x0F, 0x14, 0x41, 0x40], 64), 64);
    let third = FpuOp::prepare(&unit, &decode(&[0x0F, 0x14, 0x03], 32), 32);
    assert!(first.is_some() && second.is_some() && third.is_some());
    assert_eq!(unit.thunk_count(), 1);
}

#[test]
fn unused_thunks_are_reclaimed() {
    let unit = crate::FpuUnit::new().unwrap();
    let kept = FpuOp::prepare(&unit, &decode(&[0x66, 0x0F, 0xFE, 0xC1], 64), 64).unwrap();
    // vpshufd xmm, xmm, imm8: 65536 different instructions.
    for n in 0..65536_u32 {
        let modrm = 0xC0 | (n & 0x3F) as u8;
        let rex = 0xE1 & !(((n >> 6) & 1) << 7) as u8 & !(((n >> 7) & 1) << 5) as u8;
        let bytes = [0xC4, rex, 0x79, 0x70, modrm, (n >> 8) as u8];
        let ins = decode(&bytes, 64);
        assert_eq!(ins.code(), Code::VEX_Vpshufd_xmm_xmmm128_imm8);
        assert!(FpuOp::prepare(&unit, &ins, 64).is_some());
    }
    assert!(unit.thunk_count() <= 1 << 15, "{}", unit.thunk_count());
    let mut machine = super::Machine::new();
    machine.state.set_xmm(0, 5);
    machine.state.set_xmm(1, 7);
    machine.run(&kept).unwrap();
    assert_eq!(machine.state.xmm(0), 12);
}

/// Random code in the unit's opcode space, in all modes: whatever decodes runs or faults.
#[test]
fn random_code_is_harmless() {
    const LEADS: [u8; 16] =
        [0x0F, 0x66, 0xF2, 0xF3, 0xC4, 0xC5, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0x9B, 0x67];
    let unit = crate::FpuUnit::new().unwrap();
    let mut random = Random::new(5);
    let mut machine = super::Machine::new();
    let mut executed = 0;
    for case in 0..150_000 {
        let mut bytes = [0; 15];
        random.bytes(&mut bytes[1..]);
        bytes[0] = LEADS[random.below(LEADS.len())];
        if random.one_in(2) {
            bytes[1] = 0x0F;
        }
        if case % 64 == 0 {
            machine.state = {
                let unmasked = random.one_in(2);
                random.state(unmasked)
            };
        }
        let bitness = [16, 32, 64][case % 3];
        let ins = decode(&bytes, bitness);
        if let Some(op) = FpuOp::prepare(&unit, &ins, bitness) {
            let _ = machine.run(&op);
            executed += 1;
        }
    }
    assert!(executed > 20_000, "{executed}");
}
