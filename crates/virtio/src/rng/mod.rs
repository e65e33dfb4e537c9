//! The entropy device (virtio 1.2 §5.4): one queue; the device fills what the driver puts into it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{DeviceType, Queues, VirtioDevice};

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

impl VirtioDevice for Rng {
    fn name(&self) -> &str {
        "virtio-rng"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 4, class: 0xff_0000 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn attach(&mut self, queues: Arc<Queues>) {
        self.queues = Some(queues);
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64) {}

    fn notify(&mut self, queue: u16) {
        let Some(queues) = &self.queues else { return };
        let mut bytes = [0; MAX_REQUEST];
        for _ in 0..MAX_ROUND {
            let Some(chain) = queues.next(queue) else { break };
            // §5.4.6.1: nothing for the device to read.
            if !chain.readable.is_empty() {
                queues.fail("entropy request with data");
                break;
            }
            let len = chain.writable.len().min(MAX_REQUEST);
            let given = self.source.fill(&mut bytes[..len]) && chain.writable.put(0, &bytes[..len]).is_ok();
            chain.complete(if given { len as u32 } else { 0 });
        }
    }

    fn reset(&mut self) {}
}
