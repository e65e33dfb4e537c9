//! A pair of virtual Ethernet devices (veth(4)) in place of a tap device, where `/dev/net/tun` is closed to the user.
//!
//! In a network namespace of one's own everything that it takes is allowed: the near device is the kernel's, with addresses; of the far
//! one every frame is read and written through a packet socket (packet(7)), with the same header in front as on a tap device.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::{check, check_len, set_option, set_option_raw, socket};
use crate::tap::{bring_up, request};

/// Numbers of linux/rtnetlink.h, if_link.h and veth.h.
const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADER: usize = 16;
const INFO: [u8; 16] = [0; 16];
/// linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// linux/ethtool.h: checksums are the device's, or not.
const ETHTOOL_STXCSUM: u32 = 0x17;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Makes the pair `near` and `far` and brings both up. Gives the socket with the frames of `far`, and the MTU.
///
/// # Errors
///
/// What the kernel says; without `CAP_NET_ADMIN` and `CAP_NET_RAW` in the namespace, `PermissionDenied`.
pub(crate) fn pair(near: &str, far: &str) -> io::Result<(OwnedFd, u16)> {
    create(near, far)?;
    // The far device is nobody's but ours: the kernel shall not speak on it by itself. A kernel without IPv6 does not.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{far}/disable_ipv6"), "1");
    finish_checksums(near)?;
    let frames = frames_of(far)?;
    bring_up(far)?;
    Ok((frames, bring_up(near)?))
}

/// `ip link add NEAR type veth peer name FAR`.
fn create(near: &str, far: &str) -> io::Result<()> {
    // Names are checked where requests are made of them.
    request(near)?;
    request(far)?;
    let peer = attribute(VETH_INFO_PEER, &[&INFO[..], &name(far)].concat());
    let kind = [attribute(IFLA_INFO_KIND, b"veth\0"), attribute(IFLA_INFO_DATA, &peer)].concat();
    let body = [&INFO[..], &name(near), &attribute(IFLA_LINKINFO, &kind)].concat();
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let mut answer = [0u8; 1024];
    // SAFETY: the descriptor is new; pointers and lengths describe the message and the answer.
    let len = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let netlink = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE))?);
        check_len(libc::send(netlink.as_raw_fd(), message.as_ptr().cast(), message.len(), 0))?;
        check_len(libc::recv(netlink.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0))?
    };
    outcome(answer.get(..len).unwrap_or_default())
}

/// What an acknowledgement says (netlink(7)): `NLMSG_ERROR` with a number, 0 for success.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let error = answer.get(HEADER..HEADER + 4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, error) {
        (Some(2), Some(0)) => Ok(()),
        (Some(2), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// An attribute of a message: length, kind, value, and zeros up to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut all = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    all.extend(kind.to_ne_bytes());
    all.extend(value);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

fn name(interface: &str) -> Vec<u8> {
    attribute(IFLA_IFNAME, &[interface.as_bytes(), &[0]].concat())
}

/// Has the kernel finish what it sends there: frames leave whole and summed. What it could leave undone is more than a packet socket
/// can tell of (segments of UDP), and such frames would be lost.
fn finish_checksums(interface: &str) -> io::Result<()> {
    let control = socket(false, libc::SOCK_DGRAM, 0)?;
    let mut value = [ETHTOOL_STXCSUM, 0u32];
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request and the value that it points to are live, and of the type that the call wants.
    check(unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
    Ok(())
}

/// A socket with all frames that come to `interface`, which sends through it.
fn frames_of(interface: &str) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let everything = (libc::ETH_P_ALL as u16).to_be();
    let mut own = request(interface)?;
    // SAFETY: the descriptor is new; the request is live, and the call sets the part that is read; all zeros are a valid
    // sockaddr_ll, and pointer and length describe it.
    unsafe {
        // Without a protocol it hears nothing before it is bound.
        let fd = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?);
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut own))?;
        set_option(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // Kernels before 4.20 do not know it; the device is quiet anyway.
        let _ = set_option(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
        let _ = set_option_raw(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &(1i32 << 20));
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = own.ifr_ifru.ifru_ifindex;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len))?;
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_and_answers() {
        assert_eq!(attribute(3, b"ab\0"), [&7u16.to_ne_bytes()[..], &3u16.to_ne_bytes(), b"ab\0\0"].concat());
        let answer = |error: i32| {
            let head = [&36u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &[0; 10]].concat();
            [&head[..], &error.to_ne_bytes(), &[0; 16]].concat()
        };
        assert!(outcome(&answer(0)).is_ok());
        assert_eq!(outcome(&answer(-libc::EPERM)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for len in 0..20 {
            assert!(outcome(&answer(0)[..len]).is_err(), "{len}");
        }
        assert!(outcome(&answer(i32::MIN)).is_err());
    }
}
