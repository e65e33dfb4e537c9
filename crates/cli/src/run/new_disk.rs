//! `--disk SIZE`: a new dynamic disk among the user's, called after its machine, or after the disc from which it is installed.
//!
//! It stays when the machine ends, unless that failed before anything was written to it: what was installed is not thrown away.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::args::RunArgs;
use super::spec::split_disk;
use crate::report::Failure;
use crate::values::parse_size;

/// Disks that were made for a machine.
#[derive(Debug, Default)]
pub(crate) struct NewDisks(Vec<Made>);

#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// Bytes taken when it was new.
    taken: u64,
}

impl NewDisks {
    /// Makes the disks that `args` give by size, and writes their names there instead.
    pub(crate) fn make(args: &mut RunArgs, quiet: bool) -> Result<Self, Failure> {
        let mut made = NewDisks::default();
        let free = |name: &str| !crate::disk::exists(name);
        let wishes = wishes(args, free);
        for (index, name, size) in wishes {
            let path = match crate::disk::dynamic(&name, size) {
                Ok(path) => path,
                Err(e) => {
                    made.undo();
                    return Err(e.hint(format!("--disk {name} attaches that one")));
                }
            };
            if !quiet {
                eprintln!(
                    "visor: made the disk {name} ({}, dynamic); it stays: --disk {name}",
                    crate::disk::human(size)
                );
            }
            made.0.push(Made { taken: taken(&path), path });
            rename(args, index, &name);
        }
        Ok(made)
    }

    /// The names of disks that another process has made of the same command line.
    pub(crate) fn recall(args: &mut RunArgs) {
        for (index, name, _) in wishes(args, |_| true) {
            rename(args, index, &name);
        }
    }

    /// The machine has failed: removes what nobody has written to.
    pub(crate) fn undo(&mut self) {
        for made in self.0.drain(..).filter(|m| taken(&m.path) == m.taken) {
            let _ = std::fs::remove_file(&made.path);
        }
    }
}

/// Which of the arguments' disks are to be made: place, name, size. `free` tells whether nobody has a name; machines that have a
/// name themselves do not ask, so that the same machine has the same disks.
fn wishes(args: &RunArgs, free: impl Fn(&str) -> bool) -> Vec<(usize, String, u64)> {
    let own = args.network.name();
    let base = own.map_or_else(|| base(args), ToOwned::to_owned);
    let mut used: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for (index, text) in args.disk.iter().enumerate() {
        let Some(size) = split_disk(text).ok().and_then(|(name, _)| size(name)) else { continue };
        let numbered = |n: u32| if n == 1 { base.clone() } else { format!("{base}-{n}") };
        let fits = |name: &String| !used.contains(name) && (own.is_some() || free(name));
        let Some(name) = (1..1000).map(numbered).find(fits) else { continue };
        used.push(name.clone());
        found.push((index, name, size));
    }
    found
}

/// What a disk of a machine without a name is called after.
fn base(args: &RunArgs) -> String {
    let stem = args.iso.first().and_then(|p| p.file_stem()).map(|s| s.to_string_lossy().into_owned());
    let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = stem.unwrap_or_default().chars().map(good).take(60).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "disk".into() } else { name.into() }
}

/// A size with its unit, such as `20G`, if that is no name of something.
fn size(name: &str) -> Option<u64> {
    let is_size = name.starts_with(|c: char| c.is_ascii_digit()) && name.ends_with(|c: char| "kKmMgGtTbB".contains(c));
    let taken = crate::disk::exists(name) || Path::new(name).exists();
    parse_size(name).ok().filter(|size| is_size && !taken && *size > 0)
}

fn rename(args: &mut RunArgs, index: usize, name: &str) {
    let rest = split_disk(&args.disk[index]).map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    args.disk[index] = format!("{name}{rest}");
}

fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn args(line: &str) -> RunArgs {
        match Args::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_become_disks_with_names() {
        let run = args("visor run --iso /x/De_bian+12.iso --disk 20G --disk ./a.img,ro --disk 512m,iops=9");
        let found = wishes(&run, |name| name != "De_bian-12-2");
        assert_eq!(found, [(0, "De_bian-12".into(), 20 << 30), (2, "De_bian-12-3".into(), 512 << 20)]);
        let mut named = args("visor run --iso x.iso --name deb --disk 20G --disk 1T,ro");
        assert_eq!(wishes(&named, |_| false)[1], (1, "deb-2".into(), 1 << 40));
        NewDisks::recall(&mut named);
        assert_eq!(named.disk, ["deb", "deb-2,ro"]);
    }

    #[test]
    fn names_are_no_sizes() {
        assert_eq!(size("20"), None, "a name of digits");
        assert_eq!(size("g20G"), None);
        assert_eq!(size("./20G"), None);
        assert_eq!(size("0G"), None);
        assert_eq!(size("1.5G"), None);
        assert_eq!(size("8GiB"), Some(8 << 30));
    }
}
