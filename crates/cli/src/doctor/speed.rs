//! The engines, measured by running a guest on each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use visor_engine::{CpuIo, Engine, Gpa, GuestMemory, Kicker, Stop, VcpuId, VmConfig};
use visor_machine::{ChosenEngine, EngineChoice, choose};
use visor_memory::RamRange;
use visor_x86::segment::{SegAttr, Segment};
use visor_x86::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

use super::{Finding, Verdict};

/// Where the guest's code and its one variable lie.
const CODE: u64 = 0x1000;
const DATA: u64 = 0x2000;
/// Its page tables, three pages.
const TABLES: u64 = 0x1_0000;
/// The port that says "done".
const DONE: u16 = 0xf4;
/// Instructions in one turn of the guest's loop.
const PER_TURN: u64 = 6;

/// Measures the engines and chooses one.
pub(super) fn engines() -> (Vec<Finding>, Result<ChosenEngine, String>) {
    let choice = choose(EngineChoice::Auto).map_err(|e| chain(&e));
    let mut findings = Vec::new();
    match choose(EngineChoice::Soft) {
        Ok(chosen) => findings.push(describe_soft(&*chosen.engine)),
        Err(e) => findings.push(
            Finding::new("Engine", Verdict::Bad, "soft", e.to_string())
                .fix("allow memory that holds generated code: check SELinux execmem and seccomp filters"),
        ),
    }
    findings.push(describe_kvm());
    let cpu = super::host::cpu_features();
    findings.push(Finding::new("Engine", Verdict::Info, "host CPU", cpu));
    findings.push(super::host::translator());
    (findings, choice)
}

fn describe_soft(engine: &dyn Engine) -> Finding {
    match mips(engine, 4_000_000) {
        Ok(mips) => {
            let detail = format!("visor's own CPU engine, always available: {mips:.0} million guest instructions/s");
            let slow = mips < 50.0;
            Finding::new("Engine", if slow { Verdict::Warn } else { Verdict::Ok }, "soft", detail)
        }
        Err(e) => Finding::new("Engine", Verdict::Bad, "soft", e),
    }
}

fn describe_kvm() -> Finding {
    let engine = match choose(EngineChoice::Kvm) {
        Ok(chosen) => chosen.engine,
        Err(e) => return Finding::new("Engine", Verdict::Info, "/dev/kvm", chain(&e)).fix(kvm_fix()),
    };
    // A working KVM runs billions of instructions a second; one that emulates them runs about a million.
    match mips(&*engine, 20_000) {
        Ok(speed) if speed > 20.0 => {
            let speed = mips(&*engine, 20_000_000).unwrap_or(speed);
            let detail = format!("runs guests on the CPU: {speed:.0} million guest instructions/s");
            Finding::new("Engine", Verdict::Ok, "/dev/kvm", detail)
        }
        Ok(speed) => {
            let detail =
                format!("opens, but emulates kernel code at {speed:.1} million instructions/s: slower than soft");
            Finding::new("Engine", Verdict::Warn, "/dev/kvm", detail)
                .fix("nothing to do: visor uses its own engine (the outer hypervisor exposes no VT-x or AMD-V)")
        }
        Err(e) => Finding::new("Engine", Verdict::Warn, "/dev/kvm", format!("opens, but a guest failed on it: {e}"))
            .fix("nothing to do: visor uses its own engine"),
    }
}

fn kvm_fix() -> String {
    match std::fs::metadata("/dev/kvm") {
        Ok(_) => "not needed; to use it: sudo usermod -aG kvm $USER, then log in again".to_owned(),
        Err(_) => "not needed; to use it: enable VT-x or AMD-V (BIOS, or nested virtualization in a cloud)".to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Runs `turns` turns of a loop of integer and memory instructions and returns millions of guest instructions a second.
fn mips(engine: &dyn Engine, turns: u32) -> Result<f64, String> {
    let text = |e: visor_engine::EngineError| chain(&e);
    let memory = GuestMemory::new(&[RamRange { start: Gpa(0), len: 0x10_0000 }]).map_err(|e| e.to_string())?;
    memory.view().write_slice(&program(turns), GuestAddress(CODE)).map_err(|e| e.to_string())?;
    for (at, entry) in tables() {
        memory.view().write_slice(&entry.to_le_bytes(), GuestAddress(at)).map_err(|e| e.to_string())?;
    }
    let memory = Arc::new(memory);
    let vm = engine.create_vm(&VmConfig { vcpus: 1 }, memory).map_err(text)?;
    let mut vcpu = vm.add_vcpu(VcpuId(0), &engine.caps().cpuid).map_err(text)?;
    vcpu.restore(&long_mode()).map_err(text)?;
    let io = Done { flag: AtomicBool::new(false), kicker: vcpu.kicker() };
    let watchdog = vcpu.kicker();
    let (stop, over) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if over.recv_timeout(Duration::from_secs(20)).is_err() {
            watchdog.kick();
        }
    });
    let start = Instant::now();
    let end = vcpu.run(&io).map_err(text);
    let elapsed = start.elapsed();
    let _ = stop.send(());
    let _ = guard.join();
    match end? {
        Stop::Kicked | Stop::Halted if io.flag.load(Ordering::SeqCst) => {
            Ok(u64::from(turns) as f64 * PER_TURN as f64 / elapsed.as_secs_f64().max(1e-9) / 1e6)
        }
        other => Err(format!("the guest did not finish ({other:?})")),
    }
}

/// The machine of the measurement: one port.
struct Done {
    flag: AtomicBool,
    kicker: Kicker,
}

impl CpuIo for Done {
    fn pio_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn pio_write(&self, port: u16, _data: &[u8]) {
        if port == DONE {
            self.flag.store(true, Ordering::SeqCst);
            self.kicker.kick();
        }
    }
    fn mmio_read(&self, _at: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _at: Gpa, _data: &[u8]) {}
    fn acknowledge_irq(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// The guest, 64-bit code.
fn program(turns: u32) -> Vec<u8> {
    let mut code = vec![0xb9]; // mov ecx, turns
    code.extend(turns.to_le_bytes());
    code.extend([
        0x01, 0xc8, // turn: add eax, ecx
        0x31, 0xc3, // xor ebx, eax
        0x8b, 0x16, // mov edx, [rsi]
        0x89, 0x16, // mov [rsi], edx
        0xff, 0xc9, // dec ecx
        0x75, 0xf4, // jnz turn
        0xe6, DONE as u8, // out DONE, al
        0xf4,       // hlt
    ]);
    code
}

/// Page tables that map the first 2 MiB as they are.
fn tables() -> [(u64, u64); 3] {
    let (pml4, pdpt, pd) = (TABLES, TABLES + 0x1000, TABLES + 0x2000);
    [(pml4, pdpt | 3), (pdpt, pd | 3), (pd, 0x83)]
}

/// 64-bit mode, at the guest's code.
fn long_mode() -> CpuState {
    let flat = |selector, attr| Segment { selector, base: 0, limit: u32::MAX, attr: SegAttr(attr) };
    let mut state =
        CpuState { rip: CODE, cr0: 0x8000_0011, cr3: TABLES, cr4: 0x20, efer: 0x500, ..CpuState::default() };
    state.seg = [flat(0x10, 0xc093); 6];
    state.seg[1] = flat(0x8, 0xa09b);
    state.gpr[6] = DATA;
    state
}
