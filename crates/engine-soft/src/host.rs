//! What of the host's CPU translated code makes use of, beyond what every x86-64 CPU has.

use std::arch::x86_64::__cpuid;

use visor_fpu::FpuFeatures;

/// Features of the host. Each has a slower way round it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFeatures {
    /// BMI2's PEXT, executed as fast as other instructions.
    pub pext: bool,
    /// WRGSBASE, and a kernel that lets programs use it.
    pub fsgsbase: bool,
    /// AVX, and a kernel that keeps its registers. Guests have AVX only where the host does.
    pub avx: bool,
}

impl HostFeatures {
    /// All of them.
    pub const ALL: HostFeatures = HostFeatures { pext: true, fsgsbase: true, avx: true };

    /// Those of this host.
    pub fn detect() -> Self {
        HostFeatures {
            pext: std::is_x86_feature_detected!("bmi2") && !has_slow_pext(),
            fsgsbase: has_fsgsbase(),
            avx: std::is_x86_feature_detected!("avx"),
        }
    }

    /// These without those of `absent`.
    pub fn without(self, absent: HostFeatures) -> Self {
        HostFeatures {
            pext: self.pext && !absent.pext,
            fsgsbase: self.fsgsbase && !absent.fsgsbase,
            avx: self.avx && !absent.avx,
        }
    }

    /// The units that are not there for guests if these features are `absent`.
    pub(crate) fn absent_units(absent: HostFeatures) -> FpuFeatures {
        use FpuFeatures as F;
        if absent.avx { F::AVX | F::AVX2 | F::FMA | F::F16C | F::VAES | F::VPCLMULQDQ } else { F::empty() }
    }
}

/// AMD's CPUs before Zen 3 (family 19h), and Hygon's, execute PEXT in microcode: up to 300 cycles (AMD's Software Optimization Guide for
/// family 17h, appendix).
fn has_slow_pext() -> bool {
    let vendor = __cpuid(0);
    let signature = __cpuid(1).eax;
    is_slow([vendor.ebx, vendor.edx, vendor.ecx], signature)
}

fn is_slow(vendor: [u32; 3], signature: u32) -> bool {
    let base = signature >> 8 & 15;
    let family = if base == 15 { base + (signature >> 20 & 0xff) } else { base };
    let name: Vec<u8> = vendor.iter().flat_map(|r| r.to_le_bytes()).collect();
    match name.as_slice() {
        b"AuthenticAMD" => family < 0x19,
        b"HygonGenuine" => true,
        _ => false,
    }
}

/// The kernel lets programs set the GS base (AT_HWCAP2, bit 1).
fn has_fsgsbase() -> bool {
    // SAFETY: a plain library call.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vendor(name: &[u8; 12]) -> [u32; 3] {
        std::array::from_fn(|i| u32::from_le_bytes([name[4 * i], name[4 * i + 1], name[4 * i + 2], name[4 * i + 3]]))
    }

    #[test]
    fn pext_is_slow_before_zen_3() {
        let amd = vendor(b"AuthenticAMD");
        assert!(is_slow(amd, 0x0060_0f12), "Bulldozer's successors, family 15h");
        assert!(is_slow(amd, 0x0080_0f11), "Zen, family 17h");
        assert!(is_slow(amd, 0x0087_0f10), "Zen 2, family 17h");
        assert!(!is_slow(amd, 0x00a2_0f10), "Zen 3, family 19h");
        assert!(!is_slow(amd, 0x00b4_0f40), "Zen 5, family 1Ah");
        assert!(is_slow(vendor(b"HygonGenuine"), 0x0090_0f01));
        assert!(!is_slow(vendor(b"GenuineIntel"), 0x0003_06c3), "Haswell");
    }

    #[test]
    fn what_is_absent_is_not_there() {
        let no_pext = HostFeatures { pext: true, ..HostFeatures::default() };
        let rest = HostFeatures::ALL.without(no_pext);
        assert_eq!(rest, HostFeatures { pext: false, fsgsbase: true, avx: true });
        assert_eq!(HostFeatures::detect().without(HostFeatures::ALL), HostFeatures::default());
        assert!(HostFeatures::absent_units(HostFeatures::ALL).contains(FpuFeatures::AVX2));
        assert!(HostFeatures::absent_units(no_pext).is_empty());
    }
}
