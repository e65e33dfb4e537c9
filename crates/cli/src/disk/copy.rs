//! `visor disk convert` and `visor disk clone`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use visor_disk::{Access, ConvertOptions, Copied, Format, NewFile, Opened, Target};
use visor_qcow2::{Compression, CreateOptions, FileStorage, Image, Source};

use super::args::{AllocArg, CompressionArg, ConvertArgs, How};
use super::names::{find, place};
use super::work::{Work, block_failure, host_failure, human, image_failure, open};
use super::{create, encrypt, keys};
use crate::progress::Unit;
use crate::report::Failure;

pub(super) fn convert(args: &ConvertArgs, quiet: bool) -> Result<u8, Failure> {
    let format = create::format(&args.target, &args.how, false);
    if args.compress && format != Format::Qcow2 {
        return Err(Failure::new(format!("disks of format {format} cannot be compressed")).hint("--format qcow2"));
    }
    let source_path = find(&args.source)?;
    if args.encrypt.encrypt {
        return to_encrypted(args, &source_path, quiet);
    }
    let target = place(&args.target, format)?;
    plain_name(&target)?;
    let source = source(args, &source_path)?;
    let mut options = create::options(&args.how);
    if args.compress {
        options.compression = match args.compression {
            CompressionArg::Zlib => Compression::Zlib,
            CompressionArg::Zstd => Compression::Zstd,
        };
    }
    let look = Look { json: args.json, quiet, sync: args.sync };
    copy(&source, &target, format, &args.how, options, args.compress, look)
}

/// What a copy is to tell, and when it is done.
#[derive(Clone, Copy)]
struct Look {
    json: bool,
    quiet: bool,
    /// Only when it is on the medium.
    sync: bool,
}

/// What is in the source, decrypted if it is encrypted.
fn source(args: &ConvertArgs, path: &Path) -> Result<Opened, Failure> {
    if args.source_key_file.is_some() || keys::is_encrypted(path) {
        return encrypt::open_source(path, args.source_format, args.source_key_file.as_deref());
    }
    open(path, Access::ReadOnly, args.source_format)
}

fn to_encrypted(args: &ConvertArgs, source_path: &Path, quiet: bool) -> Result<u8, Failure> {
    if args.how.format.is_some_and(|f| f != Format::Raw) || args.compress {
        return Err(Failure::new("copies into encrypted disks are raw, and noise cannot be compressed")
            .hint("leave --format and --compress out"));
    }
    let target = encrypt::place(&args.target, Format::Raw)?;
    let source = source(args, source_path)?.source();
    encrypt::copy(&*source, &target, args.how.alloc, &args.encrypt, quiet)?;
    if args.json {
        println!("{}", json!({ "disk": target, "format": "raw", "size": source.size(), "encrypted": true }));
    } else if !quiet {
        println!("{}  raw, encrypted, {}", target.display(), human(source.size()));
    }
    Ok(0)
}

/// A name that says that a disk is encrypted must not lie.
fn plain_name(target: &Path) -> Result<(), Failure> {
    if keys::is_encrypted(target) {
        return Err(Failure::new(format!("{} is the name of an encrypted disk", target.display()))
            .hint("--encrypt makes one; otherwise choose another name"));
    }
    Ok(())
}

pub(super) fn clone(disk: &str, new: &str, linked: bool, as_json: bool, quiet: bool) -> Result<u8, Failure> {
    let path = find(disk)?;
    let how = How { alloc: AllocArg::Dynamic, format: None, cluster_size: None, extended_l2: false };
    // A copy of a volume is a volume, and has the same keys.
    let place = |format: Format| match keys::is_encrypted(&path) {
        true => encrypt::place(new, format),
        false => place(new, format).and_then(|p| plain_name(&p).map(|()| p)),
    };
    if linked {
        let target = place(Format::Qcow2)?;
        let size = create::overlay(&target, &path, None, Format::Qcow2, &how, quiet)?;
        if as_json {
            println!("{}", json!({ "disk": target, "size": size, "backing": path }));
        } else if !quiet {
            println!("{}  {} over {}, which must not change any more", target.display(), human(size), path.display());
        }
        return Ok(0);
    }
    let source = open(&path, Access::ReadOnly, encrypt::outer(&path))?;
    let format = if source.format() == Format::Raw { Format::Raw } else { Format::Qcow2 };
    let target = place(format)?;
    let mut options = create::options(&how);
    if let Opened::Qcow2(image) = &source {
        let i = image.describe();
        (options.cluster_size, options.extended_l2, options.compression) =
            (i.cluster_size, i.extended_l2, i.compression);
    }
    copy(&source, &target, format, &how, options, false, Look { json: as_json, quiet, sync: false })
}

fn copy(
    source: &Opened,
    target: &Path,
    format: Format,
    how: &How,
    options: CreateOptions,
    compress: bool,
    look: Look,
) -> Result<u8, Failure> {
    let started = Instant::now();
    let reader = source.source();
    let mut work = Work::new(look.quiet)?;
    let new = NewFile::create(target).map_err(block_failure)?;
    // The file has no name before it is complete: nothing in it needs an order.
    let storage = FileStorage::hasty(new.handle().map_err(block_failure)?);
    work.start("copying", Some(reader.size()), Unit::Bytes);
    let copied = match format {
        Format::Raw => to_raw(&*reader, &storage, how, target, &mut work)?,
        Format::Qcow2 => {
            let options = CreateOptions { size: reader.size(), ..options };
            let image = Image::create(Arc::new(storage), &options, &mut |_, _| true).map_err(image_failure(target))?;
            let details = ConvertOptions { compress, ..ConvertOptions::default() };
            visor_disk::convert(&*reader, &Target::Qcow2(&image), &details, &mut |done, _| work.at(done))
                .and_then(|c| image.flush().map(|()| c))
                .map_err(image_failure(target))?
        }
        other => return Err(create::cannot_make(other)),
    };
    let done = new.publish().map_err(block_failure)?;
    if look.sync {
        done.sync().map_err(block_failure)?;
    }
    work.finish();
    let taken = std::fs::metadata(target).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    let seconds = started.elapsed().as_secs_f64();
    if look.json {
        let value = json!({
            "disk": target, "format": format.name(), "size": reader.size(), "data": copied.data, "zero": copied.zero,
            "allocated": taken, "seconds": seconds,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else if !look.quiet {
        println!(
            "{}  {format}, {}, {} of data, {} taken, {seconds:.1} s",
            target.display(),
            human(reader.size()),
            human(copied.data),
            human(taken)
        );
    }
    Ok(0)
}

fn to_raw(
    reader: &dyn Source,
    storage: &FileStorage,
    how: &How,
    target: &Path,
    work: &mut Work,
) -> Result<Copied, Failure> {
    let fail = |e| host_failure("cannot take space for", target, e);
    match how.alloc {
        AllocArg::Dynamic => storage.file().set_len(reader.size()).map_err(fail)?,
        AllocArg::Static => {
            nix::fcntl::posix_fallocate(storage.file(), 0, reader.size() as i64).map_err(|e| fail(e.into()))?;
        }
    }
    let target_ = Target::Raw(storage);
    visor_disk::convert(reader, &target_, &ConvertOptions::default(), &mut |done, _| work.at(done))
        .map_err(image_failure(target))
}
