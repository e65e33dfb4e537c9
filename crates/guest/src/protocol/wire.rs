//! Frames: cutting a byte stream into them, and reading and writing the fields of their payloads.

use std::fmt;

use super::{HEADER_LEN, MAX_PAYLOAD, SYNC};

const MARK: u8 = 0x56;

/// A stream that breaks the protocol. Never a reason to panic: the peer may be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// No frame header where one must be.
    BadHeader,
    /// A payload longer than [`MAX_PAYLOAD`] was announced or attempted.
    TooLong(usize),
    /// A message type this version does not know.
    UnknownType(u8),
    /// The payload ended inside a field, or goes on after the last.
    BadLength,
    /// A field holds a value that is not allowed.
    BadField(&'static str),
    /// The peer sent more than its window allows, or on a channel that is not open.
    FlowControl(u32),
    /// The peer filled a queue that an honest peer never fills.
    Flooded,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadHeader => f.write_str("no frame header where one must be"),
            Self::TooLong(n) => {
                write!(f, "payload of {n} bytes is over the limit of {MAX_PAYLOAD}")
            }
            Self::UnknownType(t) => write!(f, "unknown message type {t:#04x}"),
            Self::BadLength => f.write_str("payload does not have the length of its message type"),
            Self::BadField(name) => write!(f, "invalid value in field `{name}`"),
            Self::FlowControl(id) => write!(f, "flow control violated on channel {id}"),
            Self::Flooded => f.write_str("too many messages without a pause"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// One frame as cut from the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Message type.
    pub kind: u8,
    /// Channel, 0 for the session itself.
    pub channel: u32,
    /// Payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
    /// True when [`SYNC`] stood before this frame: the peer began a new session here.
    pub after_sync: bool,
}

/// Cuts a byte stream into frames. Starts out of step and looks for [`SYNC`].
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    in_step: bool,
    synced_now: bool,
}

impl FrameReader {
    /// A reader that waits for [`SYNC`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came from the peer. Memory in use is what was pushed and not yet taken as frames.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets everything and looks for [`SYNC`] again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// `BadHeader` or `TooLong`; the reader is out of step then and goes on with the next [`SYNC`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if !self.in_step && !self.find_sync() {
            return Ok(None);
        }
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            match rest.first() {
                None => return Ok(None),
                Some(&b) if b == SYNC[0] => {
                    let n = rest.len().min(SYNC.len());
                    if rest[..n] != SYNC[..n] {
                        return self.lose_step(ProtocolError::BadHeader);
                    }
                    if n < SYNC.len() {
                        return Ok(None);
                    }
                    self.start += SYNC.len();
                    self.synced_now = true;
                }
                Some(_) => break,
            }
        }
        self.cut()
    }

    fn cut(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [mark, kind, c0, c1, i0, i1, i2, i3, l0, l1, l2, l3] = *header;
        let channel = u32::from_le_bytes([i0, i1, i2, i3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if mark != MARK || u16::from_le_bytes([c0, c1]) != check(kind, channel, length) {
            return self.lose_step(ProtocolError::BadHeader);
        }
        let length = length as usize;
        if length > MAX_PAYLOAD {
            return self.lose_step(ProtocolError::TooLong(length));
        }
        let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + length) else {
            return Ok(None);
        };
        let frame =
            Frame { kind, channel, payload: payload.to_vec(), after_sync: std::mem::take(&mut self.synced_now) };
        self.start += HEADER_LEN + length;
        Ok(Some(frame))
    }

    fn lose_step<T>(&mut self, error: ProtocolError) -> Result<T, ProtocolError> {
        // One byte on, or the same wrong bytes would be looked at for ever.
        self.start = (self.start + 1).min(self.buffer.len());
        self.in_step = false;
        Err(error)
    }

    /// Moves behind the next `SYNC`; keeps only what could be the beginning of one.
    fn find_sync(&mut self) -> bool {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        if let Some(at) = rest.windows(SYNC.len()).position(|w| w == SYNC) {
            self.start += at + SYNC.len();
            self.in_step = true;
            self.synced_now = true;
            return true;
        }
        let keep = rest.len().min(SYNC.len() - 1);
        self.start = self.buffer.len() - keep;
        false
    }
}

/// A checksum of the header. It finds a reader that is out of step, not bit errors: the port has none.
fn check(kind: u8, channel: u32, length: u32) -> u16 {
    let mixed = channel
        .wrapping_mul(0x9e37_79b1)
        .rotate_left(7)
        .wrapping_add(length.wrapping_mul(0x85eb_ca6b))
        .wrapping_add(u32::from(kind) << 3);
    ((mixed >> 16) ^ mixed) as u16 ^ 0x5a5a
}

/// Writes one frame; lengths are filled in by [`FrameBuilder::finish`].
pub(super) struct FrameBuilder {
    kind: u8,
    channel: u32,
    payload: Vec<u8>,
}

impl FrameBuilder {
    pub(super) fn new(kind: u8, channel: u32) -> Self {
        Self { kind, channel, payload: Vec::new() }
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(self, v: u8) -> Self {
        self.raw(&[v])
    }

    pub(super) fn u16(self, v: u16) -> Self {
        self.raw(&v.to_le_bytes())
    }

    pub(super) fn u32(self, v: u32) -> Self {
        self.raw(&v.to_le_bytes())
    }

    pub(super) fn u64(self, v: u64) -> Self {
        self.raw(&v.to_le_bytes())
    }

    /// A byte string with its length in front.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).raw(bytes)
    }

    pub(super) fn finish(self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let n = self.payload.len();
        let length = u32::try_from(n).map_err(|_| ProtocolError::TooLong(n))?;
        if n > MAX_PAYLOAD {
            return Err(ProtocolError::TooLong(n));
        }
        out.extend_from_slice(&[MARK, self.kind]);
        out.extend_from_slice(&check(self.kind, self.channel, length).to_le_bytes());
        out.extend_from_slice(&self.channel.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.payload);
        Ok(())
    }
}

/// Reads the fields of a payload, front to back.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(ProtocolError::BadLength)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.take::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<Vec<u8>, ProtocolError> {
        let n = self.u32()? as usize;
        let (head, tail) = self.rest.split_at_checked(n).ok_or(ProtocolError::BadLength)?;
        self.rest = tail;
        Ok(head.to_vec())
    }

    /// A string for people: bytes that are no UTF-8 are replaced, they are never a reason to fail.
    pub(super) fn text(&mut self) -> Result<String, ProtocolError> {
        self.string().map(|s| String::from_utf8_lossy(&s).into_owned())
    }

    pub(super) fn end(self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ProtocolError::BadLength) }
    }
}
