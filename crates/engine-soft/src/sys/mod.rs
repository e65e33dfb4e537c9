//! What lies below the instructions: segments, exceptions, interrupts, tasks, control registers, MSRs, CPUID.
//!
//! [`ops`] lists the instructions' handlers. The run loop uses [`Event`], [`Activity`] and the methods beside them in [`event`],
//! [`interrupt`], [`debug`] and [`mode`].

mod access_rights;
mod control;
mod cpuid;
mod debug;
mod descriptor;
mod event;
mod far;
mod flags;
mod hypercall;
mod interrupt;
mod ints;
mod iret;
mod keys;
mod local_apic;
mod mode;
mod msr;
mod operand;
pub(crate) mod ops;
mod port;
mod reset;
mod segment;
mod stack;
mod syscall;
mod task;
#[cfg(test)]
mod tests;
mod watch;
mod xstate;

pub(crate) use debug::Debug;
pub(crate) use event::{Activity, Event, ResetKind};
pub(crate) use msr::MsrFile;
pub(crate) use reset::announced;
