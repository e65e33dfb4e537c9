//! Making an image of a directory.
//!
//! `hadris-iso` lays it out and writes it, streaming the files' contents; what it is asked for is Rock Ridge (so that Linux sees names,
//! modes and links as they were), Joliet (Windows) and short names for everybody else. Owners become root, as on every disc that is
//! made to be distributed; the order of names does not depend on the host's file system.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use hadris_iso::boot::options::{BootEntryOptions, BootOptions, BootSectionOptions};
use hadris_iso::boot::{EmulationType, PlatformId};
use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{FileSource, InputEntry, InputEntryKind, InputMetadata, InputTree, IsoImageWriter};

use crate::error::{IsoError, IsoErrorKind};
use crate::{BLOCK, Iso};

/// Longest label.
const LABEL_LIMIT: usize = 32;
/// Longest name; Rock Ridge's fields of one record hold no more for sure.
const NAME_LIMIT: usize = 200;
/// Deepest directory below the root.
const DEPTH_LIMIT: usize = 32;
/// Sectors of 512 bytes of a BIOS boot image that firmware loads: the loader reads the rest of itself.
const BIOS_SECTORS: u16 = 4;

/// How an image is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeOptions {
    /// Label, up to 32 characters.
    pub label: String,
    /// What BIOS boots without emulation: a file in the directory, by its path there.
    pub bios_boot: Option<PathBuf>,
    /// What UEFI boots: a file in the directory that is an image of a FAT file system.
    pub efi_boot: Option<PathBuf>,
    /// Write a table of the image's layout into the BIOS boot file (bytes 8 to 63), as ISOLINUX and GRUB need it.
    pub boot_info_table: bool,
}

impl Default for MakeOptions {
    fn default() -> Self {
        MakeOptions { label: "CDROM".into(), bios_boot: None, efi_boot: None, boot_info_table: true }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Files and links.
    pub files: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Bytes of the image.
    pub bytes: u64,
}

/// Writes an image of the directory `from` to `to`, which must not exist; nothing is left there after an error.
///
/// # Errors
/// [`IsoErrorKind::Unsuitable`] for what an image cannot hold or boot, [`IsoErrorKind::Io`] with the host's reason.
pub fn make(from: &Path, to: &Path, options: &MakeOptions) -> Result<Made, IsoError> {
    let unsuitable = |what: String| IsoError::new(IsoErrorKind::Unsuitable, what);
    if options.label.is_empty()
        || options.label.len() > LABEL_LIMIT
        || !options.label.bytes().all(|b| (0x20..0x7f).contains(&b))
    {
        return Err(unsuitable(format!("{:?} is no label: give 1 to {LABEL_LIMIT} ASCII characters", options.label)));
    }
    if !from.is_dir() {
        return Err(unsuitable(format!("{} is no directory", from.display())));
    }
    let mut counts = Made { files: 0, directories: 0, bytes: 0 };
    let el_torito = boot(from, options)?;
    let entries = entries(from, 0, &mut counts)?;
    let io = |e| IsoError::io(format!("cannot write {}", to.display()), e);
    let mut file = File::options().read(true).write(true).create_new(true).open(to).map_err(io)?;
    let written = write(&mut file, entries, el_torito, options).and_then(|()| {
        file.sync_all().map_err(io)?;
        counts.bytes = file.metadata().map_err(io)?.len();
        // What we have made we must be able to read.
        let mut iso = Iso::open(&mut file)?;
        iso.boot()?;
        Ok(counts)
    });
    if written.is_err() {
        let _ = fs::remove_file(to);
    }
    written
}

fn write(
    file: &mut File,
    entries: Vec<InputEntry>,
    el_torito: Option<BootOptions>,
    options: &MakeOptions,
) -> Result<(), IsoError> {
    let format = IsoFormatOptions {
        volume_name: options.label.clone(),
        system_id: Some("LINUX".into()),
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: Some(format!("VISOR {}", env!("CARGO_PKG_VERSION"))),
        sector_size: BLOCK as usize,
        features: CreationFeatures {
            filenames: BaseIsoLevel::Level1 { supports_lowercase: false, supports_rrip: true },
            long_filenames: false,
            joliet: Some(JolietLevel::Level3),
            rock_ridge: Some(RripOptions::default()),
            el_torito,
            hybrid_boot: None,
        },
        path_separator: PathSeparator::ForwardSlash,
        strict_charset: false,
    };
    let tree = InputTree::new(PathSeparator::ForwardSlash, entries);
    IsoImageWriter::create(&mut *file, tree, format)
        .map_err(|e| IsoError::new(IsoErrorKind::Unsuitable, format!("the image cannot be laid out: {e}")))?;
    if options.bios_boot.is_none() && options.efi_boot.is_some() {
        claim_for_uefi(file)?;
    }
    Ok(())
}

/// The boot catalogue that is wanted.
fn boot(from: &Path, options: &MakeOptions) -> Result<Option<BootOptions>, IsoError> {
    let entry = |path: &Path, load_size, boot_info_table| -> Result<_, IsoError> {
        Ok(BootEntryOptions {
            load_size,
            boot_image_path: boot_path(from, path)?,
            boot_info_table,
            grub2_boot_info: false,
            emulation: EmulationType::NoEmulation,
        })
    };
    let bios = options
        .bios_boot
        .as_deref()
        .map(|p| entry(p, NonZeroU16::new(BIOS_SECTORS), options.boot_info_table))
        .transpose()?;
    let efi = options.efi_boot.as_deref().map(|p| entry(p, None, false)).transpose()?;
    Ok(match (bios, efi) {
        (Some(default), Some(efi)) => {
            let section = BootSectionOptions { platform: PlatformId::UEFI };
            Some(BootOptions { write_boot_catalog: true, default, entries: vec![(section, efi)] })
        }
        (Some(default), None) | (None, Some(default)) => {
            Some(BootOptions { write_boot_catalog: true, default, entries: Vec::new() })
        }
        (None, None) => None,
    })
}

/// A boot file's path below the directory, in the image's spelling.
fn boot_path(from: &Path, path: &Path) -> Result<String, IsoError> {
    let inside: PathBuf = path.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir)).collect();
    let up = inside.components().any(|c| !matches!(c, Component::Normal(_)));
    let found = from.join(&inside);
    match fs::metadata(&found) {
        Ok(m) if m.is_file() && m.len() > 0 && !up => {}
        _ => {
            let what = format!(
                "{} is no file (with content) in {}: a boot file must be in the directory",
                path.display(),
                from.display()
            );
            return Err(IsoError::new(IsoErrorKind::Unsuitable, what));
        }
    }
    inside
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| IsoError::new(IsoErrorKind::Unsuitable, format!("{} is not UTF-8", path.display())))
}

/// Marks the default entry as UEFI's: the writer knows only BIOS there.
fn claim_for_uefi(file: &mut File) -> Result<(), IsoError> {
    let io = |e| IsoError::io("cannot complete the boot catalogue", e);
    let mut block = [0; 4];
    file.seek(SeekFrom::Start(17 * BLOCK + 0x47)).and_then(|_| file.read_exact(&mut block)).map_err(io)?;
    let at = u64::from(u32::from_le_bytes(block)) * BLOCK;
    let mut entry = [0; 32];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut entry)).map_err(io)?;
    entry[1] = 0xef;
    entry[28..30].fill(0);
    let sum = entry.chunks_exact(2).fold(0u16, |s, w| s.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
    entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&entry)).map_err(io)
}

/// The entries of a directory, sorted by name.
fn entries(directory: &Path, depth: usize, counts: &mut Made) -> Result<Vec<InputEntry>, IsoError> {
    let unsuitable = |what: String| IsoError::new(IsoErrorKind::Unsuitable, what);
    if depth > DEPTH_LIMIT {
        return Err(unsuitable(format!("{} is too deep", directory.display())));
    }
    let io = |path: &Path, e| IsoError::io(format!("cannot read {}", path.display()), e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(|e| io(directory, e))? {
        paths.push(entry.map_err(|e| io(directory, e))?.path());
    }
    paths.sort();
    let mut entries = Vec::with_capacity(paths.len());
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| unsuitable(format!("the name of {} is not UTF-8", path.display())))?;
        if name.len() > NAME_LIMIT {
            return Err(unsuitable(format!("the name of {} has more than {NAME_LIMIT} bytes", path.display())));
        }
        let found = fs::symlink_metadata(&path).map_err(|e| io(&path, e))?;
        let kind = if found.is_dir() {
            counts.directories += 1;
            InputEntryKind::Directory(self::entries(&path, depth + 1, counts)?)
        } else if found.is_symlink() {
            counts.files += 1;
            let target = fs::read_link(&path).map_err(|e| io(&path, e))?;
            let target =
                target.to_str().ok_or_else(|| unsuitable(format!("the target of {} is not UTF-8", path.display())))?;
            InputEntryKind::Symlink(target.to_owned())
        } else if found.is_file() {
            counts.files += 1;
            InputEntryKind::Source(FileSource::from_path(&path).map_err(|e| io(&path, e))?)
        } else {
            return Err(unsuitable(format!("{} is neither file, directory nor link", path.display())));
        };
        let metadata = InputMetadata {
            mode: Some(found.permissions().mode() & 0o7777),
            uid: Some(0),
            gid: Some(0),
            created: None,
            modified: Some(found.mtime()),
            accessed: Some(found.mtime()),
        };
        entries.push(InputEntry { name: Arc::new(name.to_owned()), kind, metadata });
    }
    Ok(entries)
}
