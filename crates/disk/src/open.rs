//! Opening images, with what they refer to.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use visor_block::{BlockBackend, BlockError, BlockErrorKind};
use visor_qcow2::{FileStorage, Image, Info, OpenOptions, Source, Storage};

use crate::error::{host_error, in_image};
use crate::foreign;
use crate::format::Format;
use crate::lock::lock;
use crate::qcow2::Qcow2Disk;
use crate::raw::{Access, Io, RawDisk, RawOptions, open_file};
use crate::source::{RawSource, SourceDisk};

/// Images behind each other.
const MAX_CHAIN: usize = 64;

/// Where the files may lie that an image names (its backing file, its external data file).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Folders, with everything below them, besides the folder of the image itself.
    pub folders: Vec<PathBuf>,
}

/// A file of another host, for reading: as a raw disk, and as what a qcow2 image lies in.
pub trait RemoteFile: Source + Storage {}

impl<T: Source + Storage> RemoteFile for T {}

/// Opens the file at an address that an image names as its backing file, or says why not. It decides whether that may be: an image
/// from elsewhere could name anything.
#[derive(Clone)]
pub struct RemoteOpener(pub Arc<RemoteOpen>);

/// See [`RemoteOpener`].
pub type RemoteOpen = dyn Fn(&str) -> Result<Arc<dyn RemoteFile>, BlockError> + Send + Sync;

impl std::fmt::Debug for RemoteOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RemoteOpener")
    }
}

/// How to open an image.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// For reading, or also for writing.
    pub access: Access,
    /// The format; found out if not given (see [`Format`]).
    pub format: Option<Format>,
    /// Refuse an image that somebody else has open for writing, or writing one that is open at all.
    pub lock: bool,
    /// Where backing files may lie.
    pub policy: Policy,
    /// Open even a damaged image, for repairing it.
    pub repair: bool,
    /// Worker threads of a disk.
    pub threads: usize,
    /// Give discarded space back to the host.
    pub discard: bool,
    /// How requests of a disk reach the host, where the format leaves a choice.
    pub io: Io,
    /// For backing files of other hosts; without it they are refused.
    pub remote: Option<RemoteOpener>,
}

impl ImageOptions {
    /// The usual values for this access.
    pub fn new(access: Access) -> Self {
        ImageOptions {
            access,
            format: None,
            lock: true,
            policy: Policy::default(),
            repair: false,
            threads: 4,
            discard: true,
            io: Io::Auto,
            remote: None,
        }
    }
}

/// An open image.
pub enum Opened {
    /// A raw file or device.
    Raw(Arc<RawSource>),
    /// A qcow2 image.
    Qcow2(Arc<Image>),
    /// An image of another format, for reading only.
    Foreign(Format, Arc<dyn Source>),
}

impl Opened {
    /// Its format.
    pub fn format(&self) -> Format {
        match self {
            Opened::Raw(_) => Format::Raw,
            Opened::Qcow2(_) => Format::Qcow2,
            Opened::Foreign(format, _) => *format,
        }
    }

    /// What it shows.
    pub fn source(&self) -> Arc<dyn Source> {
        match self {
            Opened::Raw(s) => s.clone(),
            Opened::Qcow2(i) => i.clone(),
            Opened::Foreign(_, s) => s.clone(),
        }
    }
}

/// Opens the image at `path` as a disk for a machine.
///
/// # Errors
/// [`BlockErrorKind::Locked`] naming who uses it, [`BlockErrorKind::Unsupported`], [`BlockErrorKind::Corrupt`], otherwise the
/// host's.
pub fn open_disk(path: &Path, options: &ImageOptions) -> Result<Arc<dyn BlockBackend>, BlockError> {
    let (file, format) = open_locked(path, options)?;
    let read_only = options.access == Access::ReadOnly;
    if format == Format::Raw {
        let raw = RawOptions {
            threads: options.threads,
            lock: false,
            discard: options.discard,
            guard: options.format.is_none(),
            io: options.io,
        };
        return Ok(Arc::new(RawDisk::from_file(file, path, options.access, &raw)?));
    }
    match open_as(file, path, format, options, &mut Vec::new())? {
        Opened::Qcow2(image) => Ok(Arc::new(Qcow2Disk::new(image, path, read_only, options.threads, options.discard)?)),
        Opened::Foreign(_, source) => Ok(Arc::new(SourceDisk::new(source, path, options.threads)?)),
        Opened::Raw(_) => Err(unsupported(path, "it was opened as raw twice")),
    }
}

/// Opens the image at `path` for work on the image itself.
///
/// # Errors
/// As [`open_disk`].
pub fn open_image(path: &Path, options: &ImageOptions) -> Result<Opened, BlockError> {
    let (file, format) = open_locked(path, options)?;
    open_as(file, path, format, options, &mut Vec::new())
}

fn open_locked(path: &Path, options: &ImageOptions) -> Result<(File, Format), BlockError> {
    let file = open_file(path, options.access)?;
    if options.lock {
        lock(&file, path, options.access == Access::ReadWrite)?;
    }
    let format = options.format.map_or_else(|| Format::probe(&file, path), Ok)?;
    Ok((file, format))
}

/// Opens `file` and what stands behind it. `chain` has the files on the way, by device and inode.
fn open_as(
    file: File,
    path: &Path,
    format: Format,
    options: &ImageOptions,
    chain: &mut Vec<(u64, u64)>,
) -> Result<Opened, BlockError> {
    let meta = file.metadata().map_err(|e| host_error("cannot open", path, e))?;
    let id = (meta.dev(), meta.ino());
    if chain.contains(&id) || chain.len() >= MAX_CHAIN {
        let what = format!("{}: the chain of backing files never ends", path.display());
        return Err(BlockError::new(BlockErrorKind::Corrupt, what));
    }
    chain.push(id);
    match format {
        Format::Raw => Ok(Opened::Raw(Arc::new(RawSource::new(file).map_err(in_image(path))?))),
        Format::Qcow2 => open_qcow2(file, path, options, chain).map(|i| Opened::Qcow2(Arc::new(i))),
        other if options.access == Access::ReadWrite => {
            Err(unsupported(path, &format!("{other} images are only read; convert it first, or open it read-only")))
        }
        other => {
            let folder = real_path(&file, path)?.parent().unwrap_or(Path::new("/")).to_owned();
            let mut opener = |name: &str, kind| {
                let (file, found) = open_named(name, &folder, path, options, false)?;
                match kind {
                    foreign::Kind::Extent => Ok(foreign::Named::Extent(file)),
                    foreign::Kind::Parent => {
                        let format = Format::probe(&file, &found)?;
                        open_as(file, &found, format, options, chain).map(|o| foreign::Named::Parent(o.source()))
                    }
                }
            };
            Ok(Opened::Foreign(other, foreign::open(file, path, other, &mut opener)?))
        }
    }
}

fn open_qcow2(
    file: File,
    path: &Path,
    options: &ImageOptions,
    chain: &mut Vec<(u64, u64)>,
) -> Result<Image, BlockError> {
    let own_path = real_path(&file, path)?;
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(file));
    let info = Image::info(&*storage).map_err(in_image(path))?;
    let folder = own_path.parent().unwrap_or(Path::new("/")).to_owned();
    let writable = options.access == Access::ReadWrite;
    let data_file = match &info.data_file {
        Some(name) => {
            let file = open_named(name, &folder, path, options, writable)?.0;
            Some(Arc::new(FileStorage::new(file)) as Arc<dyn Storage>)
        }
        None => None,
    };
    let backing = match &info.backing_file {
        Some(name) => Some(open_backing(name, &info, &folder, path, options, chain)?),
        None => None,
    };
    let open = OpenOptions { writable, backing, data_file, repair: options.repair };
    Image::open(storage, open).map_err(in_image(path))
}

fn open_backing(
    name: &str,
    info: &Info,
    folder: &Path,
    image: &Path,
    options: &ImageOptions,
    chain: &mut Vec<(u64, u64)>,
) -> Result<Arc<dyn Source>, BlockError> {
    if is_remote(name) {
        let Some(RemoteOpener(open)) = &options.remote else {
            return Err(unsupported(image, &format!("it names `{name}`, which is no file")));
        };
        let format = info.backing_format.as_deref().and_then(Format::parse);
        let format = format.ok_or_else(|| unsupported(image, "it does not say of which format its backing file is"))?;
        return remote_source(open(name)?, name, format);
    }
    let (file, path) = open_named(name, folder, image, options, false)?;
    let format = match &info.backing_format {
        Some(f) => Format::parse(f).ok_or_else(|| unsupported(image, &format!("a backing file of format `{f}`")))?,
        None => guess_backing(&file, &path, image)?,
    };
    let options = ImageOptions { access: Access::ReadOnly, repair: false, ..options.clone() };
    Ok(open_as(file, &path, format, &options, chain)?.source())
}

/// Whether the name of a file is an address of the web.
pub fn is_remote(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// Opens a file of another host as a disk that is only read. It must not refer to further files.
///
/// # Errors
/// [`BlockErrorKind::Unsupported`], [`BlockErrorKind::Corrupt`], otherwise those of the file.
pub fn open_remote(
    file: Arc<dyn RemoteFile>,
    name: &str,
    format: Option<Format>,
) -> Result<(Arc<dyn Source>, Format), BlockError> {
    let format = match format {
        Some(format) => format,
        None => {
            let mut start = [0; 512];
            file.read_at(&mut start, 0).map_err(|e| host_error("cannot read", name.as_ref(), e))?;
            Format::of_bytes(&start)
        }
    };
    remote_source(file, name, format).map(|s| (s, format))
}

fn remote_source(file: Arc<dyn RemoteFile>, name: &str, format: Format) -> Result<Arc<dyn Source>, BlockError> {
    let path = Path::new(name);
    match format {
        Format::Raw => Ok(file),
        Format::Qcow2 => {
            let storage: Arc<dyn Storage> = file;
            let info = Image::info(&*storage).map_err(in_image(path))?;
            if info.backing_file.is_some() || info.data_file.is_some() {
                return Err(unsupported(path, "an image of the web must not name further files"));
            }
            let open = OpenOptions { writable: false, backing: None, data_file: None, repair: false };
            Ok(Arc::new(Image::open(storage, open).map_err(in_image(path))?))
        }
        other => Err(unsupported(path, &format!("{other} images are not read from the web; copy it first"))),
    }
}

/// The format of a backing file for which the image names none. If it was a raw disk once, its guest may have written what it
/// says, so that it must not name further files.
fn guess_backing(file: &File, path: &Path, image: &Path) -> Result<Format, BlockError> {
    let format = Format::probe(file, path)?;
    if format == Format::Qcow2 {
        let handle = file.try_clone().map_err(|e| host_error("cannot open", path, e))?;
        let info = Image::info(&FileStorage::new(handle)).map_err(in_image(path))?;
        if info.backing_file.is_some() || info.data_file.is_some() {
            let what = "does not say of which format its backing file is, and that one names further files; \
                        store the format with `qemu-img rebase -u -F`";
            return Err(unsupported(image, what));
        }
    }
    Ok(format)
}

/// Opens a file that an image names, if it lies where such files may lie.
fn open_named(
    name: &str,
    folder: &Path,
    image: &Path,
    options: &ImageOptions,
    writable: bool,
) -> Result<(File, PathBuf), BlockError> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    if name.starts_with("json:") || name.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(unsupported(image, &format!("it names `{name}`, which is no file")));
    }
    let path = folder.join(name);
    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
    // Decided before anything is opened, and again by what was opened: links may change in between.
    allowed(&path.canonicalize().map_err(|e| host_error("cannot open", &path, e))?, folder, image, options)?;
    let file = open_file(&path, access)?;
    let real = real_path(&file, &path)?;
    allowed(&real, folder, image, options)?;
    if options.lock {
        lock(&file, &path, writable)?;
    }
    Ok((file, real))
}

fn allowed(real: &Path, folder: &Path, image: &Path, options: &ImageOptions) -> Result<(), BlockError> {
    let folders = options.policy.folders.iter().filter_map(|f| f.canonicalize().ok());
    if real.starts_with(folder) || folders.into_iter().any(|f| real.starts_with(f)) {
        return Ok(());
    }
    let what = format!(
        "{} refers to {}, which lies outside the folders where that is allowed",
        image.display(),
        real.display()
    );
    Err(BlockError::new(BlockErrorKind::Unsupported, what))
}

/// Where an open file really is.
fn real_path(file: &File, path: &Path) -> Result<PathBuf, BlockError> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| host_error("cannot locate", path, e))
}

fn unsupported(path: &Path, why: &str) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, format!("{}: {why}", path.display()))
}
