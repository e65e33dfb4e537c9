//! Runs cases on a CPU engine, through nothing but its contract.

use super::Subject;
use super::guest::{self, Guest};
use crate::case::{Case, Mode, Outcome, Regs, Status};
use crate::layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use visor_engine::{CpuIo, Engine, Gpa, Kicker, Stop, Vcpu, VcpuId, Vm, VmConfig};
use visor_x86::cpuid::Cpuid;
use visor_x86::segment::{SegAttr, Segment, TableReg};
use visor_x86::{CpuState, Cr0, Cr4, Efer};

/// Time after which a case counts as endless on the engine.
const CASE_LIMIT: Duration = Duration::from_secs(20);
/// Vector reported for a triple fault.
const TRIPLE_FAULT: u32 = 255;

/// A CPU engine as a subject.
pub struct EngineSubject {
    name: String,
    guest: Guest,
    vcpu: Box<dyn Vcpu>,
    template: CpuState,
    image: Vec<u8>,
    watchdog: Watchdog,
    // Keeps the VM alive as long as its CPU.
    _vm: Box<dyn Vm>,
}

impl EngineSubject {
    /// Makes a VM with one CPU on `engine`.
    ///
    /// # Errors
    /// Where the engine refuses.
    pub fn new(engine: &dyn Engine, cpuid: &Cpuid) -> anyhow::Result<Self> {
        let guest = Guest::new()?;
        let vm = engine.create_vm(&VmConfig { vcpus: 1 }, guest.memory.clone())?;
        let mut vcpu = vm.add_vcpu(VcpuId(0), cpuid)?;
        let template = template(vcpu.save()?, &guest);
        let watchdog = Watchdog::start(vcpu.kicker());
        let image = vec![0; layout::WRITABLE_LEN];
        Ok(EngineSubject { name: engine.caps().name.into(), guest, vcpu, template, image, watchdog, _vm: vm })
    }

    /// From now on another thread interrupts the CPU every few microseconds, which must change nothing.
    pub fn kick_always(&mut self) {
        self.watchdog.kick_always(self.vcpu.kicker());
    }

    fn run_case(&mut self, case: &Case) -> anyhow::Result<Outcome> {
        self.guest.set_code(case.regs.rip, case.code())?;
        for patch in case.patches() {
            self.guest.write(patch.offset as usize, &patch.bytes[..patch.len as usize])?;
        }
        self.vcpu.restore(&self.state(case))?;
        let stop = self.run_until_stop()?;
        let mut outcome = Outcome::default();
        match stop {
            Some(stop) => self.capture(case, stop, &mut outcome)?,
            None => outcome.status = Status::Timeout,
        }
        self.collect_memory(&mut outcome)?;
        Ok(outcome)
    }

    /// `None` for a case that does not end.
    fn run_until_stop(&mut self) -> anyhow::Result<Option<Stop>> {
        let start = Instant::now();
        self.watchdog.next_case();
        loop {
            match self.vcpu.run(&NoDevices)? {
                // A kick meant for an earlier case.
                Stop::Kicked if start.elapsed() < CASE_LIMIT / 2 => {}
                Stop::Kicked => return Ok(None),
                stop => return Ok(Some(stop)),
            }
        }
    }

    fn state(&self, case: &Case) -> CpuState {
        let mut s = self.template.clone();
        s.gpr = case.regs.gpr;
        s.rip = case.regs.rip;
        s.rflags = case.regs.rflags;
        s.xsave = Box::new(case.regs.xsave);
        for (i, segment) in s.seg.iter_mut().enumerate() {
            *segment = load_segment(case.regs.sel[i] as u16);
        }
        if case.mode == Mode::Long {
            s.seg[4].base = case.regs.fs_base;
            s.seg[5].base = case.regs.gs_base;
        }
        s
    }

    fn capture(&mut self, case: &Case, stop: Stop, outcome: &mut Outcome) -> anyhow::Result<()> {
        let state = self.vcpu.save()?;
        outcome.status = Status::Exception;
        fill_registers(&mut outcome.regs, case, &state);
        let vector = self.guest.vector(state.rip);
        let (Stop::Halted, Some(vector)) = (stop, vector) else {
            outcome.vector = TRIPLE_FAULT;
            outcome.regs.rip = state.rip;
            return Ok(());
        };
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        let mut frame = self.guest.frame(state.gpr[4])?.into_iter();
        outcome.vector = vector;
        outcome.error = if has_error { frame.next().unwrap_or(0) } else { 0 };
        outcome.cr2 = if vector == 14 { state.cr2 } else { 0 };
        let mut next = || frame.next().unwrap_or(u64::MAX);
        outcome.regs.rip = next();
        outcome.regs.sel[1] = next();
        outcome.regs.rflags = next();
        outcome.regs.gpr[4] = next();
        outcome.regs.sel[2] = next();
        if case.mode == Mode::Compat {
            outcome.regs.gpr[4] &= 0xffff_ffff;
        }
        Ok(())
    }

    fn collect_memory(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        self.guest.read_writable(&mut self.image)?;
        let base = layout::base_image();
        let split = layout::DATA_LEN as usize;
        let (data, stack) = self.image.split_at(split);
        let mut changed = Vec::new();
        outcome.diff_memory([(&base[..split], data), (&base[split..], stack)], |offset| changed.push(offset));
        for offset in changed {
            self.guest.write(offset, &base[offset..offset + 8])?;
        }
        Ok(())
    }
}

impl Subject for EngineSubject {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
        cases.iter().map(|c| self.run_case(c)).collect()
    }
}

fn fill_registers(regs: &mut Regs, case: &Case, state: &CpuState) {
    regs.gpr = state.gpr;
    regs.xsave = *state.xsave;
    regs.fs_base = state.seg[4].base;
    regs.gs_base = state.seg[5].base;
    for (to, from) in regs.sel.iter_mut().zip(&state.seg) {
        *to = u64::from(from.selector);
    }
    if case.mode == Mode::Compat {
        for (i, r) in regs.gpr.iter_mut().enumerate() {
            *r = if i < 8 { *r & 0xffff_ffff } else { case.regs.gpr[i] };
        }
    }
    crate::xsave::normalise(regs);
}

/// What loading a selector gives, from the guest's own tables.
fn load_segment(selector: u16) -> Segment {
    let slot = usize::from(selector >> 3);
    let raw = if selector & 4 != 0 { guest::LDT_DESCRIPTORS.get(slot) } else { guest::DESCRIPTORS_BY_SLOT.get(slot) };
    match raw {
        Some(raw) if selector & !3 != 0 => Segment::from_descriptor(selector, *raw),
        _ => Segment { selector, base: 0, limit: 0, attr: SegAttr::UNUSABLE },
    }
}

/// The state that all cases share: long mode, ring 3 with paging, as a 64-bit Linux sets it.
fn template(mut s: CpuState, guest: &Guest) -> CpuState {
    let [gdt, idt, ldt, tss] = guest.tables();
    s.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG).bits();
    s.cr3 = guest.cr3();
    s.cr4 = (Cr4::PAE | Cr4::PGE | Cr4::DE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::FSGSBASE | Cr4::OSXSAVE | Cr4::UMIP)
        .bits();
    s.efer = (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits();
    s.xcr0 = 7;
    s.gdtr = TableReg { base: gdt, limit: guest::GDT_LIMIT };
    s.idtr = TableReg { base: idt, limit: guest::IDT_LIMIT };
    s.ldtr = Segment { selector: 0x50, base: ldt, limit: 15, attr: SegAttr(0x82) };
    s.tr = Segment { selector: 0x40, base: tss, limit: 0x67, attr: SegAttr(0x8b) };
    s.halted = false;
    s.wait_for_sipi = false;
    s.interrupt_shadow = false;
    s.nmi_blocked = false;
    s
}

/// Ports and memory-mapped devices that a case can never reach.
struct NoDevices;

impl CpuIo for NoDevices {
    fn pio_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn pio_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_irq(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _: u8) {}
}

/// Kicks the vCPU out of a case that does not end.
struct Watchdog {
    cases: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(kicker: Kicker) -> Self {
        let (cases, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen_cases, stopped) = (cases.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut last = (0, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let now = seen_cases.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                } else if now != 0 && last.1.elapsed() > CASE_LIMIT {
                    kicker.kick();
                }
            }
        });
        Watchdog { cases, stop }
    }

    /// Kicks every few microseconds as long as this lives.
    fn kick_always(&self, kicker: Kicker) {
        let stopped = self.stop.clone();
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                kicker.kick();
                (0..200).for_each(|_| std::hint::spin_loop());
            }
        });
    }

    fn next_case(&self) {
        self.cases.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
