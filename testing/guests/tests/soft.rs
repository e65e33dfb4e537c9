//! The suite on the software engine.

use visor_engine_soft::SoftEngine;
use visor_test_guests::conformance::{self, Excuse};

/// What this host's KVM cannot do. Each reason was seen, not guessed.
const EXCUSES: &[Excuse] = &[];

#[test]
fn programs() {
    let engine = match SoftEngine::new() {
        Ok(engine) => engine,
        Err(e) => return println!("skipped: {e}"),
    };
    let filter = std::env::var("VISOR_GUEST").unwrap_or_default();
    let report = conformance::engine(&engine, EXCUSES, &filter);
    println!("{}", report.text());
    assert!(report.failed.is_empty(), "{}", report.text());
}
