//! Encrypted disks: making them, copying into them, and `visor disk key`.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use visor_block::BlockBackend;
use visor_disk::{
    Access, DiskSource, Format, ImageOptions, NewFile, Opened, Qcow2Disk, RawDisk, RawOptions, open_disk,
};
use visor_luks::{BackendMedium, FormatOptions, Kdf, Luks, LuksDisk, Version};
use visor_qcow2::{Image, Source};

use super::args::{AllocArg, KeyCommand};
use super::work::{Work, block_failure, host_failure, image_failure};
use super::{failure, keys, names};
use crate::progress::Unit;
use crate::report::Failure;

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// The key that a new disk shall have.
#[derive(clap::Args, Debug)]
pub(crate) struct EncryptArgs {
    /// Encrypt the disk (LUKS2, AES-256-XTS). It is called NAME.luks, and asks for its passphrase unless it has a key file.
    #[arg(long)]
    pub(super) encrypt: bool,
    /// Take the whole contents of this file as key; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<std::path::PathBuf>,
    /// Make a random key and keep it in the user's keyring, where it is found when the disk is attached.
    #[arg(long, requires = "encrypt", conflicts_with = "key_file")]
    pub(super) keyring: bool,
}

/// Makes the volume's header in `below`, which is `path`.
pub(super) fn format(
    below: Arc<dyn BlockBackend>,
    path: &Path,
    args: &EncryptArgs,
) -> Result<(Luks, LuksDisk), Failure> {
    let secret = match args.keyring {
        true => keys::random()?,
        false => keys::new_secret(args.key_file.as_deref(), &path.display().to_string())?,
    };
    let medium = BackendMedium(below.clone());
    let luks = Luks::format(&medium, &secret, &FormatOptions::default()).map_err(keys::failure(path))?;
    if args.keyring {
        let file = keys::keep(luks.uuid(), &secret)?;
        eprintln!("its key is {}: without it nobody can read the disk, so keep a copy", file.display());
    }
    let key = luks.unlock(&medium, &secret).map_err(keys::failure(path))?;
    let disk = LuksDisk::new(below, &luks, &key, true).map_err(keys::failure(path))?;
    Ok((luks, disk))
}

/// Makes an encrypted raw disk of `size` bytes for the guest. Its file has no name before it is complete, so that nothing is left behind
/// if that fails or is stopped.
pub(super) fn create_raw(path: &Path, size: u64, alloc: AllocArg, args: &EncryptArgs) -> Result<(), Failure> {
    let (new, below) = raw(path, size, alloc)?;
    drop(format(Arc::new(below), path, args)?);
    new.finish().map_err(block_failure)
}

/// Puts a volume into a new image that will be at `path`.
pub(super) fn fill(image: Image, path: &Path, args: &EncryptArgs) -> Result<(), Failure> {
    let below = Qcow2Disk::new(Arc::new(image), path, false, 1, true).map_err(block_failure)?;
    format(Arc::new(below), path, args).map(drop)
}

/// A new file for a volume with `size` bytes of data.
fn raw(path: &Path, size: u64, alloc: AllocArg) -> Result<(NewFile, RawDisk), Failure> {
    let whole = size.checked_add(Luks::DATA_OFFSET).filter(|w| i64::try_from(*w).is_ok());
    let whole = whole.ok_or_else(|| Failure::new("too large"))?;
    let new = NewFile::create(path).map_err(block_failure)?;
    let fail = |e| host_failure("cannot take space for", path, e);
    match alloc {
        AllocArg::Dynamic => new.file().set_len(whole).map_err(fail)?,
        AllocArg::Static => nix::fcntl::posix_fallocate(new.file(), 0, whole as i64).map_err(|e| fail(e.into()))?,
    }
    let handle = new.handle().map_err(block_failure)?;
    let below = RawDisk::from_handle(handle, path, &RawOptions::default()).map_err(block_failure)?;
    Ok((new, below))
}

/// The place of a new encrypted disk, whose name has to say that it is one.
pub(super) fn place(name: &str, format: Format) -> Result<std::path::PathBuf, Failure> {
    let ending = match format {
        Format::Raw => "luks",
        Format::Qcow2 => "luks.qcow2",
        other => return Err(super::create::cannot_make(other)),
    };
    let path = names::place_as(name, ending)?;
    if !keys::is_encrypted(&path) {
        return Err(Failure::new(format!("the name of an encrypted disk ends with .{ending}"))
            .hint(format!("so that it is known as one: {}", path.with_extension(ending).display())));
    }
    Ok(path)
}

/// Opens an encrypted disk for reading what is in it.
pub(super) fn open_source(path: &Path, format: Option<Format>, key_file: Option<&Path>) -> Result<Opened, Failure> {
    let options = ImageOptions {
        format: format.or_else(|| outer(path)),
        policy: names::policy(),
        remote: super::web::opener(),
        ..ImageOptions::new(Access::ReadOnly)
    };
    let below = open_disk(path, &options).map_err(failure)?;
    let disk = keys::open(below, path, key_file)?;
    Ok(Opened::Foreign(Format::Raw, Arc::new(DiskSource(disk))))
}

/// The format around a volume: a raw file whose first bytes are the volume's is not to be guessed.
pub(crate) fn outer(path: &Path) -> Option<Format> {
    path.extension().is_some_and(|e| e == "luks").then_some(Format::Raw)
}

/// Copies `source` into a new encrypted disk. All of it is written, since what is not written reads as noise.
pub(super) fn copy(
    source: &dyn Source,
    target: &Path,
    alloc: AllocArg,
    args: &EncryptArgs,
    quiet: bool,
) -> Result<(), Failure> {
    let size = source.size();
    let (new, below) = raw(target, size, alloc)?;
    let fail = |e| host_failure("cannot take space for", target, e);
    let (_, disk) = format(Arc::new(below), target, args)?;
    let inside = BackendMedium(Arc::new(disk));
    let mut work = Work::new(quiet)?;
    work.start("encrypting", Some(size), Unit::Bytes);
    let mut data = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let n = (size - at).min(CHUNK as u64) as usize;
        source.read(at, &mut data[..n]).map_err(image_failure(target))?;
        visor_luks::Medium::write_at(&inside, &data[..n], at).map_err(fail)?;
        at += n as u64;
        if !work.at(at) {
            return Err(Failure { status: 130, ..Failure::new("stopped; nothing was left behind") });
        }
    }
    inside.0.drain();
    visor_luks::Medium::flush(&inside).map_err(fail)?;
    drop(inside);
    new.finish().map_err(block_failure)?;
    work.finish();
    Ok(())
}

/// Runs `visor disk key`.
pub(super) fn key(command: &KeyCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        KeyCommand::Ls { disk, json } => list(disk, *json),
        KeyCommand::Add { disk, key_file, new_key_file, keyring } => {
            let (path, medium, mut luks) = volume(disk, Access::ReadWrite)?;
            let volume = keys::unlock(&medium, &luks, &path, key_file.as_deref())?;
            let secret = match keyring {
                true => keys::random()?,
                false => keys::new_secret(new_key_file.as_deref(), &path.display().to_string())?,
            };
            let slot = luks.add_key(&medium, &volume, &secret, Kdf::default()).map_err(keys::failure(&path))?;
            if *keyring {
                keys::keep(luks.uuid(), &secret)?;
            }
            if !quiet {
                println!("key {slot} opens {} too", path.display());
            }
            Ok(0)
        }
        KeyCommand::Rm { disk, slot, last } => {
            let (path, medium, mut luks) = volume(disk, Access::ReadWrite)?;
            luks.remove_key(&medium, *slot, *last).map_err(keys::failure(&path))?;
            if !quiet {
                println!("key {slot} of {} is gone; copies of the disk made before still have it", path.display());
            }
            Ok(0)
        }
    }
}

fn list(disk: &str, as_json: bool) -> Result<u8, Failure> {
    let (path, _, luks) = volume(disk, Access::ReadOnly)?;
    if as_json {
        let keys: Vec<_> = luks.slots().iter().map(|s| json!({ "slot": s.id, "kdf": s.kdf })).collect();
        let value = json!({ "path": path, "encryption": facts(&luks), "keys": keys });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    println!("{:<5} STRETCHED BY", "SLOT");
    luks.slots().iter().for_each(|s| println!("{:<5} {}", s.id, s.kdf));
    if let Some(warning) = luks.warning() {
        eprintln!("{warning}; adding or removing a key mends it");
    }
    Ok(0)
}

/// What anybody can see of an encrypted disk.
pub(super) fn facts(luks: &Luks) -> serde_json::Value {
    let (cipher, bits) = luks.cipher();
    let version = if luks.version() == Version::Two { "luks2" } else { "luks1" };
    json!({
        "format": version, "cipher": cipher, "key_bits": bits, "uuid": luks.uuid(), "sector_size": luks.sector_size(),
        "data_offset": luks.data_offset(), "keys": luks.slots().len(),
    })
}

/// The header of the volume in an existing disk, without a lock if it is only looked at.
pub(super) fn header(path: &Path, access: Access) -> Result<(BackendMedium, Luks), Failure> {
    let lock = access == Access::ReadWrite;
    let options = ImageOptions {
        format: outer(path),
        lock,
        policy: names::policy(),
        remote: super::web::opener(),
        ..ImageOptions::new(access)
    };
    let medium = BackendMedium(open_disk(path, &options).map_err(failure)?);
    let luks = Luks::read(&medium).map_err(keys::failure(path))?;
    Ok((medium, luks))
}

fn volume(disk: &str, access: Access) -> Result<(std::path::PathBuf, BackendMedium, Luks), Failure> {
    let path = names::find(disk)?;
    let (medium, luks) = header(&path, access)?;
    Ok((path, medium, luks))
}
