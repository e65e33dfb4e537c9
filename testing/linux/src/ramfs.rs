//! An initial ramfs (cpio, "newc"): the same entries give the same bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

enum Node {
    Directory,
    File(u32, Vec<u8>),
    Link(String),
}

/// The files of a guest in memory. Paths have no leading slash; directories above a path come by themselves.
#[derive(Default)]
pub struct Ramfs {
    nodes: BTreeMap<String, Node>,
}

impl Ramfs {
    /// A ramfs with the directories that every guest mounts something on.
    pub fn new() -> Self {
        let mut ramfs = Ramfs::default();
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            ramfs.nodes.insert(name.to_owned(), Node::Directory);
        }
        ramfs
    }

    /// Adds or replaces a program.
    pub fn program(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, Node::File(0o755, bytes));
    }

    /// Adds or replaces a file.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, Node::File(0o644, bytes));
    }

    /// Adds or replaces a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link(target.to_owned()));
    }

    /// Adds the file `from` of the host with its mode.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn copy(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
        let mode = std::fs::metadata(from)?.permissions().mode();
        self.put(path, Node::File(if mode & 0o111 == 0 { 0o644 } else { 0o755 }, bytes));
        Ok(())
    }

    /// Adds the directory `from` of the host with all that is in it, links as links.
    ///
    /// # Errors
    /// If something cannot be read or is none of file, directory and link.
    pub fn copy_all(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
            let entry = entry?;
            let name = format!("{path}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.copy_all(&name, &entry.path())?;
            } else if kind.is_symlink() {
                self.link(&name, &std::fs::read_link(entry.path())?.to_string_lossy());
            } else if kind.is_file() {
                self.copy(&name, &entry.path())?;
            } else {
                bail!("{} is no file", entry.path().display());
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If writing fails or a file has 4 GiB or more.
    pub fn write(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        for (number, (path, node)) in (1u32..).zip(&self.nodes) {
            let (kind, mode, data): (_, _, &[u8]) = match node {
                Node::Directory => (ModeFileType::Directory, 0o755, &[]),
                Node::File(mode, bytes) => (ModeFileType::Regular, *mode, bytes),
                Node::Link(target) => (ModeFileType::Symlink, 0o777, target.as_bytes()),
            };
            let size = u32::try_from(data.len()).with_context(|| format!("{path} is too large for an archive"))?;
            let entry = Builder::new(path).ino(number).mode(mode).set_mode_file_type(kind).uid(0).gid(0).mtime(0);
            let mut writer = entry.write(&mut *out, size);
            writer.write_all(data)?;
            writer.finish()?;
        }
        trailer(&mut *out)?;
        Ok(out.flush()?)
    }

    /// Writes the archive into a file.
    ///
    /// # Errors
    /// As [`Ramfs::write`].
    pub fn write_file(&self, path: &Path) -> anyhow::Result<()> {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        self.write(&mut std::io::BufWriter::new(file))
    }

    fn put(&mut self, path: &str, node: Node) {
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Directory);
        }
        self.nodes.insert(path.to_owned(), node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut ramfs = Ramfs::new();
        ramfs.program("usr/bin/x", b"1234".to_vec());
        ramfs.link("usr/bin/y", "x");
        let mut bytes = Vec::new();
        ramfs.write(&mut bytes).unwrap();
        let (mut seen, mut rest) = (Vec::new(), &bytes[..]);
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut data).unwrap();
            seen.push((name, mode, data));
            rest = reader.finish().unwrap();
        }
        let at = |name: &str| seen.iter().position(|s| s.0 == name).unwrap();
        assert!(at("usr") < at("usr/bin") && at("usr/bin") < at("usr/bin/x"));
        assert_eq!(seen[at("usr/bin/x")].1, 0o100_755);
        assert_eq!(seen[at("usr/bin/x")].2, b"1234");
        assert_eq!((seen[at("usr/bin/y")].1, &seen[at("usr/bin/y")].2[..]), (0o120_777, &b"x"[..]));
    }
}
