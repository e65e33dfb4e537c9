//! Calls that change the machine: mounts, modules, clock, power.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{c_string, check};

/// What to do with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Switch it off.
    Off,
    /// Start it again.
    Restart,
    /// Stop the CPU and stay.
    Halt,
}

/// Mounts `source` of file system type `kind` at `target`; `flags` are `MS_*`, `data` the type's own options.
///
/// # Errors
/// The error of `mount`.
pub fn mount(source: &str, target: &Path, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target) = (c_string(source)?, c_string(target)?);
    let (kind, data) = (c_string(kind)?, c_string(data)?);
    // SAFETY: four valid C strings that live through the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })
        .map(drop)
}

/// Unmounts `target`, or detaches it when it is in use and `lazy`.
///
/// # Errors
/// The error of `umount2`.
pub fn umount(target: &Path, lazy: bool) -> io::Result<()> {
    let target = c_string(target)?;
    let flags = if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: a valid C string.
    check(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// Makes the mount at `new_root` the root of this process and of the mount tree (what `switch_root` does: the initial
/// ramfs cannot be unmounted, so the new root is moved over it).
///
/// # Errors
/// The error of `chdir`, `mount` or `chroot`.
pub fn move_mount_to_root(new_root: &Path) -> io::Result<()> {
    std::env::set_current_dir(new_root)?;
    mount(".", Path::new("/"), "", libc::MS_MOVE, "")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Loads a kernel module from an open file.
///
/// # Errors
/// The error of `finit_module`; `AlreadyExists` when it is loaded.
pub fn finit_module(file: &File) -> io::Result<()> {
    // SAFETY: an open descriptor, an empty C string and a plain integer.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    check(i32::try_from(done).unwrap_or(-1)).map(drop)
}

/// Switches a network interface on.
///
/// # Errors
/// The error of `socket` or the ioctl.
pub fn link_up(name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which zero is valid; the name is copied with room for its final zero; both
    // ioctls read and write only this `ifreq`; the descriptor is fresh and owned by nobody else.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        let room = request.ifr_name.len() - 1;
        for (slot, byte) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request)).map(drop)
    }
}

/// Gives a network interface its IPv4 address; `prefix` is 1 to 32.
///
/// # Errors
/// The error of `socket` or an ioctl.
pub fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX << (32 - u32::from(prefix.clamp(1, 32)));
    // SAFETY: as in `link_up`; both ioctls read an IPv4 address from the union, which is written before each.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        let room = request.ifr_name.len() - 1;
        for (slot, byte) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        request.ifr_ifru.ifru_addr = inet(address);
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFADDR as _, &raw mut request))?;
        request.ifr_ifru.ifru_netmask = inet(Ipv4Addr::from(mask));
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFNETMASK as _, &raw mut request)).map(drop)
    }
}

/// Adds the route to everywhere through `gateway`.
///
/// # Errors
/// The error of `socket` or the ioctl.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: `rtentry` is plain data for which zero is valid, and the ioctl only reads it; the descriptor is fresh.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = inet(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = inet(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCADDRT as _, &raw mut route)).map(drop)
    }
}

/// An IPv4 address as the kernel wants it (`sockaddr_in` inside of `sockaddr`).
fn inet(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(u8::cast_signed);
    let mut data = [0; 14];
    data[2..6].copy_from_slice(&[a, b, c, d]);
    libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data }
}

/// Sets the host name.
///
/// # Errors
/// The error of `sethostname`.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the wall clock: seconds since 1970 and nanoseconds below 10^9.
///
/// # Errors
/// The error of `clock_settime`.
pub fn set_clock(secs: i64, nanos: u32) -> io::Result<()> {
    let time = libc::timespec { tv_sec: secs, tv_nsec: i64::from(nanos) };
    // SAFETY: reads one `timespec`.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) }).map(drop)
}

/// Milliseconds since the kernel started, time asleep included.
pub fn uptime_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`.
    unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time);
    }
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// Release of the running kernel, for example `6.1.0-44-cloud-amd64`.
pub fn uname_release() -> String {
    // SAFETY: `utsname` is plain data; the kernel fills `release` with a string that ends in zero.
    unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        std::ffi::CStr::from_ptr(name.release.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Writes everything that is still in memory to the disks.
pub fn sync() {
    // SAFETY: takes nothing, returns nothing.
    unsafe { libc::sync() }
}

/// Switches the machine off, restarts or halts it. Returns only when the kernel refuses.
pub fn power(what: Power) -> io::Error {
    let command = match what {
        Power::Off => libc::RB_POWER_OFF,
        Power::Restart => libc::RB_AUTOBOOT,
        Power::Halt => libc::RB_HALT_SYSTEM,
    };
    // SAFETY: a plain integer; every file system has been synced or unmounted by the caller.
    unsafe {
        libc::reboot(command);
    }
    io::Error::last_os_error()
}

/// Size of an open block device in bytes.
///
/// # Errors
/// The error of the ioctl.
pub fn block_device_size(device: &File) -> io::Result<u64> {
    // _IOR(0x12, 114, size_t) of <linux/fs.h>
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Type (the `*_MAGIC` of statfs(2)) and block size in bytes of the file system at `path`.
///
/// # Errors
/// The error of `statfs`.
pub fn statfs_info(path: &Path) -> io::Result<(u32, u64)> {
    let path = c_string(path)?;
    // SAFETY: a valid C string; `statfs` is plain data that the call fills.
    unsafe {
        let mut info: libc::statfs = std::mem::zeroed();
        check(libc::statfs(path.as_ptr(), &raw mut info))?;
        Ok((info.f_type as u32, info.f_bsize.unsigned_abs()))
    }
}

/// Grows the mounted ext4 file system at `mount_point` to `blocks` blocks.
///
/// # Errors
/// The error of the ioctl.
pub fn grow_ext4(mount_point: &Path, blocks: u64) -> io::Result<()> {
    // _IOW('f', 16, __u64) of fs/ext4/ext4.h
    const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
    let directory = File::open(mount_point)?;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) }).map(drop)
}
