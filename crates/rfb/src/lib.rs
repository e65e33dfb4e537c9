//! The server's side of the remote framebuffer protocol 3.3 to 3.8 (RFC 6143, and the community's extensions), without I/O.
//!
//! A [`Session`] is one connection: bytes from the client go in ([`Session::receive`]), what the client did comes out
//! ([`Session::next_event`]), and bytes for the client wait in [`Session::output`]. The picture is given row by row
//! ([`Session::canvas`]); [`Session::update`] encodes what has changed when the client wants it and has taken what was sent before,
//! so a slow client gets fewer pictures, never a longer queue.
//!
//! Encodings: Raw, Hextile, ZRLE. Pseudo-encodings: DesktopSize, Cursor, QEMU's extended key events, continuous updates, fences. Security:
//! none, and VNC authentication, which keeps nobody out who can watch the network: use it on a local socket or through a tunnel.
//!
//! Whatever a client sends, memory stays bounded ([`MAX_INPUT`], [`MAX_OUTPUT`] and the picture twice) and nothing panics.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod canvas;
mod encode;
mod format;
mod message;
mod session;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use canvas::Canvas;
pub use session::{Config, Cursor, Session};

/// Most bytes of a message that has not come as a whole.
pub const MAX_INPUT: usize = 1 << 19;
/// Bytes of answers (not pictures) that may wait before a client counts as flooding.
pub const MAX_OUTPUT: usize = 1 << 20;
/// Events that may wait before [`Session::receive`] takes no more.
pub const MAX_EVENTS: usize = 256;

/// What a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key went down or up.
    Key {
        /// X11's number for the symbol.
        symbol: u32,
        /// The key's scan code in set 1, with bit 7 for the E0 prefix, if the client tells it.
        scan_code: Option<u8>,
        /// Down.
        down: bool,
    },
    /// The pointer is here, with these buttons down.
    Pointer {
        /// Pixels from the left.
        x: u16,
        /// Pixels from the top.
        y: u16,
        /// Bit 0 left, 1 middle, 2 right, 3 to 6 wheel away, towards, left, right.
        buttons: u8,
    },
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first bytes are not those of a client.
    #[error("the client does not speak the protocol")]
    Version,
    /// It chose a security type that was not offered.
    #[error("the client chose a security type that was not offered")]
    Security,
    /// The password was wrong; the client has been told, which is still to be sent.
    #[error("wrong password")]
    Password,
    /// A message that does not exist, or breaks the rules.
    #[error("malformed message of type {0}")]
    Message(u8),
    /// More requests than a client that reads the answers would send.
    #[error("the client floods the server")]
    Flood,
}
