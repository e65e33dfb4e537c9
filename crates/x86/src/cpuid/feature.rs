//! Names of feature bits.
#![allow(missing_docs)]

use super::Regs;

/// One of the four result registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    pub(super) fn of(self, regs: &Regs) -> u32 {
        match self {
            Register::Eax => regs.eax,
            Register::Ebx => regs.ebx,
            Register::Ecx => regs.ecx,
            Register::Edx => regs.edx,
        }
    }

    pub(super) fn of_mut(self, regs: &mut Regs) -> &mut u32 {
        match self {
            Register::Eax => &mut regs.eax,
            Register::Ebx => &mut regs.ebx,
            Register::Ecx => &mut regs.ecx,
            Register::Edx => &mut regs.edx,
        }
    }
}

/// A bit that announces a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub leaf: u32,
    pub subleaf: u32,
    pub register: Register,
    pub bit: u8,
}

const fn bit(leaf: u32, subleaf: u32, register: Register, bit: u8) -> Feature {
    Feature { leaf, subleaf, register, bit }
}

pub const FPU: Feature = bit(1, 0, Register::Edx, 0);
pub const VME: Feature = bit(1, 0, Register::Edx, 1);
pub const DE: Feature = bit(1, 0, Register::Edx, 2);
pub const PSE: Feature = bit(1, 0, Register::Edx, 3);
pub const TSC: Feature = bit(1, 0, Register::Edx, 4);
pub const MSR: Feature = bit(1, 0, Register::Edx, 5);
pub const PAE: Feature = bit(1, 0, Register::Edx, 6);
pub const MCE: Feature = bit(1, 0, Register::Edx, 7);
pub const CX8: Feature = bit(1, 0, Register::Edx, 8);
pub const APIC: Feature = bit(1, 0, Register::Edx, 9);
pub const SEP: Feature = bit(1, 0, Register::Edx, 11);
pub const MTRR: Feature = bit(1, 0, Register::Edx, 12);
pub const PGE: Feature = bit(1, 0, Register::Edx, 13);
pub const MCA: Feature = bit(1, 0, Register::Edx, 14);
pub const CMOV: Feature = bit(1, 0, Register::Edx, 15);
pub const PAT: Feature = bit(1, 0, Register::Edx, 16);
pub const PSE36: Feature = bit(1, 0, Register::Edx, 17);
pub const CLFSH: Feature = bit(1, 0, Register::Edx, 19);
pub const MMX: Feature = bit(1, 0, Register::Edx, 23);
pub const FXSR: Feature = bit(1, 0, Register::Edx, 24);
pub const SSE: Feature = bit(1, 0, Register::Edx, 25);
pub const SSE2: Feature = bit(1, 0, Register::Edx, 26);
pub const SS: Feature = bit(1, 0, Register::Edx, 27);
pub const HTT: Feature = bit(1, 0, Register::Edx, 28);

pub const SSE3: Feature = bit(1, 0, Register::Ecx, 0);
pub const PCLMULQDQ: Feature = bit(1, 0, Register::Ecx, 1);
pub const MONITOR: Feature = bit(1, 0, Register::Ecx, 3);
pub const SSSE3: Feature = bit(1, 0, Register::Ecx, 9);
pub const FMA: Feature = bit(1, 0, Register::Ecx, 12);
pub const CX16: Feature = bit(1, 0, Register::Ecx, 13);
pub const PCID: Feature = bit(1, 0, Register::Ecx, 17);
pub const SSE4_1: Feature = bit(1, 0, Register::Ecx, 19);
pub const SSE4_2: Feature = bit(1, 0, Register::Ecx, 20);
pub const X2APIC: Feature = bit(1, 0, Register::Ecx, 21);
pub const MOVBE: Feature = bit(1, 0, Register::Ecx, 22);
pub const POPCNT: Feature = bit(1, 0, Register::Ecx, 23);
pub const TSC_DEADLINE: Feature = bit(1, 0, Register::Ecx, 24);
pub const AES: Feature = bit(1, 0, Register::Ecx, 25);
pub const XSAVE: Feature = bit(1, 0, Register::Ecx, 26);
pub const OSXSAVE: Feature = bit(1, 0, Register::Ecx, 27);
pub const AVX: Feature = bit(1, 0, Register::Ecx, 28);
pub const F16C: Feature = bit(1, 0, Register::Ecx, 29);
pub const RDRAND: Feature = bit(1, 0, Register::Ecx, 30);
pub const HYPERVISOR: Feature = bit(1, 0, Register::Ecx, 31);

pub const FSGSBASE: Feature = bit(7, 0, Register::Ebx, 0);
pub const TSC_ADJUST: Feature = bit(7, 0, Register::Ebx, 1);
pub const BMI1: Feature = bit(7, 0, Register::Ebx, 3);
pub const AVX2: Feature = bit(7, 0, Register::Ebx, 5);
pub const SMEP: Feature = bit(7, 0, Register::Ebx, 7);
pub const BMI2: Feature = bit(7, 0, Register::Ebx, 8);
pub const ERMS: Feature = bit(7, 0, Register::Ebx, 9);
pub const INVPCID: Feature = bit(7, 0, Register::Ebx, 10);
pub const RDSEED: Feature = bit(7, 0, Register::Ebx, 18);
pub const ADX: Feature = bit(7, 0, Register::Ebx, 19);
pub const SMAP: Feature = bit(7, 0, Register::Ebx, 20);
pub const CLFLUSHOPT: Feature = bit(7, 0, Register::Ebx, 23);
pub const CLWB: Feature = bit(7, 0, Register::Ebx, 24);
pub const SHA: Feature = bit(7, 0, Register::Ebx, 29);

pub const UMIP: Feature = bit(7, 0, Register::Ecx, 2);
pub const PKU: Feature = bit(7, 0, Register::Ecx, 3);
pub const GFNI: Feature = bit(7, 0, Register::Ecx, 8);
pub const VAES: Feature = bit(7, 0, Register::Ecx, 9);
pub const VPCLMULQDQ: Feature = bit(7, 0, Register::Ecx, 10);
pub const RDPID: Feature = bit(7, 0, Register::Ecx, 22);
pub const PKS: Feature = bit(7, 0, Register::Ecx, 31);

pub const FSRM: Feature = bit(7, 0, Register::Edx, 4);
pub const ARCH_CAPABILITIES: Feature = bit(7, 0, Register::Edx, 29);

pub const XSAVEOPT: Feature = bit(0xd, 1, Register::Eax, 0);
pub const XSAVEC: Feature = bit(0xd, 1, Register::Eax, 1);
pub const XGETBV1: Feature = bit(0xd, 1, Register::Eax, 2);
pub const XSAVES: Feature = bit(0xd, 1, Register::Eax, 3);

pub const LAHF: Feature = bit(0x8000_0001, 0, Register::Ecx, 0);
pub const LZCNT: Feature = bit(0x8000_0001, 0, Register::Ecx, 5);
pub const PREFETCHW: Feature = bit(0x8000_0001, 0, Register::Ecx, 8);

pub const SYSCALL: Feature = bit(0x8000_0001, 0, Register::Edx, 11);
pub const NX: Feature = bit(0x8000_0001, 0, Register::Edx, 20);
pub const PDPE1GB: Feature = bit(0x8000_0001, 0, Register::Edx, 26);
pub const RDTSCP: Feature = bit(0x8000_0001, 0, Register::Edx, 27);
pub const LM: Feature = bit(0x8000_0001, 0, Register::Edx, 29);

pub const INVARIANT_TSC: Feature = bit(0x8000_0007, 0, Register::Edx, 8);

/// Every feature named here, but those that engines set by themselves (OSXSAVE) or that describe the machine (HTT,
/// HYPERVISOR).
pub const ALL: &[Feature] = &[
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
    SSE3,
    PCLMULQDQ,
    MONITOR,
    SSSE3,
    FMA,
    CX16,
    PCID,
    SSE4_1,
    SSE4_2,
    X2APIC,
    MOVBE,
    POPCNT,
    TSC_DEADLINE,
    AES,
    XSAVE,
    AVX,
    F16C,
    RDRAND,
    FSGSBASE,
    TSC_ADJUST,
    BMI1,
    AVX2,
    SMEP,
    BMI2,
    ERMS,
    INVPCID,
    RDSEED,
    ADX,
    SMAP,
    CLFLUSHOPT,
    CLWB,
    SHA,
    UMIP,
    PKU,
    PKS,
    GFNI,
    VAES,
    VPCLMULQDQ,
    RDPID,
    FSRM,
    ARCH_CAPABILITIES,
    XSAVEOPT,
    XSAVEC,
    XGETBV1,
    XSAVES,
    LAHF,
    LZCNT,
    PREFETCHW,
    SYSCALL,
    NX,
    PDPE1GB,
    RDTSCP,
    LM,
    INVARIANT_TSC,
];
