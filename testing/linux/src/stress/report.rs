//! What a run of the stress guest says.

use std::collections::BTreeMap;
use std::fmt;

/// Tests that may be left out where the machine lacks what they need, with words of their reason.
const MAY_SKIP: &[(&str, &str)] = &[];

/// Kernel warnings that say nothing about the machine, by their text: the host's scheduler took the CPU away; a remark on an option
/// of the kernel that a test switches on.
const HARMLESS: &[&str] = &["hrtimer: interrupt took", "Scheduler tracepoints stat_sleep"];

/// Words by which the console shows that the kernel is in trouble, whatever its log says later.
const TROUBLE: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Call Trace",
    "general protection",
    "Kernel panic",
    "soft lockup",
    "stall",
    "hung task",
    "segfault at",
    "traps: ",
    "Unknown NMI",
    "alg: ",
    "Code: ",
    "Clocksource",
    "invalid opcode",
];

/// What a run of the stress guest showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Times that each test passed.
    pub passed: BTreeMap<String, u32>,
    /// What went wrong.
    pub faults: Vec<String>,
    /// Remarks of tests that passed, by test; the last one counts.
    pub remarks: BTreeMap<String, String>,
    /// The end of the console.
    pub tail: String,
    /// What visor said on standard error.
    pub visor: String,
}

impl Report {
    /// Reads a guest's output.
    pub fn read(text: &str) -> Self {
        let mut report = Report::default();
        let mut done = false;
        for line in text.lines().map(str::trim_end) {
            done |= line == "DONE";
            report.line(line);
        }
        if !done {
            report.faults.push("the guest did not come to its end".to_owned());
        }
        let lines: Vec<&str> = text.lines().collect();
        report.tail = lines[lines.len().saturating_sub(30)..].join("\n");
        report
    }

    /// Each of these must have passed.
    pub fn expect(&mut self, tests: impl Iterator<Item = String>) {
        for test in tests.filter(|t| !self.passed.contains_key(t)) {
            let mentioned = self.faults.iter().any(|f| f.contains(&format!(" {test}:")));
            if !mentioned {
                self.faults.push(format!("{test} was not run"));
            }
        }
    }

    /// Nothing went wrong.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn line(&mut self, line: &str) {
        // A kernel message may stand in front, on the same line.
        let find = |word: &str| line.find(word).map(|at| &line[at..]);
        if let Some(pass) = find("PASS ") {
            let mut words = pass.split(' ').skip(1);
            let name = words.next().unwrap_or_default().to_owned();
            *self.passed.entry(name.clone()).or_default() += 1;
            let remark = words.skip(2).collect::<Vec<_>>().join(" ");
            if !remark.is_empty() {
                self.remarks.insert(name, remark);
            }
        } else if let Some(fail) = find("FAIL ") {
            self.faults.push(fail.to_owned());
        } else if let Some(skip) = find("SKIP ") {
            let name = skip.split([' ', ':']).nth(1).unwrap_or_default();
            if MAY_SKIP.iter().any(|(test, why)| name == *test && skip.contains(why)) {
                self.passed.insert(name.to_owned(), 0);
            } else {
                self.faults.push(skip.to_owned());
            }
        } else if let Some(message) = line.strip_prefix("KMSG ") {
            if !HARMLESS.iter().any(|h| message.contains(h)) {
                self.faults.push(format!("kernel: {message}"));
            }
        } else if TROUBLE.iter().any(|t| line.contains(t)) && !HARMLESS.iter().any(|h| line.contains(h)) {
            self.faults.push(format!("console: {line}"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times: u32 = self.passed.values().sum();
        writeln!(f, "{} tests passed, {times} times in all", self.passed.len())?;
        for (test, remark) in &self.remarks {
            writeln!(f, "  {test}: {remark}")?;
        }
        for fault in &self.faults {
            writeln!(f, "! {fault}")?;
        }
        if !self.is_good() {
            writeln!(f, "the end of the console:\n{}\n{}", self.tail, self.visor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_run() {
        let mut r = Report::read("READY\nPASS a 0.10 s \nPASS a 0.20 s 5 calls\n[ 1.2] x PASS 32:b 1.00 s\nDONE\n");
        r.expect(["a", "32:b"].into_iter().map(str::to_owned));
        assert!(r.is_good(), "{r}");
        assert_eq!(r.passed["a"], 2);
        assert_eq!(r.remarks["a"], "5 calls");
    }

    #[test]
    fn failures_warnings_and_silence_are_faults() {
        let mut r = Report::read("FAIL a: why\nSKIP b: no reason\nKMSG 4 something odd\n[ 5.0] BUG: bad page\n");
        r.expect(["a", "c"].into_iter().map(str::to_owned));
        let expected = [
            "FAIL a: why",
            "SKIP b: no reason",
            "kernel: 4 something odd",
            "console: [ 5.0] BUG: bad page",
            "the guest did not come to its end",
            "c was not run",
        ];
        assert_eq!(r.faults, expected);
        assert!(r.to_string().contains("! FAIL a: why"));
    }
}
