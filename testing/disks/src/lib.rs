//! The power goes while a machine uses a disk through all its layers.
//!
//! A [`Medium`] keeps what the lowest layer asks of the host - writes, holes, sizes, and where each flush begins and ends - in one
//! list with what the guest knows: which of its requests it has sent, and which have been answered ([`Guest`]). After the run the
//! list is cut at any place. What a host may hold then is made of it ([`Cut`]), the layers are opened on that once more, and the
//! guest's list says for every sector what may be there: nothing older than what a flush has covered, nothing that was never written.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test harness ends where something fails")]

mod cut;
mod expect;
mod guest;
mod medium;
mod storage;

pub use cut::Cut;
pub use expect::Expect;
pub use guest::{Action, Guest, WriteThrough};
pub use medium::{Log, Medium, MediumDisk, MediumPart, Op};
pub use storage::DiskStorage;

/// Small random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }
}

/// How far apart the places of cuts are: `usual`, or what the environment has as `VISOR_ALL_CUTS` (1 for all of them).
pub fn apart(usual: usize) -> usize {
    std::env::var("VISOR_ALL_CUTS").ok().map_or(usual, |n| n.parse().unwrap_or(1).max(1))
}
