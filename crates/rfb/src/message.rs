//! Messages of a running client (RFC 6143 §7.5 and extensions).

use crate::Error;

/// A message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    SetPixelFormat([u8; 16]),
    SetEncodings(Vec<i32>),
    Request {
        incremental: bool,
        part: Part,
    },
    Key {
        down: bool,
        symbol: u32,
        scan_code: Option<u8>,
    },
    Pointer {
        buttons: u8,
        x: u16,
        y: u16,
    },
    /// The client's clipboard: so many bytes of text follow that nobody wants.
    CutText(usize),
    ContinuousUpdates {
        on: bool,
        part: Part,
    },
    Fence {
        flags: u32,
        payload: Vec<u8>,
    },
    /// A wish for another size, which is not granted.
    SetDesktopSize,
}

/// A part of the picture as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) x: u16,
    pub(crate) y: u16,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

/// Most bytes of a fence's payload.
const FENCE: usize = 64;

/// The first message in `input` and its length; `None` if it is not there as a whole.
pub(crate) fn parse(input: &[u8]) -> Result<Option<(Message, usize)>, Error> {
    let Some(kind) = input.first().copied() else { return Ok(None) };
    let Some(len) = length(kind, input)? else { return Ok(None) };
    let Some(b) = input.get(..len) else { return Ok(None) };
    let message = match kind {
        0 => {
            let mut format = [0; 16];
            format.copy_from_slice(&b[4..20]);
            Message::SetPixelFormat(format)
        }
        2 => Message::SetEncodings(b[4..].chunks_exact(4).map(|e| u32_at(e, 0) as i32).collect()),
        3 => Message::Request { incremental: b[1] != 0, part: part(&b[2..]) },
        4 => Message::Key { down: b[1] != 0, symbol: u32_at(b, 4), scan_code: None },
        5 => Message::Pointer { buttons: b[1], x: u16_at(b, 2), y: u16_at(b, 4) },
        // The extended clipboard counts below zero.
        6 => Message::CutText((u32_at(b, 4) as i32).unsigned_abs() as usize),
        150 => Message::ContinuousUpdates { on: b[1] != 0, part: part(&b[2..]) },
        248 => Message::Fence { flags: u32_at(b, 4), payload: b[9..].to_vec() },
        251 => Message::SetDesktopSize,
        _ => {
            let code = u32_at(b, 8);
            // E0h prefixes come as a high byte or as bit 7.
            let prefixed = code >> 8 == 0xe0 || code & 0x80 != 0;
            let scan_code = (code & 0x7f) as u8 | if prefixed { 0x80 } else { 0 };
            Message::Key { down: u16_at(b, 2) != 0, symbol: u32_at(b, 4), scan_code: Some(scan_code) }
        }
    };
    Ok(Some((message, len)))
}

/// The length of the message, as far as it can be told yet.
fn length(kind: u8, b: &[u8]) -> Result<Option<usize>, Error> {
    let after = |at: usize, per: usize, base: usize, wide: bool| {
        let count =
            if wide { b.get(at..at + 2).map(|b| usize::from(u16_at(b, 0))) } else { b.get(at).map(|n| (*n).into()) };
        count.map(|n: usize| base + per * n)
    };
    Ok(match kind {
        0 => Some(20),
        2 => after(2, 4, 4, true),
        3 => Some(10),
        4 => Some(8),
        5 => Some(6),
        6 => Some(8),
        150 => Some(10),
        248 => match after(8, 1, 9, false) {
            Some(len) if len > 9 + FENCE => return Err(Error::Message(kind)),
            len => len,
        },
        251 => after(6, 16, 8, false),
        // QEMU's messages: 0 is an extended key event; others are not offered.
        255 => match b.get(1) {
            None => None,
            Some(0) => Some(12),
            Some(_) => return Err(Error::Message(kind)),
        },
        _ => return Err(Error::Message(kind)),
    })
}

fn part(b: &[u8]) -> Part {
    Part { x: u16_at(b, 0), y: u16_at(b, 2), width: u16_at(b, 4), height: u16_at(b, 6) }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
