//! What the guest said last, and what of a boot the user gets to see.

/// Bytes kept.
const KEPT: usize = 16 << 10;

/// The last of the guest's serial output, for error messages.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        if self.0.len() > 2 * KEPT {
            self.0.drain(..self.0.len() - KEPT);
        }
    }

    /// The last `n` lines that say something, without control characters and escape sequences, oldest first. A kernel's reason
    /// for its panic comes before them, since a dump follows it.
    pub(super) fn lines(&self, n: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0);
        let says = |l: &String| !l.trim().is_empty() && !is_ready_line(l.as_bytes());
        let all: Vec<String> = text.split(['\n', '\r']).map(printable).filter(says).collect();
        let (before, last) = all.split_at(all.len().saturating_sub(n));
        let panic = before.iter().rfind(|l| l.contains("Kernel panic - not syncing"));
        panic.into_iter().chain(last).cloned().collect()
    }
}

/// `line` without what a terminal would obey: ECMA-48 control sequences and control characters.
pub(crate) fn printable(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            if chars.next_if_eq(&'[').is_some() {
                // Parameters, then one final character from @ to ~.
                let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
            } else {
                chars.next();
            }
        } else if !c.is_control() {
            out.push(c);
        } else if c == '\t' {
            out.push(' ');
        }
    }
    out
}

/// Hides the boot of visor's own images: everything up to the line `READY seconds` with which their PID 1 says that it is done.
#[derive(Debug, Default)]
pub(super) struct Curtain {
    line: Vec<u8>,
    held: Vec<u8>,
}

impl Curtain {
    /// Takes output; gives what follows the line once that has come.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        for (i, &b) in bytes.iter().enumerate() {
            self.line.push(b);
            if b == b'\n' {
                if is_ready_line(&self.line) {
                    return Some(bytes[i + 1..].to_vec());
                }
                self.held.append(&mut self.line);
            }
        }
        if self.held.len() > KEPT {
            self.held.drain(..self.held.len() - KEPT);
        }
        if self.line.len() > KEPT {
            self.held = std::mem::take(&mut self.line);
        }
        None
    }

    /// Gives up waiting: what was hidden, as far as it was kept.
    pub(super) fn lift(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.held);
        all.append(&mut self.line);
        all
    }
}

fn is_ready_line(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    line.trim().strip_prefix("READY ").is_some_and(|t| t.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_clean_and_few() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 5 * KEPT]);
        tail.push(b"\r\none\r\n\x1b[1;31mtwo\x1b[0m\x07\r\n\r\nthree \xff");
        assert_eq!(tail.lines(3), ["one", "two", "three \u{fffd}"]);
        assert!(tail.0.len() <= 2 * KEPT + 64);
        tail.push(b"\r\n[1.0] Kernel panic - not syncing: no init\r\na\r\nREADY 1.5\r\nb\r\nc\r\n");
        assert_eq!(tail.lines(2), ["[1.0] Kernel panic - not syncing: no init", "b", "c"]);
        assert_eq!(tail.lines(4).len(), 4, "not twice");
        assert!(Tail::default().lines(3).is_empty());
        assert_eq!(printable("a\x1b"), "a");
    }

    #[test]
    fn the_curtain_opens_at_the_line_across_reads() {
        let mut curtain = Curtain::default();
        assert_eq!(curtain.push(b"[0.1] READY to go\r\nREA"), None);
        assert_eq!(curtain.push(b"DY 2.341\r"), None);
        assert_eq!(curtain.push(b"\n/ # "), Some(b"/ # ".to_vec()));
    }

    #[test]
    fn a_curtain_that_is_lifted_shows_what_it_hid() {
        let mut curtain = Curtain::default();
        curtain.push(b"panic\r\nREADY x\r\nend");
        assert_eq!(curtain.lift(), b"panic\r\nREADY x\r\nend");
        curtain.push(&vec![b'y'; 9 * KEPT]);
        assert!(curtain.lift().len() <= 9 * KEPT);
    }
}
