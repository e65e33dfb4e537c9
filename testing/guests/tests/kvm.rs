//! The suite on the KVM engine, where this host has it.
//!
//! Some hosts have a page-table KVM without hardware virtualization ("kvm-pvm"), which emulates privileged guest code in the
//! kernel. That emulator is incomplete; what was seen to be wrong in it is excused there, and only there.

use std::path::Path;

use visor_engine_kvm::KvmEngine;
use visor_engine_soft::SoftEngine;
use visor_test_guests::conformance::{self, Excuse};
use visor_test_guests::{paging, scenario};

/// What a page-table KVM gets wrong. Each was seen.
const EMULATED: &[Excuse] = &[];

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
