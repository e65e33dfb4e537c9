//! The entropy device (virtio 1.2 §5.4): one queue; the device fills what the driver puts into it.

mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::Queues;

/// Most bytes given for one request; the driver asks again if it wants more.
const MAX_REQUEST: usize = 4096;
const QUEUE_SIZE: u16 = 64;
/// Most requests served for one notification, so that a driver that refills as fast as the device serves cannot hold the vCPU.
const MAX_ROUND: u16 = 16 * QUEUE_SIZE;

/// Where randomness comes from.
pub trait Entropy: Send {
    /// Fills `data`; false if that is impossible.
    fn fill(&mut self, data: &mut [u8]) -> bool;
}

/// The host kernel's random numbers (getrandom(2)).
#[derive(Debug, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, data: &mut [u8]) -> bool {
        getrandom::fill(data).is_ok()
    }
}

/// The device.
pub struct Rng {
    source: Box<dyn Entropy>,
    queues: Option<Arc<Queues>>,
}

impl Rng {
    /// A device that hands out `source`.
    pub fn new(source: impl Entropy + 'static) -> Self {
        Rng { source: Box::new(source), queues: None }
    }
}
