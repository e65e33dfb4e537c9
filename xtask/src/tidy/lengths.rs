//! Files of up to 500 lines and functions of up to 60, with a ratchet for what is longer.
//!
//! `xtask/ratchet.toml` holds the exceptions with their present length. A length may fall, never rise; an entry that is no
//! longer needed must go (`cargo xtask tidy --bless` rewrites the file and refuses growth).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::shell::root;

/// Prefixes of a line that starts a function.
const HEADS: [&str; 9] = [
    "fn ",
    "pub fn ",
    "pub(crate) fn ",
    "pub(super) fn ",
    "const fn ",
    "pub const fn ",
    "unsafe fn ",
    "pub unsafe fn ",
    "pub(crate) unsafe fn ",
];
const MAX_FILE: usize = 500;
const MAX_FUNCTION: usize = 60;

#[derive(Serialize, Deserialize, Default, PartialEq)]
struct Ratchet {
    /// Lines of files over the limit, by path.
    #[serde(default)]
    files: BTreeMap<String, usize>,
    /// Lines of the longest function of a file, where it is over the limit.
    #[serde(default)]
    functions: BTreeMap<String, usize>,
}

/// Adds a line to `faults` for each length over its limit.
pub(crate) fn check(files: &[PathBuf], bless: bool, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let path = root().join("xtask/ratchet.toml");
    let old: Ratchet = std::fs::read_to_string(&path).ok().map(|t| toml::from_str(&t)).transpose()?.unwrap_or_default();
    let new = measure(files)?;
    let fresh = old == Ratchet::default();
    for (what, old, new) in [("file", &old.files, &new.files), ("longest function", &old.functions, &new.functions)] {
        for (name, &len) in new {
            let allowed = old.get(name).copied().unwrap_or(0);
            if len > allowed && !(bless && fresh) {
                let limit = allowed.max(if what == "file" { MAX_FILE } else { MAX_FUNCTION });
                faults.push(format!("{name}: {what} of {len} lines (allowed: {limit})"));
            }
        }
        for name in old.keys().filter(|n| !bless && !new.contains_key(*n)) {
            faults.push(format!("{name}: its {what} is within the limit now; run `cargo xtask tidy --bless`"));
        }
    }
    if bless && faults.is_empty() {
        let head = "# Files and functions over the limits, with their lengths. They may only shrink: `cargo xtask tidy --bless`.\n\n";
        std::fs::write(&path, format!("{head}{}", toml::to_string(&new)?))?;
    }
    Ok(())
}

fn measure(files: &[PathBuf]) -> anyhow::Result<Ratchet> {
    let mut ratchet = Ratchet::default();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        let text = std::fs::read_to_string(root().join(file))?;
        let name = file.display().to_string();
        let lines = text.lines().count();
        if lines > MAX_FILE {
            ratchet.files.insert(name.clone(), lines);
        }
        let longest = longest_function(&text);
        if longest > MAX_FUNCTION {
            ratchet.functions.insert(name, longest);
        }
    }
    Ok(ratchet)
}

/// Lines from the `fn` line to its closing brace, for the longest function of rustfmt-formatted `text`: the brace stands on a line
/// of its own at the indentation of the `fn`.
fn longest_function(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let mut longest = 0;
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let is_fn = HEADS.iter().any(|p| body.starts_with(p));
        if !is_fn {
            continue;
        }
        let rest = &lines[start..];
        let Some(head) = rest.iter().position(|l| l.ends_with('{') || l.ends_with(';') || l.ends_with('}')) else {
            break;
        };
        if !rest[head].ends_with('{') {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - body.len()]);
        if let Some(len) = rest.iter().position(|l| **l == close) {
            longest = longest.max(len + 1);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::longest_function;

    #[test]
    fn functions_are_measured_from_head_to_brace() {
        assert_eq!(
            longest_function("fn a() {\n    b();\n}\n\nimpl X {\n    fn c() {\n        d();\n        e();\n    }\n}\n"),
            4
        );
        assert_eq!(longest_function("trait A {\n    fn b();\n    fn c();\n}\n"), 0, "no bodies");
    }
}
