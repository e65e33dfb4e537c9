//! TFTP's messages (RFC 1350 §5).
//!
//! ```text
//! 1 read, 2 write   name 0 mode 0 { option 0 value 0 }        4 acknowledgement   block
//! 3 data            block, up to a block of bytes             5 error             code, text 0
//!                                                             6 accepted options  { option 0 value 0 }
//! ```

/// Bytes of a block unless another size was agreed on.
pub(super) const BLOCK: u16 = 512;
/// Bytes before a block's data.
pub(super) const DATA_HEADER: usize = 4;
/// Most bytes of a request's strings that are looked at.
const MAX_STRING: usize = 512;
/// Most options looked at.
const MAX_OPTIONS: usize = 16;

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Read { name: &'a str, octets: bool, options: Options },
    Write,
    Acknowledge(u16),
    Error,
}

/// What a client wishes, as far as it is known here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Bytes of a block, 8 to 65464 (RFC 2348).
    pub(super) block_size: Option<u16>,
    /// Seconds before a block is sent again, 1 to 255 (RFC 2349).
    pub(super) timeout: Option<u8>,
    /// The file's size is wanted (RFC 2349).
    pub(super) size: bool,
}

/// Codes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Undefined = 0,
    NotFound = 1,
    Access = 2,
    UnknownTransfer = 5,
}

impl<'a> Message<'a> {
    /// `None` for what is no message.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let (code, rest) = data.split_first_chunk::<2>()?;
        match u16::from_be_bytes(*code) {
            1 => read(rest),
            2 => Some(Message::Write),
            4 => Some(Message::Acknowledge(u16::from_be_bytes(*rest.first_chunk()?))),
            5 => Some(Message::Error),
            _ => None,
        }
    }
}

fn read(mut rest: &[u8]) -> Option<Message<'_>> {
    let name = string(&mut rest)?;
    let octets = string(&mut rest)?.eq_ignore_ascii_case("octet");
    let mut options = Options::default();
    for _ in 0..MAX_OPTIONS {
        if rest.is_empty() {
            break;
        }
        let (option, value) = (string(&mut rest)?, string(&mut rest)?);
        // A value out of range is as good as none: the option is then not accepted (RFC 2347).
        match option.to_ascii_lowercase().as_str() {
            "blksize" => options.block_size = value.parse().ok().filter(|b| (8..=65464).contains(b)),
            "timeout" => options.timeout = value.parse().ok().filter(|t| *t > 0),
            "tsize" => options.size = true,
            _ => {}
        }
    }
    Some(Message::Read { name, octets, options })
}

/// Takes a string that a zero ends.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest.iter().take(MAX_STRING).position(|b| *b == 0)?;
    let text = std::str::from_utf8(&rest[..end]).ok()?;
    *rest = &rest[end + 1..];
    Some(text)
}

/// A data message with room for `len` bytes.
pub(super) fn data(block: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; DATA_HEADER + len];
    packet[1] = 3;
    packet[2..4].copy_from_slice(&block.to_be_bytes());
    packet
}

/// The options that are accepted; empty if none were wished.
pub(super) fn accept(options: &Options, block_size: u16, size: u64) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut add = |option: &str, value: u64| {
        if packet.is_empty() {
            packet.extend([0, 6]);
        }
        packet.extend(format!("{option}\0{value}\0").bytes());
    };
    if options.block_size.is_some() {
        add("blksize", block_size.into());
    }
    if let Some(timeout) = options.timeout {
        add("timeout", timeout.into());
    }
    if options.size {
        add("tsize", size);
    }
    packet
}

/// An error message.
pub(super) fn error(fault: Fault, text: &str) -> Vec<u8> {
    let mut packet = vec![0, 5, 0, fault as u8];
    packet.extend(text.bytes().take(200).filter(|b| *b != 0));
    packet.push(0);
    packet
}
