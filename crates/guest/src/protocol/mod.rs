//! The language between host and guest agent.
//!
//! One byte stream in each direction (a virtio-console port named [`PORT_NAME`]; a socket in tests) carries frames.
//! A frame belongs to one *channel*: a running command, or channel 0 for the session itself.
//!
//! ```text
//!  0       1       2       4               8               12
//! +-------+-------+-------+---------------+---------------+-----------------+
//! | 0x56  | type  | check |  channel (LE) |  length (LE)  | payload ...     |
//! +-------+-------+-------+---------------+---------------+-----------------+
//! ```
//!
//! *Synchronisation.* A port outlives the programs at its ends, so a reader may start in the middle of an old frame.
//! Each side therefore begins its half of a session with [`SYNC`], and a reader ignores everything before it. The
//! host sends `SYNC Hello(nonce)`, the guest answers `SYNC Ready(nonce)`; a frame that breaks the rules sends the
//! reader back to looking for `SYNC`.
//!
//! *Flow control.* Each byte stream of a command (stdin, stdout, stderr) has a window of [`WINDOW`] bytes. The sender
//! may have that many bytes under way; the receiver returns room with `Credit` when it has passed bytes on. Both sides
//! must keep reading the port at all times: the windows, not the port, are what bounds memory.

mod message;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use message::hello;
pub use message::{ErrorKind, ExecSpec, ExitStatus, Failure, Ready, ShutdownKind, Stream, ToGuest, ToHost};
pub use wire::{Frame, FrameReader, ProtocolError};

/// Name of the virtio-console port that carries the protocol.
pub const PORT_NAME: &str = "org.visor.agent.0";

/// Version of the protocol spoken by this crate. Both sides must agree on it; `Hello` and `Ready` carry it.
pub const VERSION: u16 = 1;

/// Bytes that mark the start of one side's half of a session.
pub const SYNC: [u8; 16] = *b"\x16\x16VISOR-AGENT\x00\r\n";

/// Most payload bytes a frame may carry.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 12;

/// Bytes each stream of a command may have under way without credit.
pub const WINDOW: usize = 256 * 1024;

/// Most commands that may run at once in one session.
pub const MAX_CHANNELS: usize = 64;

/// Most strings (arguments or environment entries together) in an `Exec`.
pub const MAX_STRINGS: usize = 4096;
