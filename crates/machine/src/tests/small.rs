//! Guests that exercise the devices, on every engine that works here. KVM without hardware support runs them too, slowly.

use std::io::{Read, Write};
use std::sync::OnceLock;
use std::time::Duration;

use super::guest::{BASE, Guest};
use super::spec;
use crate::{ChosenEngine, EngineChoice, Machine, MachineSpec, MachineState, StopReason, choose};

/// The engines of this host.
fn engines() -> &'static [ChosenEngine] {
    static ENGINES: OnceLock<Vec<ChosenEngine>> = OnceLock::new();
    ENGINES.get_or_init(|| {
        let kvm = choose(EngineChoice::Kvm).inspect_err(|e| eprintln!("not tested on KVM: {e}")).ok();
        [choose(EngineChoice::Soft).unwrap()].into_iter().chain(kvm).collect()
    })
}

fn machine(spec: MachineSpec, engine: &ChosenEngine) -> Machine {
    Machine::new(&spec.validate().unwrap(), &*engine.engine).unwrap()
}

/// Runs a guest on each engine; all must agree on the outcome.
fn run(spec: MachineSpec) -> (StopReason, String) {
    run_on(engines().iter(), spec)
}

/// As [`run`], but leaves out a KVM without hardware support, whose emulator fails on exceptions and interrupts.
fn run_with_interrupts(spec: MachineSpec) -> (StopReason, String) {
    let auto = choose(EngineChoice::Auto).unwrap().engine.caps().name;
    run_on(engines().iter().filter(|e| ["soft", auto].contains(&e.engine.caps().name)), spec)
}

fn run_on<'a>(engines: impl Iterator<Item = &'a ChosenEngine>, spec: MachineSpec) -> (StopReason, String) {
    let outcomes = engines.map(|engine| {
        let m = machine(spec.clone(), engine);
        m.start().unwrap();
        let reason = m.wait();
        let mut text = String::new();
        m.serial_output().read_to_string(&mut text).unwrap();
        (reason, text)
    });
    outcomes
        .reduce(|soft, kvm| {
            assert_eq!(soft, kvm);
            soft
        })
        .unwrap()
}

#[test]
fn prints_and_exits() {
    let kernel = Guest::default().print("Hello").exit(0x10).kernel();
    assert_eq!(run(spec(kernel)), (StopReason::DebugExit(0x21), "Hello".into()));
}

#[test]
fn powers_off_through_acpi() {
    let kernel = Guest::default().out16(0x604, 1 << 13).spin().kernel();
    assert_eq!(run(spec(kernel)).0, StopReason::PowerOff);
}

#[test]
fn resets_boot_anew_until_told_otherwise() {
    // inc dword [0x200000]; cmp dword [0x200000], 3; jb reset; exit 7
    let count = [0xff, 0x05, 0, 0, 0x20, 0, 0x83, 0x3d, 0, 0, 0x20, 0, 3];
    let kernel = |reset: Guest| {
        let g = Guest::default().print("x").code(&count);
        // jb over the exit, which has 7 + 2 bytes
        g.code(&[0x72, 9]).exit(7).code(&reset_code(reset)).spin().kernel()
    };
    fn reset_code(g: Guest) -> Vec<u8> {
        g.kernel()[32..].to_vec()
    }
    let ways: [fn() -> Guest; 4] = [
        || Guest::default().out8(0xcf9, 6),
        || Guest::default().out8(0x64, 0xfe),
        || Guest::default().out8(0x92, 1),
        || Guest::default().code(&[0xcc]), // int3 without IDT: triple fault
    ];
    for (i, way) in ways.into_iter().enumerate() {
        let mut s = spec(kernel(way()));
        s.no_reboot = false;
        let (run, want): (fn(_) -> _, _) = match i {
            3 => (run_with_interrupts, StopReason::TripleFault),
            _ => (run, StopReason::Reset),
        };
        assert_eq!(run(s), (StopReason::DebugExit(15), "xxx".into()), "way {i}");
        assert_eq!(run(spec(kernel(way()))).0, want);
    }
}

#[test]
fn a_halt_without_interrupts_is_the_end() {
    for cpus in [1, 3] {
        let mut s = spec(Guest::default().code(&[0xfa, 0xf4]).spin().kernel());
        s.cpus = cpus;
        assert_eq!(run(s).0, StopReason::GuestHung);
    }
}

#[test]
fn time_limit_and_kill_end_a_busy_guest() {
    let mut s = spec(Guest::default().spin().kernel());
    s.time_limit = Some(Duration::from_millis(100));
    assert_eq!(run(s.clone()).0, StopReason::TimedOut);
    s.time_limit = None;
    for engine in engines() {
        let m = machine(s.clone(), engine);
        assert_eq!(m.state(), MachineState::Created);
        m.start().unwrap();
        assert_eq!(m.state(), MachineState::Running);
        assert_eq!(m.wait_timeout(Duration::from_millis(20)), None);
        m.stop();
        assert_eq!(m.wait(), StopReason::Killed);
    }
}

#[test]
fn a_paused_guest_stands_still() {
    // inc dword [0x200000] for ever
    let kernel = Guest::default().code(&[0xff, 0x05, 0, 0, 0x20, 0, 0xeb, 0xf8]).kernel();
    engines().iter().for_each(|engine| paused_guest_stands_still(machine(spec(kernel.clone()), engine)));
}

fn paused_guest_stands_still(m: Machine) {
    m.start().unwrap();
    let count = |m: &Machine| {
        use vm_memory::{Bytes, GuestAddress};
        m.memory().view().read_obj::<u32>(GuestAddress(0x20_0000)).unwrap()
    };
    std::thread::sleep(Duration::from_millis(20));
    assert!(m.pause());
    assert_eq!(m.state(), MachineState::Paused);
    let at = count(&m);
    assert!(at > 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count(&m), at);
    m.resume();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(m.state(), MachineState::Running);
    assert!(count(&m) > at);
}

#[test]
fn serial_input_reaches_the_guest() {
    let kernel = Guest::default()
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz again; mov dx, 0x3f8; in al, dx; cmp al, 'q'; je quit
        .code(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0x3c, b'q', 0x74, 5])
        // xor al, 0x20; out dx, al; jmp again
        .code(&[0x34, 0x20, 0xee, 0xeb, 0xe7])
        .exit(0)
        .kernel();
    engines().iter().for_each(|engine| echoes_upper_case(machine(spec(kernel.clone()), engine)));
}

fn echoes_upper_case(m: Machine) {
    m.start().unwrap();
    let text: String = ('a'..='p').cycle().take(400).collect();
    m.serial_input().write_all(text.as_bytes()).unwrap();
    m.serial_input().write_all(b"q").unwrap();
    assert_eq!(m.wait(), StopReason::DebugExit(1));
    let mut got = String::new();
    m.serial_output().read_to_string(&mut got).unwrap();
    assert_eq!(got, text.to_uppercase());
}

#[test]
fn the_timer_interrupts_through_the_8259() {
    // The handler of vector 20h: inc ecx; push eax; mov al, 20h; out 20h, al; pop eax; iret
    let g = Guest::default().code(&[0xeb, 9]);
    let handler = g.here();
    let g = g.code(&[0x41, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf, 0x90]);
    // The pseudo-descriptor of an IDT that begins at 200000h lies behind the jump.
    let g = g.code(&[0xeb, 6]);
    let idtr = g.here();
    let g = g.code(&[0x07, 0x01, 0, 0, 0x20, 0]);
    let (gate_low, gate_high) = (0x10 << 16 | handler & 0xffff, handler & 0xffff_0000 | 0x8e00);
    let store = |g: Guest, at: u32, v: u32| g.code(&[0xc7, 5]).code(&at.to_le_bytes()).code(&v.to_le_bytes());
    let g = store(store(g, 0x20_0100, gate_low), 0x20_0104, gate_high);
    let g = g.code(&[0x0f, 0x01, 0x1d]).code(&idtr.to_le_bytes()); // lidt
    let g = g.code(&[0xbc, 0, 0, 0x30, 0, 0x31, 0xc9]); // mov esp, 300000h; xor ecx, ecx
    // 8259: vectors from 20h, only IRQ 0. PIT: mode 2, 11932 ticks = 10 ms.
    let g = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe), (0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)]
        .into_iter()
        .fold(g, |g, (port, value)| g.out8(port, value));
    // sti; wait: hlt; cmp ecx, 5; jb wait
    let g = g.code(&[0xfb, 0xf4, 0x83, 0xf9, 5, 0x72, 0xfa]).exit(3);
    assert!(handler > BASE);
    let begin = std::time::Instant::now();
    assert_eq!(run_with_interrupts(spec(g.kernel())).0, StopReason::DebugExit(7));
    assert!(begin.elapsed() >= Duration::from_millis(45), "five periods of 10 ms");
}

#[test]
fn fw_cfg_tells_the_number_of_cpus() {
    // out16 selects item 5; in al, 511h; add al, '0'; out 3f8h
    let read = [0x66, 0xba, 0x11, 0x05, 0xec, 0x04, b'0', 0x66, 0xba, 0xf8, 0x03, 0xee];
    let mut s = spec(Guest::default().out16(0x510, 5).code(&read).exit(0).kernel());
    s.cpus = 3;
    assert_eq!(run(s).1, "3");
}

#[test]
fn impossible_machines_are_refused() {
    let kernel = Guest::default().spin().kernel();
    let bad: [fn(&mut MachineSpec); 4] =
        [|s| s.cpus = 0, |s| s.memory = 12345, |s| s.cpu_model = "80286".into(), |s| s.memory = 1 << 50];
    for change in bad {
        let mut s = spec(kernel.clone());
        change(&mut s);
        assert_eq!(s.validate().unwrap_err().kind, crate::MachineErrorKind::Spec);
    }
}

/// `VISOR_TEST_KERNEL` and `VISOR_TEST_INITRD` name a Linux kernel and a ramdisk whose init prints READY.
#[test]
fn linux_boots() {
    let files = (std::env::var_os("VISOR_TEST_KERNEL"), std::env::var_os("VISOR_TEST_INITRD"));
    let (Some(kernel), Some(initrd)) = files else { return };
    let mut s = spec(Vec::new());
    s.kernel = Some(crate::FileSource::Path(kernel.into()));
    s.initrd = Some(crate::FileSource::Path(initrd.into()));
    s.cmdline = "console=ttyS0 quiet rows=none".into();
    s.memory = 256 << 20;
    s.time_limit = Some(Duration::from_secs(120));
    let m = machine(s, &choose(EngineChoice::Auto).unwrap());
    m.start().unwrap();
    let reason = m.wait();
    let mut text = String::new();
    m.serial_output().read_to_string(&mut text).unwrap();
    assert_eq!(reason, StopReason::PowerOff, "{text}");
    assert!(text.contains("READY"), "{text}");
}

#[test]
fn suspend_to_ram_resumes_at_the_waking_vector() {
    // In real mode: mov dx, 0f4h; mov al, [500h]; out dx, al; jmp $
    let resumed = [0xba, 0xf4, 0x00, 0xa0, 0x00, 0x05, 0xee, 0xeb, 0xfe];
    // mov byte [address], value
    let store = |g: Guest, (at, byte): (u32, u8)| {
        let [a0, a1, a2, a3] = at.to_le_bytes();
        g.code(&[0xc6, 0x05, a0, a1, a2, a3, byte])
    };
    let bytes = (0x8000..).zip(resumed);
    // FACS: the waking vector is 8000h.
    let bytes = bytes.chain([(0xe_000c, 0x00), (0xe_000d, 0x80), (0xe_000e, 0), (0xe_000f, 0), (0x500, 21)]);
    let asleep = bytes.fold(Guest::default(), store).print("z").out16(0x604, 0x2400);
    let kernel = store(asleep, (0x500, 1)).exit(1).kernel();
    let m = machine(spec(kernel), &engines()[0]);
    let mut text = [0; 1];
    let mut out = m.serial_output();
    m.start().unwrap();
    out.read_exact(&mut text).unwrap();
    m.power_button();
    assert_eq!(m.wait(), StopReason::DebugExit(43), "memory as at the OUT, which nothing followed");
    assert_eq!(m.reboots(), 0);
}

#[test]
fn firmware_that_is_missing_or_of_another_size_is_refused() {
    use crate::{FileSource, FirmwareKind, FirmwareSpec};
    let refusal = |code: FileSource| {
        let firmware = FirmwareSpec {
            kind: FirmwareKind::Bios,
            code,
            vars: None,
            boot_order: Vec::new(),
            boot_menu: false,
            serial_console: false,
        };
        let config = MachineSpec::with_firmware(firmware).validate().unwrap();
        Machine::new(&config, &*engines()[0].engine).err().map(|e| e.to_string()).unwrap()
    };
    // Too small, not of whole pages, too large.
    for len in [0, 1, 1000, 4096, 60 << 10, (256 << 10) - 1, (256 << 10) + 1, (16 << 20) + 4096, 64 << 20] {
        let text = refusal(FileSource::Bytes(vec![0x90; len].into()));
        assert!(text.contains(&format!("it has {len} bytes")), "{text}");
    }
    for byte in [0, 0xff] {
        let text = refusal(FileSource::Bytes(vec![byte; 256 << 10].into()));
        assert!(text.contains("no code at its reset vector"), "{text}");
    }
    let text = refusal(FileSource::Path("/nowhere/bios.bin".into()));
    assert!(text.contains("cannot read the firmware /nowhere/bios.bin"), "{text}");
}
