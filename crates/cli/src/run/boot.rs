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

/// The firmware has found nothing to boot; `tried` are the devices in the order in which it looked. `drive` is the name of a
/// machine that others reach, if it has a CD-ROM drive.
pub(super) fn nothing_to_boot(tried: &[String], drive: Option<&str>) -> Failure {
    let failure = Failure { status: FAILED, ..Failure::new("the firmware found nothing to boot") };
    let failure = match tried {
        [] => failure.hint("the machine has no device to boot from"),
        tried => failure.hint(format!("tried: {}", tried.join(", "))),
    };
    let insert =
        |name| format!("put an installer into its drive: visor cd insert {name} FILE.iso, then visor restart {name}");
    let nets = tried.iter().filter(|t| t.starts_with("net ")).count();
    let vacant = tried.iter().filter(|t| *t == "cd an empty CD-ROM drive").count();
    if vacant + nets == tried.len() && (vacant > 0 || nets == 0) {
        let with = || "start it with an installer and a new disk: --iso FILE.iso --disk 20G".to_owned();
        return failure
            .hint("a machine without an operating system can do nothing")
            .hint(drive.map_or_else(with, insert))
            .hint("or start a system that is installed: --disk FILE, or an image: visor launch tiny");
    }
    if nets == tried.len() {
        return failure
            .hint("a network needs a boot file: --tftp DIRECTORY --bootfile FILE serve one")
            .hint("--screen-text FILE shows what the boot loader said");
    }
    let failure = drive.into_iter().fold(failure, |f, name| f.hint(insert(name)));
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
        let failure = nothing_to_boot(&["disk a.img".into()], None);
        assert!(failure.hints[0].contains("a.img"));
    }

    #[test]
    fn a_bare_machine_is_explained() {
        let hints = |tried: &[&str], drive| {
            let tried: Vec<String> = tried.iter().map(|t| (*t).to_owned()).collect();
            nothing_to_boot(&tried, drive).hints.join("\n")
        };
        let bare = hints(&["cd an empty CD-ROM drive"], Some("bare"));
        assert!(bare.contains("can do nothing") && bare.contains("visor cd insert bare FILE.iso"), "{bare}");
        assert!(hints(&[], None).contains("--iso FILE.iso --disk 20G"));
        assert!(hints(&["disk a", "cd an empty CD-ROM drive"], Some("web")).contains("visor cd insert web"));
        assert!(hints(&["net network nat"], None).contains("--tftp"));
    }
}
