//! libFuzzer's entry: one binary for all targets, as each would link the whole house.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use visor_test_fuzz::{Target, target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("VISOR_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("VISOR_FUZZ_TARGET is `{name}`, which is no target"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
