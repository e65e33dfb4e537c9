//! Whole machines: small guests on the software engine, and the life cycle over an engine that is scripted.

mod guest;
mod life;
mod small;

use std::time::Duration;

use crate::{FileSource, MachineSpec};

/// A machine for tests: little memory, debug exit, no reboots, and an end.
fn spec(kernel: Vec<u8>) -> MachineSpec {
    let mut spec = MachineSpec::new(FileSource::Bytes(kernel.into()));
    spec.memory = 16 << 20;
    spec.debug_exit = true;
    spec.no_reboot = true;
    spec.time_limit = Some(Duration::from_secs(20));
    spec
}
