//! The engine contract over the software CPU.

/// What the CPUs of one VM share.
#[derive(Debug, Default)]
pub struct Fabric {}

/// The software engine.
#[derive(Debug, Default)]
pub struct SoftEngine {}
