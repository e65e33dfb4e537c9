//! The root disk: an ext4 file system that is the same for the same tree.
//!
//! `mke2fs` and `debugfs` of the very package that goes into the image make it, started through the loader of the same
//! packages: so it depends neither on the host's tools nor on its user, who need not be root. Files are written one by
//! one in the tree's order, because copying a directory (`mke2fs -d`) would follow the order of the host's file system
//! and take over owners and times.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::program::Program;
use crate::tree::{Content, Node, Tree};

/// Label of the file system; the guest finds its root by it.
pub(crate) const LABEL: &str = "visor-root";

/// Size of the disk in bytes. A file with holes; the guest lets the file system grow when the disk is larger.
pub(crate) const SIZE: u64 = 256 << 20;

/// Fixed, because random ones would make every build different. Guests of one image share it, as clones always do.
const UUID: &str = "7669736f-7200-4000-8000-74696e790001";
const HASH_SEED: &str = "7669736f-7200-4000-8000-74696e790002";

/// The time everything is from: the beginning of 2024 (UTC). 0 would look like a broken clock.
const TIME: &str = "1704067200";

/// Makes the disk image `target` from `tree`, with the programs below `sysroot`; `scratch` takes temporary files.
pub(crate) fn write(tree: &Tree, sysroot: &Path, scratch: &Path, target: &Path) -> Result<(), ImageError> {
    let config = scratch.join("mke2fs.conf");
    fs::write(
        &config,
        "[defaults]\n\tblocksize = 4096\n\tinode_size = 256\n\tinode_ratio = 16384\n[fs_types]\n\text4 = {\n\t\tinode_size = 256\n\t}\n\tsmall = {\n\t\tinode_size = 256\n\t}\n",
    )
    .doing("write", &config)?;
    let options = format!("hash_seed={HASH_SEED},root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard");
    let features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
    let size = format!("{}k", SIZE / 1024);
    let target_text = target.to_string_lossy().into_owned();
    let mut make = tool(sysroot, "mke2fs", &config)?;
    make.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, "-E", &options, "-J", "size=4", "-m", "0"]);
    make.args(["-U", UUID, "-L", LABEL, &target_text, &size]);
    run(make, "mke2fs")?;

    let script = scratch.join("debugfs.script");
    fs::write(&script, commands(tree, scratch)?).doing("write", &script)?;
    let mut fill = tool(sysroot, "debugfs", &config)?;
    fill.arg("-w").arg("-f").arg(&script).arg(target);
    run(fill, "debugfs")
}

/// A program of the unpacked packages, in an environment in which it makes the same of the same.
fn tool(sysroot: &Path, name: &str, config: &Path) -> Result<Command, ImageError> {
    let mut command = Program::find(sysroot, name)?.command();
    command.env_clear().env("LC_ALL", "C").env("MKE2FS_CONFIG", config).env("E2FSPROGS_FAKE_TIME", TIME);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Both programs exit with 0 after errors of single commands, but are silent only when all went well.
fn run(mut command: Command, name: &str) -> Result<(), ImageError> {
    let output = command.output().map_err(|e| ImageError::io("run", Path::new(name), e))?;
    let words = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = words.lines().filter(|l| !l.starts_with("debugfs 1.") && !l.is_empty()).collect();
    if output.status.success() && complaints.is_empty() {
        return Ok(());
    }
    let first: String = complaints.iter().take(3).copied().collect::<Vec<_>>().join("; ");
    let kind = if words.contains("No space left") || words.contains("Could not allocate") {
        ImageErrorKind::NoSpace
    } else {
        ImageErrorKind::Format
    };
    Err(ImageError::new(kind, format!("{name} failed ({}): {first}", output.status)))
}

/// The script for debugfs that fills the file system.
fn commands(tree: &Tree, scratch: &Path) -> Result<String, ImageError> {
    let mut script = format!("set_current_time @{TIME}\n");
    let mut at = String::from("/");
    for (number, (path, node)) in tree.iter().enumerate() {
        check(path)?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = format!("/{parent}");
        if parent != at {
            let _ = writeln!(script, "cd \"{parent}\"");
            at = parent;
        }
        match node {
            Node::Dir { mode } => {
                let _ = writeln!(script, "mkdir \"{name}\"\nsif \"{name}\" mode 0{:o}", 0o040_000 | mode);
            }
            Node::File { mode, content } => {
                let source = source(content, scratch, number)?;
                check(&source.to_string_lossy())?;
                let source = source.display();
                let _ = writeln!(script, "write \"{source}\" \"{name}\"\nsif \"{name}\" mode 0100{mode:o}");
            }
            Node::Link { target } => {
                check(target)?;
                let _ = writeln!(script, "symlink \"{name}\" \"{target}\"");
            }
        }
    }
    Ok(script)
}

fn source(content: &Content, scratch: &Path, number: usize) -> Result<PathBuf, ImageError> {
    match content {
        Content::At(path) => Ok(path.clone()),
        Content::Bytes(bytes) => {
            let path = scratch.join(format!("file-{number}"));
            fs::write(&path, bytes).doing("write", &path)?;
            Ok(path)
        }
    }
}

/// debugfs has no way to quote a quote; a name with one would be read as something else.
fn check(name: &str) -> Result<(), ImageError> {
    if name.is_empty() || name.contains(['"', '\n', '\\']) {
        return Err(ImageError::new(ImageErrorKind::Format, format!("the name {name:?} cannot be written to a disk")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_follows_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::default();
        tree.text("etc/hostname", 0o644, "visor");
        tree.link("etc/mtab", "/proc/mounts");
        let script = commands(&tree, dir.path()).unwrap();
        let expected = "cd \"/etc\"\nwrite \"";
        assert!(script.starts_with("set_current_time @1704067200\nmkdir \"etc\"\nsif \"etc\" mode 040755\n"));
        assert!(script.contains(expected) && script.contains("sif \"hostname\" mode 0100644\n"));
        assert!(script.ends_with("symlink \"mtab\" \"/proc/mounts\"\n"));
    }

    #[test]
    fn names_cannot_become_commands() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a\"b", "a\nrm x", "a\\b"] {
            let mut tree = Tree::default();
            tree.text(name, 0o644, "");
            assert!(commands(&tree, dir.path()).is_err());
        }
    }
}
