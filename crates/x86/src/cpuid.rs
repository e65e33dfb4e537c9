//! CPUID tables as data, and the virtual CPU models (SDM 2A, CPUID).
//!
//! A model is an ideal; [`Cpuid::restrict_to`] takes away what an engine on a given host cannot execute. Why the models are
//! what they are is told in `docs/adr/0003-cpu-model.md`.

mod models;

pub use models::{ARCH_CAPABILITIES, CRYSTAL_HZ, MODELS, Topology, model};

/// The four registers that one leaf returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Regs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One leaf, or one subleaf of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where the leaf has subleaves.
    pub subleaf: Option<u32>,
    /// What it returns.
    pub regs: Regs,
}

/// A CPUID table: what one virtual CPU announces.
///
/// Bits that follow control registers (OSXSAVE, the XSAVE size in use) and the APIC id of the CPU that asks are filled in by
/// the engine.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cpuid {
    /// The leaves, in any order.
    pub entries: Vec<Entry>,
}

/// Leaf 1 ECX.
pub mod leaf1_ecx {
    #![allow(missing_docs)]
    pub const SSE3: u32 = 1 << 0;
    pub const PCLMULQDQ: u32 = 1 << 1;
    pub const SSSE3: u32 = 1 << 9;
    pub const FMA: u32 = 1 << 12;
    pub const CX16: u32 = 1 << 13;
    pub const PCID: u32 = 1 << 17;
    pub const SSE4_1: u32 = 1 << 19;
    pub const SSE4_2: u32 = 1 << 20;
    pub const X2APIC: u32 = 1 << 21;
    pub const MOVBE: u32 = 1 << 22;
    pub const POPCNT: u32 = 1 << 23;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const AES: u32 = 1 << 25;
    pub const XSAVE: u32 = 1 << 26;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const AVX: u32 = 1 << 28;
    pub const F16C: u32 = 1 << 29;
    pub const RDRAND: u32 = 1 << 30;
    pub const HYPERVISOR: u32 = 1 << 31;
}

/// Leaf 7 subleaf 0 EBX.
pub mod leaf7_ebx {
    #![allow(missing_docs)]
    pub const FSGSBASE: u32 = 1 << 0;
    pub const TSC_ADJUST: u32 = 1 << 1;
    pub const BMI1: u32 = 1 << 3;
    pub const AVX2: u32 = 1 << 5;
    pub const SMEP: u32 = 1 << 7;
    pub const BMI2: u32 = 1 << 8;
    pub const ERMS: u32 = 1 << 9;
    pub const INVPCID: u32 = 1 << 10;
    pub const RDSEED: u32 = 1 << 18;
    pub const ADX: u32 = 1 << 19;
    pub const SMAP: u32 = 1 << 20;
    pub const CLFLUSHOPT: u32 = 1 << 23;
    pub const SHA: u32 = 1 << 29;
}

impl Cpuid {
    /// The entry that answers `leaf` and `subleaf`, if the table has one.
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<Regs> {
        self.entries.iter().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf)).map(|e| e.regs)
    }

    /// The registers of `leaf` and `subleaf`, for change.
    pub fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut Regs> {
        let entry = self.entries.iter_mut().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf))?;
        Some(&mut entry.regs)
    }

    /// Takes away every feature that `host` does not have, and those that depend on them.
    pub fn restrict_to(&mut self, host: &Cpuid) {
        for (leaf, subleaf, mask) in FEATURE_WORDS {
            let has = host.get(*leaf, *subleaf).unwrap_or_default();
            if let Some(own) = self.get_mut(*leaf, *subleaf) {
                let and = |own: &mut u32, has: u32, bits: u32| *own &= has | !bits;
                and(&mut own.eax, has.eax, mask.eax);
                and(&mut own.ebx, has.ebx, mask.ebx);
                and(&mut own.ecx, has.ecx, mask.ecx);
                and(&mut own.edx, has.edx, mask.edx);
            }
        }
        self.drop_dependents();
    }

    /// AVX2, FMA, F16C and the YMM state go with AVX; AVX goes with XSAVE.
    fn drop_dependents(&mut self) {
        let Some(one) = self.get_mut(1, 0) else { return };
        if one.ecx & leaf1_ecx::XSAVE == 0 {
            one.ecx &= !leaf1_ecx::AVX;
        }
        if one.ecx & leaf1_ecx::AVX != 0 {
            return;
        }
        one.ecx &= !(leaf1_ecx::FMA | leaf1_ecx::F16C);
        if let Some(seven) = self.get_mut(7, 0) {
            seven.ebx &= !leaf7_ebx::AVX2;
        }
        if let Some(xsave) = self.get_mut(0xd, 0) {
            xsave.eax &= 3;
            (xsave.ebx, xsave.ecx) = (576, 576);
        }
        self.entries.retain(|e| (e.leaf, e.subleaf) != (0xd, Some(2)));
    }
}

const ALL: u32 = u32::MAX;

/// The words that hold feature bits, with the bits that need the host's consent. Those that an engine provides by itself whatever
/// its host (HYPERVISOR, TSC deadline and x2APIC of its own local APIC) are in its table.
const FEATURE_WORDS: &[(u32, u32, Regs)] = &[
    (1, 0, Regs { eax: 0, ebx: 0, ecx: ALL & !leaf1_ecx::HYPERVISOR, edx: ALL }),
    (7, 0, Regs { eax: 0, ebx: ALL, ecx: ALL, edx: ALL }),
    (0xd, 1, Regs { eax: ALL, ebx: 0, ecx: 0, edx: 0 }),
    (0x8000_0001, 0, Regs { eax: 0, ebx: 0, ecx: ALL, edx: ALL }),
    (0x8000_0007, 0, Regs { eax: 0, ebx: 0, ecx: 0, edx: ALL }),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn v3() -> Cpuid {
        model("x86-64-v3", 2_500_000_000, Topology { vcpus: 2 }).unwrap()
    }

    #[test]
    fn a_host_without_avx_takes_its_relatives_away() {
        let mut host = v3();
        host.get_mut(1, 0).unwrap().ecx &= !leaf1_ecx::AVX;
        let mut guest = v3();
        guest.restrict_to(&host);
        let one = guest.get(1, 0).unwrap();
        assert_eq!(one.ecx & (leaf1_ecx::AVX | leaf1_ecx::FMA | leaf1_ecx::F16C), 0);
        assert_eq!(guest.get(7, 0).unwrap().ebx & leaf7_ebx::AVX2, 0);
        assert_eq!(guest.get(0xd, 0).unwrap(), Regs { eax: 3, ebx: 576, ecx: 576, edx: 0 });
        assert_eq!(guest.get(0xd, 2), None);
        assert_ne!(one.ecx & leaf1_ecx::SSE4_2, 0, "what the host has stays");
    }

    #[test]
    fn a_full_host_takes_nothing_away() {
        let mut guest = v3();
        guest.restrict_to(&v3());
        assert_eq!(guest, v3());
    }
}
