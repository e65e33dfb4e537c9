//! The suite on the KVM engine, where this host has it.

use visor_engine_kvm::KvmEngine;
use visor_test_guests::conformance::{self, Excuse};

/// What this host's KVM cannot do. Each reason was seen, not guessed.
const EXCUSES: &[Excuse] = &[];

#[test]
fn programs() {
    let engine = match KvmEngine::new() {
        Ok(engine) => engine,
        Err(e) => return println!("skipped: {e}"),
    };
    let filter = std::env::var("VISOR_GUEST").unwrap_or_default();
    let report = conformance::engine(&engine, EXCUSES, &filter);
    println!("{}", report.text());
    assert!(report.failed.is_empty(), "{}", report.text());
}
