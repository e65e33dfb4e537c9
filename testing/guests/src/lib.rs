//! Bare-metal guest programs and the conformance suite that runs them on an engine.
//!
//! The programs are assembly (`asm/`), assembled into one image with the test binary. Each sets up a situation,
//! and reports what it finds, together with what the manual demands, through ports (`run`). [`conformance::engine`] runs
//! every program on an engine and gives a readable account of every difference; what needs the host's hand in mid-run
//! (kicks, a second CPU, saved states, DMA) is in [`scenario`]. [`random`] runs noise instead of programs.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod conformance;
pub mod features;
pub mod harness;
mod host;
pub mod image;
pub mod paging;
pub mod random;
pub mod scenario;
