//! The program inside visor's own guest images, and the protocol it speaks with the host.
//!
//! * [`protocol`]: the messages between host and guest agent;
//! * [`host`]: the host's half of a session, without I/O;
//! * [`agent`]: the guest's half, which runs commands;
//! * [`sys`]: system calls that `std` does not offer.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod host;
pub mod protocol;
pub mod sys;
