//! The host CPU as oracle: runs instructions natively and in the engine and compares.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod case;
pub mod generate;
pub mod layout;
pub mod native;
pub mod rng;
pub mod subject;
mod xsave;
