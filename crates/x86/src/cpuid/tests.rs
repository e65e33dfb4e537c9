use super::feature::*;
use super::*;

fn table(model: Model) -> Cpuid {
    model.cpuid(&ModelConfig { cpus: 3, tsc_khz: 2_596_094, apic_hz: 1_000_000_000 })
}

#[test]
fn names_round_trip() {
    for m in Model::ALL {
        assert_eq!(Model::from_name(m.name()), Some(m));
    }
    assert_eq!(Model::from_name("pentium"), None);
}

#[test]
fn every_feature_has_a_leaf() {
    let t = table(Model::V3);
    for f in [AVX2, SMAP, XSAVEC, LM, PCID, INVARIANT_TSC, RDPID, FSRM, HTT] {
        assert!(t.has(f), "{f:?}");
    }
    assert!(!table(Model::V1).has(SSE3) && table(Model::V2).has(SSE4_2) && !table(Model::V2).has(AVX));
    assert!(!table(Model::I486).has(TSC) && table(Model::I486).has(FPU));
}

#[test]
fn the_tsc_frequency_is_exact_enough_in_32_bit_arithmetic() {
    for khz in [1_000_000, 1_999_999, 2_596_094, 3_399_998, 4_200_000, 5_700_001] {
        let t = Model::V1.cpuid(&ModelConfig { cpus: 1, tsc_khz: khz, apic_hz: 1_000_000_000 });
        let r = t.get(0x15, 0).unwrap();
        let product = (r.ecx / 1000).checked_mul(r.ebx).expect("an operating system would overflow");
        let error = i64::from(product / r.eax) - i64::from(khz);
        assert!(error.abs() <= i64::from(khz / 1_000_000 + 1), "{khz}: off by {error} kHz");
    }
}

#[test]
fn bits_can_be_cleared() {
    let mut t = table(Model::V3);
    t.set(AVX2, false);
    assert!(!t.has(AVX2) && t.has(BMI2));
}

#[test]
fn topology_counts_cores() {
    let r = table(Model::V3).get(0xb, 1).unwrap();
    assert_eq!((r.eax, r.ebx), (2, 3));
}

#[test]
fn what_the_host_lacks_goes_with_its_dependents() {
    let full = table(Model::V3);
    let mut host = full.clone();
    host.set(AVX, false);
    let mut t = full.clone();
    t.restrict_to(&host);
    assert!(!t.has(AVX) && !t.has(AVX2) && !t.has(FMA) && t.has(SSE4_2) && t.has(XSAVE));
    assert_eq!(t.get(0xd, 0).unwrap(), Regs { eax: 3, ebx: 576, ecx: 576, edx: 0 });
    assert_eq!(t.get(0xd, 2), None);
    let mut same = full.clone();
    same.restrict_to(&full);
    assert_eq!(same, full);
}
