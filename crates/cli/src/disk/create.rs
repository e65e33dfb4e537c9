//! `visor disk create`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use visor_disk::{Access, Alloc, Format, ImageOptions, NewFile, Opened, RawDisk, is_remote, open_image};
use visor_qcow2::{CreateOptions, FileStorage, Image, Preallocation, Storage};

use super::args::{AllocArg, CreateArgs, How};
use super::work::{Work, block_failure, host_failure, human, image_failure};
use super::{encrypt, failure, names, web};
use crate::progress::Unit;
use crate::report::Failure;

pub(super) fn create(args: &CreateArgs, quiet: bool) -> Result<u8, Failure> {
    if let Some((pool, volume)) = crate::pool::volume(&args.disk) {
        return in_pool(args, pool, volume, quiet);
    }
    if args.overcommit {
        return Err(Failure::new("--overcommit is for volumes of pools").hint("pool:POOL/VOLUME as the disk's name"));
    }
    if args.encrypt.encrypt {
        return encrypted(args, quiet);
    }
    if args.encrypt.key_file.is_some() {
        return Err(Failure::new("a key is for encrypted disks").hint("--encrypt"));
    }
    let format = format(&args.disk, &args.how, args.backing.is_some());
    let path = names::place(&args.disk, format)?;
    let size = match &args.backing {
        Some(url) if is_remote(url) => web_overlay(&path, url, args, format, quiet)?,
        Some(backing) => overlay(&path, &names::find(backing)?, args.size, format, &args.how, quiet)?,
        None => {
            let size = args.size.unwrap_or_default();
            match format {
                Format::Raw => raw(&path, size, args.how.alloc)?,
                Format::Qcow2 => qcow2(&path, CreateOptions { size, ..options(&args.how) }, quiet)?,
                other => return Err(cannot_make(other)),
            }
            size
        }
    };
    tell(args, &path, format, size, quiet)
}

/// A volume of a pool.
fn in_pool(args: &CreateArgs, pool: &str, volume: &str, quiet: bool) -> Result<u8, Failure> {
    let (Some(size), None) = (args.size, &args.backing) else {
        return Err(Failure::new("a volume of a pool has a size, and no backing file"));
    };
    if args.how.format.is_some_and(|f| f != Format::Raw) {
        return Err(Failure::new("volumes of pools are raw").hint("leave --format out"));
    }
    let alloc = if args.how.alloc == AllocArg::Static { Alloc::Static } else { Alloc::Dynamic };
    let whole = if args.encrypt.encrypt { size.saturating_add(visor_luks::Luks::DATA_OFFSET) } else { size };
    crate::pool::create(pool, volume, whole, alloc, args.overcommit)?;
    if args.encrypt.encrypt {
        let made = crate::pool::open(pool, volume, false)
            .and_then(|below| encrypt::format(below, args.disk.as_ref(), &args.encrypt).map(drop));
        if let Err(e) = made {
            let _ = crate::pool::remove(pool, volume);
            return Err(e);
        }
    }
    let encrypted = args.encrypt.encrypt;
    if args.json {
        println!("{}", json!({ "disk": args.disk, "size": size, "encrypted": encrypted }));
    } else if !quiet {
        println!("{}  {}{}", args.disk, human(size), if encrypted { ", encrypted" } else { "" });
    }
    Ok(0)
}

/// An encrypted disk: a raw file unless another format is wanted.
fn encrypted(args: &CreateArgs, quiet: bool) -> Result<u8, Failure> {
    let (Some(size), None) = (args.size, &args.backing) else {
        return Err(Failure::new("an encrypted disk cannot show an image that is not encrypted")
            .hint("visor disk convert IMAGE NEW --encrypt copies it into an encrypted disk"));
    };
    let format = args.how.format.unwrap_or(Format::Raw);
    let path = encrypt::place(&args.disk, format)?;
    match format {
        Format::Raw => encrypt::create_raw(&path, size, args.how.alloc, &args.encrypt)?,
        _ => {
            let whole = size.checked_add(visor_luks::Luks::DATA_OFFSET).ok_or_else(|| Failure::new("too large"))?;
            let options = CreateOptions { size: whole, ..options(&args.how) };
            qcow2_holding(&path, options, quiet, |image| encrypt::fill(image, &path, &args.encrypt))?;
        }
    }
    tell(args, &path, format, size, quiet)
}

fn tell(args: &CreateArgs, path: &Path, format: Format, size: u64, quiet: bool) -> Result<u8, Failure> {
    let taken = std::fs::metadata(path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    let encrypted = args.encrypt.encrypt;
    if args.json {
        let value = json!({
            "path": path, "format": format.name(), "size": size, "allocated": taken, "encrypted": encrypted,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else if !quiet {
        let how = if encrypted { ", encrypted" } else { "" };
        println!("{}  {format}{how}, {}, {} taken", path.display(), human(size), human(taken));
    }
    Ok(0)
}

/// Makes a dynamic disk of `size` bytes among the user's; its file.
pub(crate) fn dynamic(name: &str, size: u64) -> Result<PathBuf, Failure> {
    let path = names::place(name, Format::Qcow2)?;
    qcow2(&path, CreateOptions::new(size), true)?;
    Ok(path)
}

/// The format wanted of a new disk: the one that is named, or that the ending of its name says; otherwise raw for what is static, and
/// qcow2.
pub(super) fn format(name: &str, how: &How, backing: bool) -> Format {
    how.format.or_else(|| Format::of_name(Path::new(name))).unwrap_or(match how.alloc {
        AllocArg::Static if !backing => Format::Raw,
        _ => Format::Qcow2,
    })
}

pub(super) fn cannot_make(format: Format) -> Failure {
    Failure::new(format!("disks of format {format} are read here, not made")).hint("--format raw or --format qcow2")
}

/// The details of a qcow2 image.
pub(super) fn options(how: &How) -> CreateOptions {
    let mut options = CreateOptions::new(0);
    if how.alloc == AllocArg::Static {
        options.preallocation = Preallocation::Falloc;
    }
    options.extended_l2 = how.extended_l2;
    options.cluster_size = how.cluster_size.unwrap_or(options.cluster_size);
    options
}

pub(super) fn raw(path: &Path, size: u64, alloc: AllocArg) -> Result<(), Failure> {
    let alloc = match alloc {
        AllocArg::Static => Alloc::Static,
        AllocArg::Dynamic => Alloc::Dynamic,
    };
    RawDisk::create(path, size, alloc).map_err(failure)
}

/// Makes a qcow2 image, shows progress, and leaves nothing behind if it fails.
pub(super) fn qcow2(path: &Path, options: CreateOptions, quiet: bool) -> Result<(), Failure> {
    qcow2_holding(path, options, quiet, |_| Ok(()))
}

/// The same; `fill` puts something into the image before it gets its name.
pub(super) fn qcow2_holding(
    path: &Path,
    options: CreateOptions,
    quiet: bool,
    fill: impl FnOnce(Image) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let new = NewFile::create(path).map_err(block_failure)?;
    // The file has no name before it is complete: nothing in it needs an order.
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::hasty(new.handle().map_err(block_failure)?));
    let mut work = Work::new(quiet || options.preallocation == Preallocation::Off)?;
    work.start("taking space", Some(options.size), Unit::Bytes);
    let image = Image::create(storage, &options, &mut |done, _| work.at(done)).map_err(image_failure(path))?;
    work.finish();
    fill(image)?;
    new.finish().map_err(block_failure)?;
    Ok(())
}

/// A qcow2 image over another image. Returns its size.
pub(super) fn overlay(
    path: &Path,
    backing: &Path,
    size: Option<u64>,
    format: Format,
    how: &How,
    quiet: bool,
) -> Result<u64, Failure> {
    if format != Format::Qcow2 {
        return Err(Failure::new("only qcow2 disks have a backing file").hint("--format qcow2"));
    }
    // Open while the new image is made: its user must not be changing it.
    let open =
        ImageOptions { policy: names::policy(), remote: super::web::opener(), ..ImageOptions::new(Access::ReadOnly) };
    let base = open_image(backing, &open).map_err(failure)?;
    let source = base.source();
    let size = size.unwrap_or(source.size());
    let name = relative(path, backing)?;
    let create = CreateOptions {
        size,
        backing: Some((name, Some(base.format().name().to_owned()))),
        backing_source: Some(source),
        ..options(how)
    };
    qcow2(path, create, quiet)?;
    drop::<Opened>(base);
    // Where the policy would not let it be opened again, say so now.
    open_image(path, &open).map_err(|e| {
        let _ = std::fs::remove_file(path);
        failure(e)
    })?;
    Ok(size)
}

/// A qcow2 image over a file of a web server. Returns its size.
fn web_overlay(path: &Path, url: &str, args: &CreateArgs, format: Format, quiet: bool) -> Result<u64, Failure> {
    if format != Format::Qcow2 {
        return Err(Failure::new("only qcow2 disks have a backing file").hint("--format qcow2"));
    }
    let (source, base) = web::backing(url, &args.web)?;
    let size = args.size.unwrap_or(source.size());
    let create = CreateOptions {
        size,
        backing: Some((url.to_owned(), Some(base.name().to_owned()))),
        backing_source: Some(source),
        ..options(&args.how)
    };
    qcow2(path, create, quiet)?;
    Ok(size)
}

/// The name of `backing` as stored in the image `path`: relative where both are in one folder or below it.
fn relative(path: &Path, backing: &Path) -> Result<String, Failure> {
    let real = backing.canonicalize().map_err(|e| host_failure("cannot open", backing, e))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|e| host_failure("cannot open", folder, e))?;
    let name = real.strip_prefix(&folder).unwrap_or(&real);
    name.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("{} is not UTF-8", backing.display())))
}
