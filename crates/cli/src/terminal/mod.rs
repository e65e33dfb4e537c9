//! The user's terminal: raw mode with certain restoration, its size, and the keys that leave a console.

mod escape;
mod raw;

pub(crate) use escape::{Escape, Keys};
pub(crate) use raw::{RawTerminal, size};
