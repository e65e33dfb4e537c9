//! Tier 2.
mod targets;
pub(crate) use targets::Targets;
