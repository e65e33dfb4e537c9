//! Bytes as code. The translator translates at once and has everything that it emits verified, so that a guest's bytes that made it emit
//! what it must not are a panic.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::Duration;

use visor_engine::{CpuIo, Engine, Gpa, Kicker, Stop, VcpuId, VmConfig};
use visor_engine_soft::{CODE_CACHE_MIN, SoftEngine, SoftOptions, Tier};
use visor_firmware::{BootSource, MemoryMap, boot, ram_layout};
use visor_memory::{GuestMemory, RamRange};
use visor_x86::{CpuState, Segment};
use vm_memory::{Bytes, GuestAddress};

use crate::Input;

/// For how long bytes are executed: most of them loop sooner or later.
const MOMENT: Duration = Duration::from_millis(3);
/// Accesses to devices after which it is over too.
const ACCESSES: u32 = 5000;

static ENGINES: LazyLock<[SoftEngine; 2]> = LazyLock::new(|| {
    [Tier::Translator, Tier::Interpreter].map(|tier| {
        let translator = tier == Tier::Translator;
        let options = SoftOptions {
            tier,
            eager: translator,
            verify: translator,
            code_cache: CODE_CACHE_MIN,
            ..SoftOptions::default()
        };
        SoftEngine::with_options(options).expect("the engine runs everywhere")
    })
});

/// A machine without devices.
struct Nothing {
    kicker: Kicker,
    left: AtomicU32,
}

impl Nothing {
    fn access(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.kicker.kick();
        }
    }
}

impl CpuIo for Nothing {
    fn pio_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
        self.access();
    }
    fn pio_write(&self, _port: u16, _data: &[u8]) {
        self.access();
    }
    fn mmio_read(&self, _at: Gpa, data: &mut [u8]) {
        data.fill(0xff);
        self.access();
    }
    fn mmio_write(&self, _at: Gpa, _data: &[u8]) {
        self.access();
    }
    fn acknowledge_irq(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// Kicks what it is given, a moment after it is given.
static ALARM: LazyLock<Mutex<mpsc::Sender<Kicker>>> = LazyLock::new(|| {
    let (send, kickers) = mpsc::channel::<Kicker>();
    std::thread::spawn(move || {
        while let Ok(kicker) = kickers.recv() {
            // Once more, should the CPU have been about to begin.
            for _ in 0..2 {
                std::thread::sleep(MOMENT);
                kicker.kick();
            }
        }
    });
    Mutex::new(send)
});

/// Executes what `cpu` points at, on both tiers in turn.
pub(super) fn execute(memory: Arc<GuestMemory>, cpu: &CpuState) {
    for engine in &*ENGINES {
        let vm = engine.create_vm(&VmConfig { vcpus: 1 }, memory.clone()).expect("a machine can be had");
        let mut vcpu = vm.add_vcpu(VcpuId(0), &engine.caps().cpuid).expect("it has no CPU yet");
        vcpu.restore(cpu).expect("it is a state");
        let kicker = vcpu.kicker();
        let io = Nothing { kicker: kicker.clone(), left: AtomicU32::new(ACCESSES) };
        ALARM.lock().expect("nobody panicked").send(kicker).expect("the alarm lives");
        let stop = vcpu.run(&io).expect("a guest cannot make the engine fail");
        if stop != Stop::Kicked {
            continue;
        }
        let state = vcpu.save().expect("a state can be saved");
        vcpu.restore(&state).expect("what was saved can be restored");
    }
}

/// The state of a kernel that was just loaded, with its memory: an ELF file for 64 bits, or one for 32.
fn loaded(wide: bool) -> Option<(Arc<GuestMemory>, CpuState)> {
    static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(super::kernels::seeds);
    let bytes = 4u64 << 20;
    let memory = Arc::new(GuestMemory::new(&ram_layout(bytes)).ok()?);
    let kernel = SEEDS.get(if wide { 0 } else { 2 })?.get(1..)?;
    let source = BootSource { kernel, initrd: None, cmdline: "", decompress: false };
    let booted = boot(&memory, &MemoryMap::new(bytes), &source).ok()?;
    Some((memory, booted.cpu))
}

fn real() -> Option<(Arc<GuestMemory>, CpuState)> {
    let memory = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 2 << 20 }]).ok()?);
    let mut cpu = CpuState { rip: 0x1000, ..CpuState::default() };
    cpu.seg = [Segment::real_mode(0); 6];
    Some((memory, cpu))
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let made = match input.u8() % 3 {
        0 => real(),
        1 => loaded(false),
        _ => loaded(true),
    };
    let Some((memory, mut cpu)) = made else { panic!("a kernel of ours does not load") };
    for r in &mut cpu.gpr {
        *r = u64::from(input.u16()) << (input.u8() & 63);
    }
    cpu.gpr[4] = cpu.rip + 0x4000;
    let code = input.rest();
    memory.view().write_slice(code, GuestAddress(cpu.rip)).expect("it is in RAM");
    execute(memory, &cpu);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // Of each group something: arithmetic, memory, branches, stack, strings, SSE, AVX, x87, system.
    let code: [&[u8]; 9] = [
        &[0x01, 0xd8, 0x29, 0xc3, 0x0f, 0xaf, 0xc3, 0xc1, 0xe0, 5, 0x0f, 0xb6, 0xc3, 0xf7, 0xf3, 0xeb, 0xee],
        &[0x89, 0x03, 0x8b, 0x0c, 0x24, 0x87, 0x0b, 0xf0, 0x0f, 0xb1, 0x0b, 0x0f, 0xc1, 0x0b, 0xa4, 0xeb, 0xf0],
        &[0x39, 0xd8, 0x74, 2, 0x75, 1, 0x90, 0xe8, 0, 0, 0, 0, 0x58, 0xe2, 0xf4, 0x0f, 0x95, 0xc0, 0x0f, 0x44, 0xc3],
        &[0x50, 0x51, 0x5a, 0x9c, 0x9d, 0x60, 0x61, 0xc8, 8, 0, 1, 0xc9, 0xc3],
        &[0xf3, 0xa4, 0xf3, 0xab, 0xf2, 0xae, 0xf3, 0xa6, 0xac, 0xaa, 0xf3, 0x6c, 0x6e],
        &[
            0x0f, 0x20, 0xe0, 0x0d, 0, 6, 0, 0, 0x0f, 0x22, 0xe0, 0x0f, 0x28, 0xc1, 0x66, 0x0f, 0xef, 0xc0, 0xf2, 0x0f,
            0x58, 0xc1, 0x0f, 0x11, 3,
        ],
        &[0xc5, 0xfc, 0x58, 0xc1, 0xc4, 0xe2, 0x7d, 0x18, 3, 0xc4, 0xe2, 0x71, 0x90, 4, 3, 0xc5, 0xf8, 0x77],
        &[0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc1, 0xdd, 3, 0xdb, 0x3b, 0xd9, 0xfe, 0x9b, 0xdf, 0xe0],
        &[
            0x0f, 0x01, 0x13, 0x0f, 0x00, 0xd8, 0x0f, 0x32, 0x0f, 0x30, 0xcd, 3, 0xcc, 0xcf, 0xfa, 0xfb, 0x0f, 0x05,
            0x0f, 0x34, 0x0f, 0xc7, 0xf0,
        ],
    ];
    (0..3u8).flat_map(|mode| code.iter().map(move |c| [&[mode][..], &[0, 2, 3].repeat(16), c].concat())).collect()
}
