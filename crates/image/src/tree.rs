//! The files of an image before they become an archive or a file system: sorted, owned by root, without times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{ImageError, ImageErrorKind, IoContext};

/// One entry of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Dir { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: String },
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// Read when written, so that a tree stays small.
    At(PathBuf),
}

impl Content {
    pub(crate) fn read(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::At(path) => fs::read(path).doing("read", path),
        }
    }
}

/// Entries by path without the leading slash. The order of the map is the order of everything written from it, and
/// puts a directory before what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// Directories that Debian has merged into `/usr`; packages still ship files in them.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

impl Tree {
    /// A tree with the links that make `/bin` and its like parts of `/usr`.
    pub(crate) fn merged_usr() -> Self {
        let mut tree = Self::default();
        for name in MERGED {
            tree.dir(&format!("usr/{name}"), 0o755);
            tree.nodes.insert(name.to_owned(), Node::Link { target: format!("usr/{name}") });
        }
        tree
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(p, n)| (p.as_str(), n))
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(&merged(path))
    }

    /// Adds a directory and those above it.
    pub(crate) fn dir(&mut self, path: &str, mode: u32) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.insert(path, Node::Dir { mode });
    }

    /// Adds or replaces a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: Content) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.insert(path, Node::File { mode, content });
    }

    /// Adds or replaces a file with these bytes.
    pub(crate) fn text(&mut self, path: &str, mode: u32, text: &str) {
        self.file(path, mode, Content::Bytes(text.as_bytes().to_vec()));
    }

    /// Adds or replaces a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.insert(path, Node::Link { target: target.to_owned() });
    }

    /// Takes a file over from an unpacked package; behind a link also what it leads to. Returns the files (not links)
    /// that came with it, as paths below `sysroot`.
    pub(crate) fn take(&mut self, sysroot: &Path, path: &str) -> Result<Vec<PathBuf>, ImageError> {
        let mut path = path.to_owned();
        for _ in 0..8 {
            let source = sysroot.join(&path);
            let meta = fs::symlink_metadata(&source).map_err(|e| {
                let missing = format!("no file /{path} in the packages ({e})");
                ImageError::new(ImageErrorKind::Missing, missing)
            })?;
            if !meta.is_symlink() {
                use std::os::unix::fs::PermissionsExt;
                // Who is root already gains nothing from set-user-id, and there is nobody else.
                let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
                self.file(&path, mode, Content::At(source.clone()));
                return Ok(vec![source]);
            }
            let target = fs::read_link(&source).doing("read the link", &source)?;
            let target = target.to_string_lossy().into_owned();
            let parent = Path::new(&path).parent().unwrap_or(Path::new(""));
            let next = resolve(parent, &target);
            self.link(&path, &target);
            path = next;
        }
        Err(ImageError::new(ImageErrorKind::Format, format!("too many links behind /{path}")))
    }

    fn parents(&mut self, path: &str) {
        let mut end = 0;
        while let Some(at) = path.get(end..).and_then(|rest| rest.find('/')) {
            end += at;
            let parent = path.get(..end).unwrap_or_default().to_owned();
            self.nodes.entry(parent).or_insert(Node::Dir { mode: 0o755 });
            end += 1;
        }
    }
}

/// Where a path of a package lies in a merged system.
pub(crate) fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) && path.contains('/') { format!("usr/{path}") } else { path.to_owned() }
}

/// The path, without leading slash, that a link's `target` names when the link lies in `parent`.
fn resolve(parent: &Path, target: &str) -> String {
    let base = if target.starts_with('/') { Path::new("") } else { parent };
    let mut parts: Vec<String> = Vec::new();
    for part in base.join(target.trim_start_matches('/')).components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_bin_is_merged() {
        let mut tree = Tree::merged_usr();
        tree.text("bin/a", 0o755, "x");
        tree.text("etc/b/c", 0o644, "y");
        let paths: Vec<&str> = tree.iter().map(|(p, _)| p).collect();
        assert!(paths.contains(&"usr/bin/a") && tree.contains("bin/a"));
        let at = |p| paths.iter().position(|x| *x == p).unwrap();
        assert!(at("etc") < at("etc/b") && at("etc/b") < at("etc/b/c"));
    }

    #[test]
    fn links_bring_what_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sbin")).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/real"), "x").unwrap();
        std::os::unix::fs::symlink("b", root.join("sbin/a")).unwrap();
        std::os::unix::fs::symlink("/bin/real", root.join("sbin/b")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("sbin/loop")).unwrap();
        let mut tree = Tree::merged_usr();
        assert_eq!(tree.take(root, "sbin/a").unwrap(), [root.join("bin/real")]);
        assert!(tree.contains("usr/sbin/a") && tree.contains("usr/sbin/b") && tree.contains("usr/bin/real"));
        assert_eq!(tree.take(root, "sbin/loop").unwrap_err().kind(), ImageErrorKind::Format);
        assert_eq!(tree.take(root, "sbin/none").unwrap_err().kind(), ImageErrorKind::Missing);
    }

    #[test]
    fn link_targets_are_resolved() {
        assert_eq!(resolve(Path::new("a/b"), "../c"), "a/c");
        assert_eq!(resolve(Path::new("a/b"), "/c/./d"), "c/d");
        assert_eq!(resolve(Path::new("a"), "../../../c"), "c");
    }
}
