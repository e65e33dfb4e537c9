//! The virtual CPU models: the levels of the x86-64 psABI, and a 486.

use super::{Cpuid, Entry, Regs, leaf1_ecx as c, leaf7_ebx as b7};

/// The names that [`model`] knows.
pub const MODELS: [&str; 4] = ["x86-64-v3", "x86-64-v2", "x86-64-v1", "486"];

/// Frequency of the crystal that leaf 15h announces and the local APIC's timer counts, in Hz.
pub const CRYSTAL_HZ: u64 = 25_000_000;

/// IA32_ARCH_CAPABILITIES of the 64-bit models (SDM 4 table 2-2): a CPU without speculation leaks none of the data that the kernels'
/// mitigations protect, so none of them should be paid for. Bits: RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO,
/// TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const ARCH_CAPABILITIES: u64 = {
    let bits = [0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62];
    let mut value = 0u64;
    let mut i = 0;
    while i < bits.len() {
        value |= 1 << bits[i];
        i += 1;
    }
    value
};

/// How many CPUs share the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs, each a core of its own in one package.
    pub vcpus: u32,
}

/// FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const EDX_64: u32 = 0x078b_fbff;
/// FPU, VME: what a late 486 with CPUID announces.
const EDX_486: u32 = 0x0000_0003;
/// SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const EXT_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// LAHF in 64-bit mode.
const EXT_ECX_LAHF: u32 = 1;
/// LZCNT, PREFETCHW.
const EXT_ECX_V3: u32 = 1 << 5 | 1 << 8;
/// UMIP, RDPID.
const LEAF7_ECX: u32 = 1 << 2 | 1 << 22;
/// FSRM, IBRS and IBPB (which IBRS_ALL needs), ARCH_CAPABILITIES.
const LEAF7_EDX: u32 = 1 << 4 | 1 << 26 | 1 << 29;

/// What every 64-bit model has beside its level: the engine's own system features.
const SYSTEM_ECX: u32 = c::PCID | c::X2APIC | c::TSC_DEADLINE | c::HYPERVISOR;
const SYSTEM_EBX: u32 = b7::FSGSBASE | b7::TSC_ADJUST | b7::SMEP | b7::ERMS | b7::INVPCID | b7::SMAP;
const V2_ECX: u32 = c::SSE3 | c::SSSE3 | c::CX16 | c::SSE4_1 | c::SSE4_2 | c::POPCNT;
const V3_ECX: u32 =
    c::FMA | c::MOVBE | c::XSAVE | c::AVX | c::F16C | c::AES | c::PCLMULQDQ | c::RDRAND;
const V3_EBX: u32 = b7::BMI1 | b7::AVX2 | b7::BMI2 | b7::RDSEED | b7::ADX | b7::CLFLUSHOPT | b7::SHA;

/// The CPUID table of the model `name` for a TSC of `tsc_hz`; `None` for a name not in [`MODELS`].
pub fn model(name: &str, tsc_hz: u64, topology: Topology) -> Option<Cpuid> {
    let (ecx, ebx, ext_ecx) = match name {
        "x86-64-v1" => (SYSTEM_ECX, SYSTEM_EBX, 0),
        "x86-64-v2" => (SYSTEM_ECX | V2_ECX, SYSTEM_EBX, EXT_ECX_LAHF),
        "x86-64-v3" => (SYSTEM_ECX | V2_ECX | V3_ECX, SYSTEM_EBX | V3_EBX, EXT_ECX_LAHF | EXT_ECX_V3),
        "486" => return Some(early()),
        _ => return None,
    };
    let mut t = Table::default();
    let xsave = ecx & c::XSAVE != 0;
    t.leaf(0, vendor(0x16));
    // Family 6 with a model number that no erratum or mitigation list of a kernel names.
    t.leaf(1, Regs { eax: 0x000e_06f1, ebx: 8 << 8 | (topology.vcpus.min(255) << 16), ecx, edx: EDX_64 });
    // Descriptor FFh: the caches are told by leaf 4.
    t.leaf(2, Regs { eax: 0x00fe_ff01, ..Regs::default() });
    t.caches();
    // ARAT: the local APIC's timer never stops.
    t.leaf(6, Regs { eax: 1 << 2, ..Regs::default() });
    t.sub(7, 0, Regs { eax: 0, ebx, ecx: LEAF7_ECX, edx: LEAF7_EDX });
    t.cores(topology.vcpus);
    if xsave {
        t.sub(0xd, 0, Regs { eax: 7, ebx: 832, ecx: 832, edx: 0 });
        t.sub(0xd, 1, Regs { eax: 3, ebx: 832, ecx: 0, edx: 0 });
        t.sub(0xd, 2, Regs { eax: 256, ebx: 576, ecx: 0, edx: 0 });
    }
    t.frequencies(tsc_hz);
    t.leaf(0x8000_0000, Regs { eax: 0x8000_0008, ..Regs::default() });
    t.leaf(0x8000_0001, Regs { eax: 0, ebx: 0, ecx: ext_ecx, edx: EXT_EDX });
    t.brand(&format!("visor virtual CPU {name}"));
    t.leaf(0x8000_0006, Regs { ecx: 512 << 16 | 6 << 12 | 64, ..Regs::default() });
    // The TSC runs at one rate in all states.
    t.leaf(0x8000_0007, Regs { edx: 1 << 8, ..Regs::default() });
    t.leaf(0x8000_0008, Regs { eax: 40 | 48 << 8, ..Regs::default() });
    Some(Cpuid { entries: t.entries })
}

fn early() -> Cpuid {
    let mut t = Table::default();
    t.leaf(0, vendor(1));
    t.leaf(1, Regs { eax: 0x0000_0480, edx: EDX_486, ..Regs::default() });
    Cpuid { entries: t.entries }
}

fn vendor(max: u32) -> Regs {
    let word = |s: &[u8; 4]| u32::from_le_bytes(*s);
    Regs { eax: max, ebx: word(b"Genu"), edx: word(b"ineI"), ecx: word(b"ntel") }
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
}

impl Table {
    fn leaf(&mut self, leaf: u32, regs: Regs) {
        self.entries.push(Entry { leaf, subleaf: None, regs });
    }

    fn sub(&mut self, leaf: u32, subleaf: u32, regs: Regs) {
        self.entries.push(Entry { leaf, subleaf: Some(subleaf), regs });
    }

    /// Leaf 4: level, kind (1 data, 2 code, 3 both), ways and sets of 64-byte lines.
    fn caches(&mut self) {
        for (i, (level, kind, ways, sets)) in [(1, 1, 8, 64), (1, 2, 8, 64), (2, 3, 8, 1024), (3, 3, 16, 16384)].iter().enumerate() {
            let ebx = 63 | (ways - 1) << 22;
            // Self-initialising; shared by no other core but for the last level.
            self.sub(4, i as u32, Regs { eax: kind | level << 5 | 1 << 8, ebx, ecx: sets - 1, edx: 0 });
        }
        self.sub(4, 4, Regs::default());
    }

    /// Leaf Bh: one thread a core, all cores in one package. The engine puts the APIC id into EDX.
    fn cores(&mut self, vcpus: u32) {
        let shift = vcpus.max(1).next_power_of_two().trailing_zeros();
        self.sub(0xb, 0, Regs { eax: 0, ebx: 1, ecx: 1 << 8, edx: 0 });
        self.sub(0xb, 1, Regs { eax: shift, ebx: vcpus, ecx: 1 | 2 << 8, edx: 0 });
        self.sub(0xb, 2, Regs { ecx: 2, ..Regs::default() });
    }

    /// Leaves 15h and 16h, and the timing leaf that hypervisors offer. Linux multiplies the crystal's kilohertz and EBX of
    /// leaf 15h in 32 bits, hence a small crystal and a small ratio.
    fn frequencies(&mut self, tsc_hz: u64) {
        let denominator = 500;
        let numerator = (tsc_hz * denominator + CRYSTAL_HZ / 2) / CRYSTAL_HZ;
        self.leaf(
            0x15,
            Regs { eax: denominator as u32, ebx: numerator as u32, ecx: CRYSTAL_HZ as u32, edx: 0 },
        );
        let mhz = (tsc_hz / 1_000_000) as u32;
        self.leaf(0x16, Regs { eax: mhz, ebx: mhz, ecx: 100, edx: 0 });
        let word = |s: &[u8; 4]| u32::from_le_bytes(*s);
        self.leaf(0x4000_0000, Regs { eax: 0x4000_0010, ebx: word(b"Viso"), ecx: word(b"rVis"), edx: word(b"or  ") });
        let khz = |hz: u64| (hz / 1000) as u32;
        self.leaf(0x4000_0010, Regs { eax: khz(tsc_hz), ebx: khz(CRYSTAL_HZ), ecx: 0, edx: 0 });
    }

    fn brand(&mut self, text: &str) {
        let mut raw = [0u8; 48];
        for (to, from) in raw.iter_mut().zip(text.bytes().take(47)) {
            *to = from;
        }
        for (i, chunk) in raw.chunks_exact(16).enumerate() {
            let word = |at: usize| u32::from_le_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]]);
            self.leaf(0x8000_0002 + i as u32, Regs { eax: word(0), ebx: word(4), ecx: word(8), edx: word(12) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_rate_survives_linux_arithmetic_to_ten_ppm() {
        for hz in [1_000_000_000u64, 2_600_123_000, 5_800_000_000] {
            let r = model("x86-64-v3", hz, Topology { vcpus: 1 }).unwrap().get(0x15, 0).unwrap();
            let crystal_khz = r.ecx / 1000;
            let khz = crystal_khz.checked_mul(r.ebx).unwrap() / r.eax;
            let error = (i64::from(khz) * 1000 - hz as i64).unsigned_abs();
            assert!(error * 100_000 <= hz * 2, "{hz}: {khz} kHz");
        }
    }

    #[test]
    fn levels_are_nested_and_unknown_names_have_no_model() {
        let get = |n| model(n, 2_000_000_000, Topology { vcpus: 1 }).unwrap().get(1, 0).unwrap().ecx;
        assert_eq!(get("x86-64-v2") & get("x86-64-v1"), get("x86-64-v1"));
        assert_eq!(get("x86-64-v3") & get("x86-64-v2"), get("x86-64-v2"));
        assert_eq!(model("486", 1, Topology { vcpus: 1 }).unwrap().get(0x8000_0001, 0), None);
        assert!(model("x86-64-v9", 1, Topology { vcpus: 1 }).is_none());
        assert_eq!(ARCH_CAPABILITIES & 3, 3);
    }
}
