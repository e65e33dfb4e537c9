//! The machine as its CPUs see it.

use std::sync::Arc;

use visor_device::{Bus, Mmio, Pio};
use visor_engine::{CpuIo, Gpa, Watch};

use crate::irq::Irqs;
use crate::timeline::Timeline;

/// Ports, memory-mapped registers and interrupt acknowledgement.
pub(crate) struct BusIo {
    pub(crate) pio: Arc<Bus<Pio>>,
    pub(crate) mmio: Arc<Bus<Mmio>>,
    pub(crate) irqs: Arc<Irqs>,
    pub(crate) timeline: Timeline,
}

impl CpuIo for BusIo {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        if !self.pio.read(port, data) {
            tracing::trace!(port = format_args!("{port:#x}"), len = data.len(), "read from an unclaimed port");
        }
    }

    fn pio_write(&self, port: u16, data: &[u8]) {
        if !self.pio.write(port, data) {
            tracing::trace!(port = format_args!("{port:#x}"), ?data, "write to an unclaimed port");
        }
    }

    fn mmio_read(&self, at: Gpa, data: &mut [u8]) {
        if !self.mmio.read(at.0, data) {
            tracing::trace!(at = format_args!("{:#x}", at.0), len = data.len(), "read from unclaimed memory");
        }
    }

    fn mmio_write(&self, at: Gpa, data: &[u8]) {
        if !self.mmio.write(at.0, data) {
            tracing::trace!(at = format_args!("{:#x}", at.0), ?data, "write to unclaimed memory");
        }
    }

    fn acknowledge_irq(&self) -> Option<u8> {
        self.irqs.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.irqs.end_of_interrupt(vector);
    }

    fn reached(&self, watch: Watch, at: u64) {
        self.timeline.reached(watch, at);
    }
}
