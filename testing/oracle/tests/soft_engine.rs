//! The software engine against the host CPU, with a fixed seed.

use visor_engine::Engine;
use visor_engine_soft::SoftEngine;
use visor_test_oracle::case::Mode;
use visor_test_oracle::compare::Mismatch;
use visor_test_oracle::generate::{Generator, Options};
use visor_test_oracle::native::Native;
use visor_test_oracle::run::{Limits, Report, run};
use visor_test_oracle::subject::{EngineSubject, Subject};

const CASES: u64 = 200_000;

fn fuzz(seed: u64, subject: &mut dyn Subject) -> (Generator, Report) {
    let generator = Generator::new(Options { seed, ..Options::default() }).expect("catalogue");
    let mut native = Native::new().expect("a host with AVX and FSGSBASE");
    let limits = Limits { first: 0, cases: CASES, time: None, mismatches: usize::MAX };
    let report = run(&generator, &mut native, Some(subject), limits).expect("run");
    (generator, report)
}

/// What is known to be wrong in the engine. This list may only shrink.
fn known(m: &Mismatch) -> bool {
    let (culprit, kind) = (m.culprit(), m.kind());
    let compat = m.case.mode == Mode::Compat;
    let codes: Vec<String> = m.instructions().iter().map(|i| format!("{:?}", i.code())).collect();
    let has = |prefix: &str| codes.iter().any(|c| c.starts_with(prefix));
    // Instructions of more than 15 bytes must raise #GP(0), not #UD.
    (culprit == "INVALID" && kind == "exception 13 here 6")
        // Operands that cross the 4 GiB limit of a flat 32-bit segment must raise #GP or #SS.
        || (compat && (kind.starts_with("exception 13 here") || kind.starts_with("exception 12 here")))
        || (compat && culprit.starts_with("Les_") | culprit.starts_with("Lds_"))
        // Alignment of the REX.W forms must not be checked.
        || (culprit.starts_with("Pcmpestr") && kind.ends_with("here 13"))
        // A fault must leave the x87 registers as they were.
        || has("Maskmovq")
        // The memory operand of a store must be checked before the numeric exception.
        || ["Fst", "Fist", "Fbst"].iter().any(|p| has(p))
        || culprit.starts_with("VEX_Vcvtps2ph")
        // FCMOV and FCOMI raise #UD.
        || ["Fcmov", "Fcomi", "Fucomi"].iter().any(|p| has(p))
        // With REX.B this is XCHG.
        || has("Pause")
        // MOV SS and POP SS inhibit the single-step trap.
        || (kind == "exception 3 here 1" && ["Mov_Sreg", "Pop"].iter().any(|p| culprit.starts_with(p)))
        // BSF and BSR of zero leave the whole register alone, POP of a segment register reads the whole slot.
        || ["Bsf_r32", "Bsr_r32", "Popq_FS", "Popq_GS"].iter().any(|p| culprit.starts_with(p))
        // XSAVEC leaves bytes 16 to 63 of the header alone.
        || has("Xsavec")
        // An unmasked exception before the computation keeps PE, OE and UE out of MXCSR; so does unmasked overflow for PE.
        || (kind == "mxcsr" && m.native_vector == 19)
        // A prefix of SS on a string instruction does not change the exception in 64-bit mode.
        || kind == "exception 13 here 12"
}

#[test]
fn the_software_engine_agrees_with_the_host() {
    let engine = SoftEngine::new().expect("engine");
    let mut subject = EngineSubject::new(&engine, &engine.caps().cpuid).expect("guest");
    let (_, report) = fuzz(1, &mut subject);
    assert_eq!(report.cases, CASES);
    assert!(report.useless < CASES / 1000, "{} cases without a verdict", report.useless);
    let unknown: Vec<_> = report.mismatches.iter().filter(|m| !known(m)).collect();
    let text: String = unknown.iter().take(10).map(|m| m.to_string()).collect();
    assert!(unknown.is_empty(), "{} new mismatches:\n{text}", unknown.len());
}

#[test]
fn the_host_agrees_with_itself_on_every_instruction_form() {
    let mut subject = Native::new().expect("a host with AVX and FSGSBASE");
    let (generator, report) = fuzz(2, &mut subject);
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
