//! The virtual CPU models.
//!
//! The x86-64 models present themselves as an Intel Atom of the Saltwell generation (family 6, model 36h), an in-order core
//! without speculative side channels: operating systems then leave out every mitigation, none of which means anything
//! to a virtual CPU but all of which cost instructions. Features follow the CPUID bits, not the model number.

use super::feature::*;
use super::{Cpuid, Entry, Feature, Regs};
use crate::paging::{LINEAR_BITS, PHYS_BITS};

/// A named set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Model {
    /// A 32-bit CPU of the 486 class.
    I486,
    /// The x86-64 psABI baseline.
    V1,
    /// psABI level 2: SSE4.2, POPCNT, CMPXCHG16B.
    V2,
    /// psABI level 3 (AVX2, BMI, FMA, MOVBE) and the other instructions that cryptography and kernels like to have.
    #[default]
    V3,
}

/// What a table depends on beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Virtual CPUs in the machine, at least 1; all are cores of one package.
    pub cpus: u32,
    /// Frequency of the time-stamp counter, in kHz.
    pub tsc_khz: u32,
    /// Frequency of the local APIC timer before division, in Hz.
    pub apic_hz: u32,
}

const BASE_486: &[Feature] = &[FPU, VME, PSE];

/// Everything of the psABI baseline, and what every PC with it has.
const V1: &[Feature] = &[
    FPU,
    VME,
    DE,
    PSE,
    TSC,
    MSR,
    PAE,
    MCE,
    CX8,
    APIC,
    SEP,
    MTRR,
    PGE,
    MCA,
    CMOV,
    PAT,
    PSE36,
    CLFSH,
    MMX,
    FXSR,
    SSE,
    SSE2,
    SS,
    SYSCALL,
    NX,
    LM,
    INVARIANT_TSC,
    TSC_DEADLINE,
    X2APIC,
    HYPERVISOR,
    TSC_ADJUST,
    ARCH_CAPABILITIES,
    RDTSCP,
    PDPE1GB,
];

const V2: &[Feature] = &[SSE3, SSSE3, SSE4_1, SSE4_2, POPCNT, CX16, LAHF];

const V3: &[Feature] = &[
    AVX, AVX2, FMA, F16C, BMI1, BMI2, LZCNT, MOVBE, XSAVE, XSAVEOPT, XSAVEC, XGETBV1, AES, PCLMULQDQ, SHA, ADX, RDRAND,
    RDSEED, FSGSBASE, SMEP, SMAP, UMIP, PCID, INVPCID, RDPID, ERMS, FSRM, PREFETCHW, CLFLUSHOPT, CLWB, GFNI, VAES,
    VPCLMULQDQ, PKU, PKS,
];

impl Model {
    /// All models.
    pub const ALL: [Model; 4] = [Model::I486, Model::V1, Model::V2, Model::V3];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Model::I486 => "486",
            Model::V1 => "x86-64-v1",
            Model::V2 => "x86-64-v2",
            Model::V3 => "x86-64-v3",
        }
    }

    /// The model of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// The CPUID table of this model. An engine clears the bits that it cannot honour with [`Cpuid::set`].
    pub fn cpuid(self, config: &ModelConfig) -> Cpuid {
        let features: &[&[Feature]] = match self {
            Model::I486 => &[BASE_486],
            Model::V1 => &[V1],
            Model::V2 => &[V1, V2],
            Model::V3 => &[V1, V2, V3],
        };
        let mut table = if self == Model::I486 { leaves_486() } else { self.leaves(config) };
        for feature in features.iter().copied().flatten() {
            table.set(*feature, true);
        }
        table.set(HTT, self != Model::I486 && config.cpus > 1);
        table
    }

    fn leaves(self, config: &ModelConfig) -> Cpuid {
        let mut t = Cpuid::default();
        let cpus = config.cpus.max(1);
        let [b, d, c] = words(b"GenuineIntel");
        t.leaf(0, regs(0x16, b, c, d));
        // Family 6, model 36h, stepping 9. CLFLUSH lines of 64 bytes; the number of APIC ids in the package.
        t.leaf(1, regs(0x3_0669, 8 << 8 | cpus.next_power_of_two().min(128) << 16, 0, 0));
        // Caches are described by leaf 4.
        t.leaf(2, regs(0xff01, 0, 0, 0));
        for level in 0..4 {
            t.sub(4, level, cache(level, cpus));
        }
        // The APIC timer runs in all sleep states.
        t.leaf(6, regs(1 << 2, 0, 0, 0));
        t.sub(7, 0, Regs::default());
        t.leaf(0xa, Regs::default());
        for level in 0..2 {
            t.sub(0xb, level, topology(level, cpus));
        }
        if self == Model::V3 {
            // x87, SSE, AVX and, right behind them, PKRU.
            t.sub(0xd, 0, regs(7 | 1 << 9, 840, 840, 0));
            t.sub(0xd, 1, regs(0, 840, 0, 0));
            t.sub(0xd, 2, regs(256, 576, 0, 0));
            t.sub(0xd, 9, regs(8, 832, 0, 0));
        }
        let (numerator, denominator) = ratio(u64::from(config.tsc_khz) * 1000, u64::from(config.apic_hz));
        t.leaf(0x15, regs(denominator, numerator, config.apic_hz, 0));
        let mhz = config.tsc_khz / 1000;
        t.leaf(0x16, regs(mhz, mhz, 100, 0));
        let [b, c, d] = words(b"VisorVisor  ");
        t.leaf(0x4000_0000, regs(0x4000_0010, b, c, d));
        t.leaf(0x4000_0010, regs(config.tsc_khz, config.apic_hz / 1000, 0, 0));
        self.extended_leaves(&mut t);
        t
    }

    fn extended_leaves(self, t: &mut Cpuid) {
        t.leaf(0x8000_0000, regs(0x8000_0008, 0, 0, 0));
        t.leaf(0x8000_0001, Regs::default());
        let mut brand = [0; 48];
        let text = format!("visor virtual CPU ({})", self.name());
        let len = text.len().min(brand.len() - 1);
        brand[..len].copy_from_slice(&text.as_bytes()[..len]);
        for (i, part) in brand.chunks_exact(16).enumerate() {
            let w = |n: usize| u32::from_le_bytes([part[n], part[n + 1], part[n + 2], part[n + 3]]);
            t.leaf(0x8000_0002 + i as u32, regs(w(0), w(4), w(8), w(12)));
        }
        // L2: 1 MiB, 16 ways, lines of 64 bytes.
        t.leaf(0x8000_0006, regs(0, 0, 1024 << 16 | 8 << 12 | 64, 0));
        t.leaf(0x8000_0007, Regs::default());
        t.leaf(0x8000_0008, regs(PHYS_BITS | LINEAR_BITS << 8, 0, 0, 0));
    }
}

fn leaves_486() -> Cpuid {
    let mut t = Cpuid::default();
    let [b, d, c] = words(b"GenuineIntel");
    t.leaf(0, regs(1, b, c, d));
    t.leaf(1, regs(0x480, 0, 0, 0));
    t
}

impl Cpuid {
    fn leaf(&mut self, leaf: u32, regs: Regs) {
        self.entries.push(Entry { leaf, subleaf: None, regs });
    }

    fn sub(&mut self, leaf: u32, subleaf: u32, regs: Regs) {
        self.entries.push(Entry { leaf, subleaf: Some(subleaf), regs });
    }
}

fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Regs {
    Regs { eax, ebx, ecx, edx }
}

fn words(text: &[u8; 12]) -> [u32; 3] {
    let w = |i: usize| u32::from_le_bytes([text[i], text[i + 1], text[i + 2], text[i + 3]]);
    [w(0), w(4), w(8)]
}

/// Bits that number `n` things.
fn bits(n: u32) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

/// Leaf 4: L1 data, L1 instruction, L2, then the end of the list.
fn cache(index: u32, cpus: u32) -> Regs {
    let (kind, level, ways, sets) = match index {
        0 => (1, 1, 8, 64),
        1 => (2, 1, 8, 64),
        2 => (3, 2, 16, 1024),
        _ => return Regs::default(),
    };
    let cores = (1u32 << bits(cpus)).min(64) - 1;
    regs(kind | level << 5 | 1 << 8 | cores << 26, 63 | (ways - 1) << 22, sets - 1, 0)
}

/// Leaf 0Bh: one thread per core, `cpus` cores in the package.
fn topology(level: u32, cpus: u32) -> Regs {
    match level {
        0 => regs(0, 1, 1 << 8, 0),
        _ => regs(bits(cpus), cpus, 1 | 2 << 8, 0),
    }
}

/// The best fraction for `value / unit` with a numerator so small that `unit` in kHz times it fits 32 bits: operating
/// systems multiply before they divide. By continued fractions; never zero.
fn ratio(value: u64, unit: u64) -> (u32, u32) {
    let limit = (u64::from(u32::MAX) / (unit / 1000).max(1)).max(1);
    let (mut a, mut b) = (value, unit.max(1));
    let ((mut p0, mut q0), (mut p, mut q)) = ((0, 1), (1, 0));
    while b != 0 {
        let n = a / b;
        let next = (n.saturating_mul(p).saturating_add(p0), n.saturating_mul(q).saturating_add(q0));
        if next.0 > limit || next.1 > u64::from(u32::MAX) {
            break;
        }
        (p0, q0) = (p, q);
        (p, q) = next;
        (a, b) = (b, a % b);
    }
    (p.max(1) as u32, q.max(1) as u32)
}
