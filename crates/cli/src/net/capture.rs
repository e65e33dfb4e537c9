//! `visor net capture`: the packets of a running guest, in a file.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use visor_network::GuestRequest;

use super::guest::GuestPlace;
use crate::report::Failure;
use crate::terminal::{catch_signals, take_signals};

/// How often to look whether the guest is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Captures until the time is over, a signal comes, or the guest goes.
pub(super) fn capture(name: &str, output: &Path, time: Option<Duration>, quiet: bool) -> Result<u8, Failure> {
    let guest = GuestPlace::find(name)?;
    let event = EventFd::new()?;
    catch_signals(event.as_fd().try_clone_to_owned()?)?;
    // The process that holds the network writes; what is our standard output it finds among our descriptors.
    let path = match output.to_str() {
        Some("-") => PathBuf::from(format!("/proc/{}/fd/1", std::process::id())),
        _ => std::path::absolute(output)?,
    };
    guest.request(&GuestRequest::StartCapture(path))?;
    if !quiet {
        let until = if time.is_some() { "" } else { "; ctrl-c ends it" };
        eprintln!("visor: capturing {name} into {}{until}", output.display());
    }
    let end = time.map(|t| Instant::now() + t);
    while take_signals().is_empty() && end.is_none_or(|e| Instant::now() < e) {
        let left = end.map_or(LOOK, |e| e.saturating_duration_since(Instant::now()).min(LOOK));
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
        if guest.request(&GuestRequest::Ports).is_err() {
            eprintln!("visor: {name} has ended");
            return Ok(0);
        }
    }
    let packets: Option<u64> = guest.ask(&GuestRequest::StopCapture)?;
    if !quiet {
        eprintln!("visor: {} packets", packets.unwrap_or(0));
    }
    Ok(0)
}
