//! Ethernet addresses for guests.

use std::hash::{BuildHasher, RandomState};

use visor_net::MacAddr;

/// A random address of those that hypervisors give their guests: 52:54:00 and three random bytes. Two guests of one network get the
/// same one once in 16 million times; switches report that.
pub fn random_mac() -> MacAddr {
    // The standard library's hash keys are random.
    let [a, b, c, ..] = RandomState::new().hash_one(std::process::id()).to_le_bytes();
    MacAddr([0x52, 0x54, 0, a, b, c])
}
