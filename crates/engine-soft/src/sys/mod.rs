//! What lies below the instructions: segments, exceptions, interrupts, tasks, control registers, MSRs, CPUID.

mod segment;

/// Model-specific registers without a field of their own in [`crate::cpu::Cpu`].
#[derive(Debug, Default)]
pub struct MsrFile {}
