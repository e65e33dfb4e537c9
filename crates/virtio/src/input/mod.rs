//! An input device (virtio 1.2 §5.8): a tablet, which says where its pointer is, with five buttons and two wheels.
//!
//! Queue 0 carries events to the driver, 8 bytes each, queue 1 the driver's (lights; a tablet has none):
//!
//! ```text
//! 0 type   2 code   4 value         as Linux's `struct input_event` (linux/input-event-codes.h)
//! ```
//! What the device is and can do stands in its configuration: the driver writes what it asks for, and reads size and answer.

mod device;
#[cfg(test)]
mod tests;

pub use device::{Tablet, TabletHandle};
