//! Keys of encrypted disks: from a file, from the user's keyring, or from a person; and what keeps them from leaking.
//!
//! Keys are never in arguments, environment, or messages. What holds one is wiped when it is dropped, and a process that has had
//! one leaves no core dump.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use visor_block::BlockBackend;
use visor_luks::{BackendMedium, Luks, LuksDisk, LuksError, LuksErrorKind, VolumeKey, Zeroizing};

use super::work::host_failure;
use crate::report::Failure;

/// A key as bytes.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// Longest key file.
const MAX_KEY: usize = 8 << 20;
/// Longest passphrase.
const MAX_PASSPHRASE: usize = 512;
/// What a terminal sends for these keys.
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const CTRL_BACKSLASH: u8 = 28;
const DELETE: u8 = 127;
/// How often a person may try.
const ATTEMPTS: usize = 3;

/// Whether a disk is encrypted by visor, which its name says: what is inside a disk is the guest's business, which may well
/// encrypt its own disk.
pub(crate) fn is_encrypted(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".luks") || name.contains(".luks.")
}

/// Keeps the memory of this process out of core dumps, and other processes of the user from looking at it.
pub(crate) fn protect() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

/// The disk inside the volume that `below` holds. `path` is for messages.
pub(crate) fn open(
    below: Arc<dyn BlockBackend>,
    path: &Path,
    file: Option<&Path>,
) -> Result<Arc<dyn BlockBackend>, Failure> {
    let medium = BackendMedium(below.clone());
    let luks = Luks::read(&medium).map_err(failure(path))?;
    let key = unlock(&medium, &luks, path, file)?;
    let discard = true;
    Ok(Arc::new(LuksDisk::new(below, &luks, &key, discard).map_err(failure(path))?))
}

/// The volume's key: by the key file, else by the keyring, else by what a person types.
pub(super) fn unlock(
    medium: &BackendMedium,
    luks: &Luks,
    path: &Path,
    file: Option<&Path>,
) -> Result<VolumeKey, Failure> {
    protect();
    if let Some(warning) = luks.warning() {
        tracing::warn!("{}: {warning}", path.display());
    }
    let try_key = |secret: Secret| luks.unlock(medium, &secret).map_err(failure(path));
    if let Some(file) = file {
        return try_key(read_file(file)?);
    }
    if let Some(stored) = stored(luks)? {
        return try_key(stored);
    }
    let mut left = ATTEMPTS;
    loop {
        let secret = ask(&format!("passphrase of {}: ", path.display()))?.ok_or_else(|| {
            Failure::new(format!("{} is encrypted, and there is nobody to ask for its passphrase", path.display()))
                .hint("give its key: --key-file FILE, or for a machine --disk DISK,key-file=FILE")
        })?;
        left -= 1;
        match luks.unlock(medium, &secret) {
            Err(e) if e.kind == LuksErrorKind::WrongKey && left > 0 => eprintln!("that is not it"),
            other => return other.map_err(failure(path)),
        }
    }
}

/// A new key: of a file, of the keyring (made now, for the volume of this UUID), or typed twice.
pub(super) fn new_secret(file: Option<&Path>, what: &str) -> Result<Secret, Failure> {
    protect();
    if let Some(file) = file {
        return read_file(file);
    }
    let none = || {
        Failure::new("there is nobody to ask for a passphrase")
            .hint("--key-file FILE takes a file's contents as key: head -c 32 /dev/urandom > FILE; chmod 600 FILE")
            .hint("--keyring makes a key and keeps it in your keyring")
    };
    let first = ask(&format!("new passphrase of {what}: "))?.ok_or_else(none)?;
    let again = ask("the same again: ")?.ok_or_else(none)?;
    if *first != *again {
        return Err(Failure::new("the two are not the same; nothing was changed"));
    }
    if first.is_empty() {
        return Err(Failure::new("an empty passphrase protects nothing; nothing was changed"));
    }
    Ok(first)
}

/// A random key.
pub(super) fn random() -> Result<Secret, Failure> {
    protect();
    let mut key = Zeroizing::new(vec![0; 64]);
    let mut source = File::open("/dev/urandom").map_err(|e| host_failure("cannot open", "/dev/urandom".as_ref(), e))?;
    source.read_exact(&mut key).map_err(|e| host_failure("cannot read", "/dev/urandom".as_ref(), e))?;
    Ok(key)
}

/// Keeps `key` in the keyring. Returns where.
pub(super) fn keep(uuid: &str, key: &Secret) -> Result<PathBuf, Failure> {
    let folder = keyring()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|e| host_failure("cannot make", &folder, e))?;
    let path = folder.join(format!("{uuid}.key"));
    let fail = |e| host_failure("cannot make", &path, e);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
    file.write_all(key).and_then(|()| file.sync_all()).map_err(fail)?;
    if let Ok(folder) = File::open(&folder) {
        let _ = folder.sync_all();
    }
    Ok(path)
}

/// A volume's key in the keyring.
fn stored(luks: &Luks) -> Result<Option<Secret>, Failure> {
    // The UUID comes from the disk: it must not lead anywhere else.
    if luks.uuid().is_empty() || !luks.uuid().chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Ok(None);
    }
    let Ok(folder) = keyring() else { return Ok(None) };
    let path = folder.join(format!("{}.key", luks.uuid()));
    let Ok(meta) = fs::metadata(&path) else { return Ok(None) };
    if meta.mode() & 0o077 != 0 {
        return Err(Failure::new(format!("others may read the key {}", path.display())).hint(format!(
            "chmod 600 {}; and give the disk another key if others could have read it",
            path.display()
        )));
    }
    read_file(&path).map(Some)
}

/// Where keys of the user are kept: `$VISOR_KEYRING`, or `visor/keys` in the user's data folder.
fn keyring() -> Result<PathBuf, Failure> {
    if let Some(folder) = std::env::var_os("VISOR_KEYRING") {
        return Ok(folder.into());
    }
    Ok(super::names::directory()?.with_file_name("keys"))
}

/// The whole contents of a file; of standard input with `-`.
fn read_file(path: &Path) -> Result<Secret, Failure> {
    let fail = |e| host_failure("cannot read the key", path, e);
    let mut from: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(File::open(path).map_err(fail)?),
    };
    // Never grown, since growing would leave copies behind.
    let mut key = Zeroizing::new(vec![0; 64 << 10]);
    let mut len = 0;
    loop {
        if len == key.len() {
            if len >= MAX_KEY {
                return Err(Failure::new(format!("{} is too large for a key (8 MiB)", path.display())));
            }
            let mut larger = Zeroizing::new(vec![0; key.len() * 2]);
            larger[..len].copy_from_slice(&key);
            key = larger;
        }
        match from.read(&mut key[len..]).map_err(fail)? {
            0 => break,
            n => len += n,
        }
    }
    key.truncate(len);
    if key.is_empty() {
        return Err(Failure::new(format!("the key {} is empty", path.display())));
    }
    Ok(key)
}

/// What a person types at the terminal, unseen; nothing without a terminal.
fn ask(prompt: &str) -> Result<Option<Secret>, Failure> {
    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    let Ok(before) = tcgetattr(&terminal) else { return Ok(None) };
    let mut quiet = before.clone();
    // Signals too, so that nothing ends the program before the terminal is as it was.
    quiet.local_flags &= !(LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::ICANON);
    quiet.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    quiet.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    // What was typed before the question is thrown away, and nothing that is typed after it is shown or lost.
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet).map_err(anyhow::Error::from)?;
    let line = terminal.write_all(prompt.as_bytes()).map_err(Failure::from).and_then(|()| line(&mut terminal));
    let _ = tcsetattr(&terminal, SetArg::TCSANOW, &before);
    let _ = terminal.write_all(b"\n");
    line.map(Some)
}

fn line(terminal: &mut File) -> Result<Secret, Failure> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE));
    let mut byte = [0];
    while terminal.read(&mut byte)? == 1 {
        match byte[0] {
            b'\n' | b'\r' | CTRL_D => break,
            CTRL_C | CTRL_BACKSLASH => return Err(Failure { status: 130, ..Failure::new("stopped") }),
            // A character may be several bytes of UTF-8.
            BACKSPACE | DELETE => while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            CTRL_U => line.clear(),
            _ if line.len() == MAX_PASSPHRASE => {
                return Err(Failure::new(format!("a passphrase has up to {MAX_PASSPHRASE} bytes")));
            }
            b => line.push(b),
        }
    }
    Ok(line)
}

/// An error of a volume with its path and what to do.
pub(super) fn failure(path: &Path) -> impl Fn(LuksError) -> Failure {
    move |e| {
        let hint = match e.kind {
            LuksErrorKind::WrongKey => Some("visor disk key ls DISK lists its keys; cryptsetup luksDump says more"),
            LuksErrorKind::NotLuks => Some("it is not encrypted; attach it without a key"),
            LuksErrorKind::Damaged => Some("restore the header: cryptsetup repair, or luksHeaderRestore from a backup"),
            LuksErrorKind::LastKey => Some("--last removes it all the same, and with it the data for ever"),
            _ => None,
        };
        let failure = Failure::from(anyhow::Error::from(e).context(path.display().to_string()));
        hint.into_iter().fold(failure, Failure::hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_encrypted() {
        for (name, yes) in [("a.luks", true), ("/x/a.luks.qcow2", true), ("a.qcow2", false), ("luks", false)] {
            assert_eq!(is_encrypted(name.as_ref()), yes, "{name}");
        }
    }

    #[test]
    fn key_files_are_read_whole() {
        let dir = std::env::temp_dir().join(format!("visor-keys-{}", std::process::id()));
        let key: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        fs::write(&dir, &key).unwrap();
        assert_eq!(*read_file(&dir).unwrap(), key);
        fs::write(&dir, b"").unwrap();
        assert!(read_file(&dir).is_err());
        fs::remove_file(&dir).unwrap();
    }
}
