//! Which format a file has.
//!
//! The guest of a raw disk writes the first bytes of the file, so that what they say is not to be trusted blindly: a guest
//! could make its disk look like an image with the host's files as backing file. The rules:
//!
//! 1. A format that the user names holds; nothing is looked at.
//! 2. Otherwise the first bytes decide, except that a file called `*.raw` whose first bytes say something else is refused, and one
//!    called `*.qcow2` (or another format) whose first bytes say nothing: it is damaged, or a raw disk under a wrong name. Fixed VHD
//!    disks, which say what they are in their last bytes only, are known if they are called so.
//! 3. A disk taken as raw by rule 2 refuses writes that would make its first sector look like another format.
//! 4. Whatever an image names as its backing file has to lie in a folder allowed for that (`Policy`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use visor_block::{BlockError, BlockErrorKind};

use crate::error::host_error;
use crate::foreign;

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A byte of the disk is a byte of the file.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Virtual PC and Azure.
    Vhd,
    /// Hyper-V.
    Vhdx,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx];

    /// Its name, as on the command line and in qcow2 headers.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
        }
    }

    /// The format called `name`; `vpc` is another name of VHD.
    pub fn parse(name: &str) -> Option<Format> {
        match name {
            "vpc" => Some(Format::Vhd),
            name => Format::ALL.into_iter().find(|f| f.name() == name),
        }
    }

    /// The format that the ending of a file's name says.
    pub fn of_name(path: &Path) -> Option<Format> {
        path.extension().and_then(|e| Format::parse(&e.to_str()?.to_ascii_lowercase()))
    }

    /// What the first bytes of a file (512 or more, fewer of a shorter file) say. [`Format::Raw`] if they say nothing.
    pub fn of_bytes(start: &[u8]) -> Format {
        let at = |pos: usize, magic: &[u8]| start.get(pos..pos + magic.len()) == Some(magic);
        if at(0, b"QFI\xfb") {
            Format::Qcow2
        } else if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
            Format::Vmdk
        } else if at(0x40, &[0x7f, 0x10, 0xda, 0xbe]) {
            Format::Vdi
        } else if at(0, b"conectix") {
            Format::Vhd
        } else if at(0, b"vhdxfile") {
            Format::Vhdx
        } else {
            Format::Raw
        }
    }

    /// The format of `file`, which is `path`, by its first bytes (rule 2).
    ///
    /// # Errors
    /// [`BlockErrorKind::Unsupported`] where name and contents contradict each other, otherwise the host's.
    pub fn probe(file: &File, path: &Path) -> Result<Format, BlockError> {
        let mut start = [0; 512];
        let mut got = 0;
        while got < start.len() {
            match file.read_at(&mut start[got..], got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host_error("cannot read", path, e)),
            }
        }
        let found = Format::of_bytes(&start[..got]);
        let what = match (Format::of_name(path), found) {
            (Some(Format::Raw), found) if found != Format::Raw => format!(
                "{} is called raw but its contents say {found}, which the guest of a raw disk could have written; name the format",
                path.display()
            ),
            (Some(Format::Vhd), Format::Raw) if foreign::is_fixed_vhd(file) => return Ok(Format::Vhd),
            (Some(said), Format::Raw) if said != Format::Raw => format!(
                "{} is called {said} but does not begin as such an image: it is damaged, or a raw disk; name the format (raw) if it is",
                path.display()
            ),
            _ => return Ok(found),
        };
        Err(BlockError::new(BlockErrorKind::Unsupported, what))
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
