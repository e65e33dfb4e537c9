//! Virtio 1.2 devices over PCI: console, entropy, block, SCSI, network, input.
//!
//! [`VirtioPci`] is the transport: a PCI function with the modern register layout (virtio 1.2 §4.1) around a [`VirtioDevice`].
//! The two share [`Queues`]: split virtqueues over guest RAM, from which [`Chain`]s of buffers are taken and to which they are
//! returned, from any thread. What the driver puts into a queue is never trusted: a chain that breaks the rules stops the device
//! with DEVICE_NEEDS_RESET (§2.1.2).
//!
//! **Threads.** Notifications are handled on the vCPU's thread that sent them; a block back end completes on its own threads;
//! the host's end of a console port is used from the machine's I/O thread; frames for the guest come on
//! the thread that calls [`net::NetHandle`]'s pump.
//!
//! **Lock order.** function → device state (a console port, the block device) → queue → interrupt status → `visor_pci::Interrupts`.
//! Threads other than vCPUs start at the device state.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blk;
mod block_buffer;
mod buffer;
pub mod console;
mod in_flight;
pub mod input;
pub mod net;
mod pci;
mod queues;
pub mod rng;
pub mod scsi;
#[cfg(test)]
mod testing;

use std::sync::Arc;

pub use buffer::{Buffer, BufferError};
pub use pci::VirtioPci;
pub use queues::{Chain, Queues};

/// What a device is, for PCI and for drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType {
    /// Virtio device type (virtio 1.2 §5).
    pub id: u16,
    /// PCI class, subclass and programming interface.
    pub class: u32,
}

/// A kind of virtio device behind a transport. All methods but those of its own handles are called with the function locked.
pub trait VirtioDevice: Send {
    /// A short stable name, for traces and messages.
    fn name(&self) -> &str;

    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The feature bits of its kind that it offers (bits 0 to 23 and 50 to 127 of virtio 1.2 §2.2; those above 63 are unused).
    fn features(&self) -> u64;

    /// Its queues' largest sizes, powers of two; at most 127 queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Hands it its queues, once, before anything else.
    fn attach(&mut self, queues: Arc<Queues>);

    /// Reads its configuration space; `data` comes as zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration space.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready (DRIVER_OK) and has accepted `features`.
    fn activate(&mut self, features: u64);

    /// The driver has put buffers into `queue`; may be spurious.
    fn notify(&mut self, queue: u16);

    /// The driver has reset `queue`; chains taken from it are void.
    fn queue_reset(&mut self, queue: u16) {
        let _ = queue;
    }

    /// Back to the state before [`VirtioDevice::activate`]; chains taken from the queues are void.
    fn reset(&mut self);
}
