//! The software engine against the host CPU, with a fixed seed.

use visor_engine::Engine;
use visor_engine_soft::{HostFeatures, SoftEngine, SoftOptions, Tier};
use visor_test_oracle::case::{Case, Mode};
use visor_test_oracle::compare::{Mismatch, compare};
use visor_test_oracle::generate::{Generator, Options};
use visor_test_oracle::layout;
use visor_test_oracle::native::Native;
use visor_test_oracle::run::{Limits, Report, run};
use visor_test_oracle::subject::{EngineSubject, Subject};

const CASES: u64 = 200_000;

fn fuzz(seed: u64, cases: u64, subject: &mut dyn Subject) -> (Generator, Report) {
    let generator = Generator::new(Options { seed, ..Options::default() }).expect("catalogue");
    let mut native = Native::new().expect("a host with AVX and FSGSBASE");
    let limits = Limits { first: 0, cases, time: None, mismatches: usize::MAX, dead_flags: true };
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

/// 32-bit code, with the stack in the middle of its page.
fn compat(code: &[u8], gpr: [u32; 8]) -> Case {
    let mut case = Case { mode: Mode::Compat, ..Case::default() };
    case.regs.sel = [0x2b, 0x23, 0x2b, 0x2b, 0x07, 0x0f];
    case.regs.gpr[..8].copy_from_slice(&gpr.map(u64::from));
    case.regs.gpr[4] = layout::STACK + 0x800;
    case.set_code(code);
    case
}

/// What random cases found once.
fn found_before() -> Vec<Case> {
    let mut cases = Vec::new();
    let gpr = |n: usize, value: u32| {
        let mut all = [0; 8];
        all[n] = value;
        all
    };
    // Far pointers over the end of 4 GiB, the second part of which is at 0: flat, and in FS, whose base is in the data.
    for at in 0xffff_fff6..=0xffff_ffff {
        for prefixes in [&[][..], &[0x66], &[0x64], &[0x64, 0x66]] {
            // jmp far [ebx]; call far [ebx]; les eax, [ebx]
            for code in [&[0xff, 0x2b][..], &[0xff, 0x1b], &[0xc4, 0x03]] {
                cases.push(compat(&[prefixes, code].concat(), gpr(3, at)));
            }
        }
    }
    // 80-bit operands around the ends of what is canonical, and of all addresses.
    for edge in [1 << 47, !0 << 47, 0u64] {
        for at in -11..=1i64 {
            // fld tword [rdi]; fstp tword [rdi]; fbld [rdi]; fbstp [rdi]
            for code in [[0xdb, 0x2f], [0xdb, 0x3f], [0xdf, 0x27], [0xdf, 0x37]] {
                let mut case = Case::default();
                case.regs.gpr[4] = layout::STACK + 0x800;
                case.regs.gpr[7] = edge.wrapping_add_signed(at);
                case.set_code(&code);
                cases.push(case);
            }
        }
    }
    // XRSTOR whose area ends within the limit of GS as far as it is read, with and without AVX in it.
    for offset in [0x4c0, 0x500, 0x580, 0x5c0, 0x600] {
        for present in [0, 3, 4, 7] {
            let mut case = compat(&[0x65, 0x0f, 0xae, 0x2e], gpr(6, offset)); // xrstor [gs:esi]
            case.regs.gpr[0] = 7;
            let at = u64::from(layout::LDT_GS_BASE + offset);
            let mut header = [0; 32];
            header[0] = present;
            let words =
                [(0, &0x37fu16.to_le_bytes()[..]), (24, &0x1f80u32.to_le_bytes()), (512, &header), (544, &[0; 32])];
            // What lies in the next page is read-only, and beyond the limit.
            for (offset, bytes) in words {
                let _ = case.patch(at + offset, bytes);
            }
            cases.push(case);
        }
    }
    cases
}

#[test]
fn what_differed_once_differs_no_more() {
    let cases = found_before();
    let native = Native::new().expect("a host with AVX and FSGSBASE").run(&cases).expect("run");
    for tier in [Tier::Interpreter, Tier::Translator] {
        let options = SoftOptions { tier, eager: true, verify: true, ..SoftOptions::default() };
        let engine = SoftEngine::with_options(options).expect("engine");
        let outcomes = EngineSubject::new(&engine, &engine.caps().cpuid).expect("guest").run(&cases).expect("run");
        let runs = cases.iter().zip(native.iter().zip(&outcomes));
        let mismatches: Vec<_> = runs.filter_map(|(case, (native, other))| compare(case, native, other)).collect();
        agrees(&mismatches);
    }
}
