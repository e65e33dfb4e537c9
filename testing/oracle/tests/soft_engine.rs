//! The software engine against the host CPU, with a fixed seed.

use visor_engine::Engine;
use visor_engine_soft::{HostFeatures, SoftEngine, SoftOptions, Tier};
use visor_test_oracle::case::Mode;
use visor_test_oracle::compare::Mismatch;
use visor_test_oracle::generate::{Generator, Options};
use visor_test_oracle::native::Native;
use visor_test_oracle::run::{Limits, Report, run};
use visor_test_oracle::subject::{EngineSubject, Subject};

const CASES: u64 = 200_000;

fn fuzz(seed: u64, cases: u64, subject: &mut dyn Subject) -> (Generator, Report) {
    let generator = Generator::new(Options { seed, ..Options::default() }).expect("catalogue");
    let mut native = Native::new().expect("a host with AVX and FSGSBASE");
    let limits = Limits { first: 0, cases, time: None, mismatches: usize::MAX };
    let report = run(&generator, &mut native, Some(subject), limits).expect("run");
    (generator, report)
}

#[test]
fn the_translator_agrees_with_the_host() {
    translator_agrees(3, CASES, HostFeatures::default());
}

#[test]
fn so_it_does_on_hosts_that_lack_features() {
    // Without AVX it would have none for its guests either, and disagree.
    translator_agrees(4, CASES / 5, HostFeatures { avx: false, ..HostFeatures::ALL });
}

#[test]
fn it_keeps_all_flags_if_asked_to() {
    for absent in [HostFeatures::default(), HostFeatures { avx: false, ..HostFeatures::ALL }] {
        let mismatches = translate(5, CASES / 5, SoftOptions { absent, exact_flags: true, ..SoftOptions::default() });
        agrees(&mismatches);
    }
}

fn translator_agrees(seed: u64, cases: u64, absent: HostFeatures) {
    let mut mismatches = translate(seed, cases, SoftOptions { absent, ..SoftOptions::default() });
    // Translated code does not keep flags that it overwrites before it reads them.
    mismatches.retain(|m| !m.is_of_dead_flags());
    agrees(&mismatches);
}

fn translate(seed: u64, cases: u64, options: SoftOptions) -> Vec<Mismatch> {
    let options = SoftOptions { tier: Tier::Translator, eager: true, verify: true, ..options };
    let engine = SoftEngine::with_options(options).expect("engine");
    let mut subject = EngineSubject::new(&engine, &engine.caps().cpuid).expect("guest");
    let (_, report) = fuzz(seed, cases, &mut subject);
    assert_eq!(report.cases, cases);
    report.mismatches
}

#[track_caller]
fn agrees(mismatches: &[Mismatch]) {
    let text: String = mismatches.iter().take(10).map(Mismatch::to_string).collect();
    assert!(mismatches.is_empty(), "{} mismatches:\n{text}", mismatches.len());
}

#[test]
fn the_interpreter_agrees_with_the_host() {
    let options = SoftOptions { tier: Tier::Interpreter, ..SoftOptions::default() };
    let engine = SoftEngine::with_options(options).expect("engine");
    let mut subject = EngineSubject::new(&engine, &engine.caps().cpuid).expect("guest");
    let (_, report) = fuzz(1, CASES, &mut subject);
    assert_eq!(report.cases, CASES);
    assert!(report.useless < CASES / 1000, "{} cases without a verdict", report.useless);
    agrees(&report.mismatches);
}

#[test]
fn the_host_agrees_with_itself_on_every_instruction_form() {
    let mut subject = Native::new().expect("a host with AVX and FSGSBASE");
    let (generator, report) = fuzz(2, CASES, &mut subject);
    assert!(report.mismatches.is_empty(), "{}", report.mismatches[0]);
    for mode in [Mode::Long, Mode::Compat] {
        assert_eq!(report.coverage.uncovered(generator.catalog(), mode), [], "not run in {mode:?} mode");
    }
}

#[test]
fn everything_the_virtual_cpu_announces_is_fuzzed() {
    use iced_x86::CpuidFeature as I;
    use visor_test_oracle::generate::policy::ANNOUNCED;
    use visor_x86::cpuid::feature as f;
    let pairs = [
        (f::CMOV, I::CMOV),
        (f::CX8, I::CX8),
        (f::CX16, I::CMPXCHG16B),
        (f::MMX, I::MMX),
        (f::FXSR, I::FXSR),
        (f::SSE, I::SSE),
        (f::SSE2, I::SSE2),
        (f::SSE3, I::SSE3),
        (f::SSSE3, I::SSSE3),
        (f::SSE4_1, I::SSE4_1),
        (f::SSE4_2, I::SSE4_2),
        (f::POPCNT, I::POPCNT),
        (f::AVX, I::AVX),
        (f::AVX2, I::AVX2),
        (f::FMA, I::FMA),
        (f::F16C, I::F16C),
        (f::BMI1, I::BMI1),
        (f::BMI2, I::BMI2),
        (f::LZCNT, I::LZCNT),
        (f::MOVBE, I::MOVBE),
        (f::AES, I::AES),
        (f::PCLMULQDQ, I::PCLMULQDQ),
        (f::SHA, I::SHA),
        (f::ADX, I::ADX),
        (f::FSGSBASE, I::FSGSBASE),
        (f::GFNI, I::GFNI),
        (f::VAES, I::VAES),
        (f::VPCLMULQDQ, I::VPCLMULQDQ),
        (f::XSAVE, I::XSAVE),
        (f::XSAVEOPT, I::XSAVEOPT),
        (f::XSAVEC, I::XSAVEC),
        (f::CLFLUSHOPT, I::CLFLUSHOPT),
        (f::CLWB, I::CLWB),
        (f::PREFETCHW, I::PREFETCHW),
    ];
    let engine = SoftEngine::new().expect("engine");
    for (announced, fuzzed) in pairs {
        assert!(!engine.caps().cpuid.has(announced) || ANNOUNCED.contains(&fuzzed), "{fuzzed:?}");
    }
}
