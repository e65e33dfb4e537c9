//! What the firmware says while it boots, and what to do when it finds nothing to boot.

use super::live::Live;
use super::timeline;
use crate::report::{FAILED, Failure};

/// What firmwares say then: SeaBIOS in its log, OVMF on the console, where its own shell is the last resort: that asks for commands
/// once it has found no script of the user's (startup.nsh) either.
const NOTHING: [&str; 3] =
    ["No bootable device.", "No bootable option or device was found", "\x1b[1m\x1b[33m\x1b[40mShell> "];

/// Watches a boot.
#[derive(Debug, Default)]
pub(super) struct BootWatch {
    /// Show the firmware's log.
    log: bool,
    /// Phases that have been shown.
    phases: usize,
    /// Nothing bootable was found, and that has been told of.
    told: bool,
    /// The last of the console, in case the words come in pieces.
    tail: Vec<u8>,
}

impl BootWatch {
    pub(super) fn new(log: bool) -> Self {
        BootWatch { log, ..Self::default() }
    }

    /// Shows what the log has got since the last call, each line ended by `end`. True once, when the firmware has given up.
    pub(super) fn look(&mut self, live: &Live, serial: &[u8], end: &str) -> bool {
        let lines = live.firmware_lines();
        if self.log {
            lines.iter().filter(|l| !l.is_empty()).for_each(|l| eprint!("firmware: {l}{end}"));
            let events = live.timeline().events();
            events.iter().skip(self.phases).for_each(|e| eprint!("visor: {}{end}", timeline::line(e)));
            self.phases = events.len();
        }
        let logged = lines.iter().any(|l| NOTHING.iter().any(|n| l.contains(n)));
        let gave_up = logged | self.hears(serial);
        gave_up && !std::mem::replace(&mut self.told, true)
    }

    fn hears(&mut self, serial: &[u8]) -> bool {
        let longest = NOTHING.iter().map(|n| n.len()).max().unwrap_or(0);
        self.tail.extend(serial);
        let found = NOTHING.iter().any(|n| self.tail.windows(n.len()).any(|w| w == n.as_bytes()));
        self.tail.drain(..self.tail.len().saturating_sub(longest));
        found
    }
}

/// The firmware has found nothing to boot; `tried` are the devices in the order in which it looked.
pub(super) fn nothing_to_boot(tried: &[String]) -> Failure {
    let failure = Failure { status: FAILED, ..Failure::new("the firmware found nothing to boot") };
    if tried.is_empty() {
        return failure
            .hint("the machine has no device to boot from")
            .hint("give it a disk (--disk FILE), or a kernel (--kernel FILE)");
    }
    let failure = failure.hint(format!("tried: {}", tried.join(", ")));
    if tried.iter().all(|t| t.starts_with("net ")) {
        return failure
            .hint("a network needs a boot file: --tftp DIRECTORY --bootfile FILE serve one")
            .hint("--screen-text FILE shows what the boot loader said");
    }
    failure
        .hint("a disk needs a boot sector for a BIOS, or an EFI system partition for UEFI (--firmware uefi)")
        .hint("-v shows what the firmware does; --boot-menu lets you choose")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_pieces_are_heard() {
        let mut watch = BootWatch::default();
        assert!(!watch.hears(b"Booting...\r\nNo boot"));
        assert!(watch.hears(b"able device.\r\n"));
        let failure = nothing_to_boot(&["disk a.img".into()]);
        assert!(failure.hints[0].contains("a.img"));
    }
}
