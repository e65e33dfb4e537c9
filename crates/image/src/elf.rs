//! What programs and modules say about themselves: needed libraries, the loader, module information.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP, SHT_DYNAMIC};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

use crate::error::{ImageError, ImageErrorKind, IoContext};

#[cfg(test)]
mod tests;

/// Directories of shared libraries, as Debian lays them out.
const LIBRARY_DIRECTORIES: [&str; 4] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib"];

/// What an ELF file needs in order to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Names of shared libraries (`DT_NEEDED`), in order.
    pub(crate) libraries: Vec<String>,
    /// The dynamic loader (`PT_INTERP`), without the leading slash.
    pub(crate) loader: Option<String>,
}

/// Reads what an ELF file needs; nothing for a static program or for a file that is no 64-bit ELF (a script).
pub(crate) fn needs(data: &[u8]) -> Result<Needs, object::read::Error> {
    let Ok(header) = FileHeader64::<Endianness>::parse(data) else {
        return Ok(Needs::default());
    };
    let endian = header.endian()?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, data)? {
        if segment.p_type.get(endian) == PT_INTERP {
            let bytes = segment.data(endian, data).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default());
            needs.loader = Some(text.trim_start_matches('/').to_owned());
        }
    }
    let sections = header.sections(endian, data)?;
    for section in sections.iter().filter(|s| s.sh_type(endian) == SHT_DYNAMIC) {
        let Some((entries, strings)) = section.dynamic(endian, data)? else {
            continue;
        };
        let strings = sections.strings(endian, data, strings)?;
        for entry in entries.iter().filter(|e| e.tag32(endian) == Some(DT_NEEDED)) {
            let name = entry.string(endian, strings)?;
            needs.libraries.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(needs)
}

/// All libraries and loaders below `sysroot` that these programs need, as paths without leading slash, sorted.
pub(crate) fn closure(sysroot: &Path, programs: &[PathBuf]) -> Result<Vec<String>, ImageError> {
    let mut found = BTreeSet::new();
    let mut queue: VecDeque<PathBuf> = programs.iter().cloned().collect();
    while let Some(program) = queue.pop_front() {
        let data = fs::read(&program).doing("read", &program)?;
        let needs = needs(&data).map_err(|e| {
            ImageError::new(ImageErrorKind::Format, format!("{} is a damaged ELF file: {e}", program.display()))
        })?;
        let libraries = needs.libraries.iter().map(|name| {
            find_library(sysroot, name).ok_or_else(|| {
                let words = format!("{} needs {name}, which no package brings", program.display());
                ImageError::new(ImageErrorKind::Missing, words)
            })
        });
        for path in libraries.chain(needs.loader.map(Ok)) {
            let path = path?;
            if found.insert(path.clone()) {
                queue.push_back(canonical(sysroot, &path));
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn find_library(sysroot: &Path, name: &str) -> Option<String> {
    let paths = LIBRARY_DIRECTORIES.iter().map(|d| format!("{d}/{name}"));
    paths.into_iter().find(|p| fs::symlink_metadata(sysroot.join(p)).is_ok())
}

/// The file behind a path of the package tree: absolute links there mean the tree, not this machine.
fn canonical(sysroot: &Path, path: &str) -> PathBuf {
    let mut at = sysroot.join(path);
    for _ in 0..8 {
        let Ok(target) = fs::read_link(&at) else {
            break;
        };
        at = match target.strip_prefix("/") {
            Ok(inside) => sysroot.join(inside),
            Err(_) => at.parent().unwrap_or(sysroot).join(target),
        };
    }
    at
}

/// The values of `key` in a kernel module's `.modinfo` section.
pub(crate) fn module_info(data: &[u8], key: &str) -> Result<Vec<String>, object::read::Error> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else {
        return Ok(Vec::new());
    };
    let entries = section.data(endian, data)?.split(|b| *b == 0);
    let values = entries.filter_map(|e| std::str::from_utf8(e).ok()?.split_once('='));
    Ok(values.filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned()).collect())
}
