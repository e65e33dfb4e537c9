//! Keyboards and pointers.

use crate::Key;

/// Absolute pointer positions run from 0 (left, top) to this (right, bottom), whatever the size of the picture.
pub const POINTER_RANGE: u16 = 0x7fff;

/// A button of a pointing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// The first.
    Left,
    /// The wheel pressed.
    Middle,
    /// The second.
    Right,
    /// "Back".
    Side,
    /// "Forward".
    Extra,
}

/// Something that a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key goes down or up. Keys repeat in the keyboard, not here.
    Key {
        /// Which.
        key: Key,
        /// Down.
        down: bool,
    },
    /// A relative pointer moves by so many counts, to the right and down.
    Motion {
        /// To the right.
        dx: i32,
        /// Down.
        dy: i32,
    },
    /// An absolute pointer is at this place of the picture, each from 0 to [`POINTER_RANGE`].
    Position {
        /// From the left.
        x: u16,
        /// From the top.
        y: u16,
    },
    /// A button goes down or up.
    Button {
        /// Which.
        button: Button,
        /// Down.
        down: bool,
    },
    /// The wheel turns by so many notches: to the right, and away from the person.
    Wheel {
        /// To the right.
        dx: i32,
        /// Away.
        dy: i32,
    },
}

/// What takes input: a keyboard or a pointer of a machine, or all of them together.
pub trait InputSink: Send + Sync {
    /// Takes events that happened at once. What the device is not for, or has no room for, is dropped.
    fn input(&self, events: &[InputEvent]);

    /// The guest has read all keys that were typed.
    fn is_idle(&self) -> bool;
}
