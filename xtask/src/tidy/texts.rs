//! What every file must say or must not say.

use std::path::{Path, PathBuf};

use crate::shell::root;

/// Pieces of text that no file may hold, with the reason. Written in two halves so that this file passes.
const BANNED: &[(&str, &str, &str)] = &[
    ("todo", "!(", "unfinished code"),
    ("unimpl", "emented!(", "unfinished code"),
    ("FIX", "ME", "unfinished code"),
    ("XX", "X:", "unfinished code"),
    ("#[ign", "ore", "a test that never runs"),
    ("/wo", "rk/", "an absolute path of one machine"),
    ("/ro", "ot/", "an absolute path of one machine"),
];

/// Adds a line to `faults` for each broken rule.
pub(crate) fn check(files: &[PathBuf], faults: &mut Vec<String>) -> anyhow::Result<()> {
    for file in files {
        let kind = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        if !matches!(kind.as_str(), "rs" | "md" | "toml" | "sh" | "s" | "S" | "service") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(file))?;
        check_one(file, &kind, &text, faults);
    }
    Ok(())
}

fn check_one(file: &Path, kind: &str, text: &str, faults: &mut Vec<String>) {
    for (a, b, why) in BANNED {
        let banned = format!("{a}{b}");
        for (n, _) in text.lines().enumerate().filter(|(_, l)| l.contains(&banned)) {
            faults.push(format!("{}:{}: `{banned}`: {why}", file.display(), n + 1));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push(format!("{}: no newline at the end", file.display()));
    }
    let is_test =
        file.file_name().is_some_and(|n| n == "tests.rs") || file.components().any(|c| c.as_os_str() == "tests");
    if kind == "rs" && !is_test && !text.starts_with("//!") {
        faults.push(format!("{}: no module documentation (//!) at the top", file.display()));
    }
}
