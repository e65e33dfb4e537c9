//! Names of disks: files in the user's folder, or paths.

use std::path::{Path, PathBuf};

use visor_disk::{Format, Policy};

use crate::report::Failure;

/// Endings of disk files, the formats that are made here first.
const ENDINGS: [&str; 9] = ["qcow2", "raw", "luks", "luks.qcow2", "img", "vmdk", "vdi", "vhd", "vhdx"];

/// Where disks with plain names live: `$XDG_DATA_HOME/visor/disks`, or the same under `~/.local/share`.
pub(crate) fn directory() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|h| h.join(".local/share")));
    let base = base.ok_or_else(|| {
        Failure::new("there is no folder for disks: neither XDG_DATA_HOME nor HOME is set")
            .hint("give a path, as in ./disk.qcow2")
    })?;
    Ok(base.join("visor/disks"))
}

/// Folders where backing files may lie besides an image's own.
pub(crate) fn policy() -> Policy {
    let mut folders: Vec<PathBuf> = directory().into_iter().collect();
    folders.extend(std::env::var_os("VISOR_BACKING_PATH").iter().flat_map(std::env::split_paths));
    Policy { folders }
}

/// The file of an existing disk.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    if name.starts_with("iscsi://") || name.starts_with("iser://") {
        return Err(Failure::new(format!("{name}: visor leaves iSCSI to the host's initiator"))
            .hint("iscsiadm --mode discovery --type sendtargets --portal HOST, then iscsiadm --mode node --login (package open-iscsi)")
            .hint("the volume is a block device then: --disk /dev/disk/by-path/ip-HOST:3260-iscsi-TARGET-lun-0,format=raw")
            .hint("without root: a server that speaks NBD in front of it, as nbds://HOST/EXPORT"));
    }
    if name.contains('/') {
        return Ok(name.into());
    }
    if let Some(path) = stored(name) {
        return Ok(path);
    }
    if Path::new(name).exists() {
        return Ok(name.into());
    }
    let failure = Failure::new(format!("no disk `{name}`"));
    Err(match nearest(name) {
        Some(other) => failure.hint(format!("did you mean `{other}`?")),
        None => failure.hint("visor disk ls lists them; visor disk create makes one; a path needs a `/`"),
    })
}

/// Whether one of the user's disks is called that.
pub(crate) fn exists(name: &str) -> bool {
    stored(name).is_some()
}

/// The file of a new disk, whose name must not say another format.
pub(crate) fn place(name: &str, format: Format) -> Result<PathBuf, Failure> {
    if let Some(said) = Format::of_name(Path::new(name)).filter(|said| *said != format) {
        return Err(Failure::new(format!(
            "`{name}` is the name of a disk of format {said}, and this one is to be {format}"
        ))
        .hint(format!("another name, or --format {said}")));
    }
    place_as(name, format.name())
}

/// The file of a new disk, with this ending where a plain name is given.
pub(super) fn place_as(name: &str, ending: &str) -> Result<PathBuf, Failure> {
    if crate::pool::volume(name).is_some() {
        return Err(
            Failure::new(format!("{name} is a volume of a pool, not a file")).hint("visor disk create makes volumes")
        );
    }
    let path = Path::new(name);
    if name.contains('/') || path.extension().is_some_and(|e| ENDINGS.iter().any(|x| e == *x)) {
        return Ok(path.into());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 100
        || !name.chars().all(good)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(Failure::new(format!("`{name}` is no name for a disk"))
            .hint("letters, digits, `.`, `_` and `-`; or a path with a `/`"));
    }
    if let Some(there) = stored(name) {
        return Err(Failure::new(format!("there is a disk `{name}` already ({})", there.display()))
            .hint(format!("visor disk rm {name} removes it")));
    }
    let folder = directory()?;
    std::fs::create_dir_all(&folder)
        .map_err(|e| anyhow::Error::from(e).context(format!("cannot make {}", folder.display())))?;
    Ok(folder.join(format!("{name}.{ending}")))
}

/// The names and files of all disks in the user's folder, sorted.
pub(crate) fn all() -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut list = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory()?) else { return Ok(list) };
    for path in entries.flatten().map(|e| e.path()) {
        let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e));
        let stem = path.file_stem().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.'));
        let name = stem.map(|n| n.strip_suffix(".luks").unwrap_or(n));
        if let (true, Some(name)) = (known && path.is_file(), name) {
            list.push((name.to_owned(), path));
        }
    }
    list.sort();
    Ok(list)
}

/// The name of a disk without what says its format.
pub(super) fn bare(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_suffix(".luks").unwrap_or(&stem).to_owned()
}

fn stored(name: &str) -> Option<PathBuf> {
    let folder = directory().ok()?;
    ENDINGS.iter().map(|e| folder.join(format!("{name}.{e}"))).find(|p| p.is_file())
}

/// A disk whose name is nearly the same.
fn nearest(name: &str) -> Option<String> {
    let names = all().ok()?.into_iter().map(|(n, _)| n);
    names.map(|n| (distance(&n, name), n)).filter(|(d, _)| *d <= 2).min().map(|(_, n)| n)
}

/// Letters to change, add or leave out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let best = (before + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            before = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("data", "data"), 0);
        assert_eq!(distance("data", "date"), 1);
        assert_eq!(distance("dat", "data"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn names_and_paths() {
        assert_eq!(place("./x", Format::Raw).unwrap(), PathBuf::from("./x"));
        assert_eq!(place("x.qcow2", Format::Qcow2).unwrap(), PathBuf::from("x.qcow2"));
        assert!(place("x.qcow2", Format::Raw).is_err() && place("./x.raw", Format::Qcow2).is_err());
        assert!(
            place("-x", Format::Raw).is_err() && place("a b", Format::Raw).is_err() && place("", Format::Raw).is_err()
        );
    }
}
