//! The contract between a machine and the engine that runs its CPUs.
//!
//! An [`Engine`] makes a [`Vm`] over given RAM; the VM makes [`Vcpu`]s, one per host thread. While a vCPU runs, the engine
//! calls the machine back through [`CpuIo`] for every port and memory-mapped access: such an access never leaves
//! [`Vcpu::run`], which returns only for the rare reasons of [`Stop`].
//!
//! **Interrupts.** The engine owns the local APICs, because one engine has them in the host's kernel. The machine owns the
//! rest: its I/O APIC and PCI devices deliver through [`MsiSink`]; its 8259 pair drives [`Vm::set_intr`], and the engine fetches the
//! vector with [`CpuIo::acknowledge_irq`] when the boot CPU takes it; the end of a level-triggered interrupt comes back as
//! [`CpuIo::end_of_interrupt`].
//!
//! **Waiting.** A vCPU that executes HLT with interrupts enabled sleeps inside `run` and uses no host CPU.
#![forbid(unsafe_code)]

mod options;
mod stats;

use std::sync::Arc;

pub use options::EngineOptions;
pub use stats::{
    DecoderStats, ExitStats, HelperStats, InvalidationStats, TimeStats, Timed, TlbStats, TranslatorStats, VcpuStats,
};
pub use visor_memory::{Gpa, GuestMemory};
use visor_x86::cpuid::Cpuid;
use visor_x86::state::CpuState;

/// Which virtual CPU of a machine; also its initial local APIC id. The boot CPU is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

/// Makes virtual machines.
pub trait Engine: Send + Sync {
    /// What this engine is and can do on this host.
    fn caps(&self) -> &EngineCaps;

    /// Makes a VM without CPUs over `memory`.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`] or [`EngineErrorKind::Host`] where the host refuses.
    fn create_vm(&self, config: &VmConfig, memory: Arc<GuestMemory>) -> Result<Box<dyn Vm>, EngineError>;
}

/// What an engine is and can do on this host.
#[derive(Clone, Debug)]
pub struct EngineCaps {
    /// Its name on the command line: `soft` or `kvm`.
    pub name: &'static str,
    /// The widest CPUID it can honour; a vCPU's table must be a subset.
    pub cpuid: Cpuid,
    /// Frequency of the time-stamp counter that guests see, in Hz.
    pub tsc_hz: u64,
    /// Most vCPUs in one VM.
    pub max_vcpus: u32,
}

/// Settings of a VM that hold for all its CPUs.
#[derive(Clone, Debug, Default)]
pub struct VmConfig {
    /// vCPUs that will be added, at least 1.
    pub vcpus: u32,
}

/// One virtual machine: its CPUs and their interrupt fabric.
pub trait Vm: Send + Sync {
    /// Adds a vCPU with the given CPUID table. CPU 0 starts at the reset vector; others wait for a start-up IPI.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for an id in use or a CPUID bit the engine cannot honour.
    fn add_vcpu(&self, id: VcpuId, cpuid: &Cpuid) -> Result<Box<dyn Vcpu>, EngineError>;

    /// Where message-signalled interrupts go: I/O APIC entries and PCI devices write here.
    fn msi(&self) -> Arc<dyn MsiSink>;

    /// The level of the 8259's INTR output, wired to LINT0 of the boot CPU. May be called with device locks held;
    /// never calls back.
    fn set_intr(&self, level: bool);

    /// Raises a non-maskable interrupt on the boot CPU.
    fn nmi(&self);

    /// To be called before `DeviceMemory::collect`: fetches what is known of writes elsewhere (the host's kernel).
    fn collect_writes(&self) {}
}

/// Accepts message-signalled interrupts (SDM 3A §11.11: address FEEx_xxxxh, data with vector and delivery mode).
pub trait MsiSink: Send + Sync {
    /// Delivers one message; a malformed one is dropped. May be called with device locks held; never calls back.
    fn send(&self, address: u64, data: u32);
}

/// One virtual CPU, owned by the host thread that runs it.
pub trait Vcpu: Send {
    /// Runs guest code until a reason of [`Stop`] arises.
    ///
    /// # Errors
    /// [`EngineErrorKind::Host`] where the host fails; the guest itself cannot cause an error.
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop, EngineError>;

    /// A handle with which other threads make [`Vcpu::run`] return [`Stop::Kicked`] soon.
    fn kicker(&self) -> Kicker;

    /// The state between two instructions, with no access half done.
    ///
    /// # Errors
    /// [`EngineErrorKind::Host`] where the host fails.
    fn save(&mut self) -> Result<CpuState, EngineError>;

    /// Replaces the state.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for a state that no CPU of this model can be in.
    fn restore(&mut self, state: &CpuState) -> Result<(), EngineError>;

    /// Back to the state after RESET (CPU 0) or INIT, waiting for a start-up IPI (others).
    ///
    /// # Errors
    /// [`EngineErrorKind::Host`] where the host fails.
    fn reset(&mut self) -> Result<(), EngineError>;

    /// Asks to be told through [`CpuIo::reached`] when execution gets somewhere, once for each of `watches`; those asked for
    /// before are forgotten. Costs nothing on the software engine. KVM reports a [`Watch::Code`] of one byte exactly (four of them at
    /// most), the rest at one of the next exits that finds the CPU there - late, or never.
    ///
    /// # Errors
    /// [`EngineErrorKind::Host`] where the host fails.
    fn watch(&mut self, watches: &[Watch]) -> Result<(), EngineError>;

    /// Counters since the vCPU was made.
    fn stats(&self) -> VcpuStats;
}

/// Something that execution may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// An instruction between these linear addresses, both included: where it begins, after a jump or an interrupt.
    Code(u64, u64),
    /// An instruction at privilege level 3.
    User,
}

impl Watch {
    /// Whether an instruction at linear address `at` and privilege level `cpl` is what is watched for.
    pub fn is_at(&self, at: u64, cpl: u8) -> bool {
        match *self {
            Watch::Code(first, last) => (first..=last).contains(&at),
            Watch::User => cpl == 3,
        }
    }
}

/// Why a vCPU stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A [`Kicker`] asked for it.
    Kicked,
    /// HLT with interrupts disabled and nothing that could wake the CPU but NMI, INIT or a reset.
    Halted,
    /// A triple fault: the processor shut down. A PC resets.
    TripleFault,
}

/// Makes a running vCPU stop, from any thread.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Fn() + Send + Sync>);

impl Kicker {
    /// A kicker that calls `f`.
    pub fn new(f: impl Fn() + Send + Sync + 'static) -> Self {
        Kicker(Arc::new(f))
    }

    /// Asks the vCPU to stop; harmless if it is not running (the next run returns at once).
    pub fn kick(&self) {
        (self.0)()
    }
}

impl std::fmt::Debug for Kicker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kicker")
    }
}

/// The machine as its CPUs see it. Sizes of `data` are 1, 2, 4 or (memory only) 8 bytes, little-endian. Unclaimed reads
/// give all ones; unclaimed writes are dropped.
pub trait CpuIo: Sync {
    /// IN.
    fn pio_read(&self, port: u16, data: &mut [u8]);
    /// OUT.
    fn pio_write(&self, port: u16, data: &[u8]);
    /// A load from an address without RAM.
    fn mmio_read(&self, at: Gpa, data: &mut [u8]);
    /// A store to an address without RAM.
    fn mmio_write(&self, at: Gpa, data: &[u8]);
    /// Interrupt acknowledge: the 8259's vector, or `None` if its request went away.
    fn acknowledge_irq(&self) -> Option<u8>;
    /// A local APIC broadcast the end of level-triggered interrupt `vector`.
    fn end_of_interrupt(&self, vector: u8);
    /// Execution has reached `watch`, at linear address `at`, for the first time since [`Vcpu::watch`].
    fn reached(&self, watch: Watch, at: u64) {
        let _ = (watch, at);
    }
}

/// What went wrong in an engine, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// The engine does not work on this host.
    Unavailable,
    /// The caller asked for something impossible.
    Invalid,
    /// A host call failed.
    Host,
}

/// An engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct EngineError {
    /// For control flow.
    pub kind: EngineErrorKind,
    /// What was being done, in words for a person.
    pub what: String,
    /// The host's reason.
    pub source: Option<std::io::Error>,
}

impl EngineError {
    /// An error without a host reason.
    pub fn new(kind: EngineErrorKind, what: impl Into<String>) -> Self {
        EngineError { kind, what: what.into(), source: None }
    }

    /// A failed host call.
    pub fn host(what: impl Into<String>, source: std::io::Error) -> Self {
        EngineError { kind: EngineErrorKind::Host, what: what.into(), source: Some(source) }
    }
}
