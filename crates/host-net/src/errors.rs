//! Errors that the network reports about datagrams: a socket's error queue (ip(7), `IP_RECVERR`).

use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use visor_nat::Undelivered;

use crate::sys::{Address, check_len};

/// Takes the next error from a socket's queue: to whom the datagram was sent, and what happened to it.
pub(crate) fn next(fd: RawFd) -> Option<(SocketAddr, Option<Undelivered>)> {
    let mut address = Address::empty();
    let mut control = [0u64; 64];
    let mut byte = [0u8; 8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: all zeros are a valid msghdr; every pointer set below is to something that outlives the call.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = std::ptr::from_mut(&mut address.storage).cast();
    header.msg_namelen = address.len;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: see above.
    check_len(unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) }).ok()?;
    let mut found = None;
    // SAFETY: the kernel filled the control buffer, and the macros stay inside of it.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const header);
        while !at.is_null() {
            let kind = ((*at).cmsg_level, (*at).cmsg_type);
            if kind == (libc::SOL_IP, libc::IP_RECVERR) || kind == (libc::SOL_IPV6, libc::IPV6_RECVERR) {
                found = Some(libc::CMSG_DATA(at).cast::<libc::sock_extended_err>().read_unaligned());
            }
            at = libc::CMSG_NXTHDR(&raw const header, at);
        }
    }
    Some((address.get()?, found.and_then(|e| meaning(&e))))
}

fn meaning(error: &libc::sock_extended_err) -> Option<Undelivered> {
    Some(match i32::try_from(error.ee_errno).ok()? {
        libc::ECONNREFUSED => Undelivered::Port,
        libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENOPROTOOPT => Undelivered::Host,
        libc::ENETUNREACH => Undelivered::Net,
        libc::EACCES | libc::EPERM => Undelivered::Prohibited,
        libc::EMSGSIZE => Undelivered::TooBig(u16::try_from(error.ee_info).unwrap_or(u16::MAX)),
        _ => return None,
    })
}
