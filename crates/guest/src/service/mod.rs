//! Services of the guest: a subset of systemd's unit files, supervision in PID 1, and `systemctl`.
//!
//! Unit files lie in `/etc/systemd/system`, `/run/systemd/system` and `/usr/lib/systemd/system`, the first wins. A
//! service is enabled by a link in `/etc/systemd/system/multi-user.target.wants`, as with systemd.

pub mod client;
pub mod control;
pub mod manager;
pub mod unit;
mod unit_file;
