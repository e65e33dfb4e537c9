//! The keys that leave a console: ctrl-], or ctrl-a x. ctrl-a ctrl-a sends one ctrl-a.

/// ctrl-a.
const CTRL_A: u8 = 0x01;
/// ctrl-].
const CTRL_BRACKET: u8 = 0x1d;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// Nothing: go on.
    None,
    /// Leave the console.
    Leave,
}

/// Splits typed bytes into those for the guest and the escape keys, across any division into reads.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    after_ctrl_a: bool,
}

impl Keys {
    /// Appends to `out` what of `typed` is for the guest; bytes after an escape are dropped.
    pub(crate) fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> Escape {
        for &b in typed {
            if std::mem::take(&mut self.after_ctrl_a) {
                match b {
                    b'x' | b'X' | b'q' => return Escape::Leave,
                    CTRL_A => out.push(CTRL_A),
                    other => out.extend([CTRL_A, other]),
                }
                continue;
            }
            match b {
                CTRL_BRACKET => return Escape::Leave,
                CTRL_A => self.after_ctrl_a = true,
                other => out.push(other),
            }
        }
        Escape::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_found_across_reads_and_everything_else_passes() {
        let mut keys = Keys::default();
        let mut out = Vec::new();
        assert_eq!(keys.filter(b"ls\x01", &mut out), Escape::None);
        assert_eq!(keys.filter(b"\x01\x01e", &mut out), Escape::None);
        assert_eq!(out, b"ls\x01\x01e", "a doubled ctrl-a is one, and one before another key passes with it");
        assert_eq!(keys.filter(b"a\x01", &mut out), Escape::None);
        assert_eq!(keys.filter(b"x", &mut out), Escape::Leave);
        assert_eq!(Keys::default().filter(b"\x1d", &mut out), Escape::Leave);
    }
}
