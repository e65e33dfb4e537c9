//! What lies below the instructions: segments, exceptions, interrupts, tasks, control registers, MSRs, CPUID.

#![allow(dead_code)]

mod event;
pub(crate) mod ops;
mod segment;

pub(crate) use event::{Activity, Event, ResetKind};

/// Model-specific registers without a field of their own in [`crate::cpu::Cpu`].
#[derive(Debug, Default)]
pub struct MsrFile {}
