//! The program inside visor's own guest images, and the protocol it speaks with the host.
//!
//! For the host: [`protocol`] (the messages), [`host`] (the host's half of a session, without I/O) and [`modules`] (the
//! table of kernel modules that goes into an image).
//!
//! In the guest: [`init`] (PID 1), [`agent`] (runs commands for the host), [`service`] (services and `systemctl`) and
//! [`sys`] (system calls that `std` does not offer).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod host;
pub mod init;
pub mod modules;
pub mod protocol;
pub mod service;
pub mod sys;
