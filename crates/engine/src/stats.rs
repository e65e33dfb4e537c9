//! What a vCPU did: counters that engines fill as far as they apply, and that `visor run --stats` prints.
//!
//! Counts start when the vCPU is made. Times are nanoseconds of host time. A field that an engine has no meaning for stays zero
//! (empty), so zero is "none" or "not counted".

use serde::Serialize;

/// Counters of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VcpuStats {
    /// Guest instructions executed. An interpreter counts exactly. A translator counts whole blocks when they begin, those left early
    /// included, and only if asked to ([`crate::EngineOptions::count`]). 0 where nothing is counted.
    pub instructions: u64,
    /// What left straight-line guest code.
    pub exits: ExitStats,
    /// Translation of linear addresses in software.
    pub tlb: TlbStats,
    /// The cache of decoded instructions of an interpreter.
    pub decoder: DecoderStats,
    /// The code cache of a translator.
    pub translator: TranslatorStats,
    /// Where the time went.
    pub time: TimeStats,
}

/// Something that was counted and timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timed {
    /// How often.
    pub count: u64,
    /// How long in all, in nanoseconds; 0 where it was not measured.
    pub nanos: u64,
}

/// What left straight-line guest code, and how long it took until the guest went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExitStats {
    /// Port accesses that reached the machine.
    pub pio: Timed,
    /// Memory-mapped accesses that reached the machine. Those to the local APIC do not count.
    pub mmio: Timed,
    /// Times the vCPU slept: HLT, or waiting for a start-up IPI.
    pub hlt: Timed,
    /// Interrupts delivered, NMIs included.
    pub interrupt: Timed,
    /// Exceptions delivered.
    pub exception: Timed,
    /// Other work that an engine did outside of generated code, by name.
    pub helpers: Vec<HelperStats>,
}

/// One kind of work outside of generated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HelperStats {
    /// A short name in lower case, such as `cpuid` or `write_cr3`.
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// How long in all, in nanoseconds; 0 where it was not measured.
    pub nanos: u64,
}

/// Translation of linear addresses in software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlbStats {
    /// Loads that no cached translation served. Accesses to devices always miss.
    pub load_misses: u64,
    /// Stores, likewise.
    pub store_misses: u64,
    /// Instruction fetches, likewise.
    pub fetch_misses: u64,
    /// Walks of the guest's page tables, for whatever purpose.
    pub walks: u64,
    /// Flushes of more than one page: CR3 and CR4 loads, INVPCID.
    pub flushes: u64,
}

/// The cache of decoded instructions of an interpreter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DecoderStats {
    /// Blocks decoded, those decoded again included.
    pub blocks: u64,
    /// Blocks decoded again because their bytes were written.
    pub stale: u64,
    /// Times the cache was full and started over.
    pub flushes: u64,
}

/// The code cache of a translator. Where vCPUs share a cache, its gauges (`host_bytes`, `capacity`) and what happens to it as a
/// whole are reported by CPU 0 alone, so that sums over CPUs stay true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranslatorStats {
    /// Blocks translated, those translated again included.
    pub blocks: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Bytes of host code in the cache now.
    pub host_bytes: u64,
    /// Bytes of host code that fit.
    pub capacity: u64,
    /// Times the cache was full and started over, or lost its oldest part.
    pub flushes: u64,
    /// Blocks that became invalid, by cause.
    pub invalidations: InvalidationStats,
    /// Jumps from one block directly into another that were made.
    pub links_made: u64,
    /// And broken again.
    pub links_broken: u64,
    /// Indirect jumps, calls and returns whose target the inline cache knew, where the generated code counts them.
    pub indirect_hits: u64,
    /// Those that had to be looked up.
    pub indirect_misses: u64,
    /// Entries into generated code from the run loop.
    pub entries: u64,
    /// Instructions that generated code left to the interpreter.
    pub interpreted: u64,
    /// Blocks that lockstep mode executed twice and compared.
    pub lockstep_blocks: u64,
    /// Those among them whose results differed: mistakes of the translator, or of the comparison.
    pub lockstep_differences: u64,
}

/// Blocks that became invalid, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InvalidationStats {
    /// This CPU wrote to their bytes.
    pub own_store: u64,
    /// Another CPU wrote to their bytes.
    pub other_cpu: u64,
    /// A device wrote to their bytes.
    pub device: u64,
    /// A change of the guest's address translation.
    pub mapping: u64,
    /// A change of the mode, breakpoints or CPU features that they were translated for.
    pub mode: u64,
    /// The cache needed the room.
    pub eviction: u64,
}

/// Where the time of the vCPU's thread went, in nanoseconds. The parts do not overlap; their sum is the time within
/// `Vcpu::run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeStats {
    /// Executing guest code on the host's CPU directly, or generated code with what it inlines.
    pub guest: u64,
    /// Interpreting instructions, decoding included.
    pub interpreter: u64,
    /// Translating.
    pub translation: u64,
    /// In the engine outside of guest code: page walks, exceptions, privileged instructions.
    pub helpers: u64,
    /// In the machine: port and memory-mapped accesses.
    pub devices: u64,
    /// Asleep.
    pub idle: u64,
}

impl Timed {
    /// Counts one that took `nanos`.
    pub fn add(&mut self, nanos: u64) {
        self.count += 1;
        self.nanos = self.nanos.saturating_add(nanos);
    }
}

impl TimeStats {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.guest, self.interpreter, self.translation, self.helpers, self.devices, self.idle]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl InvalidationStats {
    /// All causes together.
    pub fn total(&self) -> u64 {
        [self.own_store, self.other_cpu, self.device, self.mapping, self.mode, self.eviction]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}
