//! Echo requests: through the ping sockets that `net.ipv4.ping_group_range` opens to ordinary users (icmp(7)), else through raw
//! sockets where this process may have them.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use visor_nat::{Batch, DATAGRAM_HEADROOM};

use crate::sys::socket;

/// Opens a socket for echo requests. True: it is a raw one.
pub(crate) fn open(v6: bool) -> io::Result<(OwnedFd, bool)> {
    let protocol = if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
    match socket(v6, libc::SOCK_DGRAM, protocol) {
        Ok(fd) => Ok((fd, false)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => match socket(v6, libc::SOCK_RAW, protocol) {
            Ok(fd) => Ok((fd, true)),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// An echo request under another identifier, with its checksum. The kernel fills that of ICMPv6 in itself (RFC 3542 §3.1).
pub(crate) fn with_ident(message: &[u8], ident: u16, v6: bool) -> Vec<u8> {
    let mut message = message.to_vec();
    if message.len() >= 8 {
        message[4..6].copy_from_slice(&ident.to_be_bytes());
        message[2..4].fill(0);
        if !v6 {
            let sum: u32 =
                message.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        }
    }
    message
}

/// Keeps what answers requests under `ident`: a raw socket gets all messages of the host, of IPv4 with their IP header.
pub(crate) fn filter(batch: &mut Batch, ident: u16, v6: bool) {
    let mut kept = 0;
    for i in 0..batch.received.len() {
        let (len, from) = batch.received[i];
        let data = &mut batch.buffers[i][DATAGRAM_HEADROOM..];
        let header = if v6 { 0 } else { usize::from(data[0] & 15) * 4 };
        let reply = if v6 { 129 } else { 0 };
        let message = data.get(header..len.max(header)).unwrap_or_default();
        if message.len() < 8 || message[0] != reply || message[4..6] != ident.to_be_bytes() {
            continue;
        }
        data.copy_within(header..len, 0);
        batch.buffers.swap(kept, i);
        batch.received[kept] = (len - header, from);
        kept += 1;
    }
    batch.received.truncate(kept);
}
