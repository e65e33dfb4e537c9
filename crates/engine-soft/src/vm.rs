//! The engine contract over the software CPU.

pub(crate) use crate::fabric::Fabric;

/// The software engine.
#[derive(Debug, Default)]
pub struct SoftEngine {}
