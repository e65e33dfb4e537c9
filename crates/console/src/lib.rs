//! The contract between what has a screen, a keyboard or a pointer and whoever shows and uses them.
//!
//! A [`Display`] is asked: its viewer says which state it has seen ([`Generation`]) and gets what has changed since, into a
//! [`FrameBufferSink`]. So a screen without viewers costs nothing, and each of several viewers goes at its own pace.
//! Input goes the other way as [`InputEvent`]s into an [`InputSink`].
//!
//! **Key codes** are those of Linux ([`Key`]; `linux/input-event-codes.h`). Virtio-input sends them to the guest as they are; the
//! main block has the numbers of the PC's scan code set 1, which remote frame buffer clients send; and every host
//! toolkit has a table to them. USB HID usages would need a table on each of these ways.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod display;
mod input;
mod key;
mod typing;

pub use display::{Display, FrameBufferSink, Generation, Picture, Size};
pub use input::{Button, InputEvent, InputSink, POINTER_RANGE};
pub use key::Key;
pub use typing::{Chord, key_of, strokes};
