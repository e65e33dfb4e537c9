//! The entropy device as the transport sees it.

use std::sync::Arc;

use super::{MAX_REQUEST, MAX_ROUND, QUEUE_SIZE, Rng};
use crate::{DeviceType, Queues, VirtioDevice};

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
