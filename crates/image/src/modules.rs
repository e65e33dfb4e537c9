//! Kernel modules: those a recipe names and those they need, from the modules' own information.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use visor_guest::modules::{Module, OrderError, Table, normalise};

use crate::elf::module_info;
use crate::error::{ImageError, ImageErrorKind, IoContext};

/// The modules of an unpacked kernel package.
pub(crate) struct KernelModules {
    /// `lib/modules/RELEASE` of the package.
    pub(crate) directory: PathBuf,
    /// Release of the kernel.
    pub(crate) release: String,
    by_name: BTreeMap<String, PathBuf>,
}

impl KernelModules {
    /// Finds the kernel's modules below `sysroot`.
    pub(crate) fn find(sysroot: &Path) -> Result<Self, ImageError> {
        let missing = || ImageError::new(ImageErrorKind::Missing, "the kernel's package brings no modules");
        let base = ["usr/lib/modules", "lib/modules"].iter().map(|d| sysroot.join(d)).find(|d| d.is_dir());
        let base = base.ok_or_else(missing)?;
        let entry = fs::read_dir(&base).doing("list", &base)?.flatten().next().ok_or_else(missing)?;
        let directory = entry.path();
        let mut by_name = BTreeMap::new();
        collect(&directory, Path::new(""), &mut by_name)?;
        Ok(Self { directory, release: entry.file_name().to_string_lossy().into_owned(), by_name })
    }

    /// A table of the modules `names` and all they need. Names the kernel does not offer are left out when `optional`.
    pub(crate) fn table(&self, names: &[String], optional: bool) -> Result<Table, ImageError> {
        let mut table = Table::default();
        let mut open: Vec<String> = names.iter().map(|n| normalise(n)).collect();
        let wanted: BTreeSet<String> = open.iter().cloned().collect();
        while let Some(name) = open.pop() {
            if table.modules.contains_key(&name) {
                continue;
            }
            let Some(path) = self.by_name.get(&name) else {
                // Built into the kernel, or not offered by it.
                if optional || !wanted.contains(&name) {
                    continue;
                }
                return Err(ImageError::new(ImageErrorKind::Missing, format!("the kernel has no module {name}")));
            };
            let module = read_module(&self.directory, path)?;
            open.extend(module.needs.iter().cloned());
            table.modules.insert(name, module);
        }
        let built_in = |n: &String| self.by_name.contains_key(n);
        table.modules.values_mut().for_each(|m| m.needs.retain(built_in));
        check_order(&table)?;
        Ok(table)
    }
}

/// The module without the signature appended to it. Checking one costs a guest on a software CPU about 40 million
/// instructions, most of a tenth of a second for every module, and proves nothing here: the package's hash was checked
/// when the image was built. The kernel notes in its log that the module is unsigned.
pub(crate) fn without_signature(module: &[u8]) -> &[u8] {
    // Linux include/linux/module_signature.h: signature, `struct module_signature` (12 bytes, the last four the length
    // of the signature, big-endian), marker.
    const MARKER: &[u8] = b"~Module signature appended~\n";
    let stripped = || {
        let rest = module.strip_suffix(MARKER)?;
        let (rest, info) = rest.split_last_chunk::<12>()?;
        let length = info.last_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize)?;
        rest.len().checked_sub(length).and_then(|end| rest.get(..end))
    };
    stripped().unwrap_or(module)
}

/// Everything in a table must be loadable: a circle shows here, not in a guest that does not boot.
fn check_order(table: &Table) -> Result<(), ImageError> {
    for name in table.modules.keys() {
        table.load_order(name).map_err(|e: OrderError| ImageError::new(ImageErrorKind::Format, e.to_string()))?;
    }
    Ok(())
}

fn read_module(directory: &Path, path: &Path) -> Result<Module, ImageError> {
    let file = directory.join(path);
    let data = fs::read(&file).doing("read", &file)?;
    let info = |key| {
        module_info(&data, key).map_err(|e| {
            ImageError::new(ImageErrorKind::Format, format!("{} is no kernel module: {e}", file.display()))
        })
    };
    let depends = info("depends")?;
    let needs = depends.iter().flat_map(|d| d.split(',')).filter(|n| !n.is_empty()).map(normalise).collect();
    let mut aliases = info("alias")?;
    aliases.retain(|a| !a.contains(char::is_whitespace));
    aliases.sort();
    aliases.dedup();
    Ok(Module { path: path.to_owned(), needs, aliases })
}

fn collect(directory: &Path, below: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<(), ImageError> {
    let here = directory.join(below);
    for entry in fs::read_dir(&here).doing("list", &here)?.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), below.join(entry.file_name()));
        if entry.file_type().doing("look at", &entry.path())?.is_dir() {
            collect(directory, &path, found)?;
        } else if let Some(stem) = name.strip_suffix(".ko") {
            found.insert(normalise(stem), path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
