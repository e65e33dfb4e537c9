//! Raw mode of the user's terminal.
//!
//! Whatever ends the program, the terminal comes back: a guard restores it when it goes out of scope and on a panic, and the
//! signals that end programs (INT, TERM, HUP, QUIT) are turned into a flag that the console loop looks at.

use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Set by a signal that asks the program to end.
static END: AtomicBool = AtomicBool::new(false);
/// Set when the terminal's size changed.
static RESIZED: AtomicBool = AtomicBool::new(true);
/// The mode to come back to, also for the panic hook.
static COOKED: OnceLock<Termios> = OnceLock::new();

/// Keeps the terminal in raw mode while it lives; does nothing where standard input is no terminal.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    active: bool,
}

impl RawTerminal {
    /// Catches the ending signals and, if standard input is a terminal, makes it raw.
    ///
    /// # Errors
    /// Where the terminal refuses.
    pub(crate) fn enter() -> anyhow::Result<Self> {
        catch_signals()?;
        let stdin = std::io::stdin();
        if !std::io::IsTerminal::is_terminal(&stdin) {
            return Ok(RawTerminal { active: false });
        }
        let cooked = tcgetattr(stdin.as_fd())?;
        let mut raw = cooked.clone();
        cfmakeraw(&mut raw);
        if COOKED.set(cooked).is_ok() {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        }
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(RawTerminal { active: true })
    }

    /// Standard input is a terminal in raw mode.
    pub(crate) fn active(&self) -> bool {
        self.active
    }

    /// A signal asked the program to end.
    pub(crate) fn ended() -> bool {
        END.load(Ordering::SeqCst)
    }

    /// The size changed since the last call (true the first time).
    pub(crate) fn resized() -> bool {
        RESIZED.swap(false, Ordering::SeqCst)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.active {
            restore();
        }
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
    if let Some(cooked) = COOKED.get() {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, cooked);
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    if signal == libc::SIGWINCH {
        RESIZED.store(true, Ordering::SeqCst);
    } else {
        END.store(true, Ordering::SeqCst);
    }
}

fn catch_signals() -> anyhow::Result<()> {
    // No SA_RESTART: a poll in the console loop returns at once.
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH] {
        // SAFETY: the handler only stores to atomics.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}
