//! A tap device as the other end of a cable (Linux `Documentation/networking/tuntap.rst`), with the offloads of virtio-net's
//! header: frames of 64 KiB travel whole between a guest and the host's kernel.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use visor_net::{Accepts, Frame, FrameSink, MAX_FRAME, MacAddr, NetPort, Notify, Offload, SegmentKind, Segments, Sent};

use crate::sys::{Address, check, check_len, socket};
use crate::waker::Waker;

/// Bytes of `struct virtio_net_hdr` in front of each frame.
pub(crate) const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Flag of a segment with congestion notification, which stays as it is.
const GSO_ECN: u8 = 0x80;
/// Offloads that the kernel may leave to us (linux/if_tun.h).
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
/// Adds an interface to a bridge (linux/sockios.h).
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
/// Frames handed out in one go.
const TURN: usize = 256;

/// Why there is no tap device.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {name}: {source}")]
pub struct TapError {
    /// What was tried.
    pub doing: &'static str,
    /// On which interface or file.
    pub name: String,
    /// What the kernel said; `PermissionDenied` without `CAP_NET_ADMIN`.
    #[source]
    pub source: io::Error,
}

/// A tap device.
pub struct TapPort {
    // The waker's thread watches a duplicate of the descriptor.
    waker: Waker,
    fd: OwnedFd,
    name: String,
    buffer: Vec<u8>,
    /// Bytes of a frame that nobody took yet.
    pending: usize,
    mtu: u16,
}

impl TapPort {
    /// Opens the tap device `name`, made now if there is none; a `%d` in the name becomes a free number. It is brought up.
    ///
    /// # Errors
    ///
    /// [`TapError`]; without `CAP_NET_ADMIN` in the network's user namespace, and for foreign devices, `PermissionDenied`.
    pub fn open(name: &str) -> Result<TapPort, TapError> {
        let path = "/dev/net/tun";
        let fd = open_tun(path).map_err(|source| TapError { doing: "open", name: path.into(), source })?;
        let fail = |doing| {
            let name = name.to_owned();
            move |source| TapError { doing, name, source }
        };
        let mut request = request(name).map_err(fail("name"))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // SAFETY: the request is live, and of the type that the call wants.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map_err(fail("create"))?;
        let name = name_of(&request);
        let size: libc::c_int = HEADER as libc::c_int;
        // SAFETY: as above.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
            .map_err(fail("set the header of"))?;
        let mtu = bring_up(&name).map_err(fail("bring up"))?;
        Self::with(fd, &name, mtu)
    }

    /// A device `name` in a network namespace that the process has made itself: a tap device, or where `/dev/net/tun` is missing or
    /// closed to the user a pair of virtual Ethernet devices, whose other end is called `NAMEp`.
    ///
    /// # Errors
    ///
    /// [`TapError`]: what is against the tap device, if the pair cannot be made either.
    pub fn in_own_namespace(name: &str) -> Result<TapPort, TapError> {
        Self::open(name).or_else(|why| {
            Self::pair(name).map_err(|other| {
                tracing::debug!(error = %other, "no pair of virtual Ethernet devices either");
                why
            })
        })
    }

    /// The second half of [`TapPort::in_own_namespace`], where a tap device could be had as well.
    ///
    /// # Errors
    ///
    /// [`TapError`].
    pub fn pair(name: &str) -> Result<TapPort, TapError> {
        let fail =
            |source| TapError { doing: "make a pair of virtual Ethernet devices for", name: name.to_owned(), source };
        let (fd, mtu) = crate::veth::pair(name, &format!("{name}p")).map_err(fail)?;
        Self::with(fd, name, mtu)
    }

    fn with(fd: OwnedFd, name: &str, mtu: u16) -> Result<TapPort, TapError> {
        let fail = |source| TapError { doing: "watch", name: name.to_owned(), source };
        let watched = fd.try_clone().map_err(fail)?;
        let waker = Waker::new("tap", watched, libc::EPOLLIN as u32).map_err(fail)?;
        Ok(TapPort { waker, fd, name: name.to_owned(), buffer: vec![0; HEADER + MAX_FRAME], pending: 0, mtu })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds the device to a bridge of the host.
    ///
    /// # Errors
    ///
    /// [`TapError`], such as `PermissionDenied` or that there is no such bridge.
    pub fn join_bridge(&self, bridge: &str) -> Result<(), TapError> {
        let fail = |source| TapError { doing: "add an interface to bridge", name: bridge.to_owned(), source };
        let mut own = request(&self.name).map_err(fail)?;
        let control = socket(false, libc::SOCK_DGRAM, 0).map_err(fail)?;
        // SAFETY: the requests are live, and of the type that the calls want.
        unsafe {
            check(libc::ioctl(control.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut own)).map_err(fail)?;
            let mut to = request(bridge).map_err(fail)?;
            to.ifr_ifru.ifru_ifindex = own.ifr_ifru.ifru_ifindex;
            check(libc::ioctl(control.as_raw_fd(), SIOCBRADDIF as _, &raw mut to)).map_err(fail)?;
        }
        Ok(())
    }

    /// Gives the device an IPv4 address of the host and the network behind it.
    ///
    /// # Errors
    ///
    /// [`TapError`].
    pub fn set_address(&self, address: Ipv4Addr, prefix_len: u8) -> Result<(), TapError> {
        let fail = |source| TapError { doing: "set the address of", name: self.name.clone(), source };
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.clamp(1, 32))).unwrap_or(0);
        set_interface_address(&self.name, libc::SIOCSIFADDR as _, address).map_err(fail)?;
        set_interface_address(&self.name, libc::SIOCSIFNETMASK as _, mask.into()).map_err(fail)
    }

    /// Gives the device the Ethernet address `mac`.
    ///
    /// # Errors
    ///
    /// [`TapError`].
    pub fn set_mac(&self, mac: MacAddr) -> Result<(), TapError> {
        let set = || {
            let control = socket(false, libc::SOCK_DGRAM, 0)?;
            let mut request = request(&self.name)?;
            let mut data = [0; 14];
            for (to, from) in data.iter_mut().zip(mac.0) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
            // SAFETY: the request is live, and of the type that the call wants.
            check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFHWADDR as _, &raw mut request) })
        };
        let fail = |source| TapError { doing: "set the Ethernet address of", name: self.name.clone(), source };
        set().map(|_| ()).map_err(fail)
    }

    /// Reads the next frame into the buffer. False if there is none.
    fn fill(&mut self) -> bool {
        if self.pending == 0 {
            // SAFETY: pointer and length describe the buffer.
            let n = unsafe { libc::read(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len()) };
            self.pending = usize::try_from(n).unwrap_or(0);
        }
        self.pending > HEADER
    }
}

impl NetPort for TapPort {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        let header = emit_header(&frame.offload);
        let vectors = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: HEADER },
            libc::iovec { iov_base: frame.data.as_ptr().cast_mut().cast(), iov_len: frame.data.len() },
        ];
        // SAFETY: the vectors describe the header and the frame, which are only read.
        match check_len(unsafe { libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), 2) }) {
            Ok(_) => Sent::Yes,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.waker.set_interest((libc::EPOLLIN | libc::EPOLLOUT) as u32);
                Sent::Full
            }
            Err(_) => Sent::Dropped,
        }
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        self.waker.looking();
        self.waker.set_interest(libc::EPOLLIN as u32);
        let mut taken = 0;
        while taken < TURN && self.fill() {
            let offload = parse_header(&self.buffer[..HEADER]);
            if sink.frame(Frame { data: &self.buffer[HEADER..self.pending], offload }) == Sent::Full {
                // Nothing is watched until the owner looks again: it knows when there is room.
                return taken;
            }
            self.pending = 0;
            taken += 1;
        }
        self.waker.rearm(None);
        taken
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        let mut flags = 0;
        if accepts.checksum {
            flags |= TUN_F_CSUM;
            flags |= if accepts.tcp4 { TUN_F_TSO4 } else { 0 };
            flags |= if accepts.tcp6 { TUN_F_TSO6 } else { 0 };
        }
        // SAFETY: no pointers. If the kernel knows less, it does more itself; a pair of devices leaves nothing undone.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
    }

    fn peer_accepts(&self) -> Accepts {
        Accepts { checksum: true, tcp4: true, tcp6: true }
    }

    fn on_ready(&mut self, notify: Notify) {
        self.waker.set_notify(notify);
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }
}

/// `struct virtio_net_hdr` (virtio 1.2 §5.1.6) in the host's byte order.
pub(crate) fn emit_header(offload: &Offload) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[0] = if offload.trusted { DATA_VALID } else { 0 };
    if let Some((start, offset)) = offload.checksum {
        h[0] = NEEDS_CHECKSUM;
        h[6..8].copy_from_slice(&start.to_ne_bytes());
        h[8..10].copy_from_slice(&offset.to_ne_bytes());
        // A frame that is split needs its headers' length: up to the end of the TCP header, of which the kernel finds the options.
        if let Some(segments) = offload.segments {
            h[1] = if segments.kind == SegmentKind::Tcp4 { GSO_TCP4 } else { GSO_TCP6 };
            h[2..4].copy_from_slice(&start.saturating_add(20).to_ne_bytes());
            h[4..6].copy_from_slice(&segments.size.to_ne_bytes());
        }
    }
    h
}

pub(crate) fn parse_header(h: &[u8]) -> Offload {
    let number = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    let kind = match h[1] & !GSO_ECN {
        GSO_TCP4 => Some(SegmentKind::Tcp4),
        GSO_TCP6 => Some(SegmentKind::Tcp6),
        _ => None,
    };
    Offload {
        checksum: (h[0] & NEEDS_CHECKSUM != 0).then(|| (number(6), number(8))),
        trusted: h[0] & DATA_VALID != 0,
        segments: kind.map(|kind| Segments { kind, size: number(4).max(1) }),
    }
}

fn open_tun(path: &str) -> io::Result<OwnedFd> {
    let path = CString::new(path)?;
    // SAFETY: the path ends with a zero byte; the descriptor is new.
    unsafe {
        let fd: RawFd = check(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A request about the interface `name`.
pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['/', '\0']) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a name for an interface"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect()
}

/// Sets an address of an interface: its own, or its netmask.
fn set_interface_address(name: &str, call: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
    let control = socket(false, libc::SOCK_DGRAM, 0)?;
    let mut request = request(name)?;
    let address = Address::new(SocketAddrV4::new(address, 0).into());
    // SAFETY: both are live; a sockaddr_in fits into the sockaddr of the request, and the call reads that.
    unsafe {
        request.ifr_ifru.ifru_addr = address.pointer().read();
        check(libc::ioctl(control.as_raw_fd(), call, &raw mut request))?;
    }
    Ok(())
}

/// Brings an interface of this network namespace up, such as `lo`.
///
/// # Errors
///
/// What the kernel says.
pub fn interface_up(name: &str) -> io::Result<()> {
    bring_up(name).map(|_| ())
}

/// Sends what has no other way in this network namespace to `router`.
///
/// # Errors
///
/// What the kernel says.
pub fn add_default_route(router: Ipv4Addr) -> io::Result<()> {
    let control = socket(false, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeros are a valid rtentry, whose addresses are of sockaddr_in's size; the call reads it.
    unsafe {
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = Address::new(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into()).pointer().read();
        route.rt_genmask = route.rt_dst;
        route.rt_gateway = Address::new(SocketAddrV4::new(router, 0).into()).pointer().read();
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        check(libc::ioctl(control.as_raw_fd(), libc::SIOCADDRT as _, &raw mut route))?;
    }
    Ok(())
}

/// Brings an interface up; gives its MTU.
pub(crate) fn bring_up(name: &str) -> io::Result<u16> {
    let control = socket(false, libc::SOCK_DGRAM, 0)?;
    let mut request = request(name)?;
    // SAFETY: the request is live, and of the type that the calls want; each call sets the part of the union that is read.
    unsafe {
        check(libc::ioctl(control.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        check(libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request))?;
        check(libc::ioctl(control.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request))?;
        Ok(u16::try_from(request.ifr_ifru.ifru_mtu).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_both_ways() {
        for offload in [
            Offload::default(),
            Offload { trusted: true, ..Offload::default() },
            Offload { checksum: Some((34, 16)), ..Offload::default() },
            Offload {
                checksum: Some((54, 16)),
                trusted: false,
                segments: Some(Segments { kind: SegmentKind::Tcp6, size: 1440 }),
            },
        ] {
            assert_eq!(parse_header(&emit_header(&offload)), offload);
        }
    }

    #[test]
    fn names() {
        assert_eq!(name_of(&request("tap%d").unwrap()), "tap%d");
        for bad in ["", "sixteen-letters-", "a/b"] {
            assert_eq!(request(bad).err().map(|e| e.kind()), Some(ErrorKind::InvalidInput), "{bad}");
        }
    }
}
