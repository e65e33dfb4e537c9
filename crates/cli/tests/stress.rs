//! The stress guest (`testing/linux/stress`), each test once: what a CPU engine gets wrong shows here. `cargo xtask stress` runs it
//! for long.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use visor_test_linux::stress::{Contents, Guest, Job, run, sets};

/// The guest is made once for all tests.
fn guest() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stress-guest");
        Guest::make(&directory, Contents::default()).unwrap()
    })
}

/// One machine at a time: each has up to four CPUs, and some tests want theirs at the same time.
fn stress(job: &Job<'_>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let report = run(Path::new(env!("CARGO_BIN_EXE_visor")), guest(), job).unwrap();
    assert!(report.is_good(), "{report}");
}

#[test]
fn programs_on_one_cpu() {
    let groups = ["code", "jit", "fault", "signal", "ptrace", "legacy", "process"];
    stress(&Job { tests: sets::tests_64(&groups), tests_32: sets::tests_32(&groups), ..Job::default() });
}

#[test]
fn kernel_text_and_compilers_on_one_cpu() {
    let groups = ["trace", "bpf", "module"];
    stress(&Job { tests: sets::tests_64(&groups), compilers: vec!["tcc"], ..Job::default() });
}

#[test]
fn two_cpus_share_memory_code_and_time() {
    let groups = ["patch", "atomic", "litmus", "shootdown", "clock", "signal-crossfire"];
    stress(&Job {
        tests: sets::tests_64(&groups),
        tests_32: sets::tests_32(&["patch", "atomic"]),
        cpus: 2,
        ..Job::default()
    });
}

#[test]
fn four_cpus_even_on_fewer_cores() {
    let groups =
        ["patch", "atomic", "litmus-independent", "litmus-causality", "shootdown", "clock", "process", "trace-k"];
    stress(&Job { tests: sets::tests_64(&groups), cpus: 4, ..Job::default() });
}
