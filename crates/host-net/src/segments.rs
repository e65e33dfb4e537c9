//! Several datagrams with one call: `UDP_SEGMENT` (udp(7), Linux 4.18).

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::sys::{Address, check_len};

/// The option (linux/udp.h).
const UDP_SEGMENT: libc::c_int = 103;

/// Fewer datagrams cost more together than each by itself: the kernel takes them apart again on its loopback.
pub(crate) const WORTH_IT: usize = 8;

/// Sends `data` in datagrams of `size` bytes; the last may be shorter.
pub(crate) fn send(fd: RawFd, to: SocketAddr, data: &[u8], size: usize) -> io::Result<()> {
    let size = u16::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = Address::new(to);
    let mut control = [0u64; 4];
    let mut vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zeros are a valid msghdr; every pointer set below is to something that outlives the call, and only read by it.
    // The control buffer has room for, and the alignment of, one message with a number of two bytes.
    unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_name = address.pointer().cast_mut().cast();
        header.msg_namelen = address.len;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(2) as usize;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(2) as usize;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(size);
        check_len(libc::sendmsg(fd, &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT))?;
    }
    Ok(())
}
