//! ARCHITECTURE.md is true: the files it names are there, and every device is a folder of the same shape.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::shell::root;

const PAGE: &str = "ARCHITECTURE.md";
/// Where devices live: folders whose subfolders are devices, and folders that are one.
const DEVICES_IN: &[&str] = &["crates/chipset/src", "crates/nic/src", "crates/virtio/src"];
const DEVICES: &[&str] =
    &["crates/apic/src/io", "crates/display/src/vga", "crates/pci/src/edu", "crates/storage/src/ide"];
/// What `virtio`'s devices stand behind; no device.
const TRANSPORT: &str = "crates/virtio/src/pci";
/// A device's page and state; where it meets its bus; its tests.
const SHAPE: [&str; 3] = ["mod.rs", "device.rs", "tests.rs"];

/// Adds a line to `faults` for each name that leads nowhere and each device of another shape.
pub(super) fn check(files: &[PathBuf], faults: &mut Vec<String>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(root().join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let tree = Tree::new(files);
    faults.extend(tree.missing(&text).into_iter().map(|name| format!("{PAGE}: there is no {name}")));
    faults.extend(tree.misshapen());
    Ok(())
}

/// All files and the folders they are in, with `/` at the ends of folders.
struct Tree(BTreeSet<String>);

impl Tree {
    fn new(files: &[PathBuf]) -> Self {
        let mut all = BTreeSet::new();
        for file in files {
            all.insert(file.to_string_lossy().into_owned());
            for folder in file.ancestors().skip(1) {
                all.insert(format!("{}/", folder.display()));
            }
        }
        Tree(all)
    }

    /// Whether the tree has the file, folder or module `path`.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        ["", "/", ".rs"].iter().any(|end| self.0.contains(&format!("{path}{end}")))
    }

    /// The paths in the page `text` that lead nowhere. A path begins with a crate, with a crate's part where the paragraph has named the
    /// crate before, or at the root.
    fn missing(&self, text: &str) -> Vec<String> {
        let mut missing = Vec::new();
        for paragraph in text.split("\n\n") {
            let mut places: Vec<String> = Vec::new();
            for name in paragraph.split('`').skip(1).step_by(2).filter(|n| is_path(n)) {
                let (first, rest) = name.split_once('/').unwrap_or((name, ""));
                let source = format!("crates/{first}/src");
                if !rest.is_empty() && self.has(&source) && self.has(&format!("{source}/{rest}")) {
                    // What follows may be in the folder that was named, or beside it.
                    let named = format!("{source}/{rest}");
                    let above = Path::new(&named).ancestors();
                    places.extend(above.take_while(|a| a.starts_with(&source)).map(|a| a.display().to_string()));
                } else if SHAPE.contains(&name) && places.is_empty() {
                    // Parts of devices in general.
                } else if !self.has(name) && !places.iter().any(|p| self.has(&format!("{p}/{name}"))) {
                    missing.push(name.to_owned());
                }
            }
        }
        missing
    }

    /// What devices lack.
    fn misshapen(&self) -> Vec<String> {
        let within = |folder: &&String| {
            let parent = Path::new(folder.as_str()).parent().map(Path::to_path_buf).unwrap_or_default();
            DEVICES_IN.iter().any(|d| parent == Path::new(d)) && folder.ends_with('/')
        };
        let found = self.0.iter().filter(within).map(|f| f.trim_end_matches('/'));
        found
            .chain(DEVICES.iter().copied())
            .filter(|d| *d != TRANSPORT)
            .flat_map(|d| SHAPE.iter().map(move |part| format!("{d}/{part}")))
            .filter(|path| !self.0.contains(path))
            .map(|path| format!("{path}: every device has one ({PAGE}, Devices)"))
            .collect()
    }
}

/// Whether code in the page is meant as a path.
fn is_path(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (name.contains('/') || name.ends_with(".rs")) && !name.starts_with('/') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> Tree {
        Tree::new(&files.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn names_that_lead_nowhere_are_found() {
        let tree = tree(&["crates/a/src/b/mod.rs", "crates/a/src/b/c.rs", "crates/a/src/d.rs", "docs/x.md"]);
        let good =
            "`tests.rs`, `a/b`, `mod.rs`, `c.rs`, `d.rs`, `b/c.rs`; `docs/`, `docs/x.md`, `//!`, `x y/z`, `A::b`";
        assert_eq!(tree.missing(good), Vec::<String>::new());
        // A paragraph knows the crates that it has named itself.
        assert_eq!(tree.missing("`a/b`\n\n`c.rs`, `a/e.rs`, `e/a`"), ["c.rs", "a/e.rs", "e/a"]);
    }

    #[test]
    fn a_device_without_a_part_is_found() {
        let all: Vec<String> =
            DEVICES.iter().flat_map(|d| SHAPE.iter().map(move |part| format!("{d}/{part}"))).collect();
        let mut files: Vec<&str> = all.iter().map(String::as_str).collect();
        files.extend(["crates/chipset/src/lib.rs", "crates/chipset/src/x/mod.rs", "crates/chipset/src/x/tests.rs"]);
        files.push("crates/virtio/src/pci/mod.rs");
        let faults = tree(&files).misshapen();
        assert!(faults.len() == 1 && faults[0].starts_with("crates/chipset/src/x/device.rs"), "{faults:?}");
    }
}
