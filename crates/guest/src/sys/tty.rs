//! Terminals: pseudo terminals for commands, and the serial console.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::check;

/// A new pseudo terminal of `cols` by `rows`: its master and its slave.
///
/// # Errors
/// The error of `openpty`'s parts.
pub fn open_pty(cols: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a fresh descriptor, owned by nobody else; the ioctls take plain integers or a pointer to one. TIOCGPTPEER
    // opens the slave without a path, so it works whatever is mounted on /dev/pts.
    let (master, slave) = unsafe {
        let master = OwnedFd::from_raw_fd(check(libc::posix_openpt(flags))?);
        let unlocked: libc::c_int = 0;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked))?;
        let slave = check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
        (master, OwnedFd::from_raw_fd(slave))
    };
    resize_tty(&master, cols, rows)?;
    Ok((master, slave))
}

/// Tells a terminal its size; its foreground processes get SIGWINCH.
///
/// # Errors
/// The error of the ioctl.
pub fn resize_tty(fd: &impl AsFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Opens a terminal device without making it the controlling terminal.
///
/// # Errors
/// The error of `open`.
pub fn open_tty(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)
}

/// Puts a terminal into the mode a shell expects: echo, line editing by the kernel, signals from keys.
///
/// # Errors
/// The error of `tcgetattr` or `tcsetattr`.
pub fn sane_tty(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `termios` is plain data, filled by `tcgetattr` before use.
    unsafe {
        let mut mode: libc::termios = std::mem::zeroed();
        check(libc::tcgetattr(fd, &raw mut mode))?;
        mode.c_iflag = libc::ICRNL | libc::IXON | libc::IUTF8;
        mode.c_oflag = libc::OPOST | libc::ONLCR;
        mode.c_lflag = libc::ISIG
            | libc::ICANON
            | libc::ECHO
            | libc::ECHOE
            | libc::ECHOK
            | libc::ECHOCTL
            | libc::ECHOKE
            | libc::IEXTEN;
        mode.c_cflag |= libc::CREAD | libc::HUPCL | libc::CLOCAL;
        for (index, value) in [
            (libc::VINTR, 3),
            (libc::VQUIT, 0x1c),
            (libc::VERASE, 0x7f),
            (libc::VKILL, 0x15),
            (libc::VEOF, 4),
            (libc::VSTART, 0x11),
            (libc::VSTOP, 0x13),
            (libc::VSUSP, 0x1a),
            (libc::VMIN, 1),
            (libc::VTIME, 0),
        ] {
            if let Some(slot) = mode.c_cc.get_mut(index) {
                *slot = value;
            }
        }
        check(libc::tcsetattr(fd, libc::TCSANOW, &raw const mode)).map(drop)
    }
}

/// Makes the command a session leader with its standard input as controlling terminal when it starts.
pub fn acquire_tty_for(command: &mut Command) {
    super::unblock_signals_for(command);
    // SAFETY: `setsid` and `ioctl` are async-signal-safe and touch no memory of this process.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            // 1: take it even from another session; only root can, and only PID 1 needs to.
            if libc::ioctl(0, libc::TIOCSCTTY, 1) < 0 {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            Ok(())
        });
    }
}
