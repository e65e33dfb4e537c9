//! Raw mode of the user's terminal.
//!
//! Whatever ends the program, the terminal comes back: a guard restores it when it goes out of scope and on a panic, and the
//! signals that end programs are events of the main loop (see `signals`), which then ends in order.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The mode to come back to, also for the panic hook.
static COOKED: OnceLock<Mutex<Termios>> = OnceLock::new();
/// The terminal is raw now.
static RAW: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal in raw mode while it lives.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input, which must be a terminal, raw.
    ///
    /// # Errors
    /// Where the terminal refuses.
    pub(crate) fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let cooked = tcgetattr(stdin.as_fd())?;
        let mut raw = cooked.clone();
        cfmakeraw(&mut raw);
        if COOKED.set(Mutex::new(cooked)).is_ok() {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        }
        RAW.store(true, Ordering::SeqCst);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(RawTerminal(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and rows of the terminal on standard output or input.
pub(crate) fn size() -> Option<(u16, u16)> {
    for fd in [libc::STDOUT_FILENO, libc::STDIN_FILENO] {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
        if unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_col > 0 {
            return Some((size.ws_col, size.ws_row));
        }
    }
    None
}

fn restore() {
    if !RAW.swap(false, Ordering::SeqCst) {
        return;
    }
    if let Some(cooked) = COOKED.get() {
        let cooked = cooked.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &cooked);
    }
}
