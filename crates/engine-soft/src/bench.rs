//! Speed of the interpreter on small loops; run with `cargo test --release -p visor-engine-soft bench -- --ignored --nocapture`.

use std::time::Instant;

use crate::blocks::Blocks;
use crate::cpu::CodeSize;
use crate::decode::tests::cpu;
use crate::run;

/// Runs `code` (64-bit, at 4000h, ending in HLT) and prints how many guest instructions it took per second.
fn time(name: &str, code: &[u8], setup: impl Fn(&mut crate::cpu::Cpu)) {
    let mut cpu = cpu(CodeSize::Bits64);
    for (i, b) in code.iter().enumerate() {
        cpu.write::<u8>(0x4000 + i as u64, 3, *b, None).unwrap();
    }
    cpu.rip = 0x4000;
    setup(&mut cpu);
    let mut blocks = Blocks::default();
    let before = cpu.stats.instructions;
    let start = Instant::now();
    while !cpu.halted && !cpu.shutdown {
        run::turn(&mut cpu, &mut blocks);
    }
    assert!(cpu.halted, "{name}: rip {:x} fault {:?}", cpu.rip, cpu.fault);
    let n = (cpu.stats.instructions - before) as f64;
    let t = start.elapsed().as_secs_f64();
    println!("{name:12} {:7.1} M/s {:6.2} ns", n / t / 1e6, t / n * 1e9);
}

#[test]
#[ignore = "measures"]
fn bench() {
    // mov ecx, 20M; l: add rax, rcx; xor rdx, rax; lea rbx, [rdx+rax*2+3]; dec ecx; jnz l; hlt
    let alu = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x5c, 0x42, 0x03, 0xff, 0xc9,
        0x75, 0xf1, 0xf4,
    ];
    time("alu", &alu, |_| {});
    // mov ecx, 20M; l: mov rax, [rsi+rcx&..]: mov rdx,[rsi]; add rdx, [rsi+8]; mov [rsi+16], rdx; add dword [rsi], 1; dec ecx; jnz l
    let memory = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0x48, 0x8b, 0x16, 0x48, 0x03, 0x56, 0x08, 0x48, 0x89, 0x56, 0x10, 0x83, 0x06,
        0x01, 0xff, 0xc9, 0x75, 0xee, 0xf4,
    ];
    time("memory", &memory, |c| c.gpr[6] = 0x8000);
    // mov ecx, 20M; l: call f; dec ecx; jnz l; hlt; f: push rbp; mov rbp, rsp; pop rbp; ret
    let call = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0xe8, 0x05, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4, 0x55, 0x48, 0x89, 0xe5, 0x5d,
        0xc3,
    ];
    time("call", &call, |_| {});
    // sieve-like: l: mov byte [rsi+rax], 1; add eax, 7; and eax, 0x3fff; cmp eax, edx; je x; x: dec ecx; jnz l; hlt
    let bytes = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0xc6, 0x04, 0x06, 0x01, 0x83, 0xc0, 0x07, 0x25, 0xff, 0x3f, 0, 0, 0x39, 0xd0,
        0x74, 0x00, 0xff, 0xc9, 0x75, 0xec, 0xf4,
    ];
    time("bytes", &bytes, |c| (c.gpr[6], c.gpr[2]) = (0x10000, 5));
    // l: movdqu xmm0, [rsi]; paddd xmm0, xmm1; movdqu [rsi+16], xmm0; dec ecx; jnz l; hlt
    let sse = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0xf3, 0x0f, 0x6f, 0x06, 0x66, 0x0f, 0xfe, 0xc1, 0xf3, 0x0f, 0x7f, 0x46, 0x10,
        0xff, 0xc9, 0x75, 0xef, 0xf4,
    ];
    let vectors = |c: &mut crate::cpu::Cpu| {
        c.gpr[6] = 0x8000;
        c.cr0 &= !0xc;
        c.cr4 |= 1 << 9;
    };
    time("sse", &sse, vectors);
    // l: movsd xmm0, [rsi]; mulsd xmm0, xmm1; addsd xmm2, xmm0; dec ecx; jnz l; hlt
    let scalar = [
        0xb9, 0x00, 0x2d, 0x31, 0x01, 0xf2, 0x0f, 0x10, 0x06, 0xf2, 0x0f, 0x59, 0xc1, 0xf2, 0x0f, 0x58, 0xd0, 0xff,
        0xc9, 0x75, 0xf0, 0xf4,
    ];
    time("scalar", &scalar, vectors);
    // mov edi, 0x10000; mov ecx, 0x8000; rep stosq... l: mov edi, 0x10000; mov ecx, 0x1000; rep stosq; dec edx; jnz l; hlt
    let fill =
        [0xba, 0x10, 0x27, 0, 0, 0xbf, 0, 0, 1, 0, 0xb9, 0, 0x10, 0, 0, 0xf3, 0x48, 0xab, 0xff, 0xca, 0x75, 0xef, 0xf4];
    time("rep stosq", &fill, |_| {});
}
