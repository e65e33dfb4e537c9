//! The host CPU as oracle: runs instructions natively and in the engine and compares.
//!
//! - [`case`]: a test case and its outcome; [`layout`]: the addresses both sides use;
//! - [`generate`]: makes cases from the instruction tables and from raw bytes;
//! - [`native`]: runs them on the host's CPU in a guarded child process;
//! - [`subject`]: whatever else can run them;
//! - [`mod@compare`]: leaves out what the manual leaves undefined and reports the rest;
//! - [`coverage`]: which instructions have run; [`run`]: the loop over all of it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod case;
pub mod compare;
pub mod coverage;
pub mod generate;
pub mod layout;
pub mod native;
pub mod rng;
pub mod run;
pub mod subject;
mod xsave;
