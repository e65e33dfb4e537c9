//! Speed of the interpreter on small loops in long mode: `cargo bench -p visor-engine-soft`. Names as arguments choose loops.

use std::sync::Arc;
use std::time::Instant;

use visor_engine::{CpuIo, Engine, Gpa, GuestMemory, Stop, VcpuId, VmConfig};
use visor_engine_soft::{SoftEngine, SoftOptions, Tier};
use visor_memory::RamRange;
use visor_x86::segment::{SegAttr, Segment};
use visor_x86::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

/// A machine without devices.
struct Nothing;

impl CpuIo for Nothing {
    fn pio_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn pio_write(&self, _port: u16, _data: &[u8]) {}
    fn mmio_read(&self, _at: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _at: Gpa, _data: &[u8]) {}
    fn acknowledge_irq(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// Each loop starts with ECX set and ends in HLT.
const LOOPS: &[(&str, &[u8])] = &[
    // l: add rax, rcx; xor rdx, rax; lea rbx, [rdx+rax*2+3]; dec ecx; jnz l
    ("alu", &[0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x5c, 0x42, 0x03, 0xff, 0xc9, 0x75, 0xf1, 0xf4]),
    // l: mov rdx, [rsi]; add rdx, [rsi+8]; mov [rsi+16], rdx; add dword [rsi], 1; dec ecx; jnz l
    (
        "memory",
        &[
            0x48, 0x8b, 0x16, 0x48, 0x03, 0x56, 0x08, 0x48, 0x89, 0x56, 0x10, 0x83, 0x06, 0x01, 0xff, 0xc9, 0x75, 0xee,
            0xf4,
        ],
    ),
    // l: call f; dec ecx; jnz l; hlt; f: push rbp; mov rbp, rsp; pop rbp; ret
    ("call", &[0xe8, 0x05, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4, 0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3]),
    // l: mov byte [rsi+rax], 1; add eax, 7; and eax, 0x3fff; cmp eax, edx; je x; x: dec ecx; jnz l
    (
        "bytes",
        &[
            0xc6, 0x04, 0x06, 0x01, 0x83, 0xc0, 0x07, 0x25, 0xff, 0x3f, 0, 0, 0x39, 0xd0, 0x74, 0x00, 0xff, 0xc9, 0x75,
            0xec, 0xf4,
        ],
    ),
    // l: movdqu xmm0, [rsi]; paddd xmm0, xmm1; movdqu [rsi+16], xmm0; dec ecx; jnz l
    (
        "sse",
        &[0xf3, 0x0f, 0x6f, 0x06, 0x66, 0x0f, 0xfe, 0xc1, 0xf3, 0x0f, 0x7f, 0x46, 0x10, 0xff, 0xc9, 0x75, 0xef, 0xf4],
    ),
    // l: movsd xmm0, [rsi]; mulsd xmm0, xmm1; addsd xmm2, xmm0; dec ecx; jnz l
    ("scalar", &[0xf2, 0x0f, 0x10, 0x06, 0xf2, 0x0f, 0x59, 0xc1, 0xf2, 0x0f, 0x58, 0xd0, 0xff, 0xc9, 0x75, 0xf0, 0xf4]),
];

const CODE: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const ROUNDS: u64 = 10_000_000;

/// Long mode at ring 0, the first 2 MiB mapped one to one, everything FP may need switched on.
fn start() -> CpuState {
    let data = |attr| Segment { selector: 0x10, base: 0, limit: u32::MAX, attr: SegAttr(attr) };
    let mut state = CpuState { rip: CODE, rflags: 2, ..CpuState::default() };
    state.gpr[1] = ROUNDS;
    state.gpr[4] = 0x8000;
    state.gpr[6] = DATA;
    state.seg = [data(0xc093); 6];
    state.seg[1] = Segment { selector: 8, ..data(0xa09b) };
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8000_0031, 0x1000, 0x620, 0x500);
    state
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, code) in LOOPS {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        let memory = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 2 << 20 }])?);
        for (at, entry) in [(0x1000u64, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
            memory.view().write_obj(entry, GuestAddress(at))?;
        }
        memory.view().write_slice(code, GuestAddress(CODE))?;
        let engine = SoftEngine::with_options(SoftOptions { tier: Tier::Interpreter, ..SoftOptions::default() })?;
        let vm = engine.create_vm(&VmConfig { vcpus: 1 }, memory)?;
        let mut cpu = vm.add_vcpu(VcpuId(0), &engine.caps().cpuid)?;
        let mut best = f64::MAX;
        for _ in 0..5 {
            cpu.restore(&start())?;
            let before = cpu.stats().instructions;
            let begin = Instant::now();
            let stop = cpu.run(&Nothing)?;
            assert_eq!(stop, Stop::Halted, "{name} at {:x}", cpu.save()?.rip);
            best = best.min(begin.elapsed().as_secs_f64() / (cpu.stats().instructions - before) as f64);
        }
        println!("{name:8} {:6.1} M instructions/s  {:5.2} ns", 1e-6 / best, best * 1e9);
    }
    Ok(())
}
