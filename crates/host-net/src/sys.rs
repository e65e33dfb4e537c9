//! Thin safe layers over the system calls that sockets need.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The result of a system call that gives -1 for an error.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that give a length.
pub(crate) fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A new socket that does not block.
pub(crate) fn socket(v6: bool, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor is new, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option whose value is a number.
pub(crate) fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_option_raw(fd, level, name, &value)
}

/// Sets an option of any plain type.
pub(crate) fn set_option_raw<T: Copy>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as u32) })?;
    Ok(())
}

/// An option whose value is an array of numbers; those that the kernel does not know stay 0.
pub(crate) fn option<const N: usize>(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<[u32; N]> {
    let mut value = [0u32; N];
    let mut len = size_of_val(&value) as u32;
    // SAFETY: the pointers describe `value`, and the kernel writes no more than `len` bytes.
    check(unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
    Ok(value)
}

/// Any address of the kernel, with its length.
pub(crate) struct Address {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl Address {
    /// Room for any.
    pub(crate) fn empty() -> Address {
        // SAFETY: all zeros are a valid sockaddr_storage.
        Address { storage: unsafe { zeroed() }, len: size_of::<libc::sockaddr_storage>() as u32 }
    }

    pub(crate) fn new(address: SocketAddr) -> Address {
        let mut this = Address::empty();
        match address {
            SocketAddr::V4(a) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than, and aligned for, every kind of address.
                unsafe { std::ptr::from_mut(&mut this.storage).cast::<libc::sockaddr_in>().write(raw) };
                this.len = size_of::<libc::sockaddr_in>() as u32;
            }
            SocketAddr::V6(a) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                    sin6_scope_id: a.scope_id(),
                };
                // SAFETY: as above.
                unsafe { std::ptr::from_mut(&mut this.storage).cast::<libc::sockaddr_in6>().write(raw) };
                this.len = size_of::<libc::sockaddr_in6>() as u32;
            }
        }
        this
    }

    /// The address, if it is one of IP. An IPv4 address inside of an IPv6 one becomes itself again.
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        let from = std::ptr::from_ref(&self.storage);
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what it is, and the storage is large enough.
                let a = unsafe { from.cast::<libc::sockaddr_in>().read() };
                let ip = a.sin_addr.s_addr.to_ne_bytes();
                Some(SocketAddrV4::new(ip.into(), u16::from_be(a.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let a = unsafe { from.cast::<libc::sockaddr_in6>().read() };
                let ip = std::net::Ipv6Addr::from(a.sin6_addr.s6_addr);
                let port = u16::from_be(a.sin6_port);
                match IpAddr::V6(ip).to_canonical() {
                    IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, port).into()),
                    IpAddr::V6(ip) => Some(SocketAddrV6::new(ip, port, 0, a.sin6_scope_id).into()),
                }
            }
            _ => None,
        }
    }

    pub(crate) fn pointer(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }
}

/// Binds a socket.
pub(crate) fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let address = Address::new(address);
    // SAFETY: pointer and length describe the address.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.pointer(), address.len) })?;
    Ok(())
}

/// The local address of a socket.
pub(crate) fn local_address(fd: RawFd) -> Option<SocketAddr> {
    let mut address = Address::empty();
    // SAFETY: the pointers describe the storage, and the kernel writes no more than its length.
    let result =
        unsafe { libc::getsockname(fd, std::ptr::from_mut(&mut address.storage).cast(), &raw mut address.len) };
    check(result).ok()?;
    address.get()
}

/// `ENOTCONN` as long as a connection is not there (getpeername(2)).
pub(crate) fn has_peer(fd: RawFd) -> io::Result<()> {
    let mut address = Address::empty();
    // SAFETY: the pointers describe the storage.
    check(unsafe { libc::getpeername(fd, std::ptr::from_mut(&mut address.storage).cast(), &raw mut address.len) })?;
    Ok(())
}

/// True if the far end has sent its last byte.
pub(crate) fn at_end(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLRDHUP != 0 }
}

/// A new epoll instance.
pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)) }
}

/// Adds (`EPOLL_CTL_ADD`) or changes (`EPOLL_CTL_MOD`) what `epoll` watches.
pub(crate) fn epoll_control(epoll: RawFd, op: libc::c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: the pointer is to a live event.
    check(unsafe { libc::epoll_ctl(epoll, op, fd, &raw mut event) })?;
    Ok(())
}

/// Waits up to `timeout` milliseconds (-1: for ever) and gives the number of events written to `events`.
pub(crate) fn epoll_wait(epoll: RawFd, events: &mut [libc::epoll_event], timeout: libc::c_int) -> io::Result<usize> {
    // SAFETY: pointer and length describe `events`.
    let n = check(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, timeout) })?;
    Ok(n as usize)
}

/// Raises this process's limit of open files as far as an ordinary user may, and gives it. Every flow of a translated network
/// needs a socket.
pub fn raise_open_files() -> u64 {
    // SAFETY: all zeros are a valid rlimit, and the pointers are to it.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 { raised.rlim_cur } else { limit.rlim_cur }
    }
}
