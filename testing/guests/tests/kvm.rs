//! The suite on the KVM engine, where this host has it.
//!
//! Some hosts have a page-table KVM without hardware virtualization ("kvm-pvm"), which emulates privileged guest code in the
//! kernel. That emulator is incomplete; what was seen to be wrong in it is excused there, and only there.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use visor_engine_kvm::KvmEngine;
use visor_engine_soft::SoftEngine;
use visor_test_guests::conformance::{self, Excuse};
use visor_test_guests::{paging, scenario};

/// What a page-table KVM gets wrong. Each was seen.
const EMULATED: &[Excuse] = &[
    Excuse { program: "long/double-fault", reason: "it repeats a push without a stack for ever" },
    Excuse { program: "real/idtr-limit", reason: "it takes vectors beyond the limit of the real-mode IDT" },
    Excuse { program: "exception/double", reason: "it makes #DF of an absent gate of a benign exception" },
    Excuse { program: "debug/data-breakpoint", reason: "it has no data breakpoints" },
    Excuse { program: "paging/32-bit", reason: "it has 4-level paging only" },
    Excuse { program: "paging/accessed-dirty", reason: "it has 4-level paging only" },
    Excuse { program: "paging/invalidation", reason: "it has 4-level paging only" },
    Excuse { program: "paging/global", reason: "it has 4-level paging only" },
    Excuse { program: "paging/crossing", reason: "it has 4-level paging only" },
    Excuse { program: "paging/pae", reason: "it has 4-level paging only" },
    Excuse { program: "modify/alias", reason: "it has 4-level paging only" },
    Excuse { program: "long/ring3", reason: "it cannot run ring 3" },
    Excuse { program: "long/ring3-interrupt", reason: "it cannot run ring 3" },
    Excuse { program: "long/syscall", reason: "it cannot run ring 3" },
    Excuse { program: "long/sysret32", reason: "it cannot run ring 3" },
    Excuse { program: "long/call-gate", reason: "it cannot run ring 3" },
    Excuse { program: "long/umip", reason: "it cannot run ring 3" },
    Excuse { program: "long/tsd-pce", reason: "it cannot run ring 3" },
    Excuse { program: "long/iretq", reason: "it refuses a null SS in ring 0" },
    Excuse {
        program: "long/canonical",
        reason: "#PF instead of #GP for an access across the edge of the canonical range",
    },
    Excuse { program: "long/control-registers", reason: "it ignores the upper halves of CR0 and CR4" },
    Excuse { program: "irq/sti-shadow", reason: "it looks at interrupts only now and then" },
    Excuse { program: "irq/rep-interruptible", reason: "it failed on a loaded host; the cause is not known" },
    Excuse { program: "irq/x2apic", reason: "it accepts reserved bits in x2APIC registers" },
];

fn engine() -> Option<KvmEngine> {
    KvmEngine::new().inspect_err(|e| println!("skipped: {e}")).ok()
}

/// Whether the host's KVM emulates guest code because it has no hardware for it.
fn emulated() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// Whether an account only says that the host's emulator gave up.
fn gave_up(account: &str) -> bool {
    account.contains("InternalError")
}

#[track_caller]
fn well(account: Result<String, visor_engine::EngineError>) {
    match account {
        Ok(account) => assert!(account.is_empty(), "\n{account}"),
        Err(e) if emulated() && gave_up(&format!("{e:?}")) => println!("skipped: this host's KVM: {e}"),
        Err(e) => panic!("{e:?}"),
    }
}

#[test]
fn programs() {
    let Some(engine) = engine() else { return };
    let filter = std::env::var("VISOR_GUEST").unwrap_or_default();
    let excuses = if emulated() { EMULATED } else { &[] };
    let mut report = conformance::engine(&engine, excuses, &filter);
    if emulated() {
        let (unable, failed) = report.failed.into_iter().partition(|(_, what)| gave_up(what));
        report.failed = failed;
        report.skipped.extend::<Vec<_>>(unable);
    }
    println!("{}", report.text());
    assert!(report.failed.is_empty(), "{}", report.text());
    assert!(filter.len() > 1 || report.passed.len() >= 20, "hardly anything was run\n{}", report.text());
}

#[test]
fn paging_matrix() {
    let Some(engine) = engine() else { return };
    well(paging::check(&engine));
}

#[test]
fn triple_fault() {
    let Some(engine) = engine() else { return };
    well(scenario::triple_fault(&engine));
}

#[test]
fn kick() {
    let Some(engine) = engine() else { return };
    well(scenario::kick(&engine));
}

#[test]
fn reset_state() {
    let Some(engine) = engine() else { return };
    well(scenario::reset_state(&engine));
}

#[test]
fn save_and_restore() {
    let Some(engine) = engine() else { return };
    well(scenario::migrate(&engine, &engine));
}

#[test]
fn to_the_soft_engine_and_back() {
    let Some(engine) = engine() else { return };
    let soft = SoftEngine::new().unwrap();
    well(scenario::migrate(&engine, &soft));
    well(scenario::migrate(&soft, &engine));
}

#[test]
fn accesses() {
    let Some(engine) = engine() else { return };
    well(scenario::accesses(&engine));
}
