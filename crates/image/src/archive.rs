//! The initial ramfs: a cpio archive ("newc") that is the same for the same tree.

use std::io::Write;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::error::{ImageError, ImageErrorKind};
use crate::tree::{Node, Tree};

/// Writes `tree` as an uncompressed archive.
pub(crate) fn write(tree: &Tree, out: &mut dyn Write) -> Result<(), ImageError> {
    for (number, (path, node)) in (1u32..).zip(tree.iter()) {
        let (kind, mode, data) = match node {
            Node::Dir { mode } => (ModeFileType::Directory, *mode, Vec::new()),
            Node::File { mode, content } => (ModeFileType::Regular, *mode, content.read()?),
            Node::Link { target } => (ModeFileType::Symlink, 0o777, target.clone().into_bytes()),
        };
        let size = u32::try_from(data.len())
            .map_err(|_| ImageError::new(ImageErrorKind::Format, format!("{path} is too large for an archive")))?;
        let entry = Builder::new(path).ino(number).mode(mode).set_mode_file_type(kind).uid(0).gid(0).mtime(0);
        let mut writer = entry.write(&mut *out, size);
        writer.write_all(&data).and_then(|()| writer.finish().map(drop)).map_err(written)?;
    }
    trailer(&mut *out).map_err(written)?;
    out.flush().map_err(written)
}

fn written(error: std::io::Error) -> ImageError {
    ImageError::io("write", std::path::Path::new("the initial ramfs"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::merged_usr();
        tree.text("init", 0o755, "#!/bin/sh\n");
        tree.link("etc/mtab", "/proc/mounts");
        tree.text("bin/b", 0o644, "12345");
        tree
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        write(&sample(), &mut a).unwrap();
        // Built in another order.
        let mut other = Tree::merged_usr();
        other.text("bin/b", 0o644, "12345");
        other.text("init", 0o755, "#!/bin/sh\n");
        other.link("etc/mtab", "/proc/mounts");
        write(&other, &mut b).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.len() % 4, 0, "the kernel wants archives padded to four bytes");
    }

    #[test]
    fn a_reader_finds_what_was_written() {
        let mut bytes = Vec::new();
        write(&sample(), &mut bytes).unwrap();
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut data).unwrap();
            seen.push((name, mode, data));
            rest = reader.finish().unwrap();
        }
        assert!(seen.contains(&("usr/bin/b".into(), 0o100_644, b"12345".to_vec())));
        assert!(seen.contains(&("bin".into(), 0o120_777, b"usr/bin".to_vec())));
        assert!(seen.contains(&("etc".into(), 0o040_755, vec![])));
    }
}
