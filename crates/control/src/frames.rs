//! Frames, for verbs that make a stream of their connection and send more than one thing on it.
//!
//! ```text
//!  0       1               5
//! +-------+---------------+----------+
//! | kind  |  length (BE)  | data ... |      kinds are the verb's own
//! +-------+---------------+----------+
//! ```

use std::io::{self, ErrorKind, Read, Write};

/// Most bytes of data in a frame.
pub const MAX_FRAME: usize = 64 << 10;

/// Writes one frame; more than [`MAX_FRAME`] bytes become several of the same kind.
///
/// # Errors
/// Those of `out`.
pub fn write_frame(out: &mut impl Write, kind: u8, data: &[u8]) -> io::Result<()> {
    let mut rest = data;
    loop {
        let (part, after) = rest.split_at(rest.len().min(MAX_FRAME));
        let mut frame = Vec::with_capacity(5 + part.len());
        frame.push(kind);
        frame.extend((part.len() as u32).to_be_bytes());
        frame.extend(part);
        out.write_all(&frame)?;
        rest = after;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Reads one frame: its kind and its data; `None` at the end of the stream.
///
/// # Errors
/// `InvalidData` for a frame that is too long, `UnexpectedEof` for one that is cut off, and those of `from`.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    loop {
        match from.read(&mut head[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    from.read_exact(&mut head[1..])?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut data = vec![0; length];
    from.read_exact(&mut data)?;
    Ok(Some((kind, data)))
}
