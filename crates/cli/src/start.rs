//! The line that tells how far a boot has come: `starting web > power on 0.00 > POST 0.01 > boot loader 0.64`.
//!
//! It goes to standard error, never to standard output, which is the guest's. On a terminal phases appear as they happen; where
//! the guest's console is on that terminal too, its first words end the line, and the phases that follow get lines of their own. In
//! a file or a pipe it is one line, when the boot is over.

use std::io::{IsTerminal, Write};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Phase by phase, to a person.
    Live,
    /// As one line at the end.
    Whole,
    /// Not at all.
    Silent,
}

impl Manner {
    /// As standard error has it.
    pub(crate) fn of_stderr() -> Self {
        if std::io::stderr().is_terminal() { Manner::Live } else { Manner::Whole }
    }
}

/// Where the cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Behind the line.
    Behind,
    /// Behind something of somebody else's.
    Elsewhere,
    /// At the beginning of a line.
    Fresh,
}

/// The line. Ends of lines are given by the caller, because a terminal in raw mode wants more of them.
#[derive(Debug)]
pub(crate) struct StartLine<W = std::io::Stderr> {
    out: W,
    text: String,
    manner: Manner,
    shown: usize,
    cursor: Cursor,
    done: bool,
}

impl StartLine {
    /// Begins to tell of the start of `what`.
    pub(crate) fn new(what: &str, manner: Manner) -> Self {
        StartLine::on(std::io::stderr(), what, manner)
    }
}

impl<W: Write> StartLine<W> {
    fn on(out: W, what: &str, manner: Manner) -> Self {
        let text = format!("starting {what}");
        let mut line =
            StartLine { out, manner, shown: 0, cursor: Cursor::Behind, done: manner == Manner::Silent, text };
        if manner == Manner::Live {
            let text = line.text.clone();
            line.put(&text);
        }
        line
    }

    /// Shows those of `phases` (all so far, with the seconds since power on) that have not been shown.
    pub(crate) fn phases<'a>(&mut self, phases: impl Iterator<Item = (&'a str, f64)>, end: &str) {
        if self.done {
            return;
        }
        for (phase, seconds) in phases.skip(self.shown) {
            self.shown += 1;
            let more = format!(" > {phase} {seconds:.2}");
            self.text.push_str(&more);
            match (self.manner, self.cursor) {
                (Manner::Live, Cursor::Behind) => self.put(&more),
                (Manner::Live, cursor) => {
                    let before = if cursor == Cursor::Fresh { "" } else { end };
                    self.put(&format!("{before}visor: {}{end}", more.trim_start()));
                    self.cursor = Cursor::Fresh;
                }
                _ => {}
            }
        }
    }

    /// Phases appear as they happen.
    pub(crate) fn is_live(&self) -> bool {
        self.manner == Manner::Live
    }

    /// Somebody else is about to write `words` to the same terminal.
    pub(crate) fn give_way(&mut self, words: &[u8], end: &str) {
        if !self.done && self.manner == Manner::Live && !words.is_empty() {
            if self.cursor == Cursor::Behind {
                self.put(end);
            }
            self.cursor = if words.ends_with(b"\n") { Cursor::Fresh } else { Cursor::Elsewhere };
        }
    }

    /// Nothing more is to be told; `last` ends the line, if there still is one.
    pub(crate) fn finish(&mut self, last: &str, end: &str) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        match (self.manner, self.cursor) {
            (Manner::Live, Cursor::Behind) => self.put(&format!("{last}{end}")),
            (Manner::Live, _) if !last.is_empty() => self.put(&format!("visor: {}{end}", last.trim())),
            (Manner::Whole, _) => {
                let text = std::mem::take(&mut self.text);
                self.put(&format!("{text}{last}{end}"));
            }
            _ => {}
        }
    }

    fn put(&mut self, text: &str) {
        // Where nobody listens nothing is told.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [(&str, f64); 3] = [("power on", 0.0), ("POST", 0.012), ("boot loader", 0.64)];

    fn told(manner: Manner, f: impl FnOnce(&mut StartLine<Vec<u8>>)) -> String {
        let mut line = StartLine::on(Vec::new(), "web", manner);
        f(&mut line);
        String::from_utf8(line.out).unwrap()
    }

    #[test]
    fn phases_appear_as_they_happen() {
        let told = told(Manner::Live, |l| {
            l.phases(PHASES[..1].iter().copied(), "\n");
            l.phases(PHASES[..2].iter().copied(), "\n");
            assert_eq!(l.out, b"starting web > power on 0.00 > POST 0.01");
            l.phases(PHASES.iter().copied(), "\n");
            l.finish("   0.8 s", "\n");
            l.phases([("x", 1.0); 9].into_iter(), "\n");
            l.finish("", "\n");
        });
        assert_eq!(told, "starting web > power on 0.00 > POST 0.01 > boot loader 0.64   0.8 s\n");
    }

    #[test]
    fn the_guest_takes_the_terminal_over() {
        let told = told(Manner::Live, |l| {
            l.phases(PHASES[..2].iter().copied(), "\r\n");
            l.give_way(b"Sea", "\r\n");
            l.give_way(b"BIOS", "\r\n");
            l.out.extend(b"SeaBIOS");
            l.phases(PHASES.iter().copied().chain([("kernel", 0.7)]), "\r\n");
            l.finish("", "\r\n");
        });
        let seen = "starting web > power on 0.00 > POST 0.01\r\nSeaBIOS\r\nvisor: > boot loader 0.64\r\nvisor: > kernel 0.70\r\n";
        assert_eq!(told, seen);
    }

    #[test]
    fn a_file_gets_one_line_and_the_quiet_none() {
        let tell = |l: &mut StartLine<Vec<u8>>| {
            l.phases(PHASES.iter().copied(), "\n");
            l.give_way(b"x", "\n");
            assert!(l.out.is_empty());
            l.finish("", "\n");
        };
        assert_eq!(told(Manner::Whole, tell), "starting web > power on 0.00 > POST 0.01 > boot loader 0.64\n");
        assert_eq!(told(Manner::Silent, tell), "");
    }
}
