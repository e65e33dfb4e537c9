//! The stress guest: Debian's kernel and the programs in `stress/`, and what their output says.
//!
//! - [`guest`]: makes kernel and initial ramfs; `work`: a program for the compilers in the guest;
//! - [`run()`]: boots it in visor; [`report`]: judges what it printed;
//! - [`sets`]: which tests belong to the daily tests, and which need something.

pub mod guest;
pub mod report;
pub mod run;
pub mod sets;
mod work;

pub use guest::{Contents, Guest};
pub use report::Report;
pub use run::{Job, run};
