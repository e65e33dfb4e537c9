//! The x86-64 architecture as plain data and pure functions: register names, segment descriptors, control-register
//! and model-specific-register bits, exceptions, CPUID tables and page-table formats.
//!
//! Nothing here executes an instruction or touches memory; engines and machines share these definitions. Section
//! numbers are those of the Intel 64 and IA-32 Software Developer's Manual ("SDM").
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cpuid;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod regs;
pub mod segment;
pub mod state;

pub use exception::{Exception, Vector};
pub use regs::{Cr0, Cr4, Efer, Gpr, Rflags, Seg};
pub use segment::Segment;
pub use state::CpuState;
