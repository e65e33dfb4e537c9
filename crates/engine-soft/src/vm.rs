//! The engine contract over the software CPU.

use std::sync::Arc;

use visor_apic::{LocalApic, LocalApicConfig};
use visor_engine::{
    CpuIo, Engine, EngineCaps, EngineError, EngineErrorKind, GuestMemory, Kicker, MsiSink, Stop, Vcpu, VcpuId,
    VcpuStats, Vm, VmConfig, Watch,
};
use visor_fpu::FpuUnit;
use visor_x86::cpuid::{Cpuid, Model, ModelConfig};
use visor_x86::state::CpuState;

use crate::account;
use crate::blocks::Blocks;
use crate::changed;
use crate::clock::{TscClock, host_tsc};
use crate::cpu::{Cpu, attention};
use crate::fabric::{CpuPort, Fabric};
use crate::host::HostFeatures;
use crate::mmu::CpuBox;
use crate::options::{SoftOptions, Tier};
use crate::perf_map::PerfMap;
use crate::run;
use crate::sys::{ResetKind, announced};
use crate::translate::Translator;

/// Most CPUs of one VM; xAPIC ids have eight bits, of which 255 is broadcast.
const MAX_VCPUS: u32 = 254;

/// The software engine: needs nothing of the host but memory that may hold code.
#[derive(Debug)]
pub struct SoftEngine {
    caps: EngineCaps,
    fpu: Arc<FpuUnit>,
    clock: TscClock,
    options: SoftOptions,
}

impl SoftEngine {
    /// The engine as it is if nothing is asked for.
    ///
    /// # Errors
    /// As [`SoftEngine::with_options`].
    pub fn new() -> Result<Self, EngineError> {
        Self::with_options(SoftOptions::default())
    }

    /// Prepares the engine: measures the TSC (20 ms) and finds out which instructions the host can execute.
    ///
    /// # Errors
    /// [`EngineErrorKind::Host`] where the host gives no executable memory.
    pub fn with_options(options: SoftOptions) -> Result<Self, EngineError> {
        let fpu = FpuUnit::new()
            .map_err(|e| EngineError::host("the host gives no memory for generated code (memfd, PROT_EXEC)", e))?;
        let clock = TscClock::measure();
        let config = ModelConfig { cpus: 1, tsc_khz: (clock.hz / 1000) as u32, apic_hz: visor_apic::TIMER_HZ as u32 };
        let cpuid = announced(Model::default(), &config, HostFeatures::absent_units(options.absent));
        let caps = EngineCaps { name: "soft", cpuid, tsc_hz: clock.hz, max_vcpus: MAX_VCPUS };
        Ok(SoftEngine { caps, fpu: Arc::new(fpu), clock, options })
    }
}

impl SoftEngine {
    fn perf_map(&self) -> Result<Option<Arc<PerfMap>>, EngineError> {
        if !self.options.perf_map {
            return Ok(None);
        }
        let map = PerfMap::create().map_err(|e| EngineError::host("cannot write the perf map in /tmp", e))?;
        Ok(Some(Arc::new(map)))
    }

    /// What it was made with.
    pub fn options(&self) -> &SoftOptions {
        &self.options
    }
}

impl Engine for SoftEngine {
    fn caps(&self) -> &EngineCaps {
        &self.caps
    }

    fn create_vm(&self, config: &VmConfig, memory: Arc<GuestMemory>) -> Result<Box<dyn Vm>, EngineError> {
        if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
            let what = format!("a VM has 1 to {MAX_VCPUS} CPUs, not {}", config.vcpus);
            return Err(EngineError::new(EngineErrorKind::Invalid, what));
        }
        let fabric = Arc::new(Fabric::default());
        let told = Arc::downgrade(&fabric);
        memory.on_remap(move || {
            let ports = told.upgrade().map(|f| f.ports()).unwrap_or_default();
            ports.iter().for_each(|p| p.notify(attention::REMAP));
        });
        Ok(Box::new(SoftVm {
            fabric,
            memory,
            fpu: self.fpu.clone(),
            clock: self.clock,
            epoch_tsc: host_tsc(),
            options: self.options.clone(),
            perf_map: self.perf_map()?,
        }))
    }
}

struct SoftVm {
    fabric: Arc<Fabric>,
    memory: Arc<GuestMemory>,
    fpu: Arc<FpuUnit>,
    clock: TscClock,
    /// Host TSC at which guest time and the guest's TSCs were zero.
    epoch_tsc: u64,
    options: SoftOptions,
    perf_map: Option<Arc<PerfMap>>,
}

impl SoftVm {
    fn translator(&self, port: &Arc<CpuPort>) -> Result<Option<Box<Translator>>, EngineError> {
        if self.options.tier == Tier::Interpreter {
            return Ok(None);
        }
        let translator = Translator::new(&self.options, self.perf_map.clone())
            .map_err(|e| EngineError::host("the host gives no memory for translated code (memfd, PROT_EXEC)", e))?;
        let port = port.clone();
        let vm = Arc::as_ptr(&self.fabric).addr();
        self.memory.frames().watch(move |frame| port.code_changed(frame, changed::writer(vm, port.id)));
        Ok(Some(translator))
    }
}

impl Vm for SoftVm {
    fn add_vcpu(&self, id: VcpuId, cpuid: &Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        let features = cpuid.get(1, 0).unwrap_or_default();
        let phys_bits = cpuid.get(0x8000_0008, 0).map_or(36, |r| r.eax as u8).clamp(32, 52);
        let apic = LocalApic::new(LocalApicConfig {
            id: id.0,
            boot: id == VcpuId(0),
            x2apic: features.ecx & 1 << 21 != 0,
            tsc_deadline: features.ecx & 1 << 24 != 0,
            phys_bits,
            tsc_hz: self.clock.hz,
        });
        let port = Arc::new(CpuPort::new(id, apic));
        if id.0 >= MAX_VCPUS || !self.fabric.add(port.clone()) {
            return Err(EngineError::new(EngineErrorKind::Invalid, format!("CPU id {} is taken or too large", id.0)));
        }
        let translator = self.translator(&port)?;
        let parts = crate::cpu::Parts {
            id,
            cpuid: cpuid.clone(),
            port,
            fabric: self.fabric.clone(),
            ram: self.memory.clone(),
            fpu_unit: self.fpu.clone(),
            clock: self.clock,
            epoch_tsc: self.epoch_tsc,
        };
        Ok(Box::new(SoftVcpu {
            cpu: Cpu::power_up(parts)
                .map_err(|e| EngineError::host("the host gives no memory for a CPU (memfd)", e))?,
            blocks: Blocks::default(),
            translator,
        }))
    }

    fn msi(&self) -> Arc<dyn MsiSink> {
        self.fabric.clone()
    }

    fn set_intr(&self, level: bool) {
        self.fabric.set_intr(level);
    }

    fn nmi(&self) {
        if let Some(boot) = self.fabric.boot() {
            let delivery = {
                let mut apic = boot.apic();
                let delivery = apic.set_lint1(true);
                let _ = apic.set_lint1(false);
                delivery
            };
            boot.act(delivery);
        }
    }
}

struct SoftVcpu {
    cpu: CpuBox,
    blocks: Blocks,
    translator: Option<Box<Translator>>,
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop, EngineError> {
        // SAFETY: only the lifetime is changed; `cpu.io` is cleared before the reference ends.
        let io: &'static dyn CpuIo = unsafe { std::mem::transmute::<&dyn CpuIo, &'static dyn CpuIo>(io) };
        self.cpu.io = Some(std::ptr::NonNull::from(io));
        let acting = changed::as_cpu(Arc::as_ptr(&self.cpu.fabric).addr(), self.cpu.id);
        self.cpu.account.start();
        let stop = run::run(&mut self.cpu, &mut self.blocks, self.translator.as_deref_mut());
        self.cpu.io = None;
        self.cpu.account.stop();
        drop(acting);
        Ok(stop)
    }

    fn kicker(&self) -> Kicker {
        let port = self.cpu.port.clone();
        Kicker::new(move || port.notify(attention::KICK))
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.cpu.save_state())
    }

    fn restore(&mut self, state: &CpuState) -> Result<(), EngineError> {
        if self.cpu.restore_state(state) {
            return Ok(());
        }
        Err(EngineError::new(EngineErrorKind::Invalid, "no CPU of this model can be in that state"))
    }

    fn reset(&mut self) -> Result<(), EngineError> {
        self.cpu.reset(ResetKind::Power);
        Ok(())
    }

    fn watch(&mut self, watches: &[Watch]) -> Result<(), EngineError> {
        self.cpu.watches = watches.to_vec();
        // Code that has been found already is looked for again.
        self.cpu.mmu.flush_all();
        Ok(())
    }

    fn stats(&self) -> VcpuStats {
        let mut stats = account::report(&self.cpu.stats, &self.cpu.account, self.cpu.clock);
        stats.decoder = self.blocks.stats;
        stats.tlb.flushes = self.cpu.mmu.flushes;
        if let Some(t) = &self.translator {
            t.report(&self.cpu, &mut stats);
        }
        stats
    }
}
