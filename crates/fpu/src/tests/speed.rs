//! Cost of one execution. The bound is generous: it catches a lost fast path, not noise. Run with
//! `--nocapture` to see the numbers.

use super::{Machine, prepare};
use std::time::Instant;

/// Nanoseconds per execution: the best of several batches.
fn measure(name: &str, bytes: &[u8]) -> f64 {
    measure_all(name, &[bytes])
}

fn measure_all(name: &str, program: &[&[u8]]) -> f64 {
    const BATCH: u32 = 20_000;
    let ops: Vec<_> = program.iter().map(|bytes| prepare(bytes, 64)).collect();
    let mut machine = Machine::new();
    for i in 0..16 {
        machine.state.set_xmm(i, 0x3FF0_0000_0000_0000_3F80_0000_3F80_0000);
    }
    machine.state.set_ftw(if ops.len() == 1 { 0xFF } else { 0 });
    for i in 0..8 {
        machine.state.set_st(i, 0x3FFF_8000_0000_0000_0000);
    }
    let best = (0..9)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                for op in &ops {
                    machine.run(op).unwrap();
                }
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
        })
        .fold(f64::MAX, f64::min);
    println!("{best:8.1} ns  {name}");
    best
}

#[test]
fn cost_per_execution() {
    let register_forms: [(&str, &[u8], f64); 6] = [
        ("paddd xmm, xmm", &[0x66, 0x0F, 0xFE, 0xC1], 100.0),
        ("addps xmm, xmm", &[0x0F, 0x58, 0xC1], 100.0),
        ("ucomisd xmm, xmm", &[0x66, 0x0F, 0x2E, 0xC1], 100.0),
        ("vaddpd ymm, ymm, ymm", &[0xC5, 0xFD, 0x58, 0xC1], 100.0),
        ("vpaddd xmm, xmm, xmm", &[0xC5, 0xF9, 0xFE, 0xC1], 100.0),
        ("paddd mm, mm", &[0x0F, 0xFE, 0xC1], 200.0),
    ];
    let memory_forms: [(&str, &[u8], f64); 4] = [
        ("movups xmm, m128", &[0x0F, 0x10, 0x03], 100.0),
        ("movups m128, xmm", &[0x0F, 0x11, 0x03], 100.0),
        ("addsd xmm, m64", &[0xF2, 0x0F, 0x58, 0x03], 100.0),
        ("movd xmm, eax", &[0x66, 0x0F, 0x6E, 0xC0], 100.0),
    ];
    let x87: [(&str, &[u8], f64); 7] = [
        ("fadd st0, st1", &[0xD8, 0xC1], 1000.0),
        ("fmul st1, st0", &[0xDC, 0xC9], 1000.0),
        ("fxch st1", &[0xD9, 0xC9], 1000.0),
        ("fld1 (overflowing)", &[0xD9, 0xE8], 1000.0),
        ("fadd m64", &[0xDC, 0x03], 1000.0),
        ("fst m64", &[0xDD, 0x13], 1000.0),
        ("fsin", &[0xD9, 0xFE], 2000.0),
    ];
    let push = measure_all("fld m64; fstp m64", &[&[0xDD, 0x03], &[0xDD, 0x1B]]);
    assert!(push < 1000.0);
    for (name, bytes, bound) in register_forms.into_iter().chain(memory_forms).chain(x87) {
        let cost = measure(name, bytes);
        assert!(cost < bound, "{name}: {cost} ns");
    }
}

#[test]
fn cost_of_preparation() {
    let programs: [(&str, &[u8]); 3] = [
        ("addps xmm, m128", &[0x0F, 0x58, 0x03]),
        ("vpaddd ymm, ymm, ymm", &[0xC5, 0xFD, 0xFE, 0xC1]),
        ("fadd m64", &[0xDC, 0x03]),
    ];
    for (name, bytes) in programs {
        let start = Instant::now();
        for _ in 0..1000 {
            prepare(bytes, 64);
        }
        let cost = start.elapsed().as_secs_f64() * 1e3;
        println!("{cost:8.2} us to prepare {name}");
        assert!(cost < 200.0, "{name}: {cost} us");
    }
}
