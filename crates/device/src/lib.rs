//! The contract between a machine and its devices: buses, interrupt lines, timers, life cycle.
//!
//! A device is plain state behind a lock; it has no thread and never sleeps. Port and memory accesses come from vCPU threads,
//! timer expiry and outside input from the machine's I/O thread. Time is a parameter: a device reads [`Clock`], arms a
//! [`TimerSlot`] and is told through [`TimerDevice::expired`].
//!
//! **Lock order.** A device may, under its own lock, drive an [`IrqLine`], arm a timer and access RAM; none of these calls back
//! into a device on the bus other than the interrupt controllers, which lock last.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bus;
mod irq;
pub mod testing;
mod time;

pub use bus::{Bus, BusError, Mmio, Pio};
pub use irq::{IrqLine, IrqSink};
pub use time::{Clock, Nanos, TimerDevice, TimerSlot};

/// What every device can do, whatever bus it sits on.
pub trait Device: Send {
    /// A short stable name such as `uart0`, for traces and messages.
    fn name(&self) -> &str;

    /// Back to the state after power-on. Called with all vCPUs stopped.
    fn reset(&mut self);

    /// The device's port registers.
    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        None
    }

    /// The device's memory-mapped registers.
    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        None
    }

    /// The device's timer.
    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        None
    }
}

/// Port registers. `offset` counts from the start of the range that was claimed; `data` has 1, 2 or 4 bytes and never
/// crosses the end of the range.
pub trait PioDevice {
    /// IN.
    fn read(&mut self, offset: u16, data: &mut [u8]);
    /// OUT.
    fn write(&mut self, offset: u16, data: &[u8]);
}

/// Memory-mapped registers. `offset` counts from the start of the range; `data` has 1, 2, 4 or 8 bytes and never crosses
/// its end.
pub trait MmioDevice {
    /// A load.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// A store.
    fn write(&mut self, offset: u64, data: &[u8]);
}
