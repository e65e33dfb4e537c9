//! The user's terminal: raw mode with certain restoration, its size, the signals it sends, and the keys that leave a console.

mod escape;
mod raw;
mod signals;

pub(crate) use escape::{Escape, Keys};
pub(crate) use raw::{RawTerminal, size};
pub(crate) use signals::{catch_signals, survive_file_limit, take_signals};
