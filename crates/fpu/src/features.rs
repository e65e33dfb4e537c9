//! Which instruction groups the host can execute, and which group an instruction belongs to.

use iced_x86::{Code, CpuidFeature};
use std::sync::OnceLock;

bitflags::bitflags! {
    /// Instruction groups of this unit, as CPUID names them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FpuFeatures: u32 {
        /// x87, MMX, FXSAVE, SSE and SSE2: every x86-64 processor has them.
        const BASE = 1;
        /// SSE3.
        const SSE3 = 1 << 1;
        /// SSSE3.
        const SSSE3 = 1 << 2;
        /// SSE4.1.
        const SSE41 = 1 << 3;
        /// SSE4.2.
        const SSE42 = 1 << 4;
        /// AES-NI.
        const AES = 1 << 5;
        /// PCLMULQDQ.
        const PCLMUL = 1 << 6;
        /// SHA-1 and SHA-256.
        const SHA = 1 << 7;
        /// AVX, with the operating system's consent.
        const AVX = 1 << 8;
        /// AVX2.
        const AVX2 = 1 << 9;
        /// Fused multiply-add (FMA3).
        const FMA = 1 << 10;
        /// Half-precision conversion.
        const F16C = 1 << 11;
        /// Galois field instructions (SSE and VEX forms).
        const GFNI = 1 << 12;
        /// AES on 256-bit vectors (VEX forms).
        const VAES = 1 << 13;
        /// Carry-less multiplication on 256-bit vectors (VEX forms).
        const VPCLMULQDQ = 1 << 14;
    }
}

/// The groups the host can execute. Only these may be offered to a guest through CPUID.
pub fn host_features() -> FpuFeatures {
    static FEATURES: OnceLock<FpuFeatures> = OnceLock::new();
    *FEATURES.get_or_init(detect)
}

fn detect() -> FpuFeatures {
    let avx = is_x86_feature_detected!("avx");
    let mut found = FpuFeatures::BASE;
    let probes = [
        (FpuFeatures::SSE3, is_x86_feature_detected!("sse3")),
        (FpuFeatures::SSSE3, is_x86_feature_detected!("ssse3")),
        (FpuFeatures::SSE41, is_x86_feature_detected!("sse4.1")),
        (FpuFeatures::SSE42, is_x86_feature_detected!("sse4.2")),
        (FpuFeatures::AES, is_x86_feature_detected!("aes")),
        (FpuFeatures::PCLMUL, is_x86_feature_detected!("pclmulqdq")),
        (FpuFeatures::SHA, is_x86_feature_detected!("sha")),
        (FpuFeatures::AVX, avx),
        (FpuFeatures::AVX2, avx && is_x86_feature_detected!("avx2")),
        (FpuFeatures::FMA, avx && is_x86_feature_detected!("fma")),
        (FpuFeatures::F16C, avx && is_x86_feature_detected!("f16c")),
        (FpuFeatures::GFNI, is_x86_feature_detected!("gfni")),
        (FpuFeatures::VAES, avx && is_x86_feature_detected!("vaes")),
        (FpuFeatures::VPCLMULQDQ, avx && is_x86_feature_detected!("vpclmulqdq")),
    ];
    for (feature, present) in probes {
        found.set(feature, present);
    }
    found
}

/// The host can execute `code`, which belongs to this unit.
pub fn host_executes(code: Code) -> bool {
    required(code).is_some_and(|needed| host_features().contains(needed))
}

/// The groups all of which `code` needs, or `None` when it is not in any group of this unit.
pub(crate) fn required(code: Code) -> Option<FpuFeatures> {
    if code == Code::Wait {
        return Some(FpuFeatures::BASE);
    }
    let mut needed = FpuFeatures::empty();
    let features = code.cpuid_features();
    for feature in features {
        needed |= match feature {
            // FCMOVcc and FCOMI; CMOVcc itself is no instruction of this unit.
            CpuidFeature::CMOV if code.cpuid_features().contains(&CpuidFeature::FPU) => FpuFeatures::BASE,
            CpuidFeature::FPU
            | CpuidFeature::FPU287
            | CpuidFeature::FPU287XL_ONLY
            | CpuidFeature::FPU387
            | CpuidFeature::FPU387SL_ONLY
            | CpuidFeature::MMX
            | CpuidFeature::FXSR
            | CpuidFeature::SSE
            | CpuidFeature::SSE2 => FpuFeatures::BASE,
            // FCMOVcc, not CMOVcc.
            CpuidFeature::CMOV if features.contains(&CpuidFeature::FPU) => FpuFeatures::BASE,
            CpuidFeature::SSE3 => FpuFeatures::SSE3,
            CpuidFeature::SSSE3 => FpuFeatures::SSSE3,
            CpuidFeature::SSE4_1 => FpuFeatures::SSE41,
            CpuidFeature::SSE4_2 => FpuFeatures::SSE42,
            CpuidFeature::AES => FpuFeatures::AES,
            CpuidFeature::PCLMULQDQ => FpuFeatures::PCLMUL,
            CpuidFeature::SHA => FpuFeatures::SHA,
            CpuidFeature::AVX => FpuFeatures::AVX,
            CpuidFeature::AVX2 => FpuFeatures::AVX2,
            CpuidFeature::FMA => FpuFeatures::FMA,
            CpuidFeature::F16C => FpuFeatures::F16C,
            CpuidFeature::GFNI => FpuFeatures::GFNI,
            CpuidFeature::VAES => FpuFeatures::VAES,
            CpuidFeature::VPCLMULQDQ => FpuFeatures::VPCLMULQDQ,
            _ => return None,
        };
    }
    Some(needed)
}
