//! Disks: creating, converting, compacting and random requests, visor and QEMU's tools alternately on one file system.
//!
//! Every row is a median of several pairs and a ratio of two sides in one run; no row compares with a number of another day. Single runs
//! of the same program vary by a factor of two to eight - mostly whoever comes first reads from the device what the host has dropped from
//! its cache meanwhile, and others write - so that a row also says where the middle half of the pairs lies, the sides take turns in
//! being first, and the first pair does not count.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use super::side::children;
use super::table::median;
use super::{DiskArgs, disk_guest};
use crate::shell::{cargo, root, step};

/// Requests of a row of random ones, how many at a time, and how far apart: an odd number of blocks, so that all are visited.
const REQUESTS: u64 = 60_000;
const DEPTH: &str = "32";
const STEP: u64 = 4096 * 7919;

/// Runs the comparison.
pub(super) fn run(args: &DiskArgs) -> anyhow::Result<()> {
    let profile = ["--profile", &args.profile, "--quiet"];
    let wanted = |part: &str| args.only.is_empty() || args.only.iter().any(|p| p == part);
    if args.visor.is_none() {
        step("build", cargo(&["build", "--package", "visor"]).args(profile))?;
    }
    if wanted("requests") {
        step("build", cargo(&["build", "--package", "visor-disk", "--example", "backend"]).args(profile))?;
    }
    let base = args.directory.clone().unwrap_or_else(|| root().join("target"));
    let built = root().join("target").join(&args.profile);
    let text = |p: PathBuf| p.to_string_lossy().into_owned();
    let visor = text(args.visor.clone().unwrap_or_else(|| built.join("visor")));
    let backend = text(built.join("examples/backend"));
    let bench = Bench { folder: Folder::new(&base)?, pairs: args.pairs.max(1), visor, backend };
    bench.source(args.mib)?;
    print_head();
    if wanted("create") {
        bench.creation(&args.static_size)?;
    }
    if wanted("copy") {
        bench.copies()?;
    }
    if wanted("requests") {
        bench.requests()?;
    }
    if wanted("guest") {
        disk_guest::run(&bench.folder.0, &bench.visor, bench.pairs)?;
    }
    Ok(())
}

struct Bench {
    folder: Folder,
    pairs: usize,
    visor: String,
    backend: String,
}

impl Bench {
    fn path(&self, name: &str) -> String {
        self.folder.0.join(name).to_string_lossy().into_owned()
    }

    /// A raw disk: a third text-like data, a third noise, a third nothing.
    fn source(&self, mib: u64) -> anyhow::Result<()> {
        use std::io::Write;
        let mut file = std::io::BufWriter::new(std::fs::File::create(self.path("in.raw"))?);
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for chunk in 0..mib / 3 {
            let mut data = vec![0; 3 << 20];
            for (i, b) in data[..1 << 20].iter_mut().enumerate() {
                *b = b"the quick brown fox "[(i / 3 + chunk as usize) % 20];
            }
            for b in &mut data[1 << 20..2 << 20] {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *b = (seed >> 56) as u8;
            }
            file.write_all(&data)?;
        }
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(())
    }

    /// A row: both sides alternately. `after` are files that a run makes and that are removed before the next.
    fn row(&self, name: &str, ours: &[&str], theirs: &[&str], made: &[&str]) -> anyhow::Result<()> {
        self.alternate(name, || self.timed(ours, made), || self.timed(theirs, made))
    }

    fn alternate(
        &self,
        name: &str,
        mut ours: impl FnMut() -> anyhow::Result<(f64, f64)>,
        mut theirs: impl FnMut() -> anyhow::Result<(f64, f64)>,
    ) -> anyhow::Result<()> {
        // Not counted: the first run reads the program, and what it is given, from the device.
        ours()?;
        theirs()?;
        let (mut a, mut b) = (Times::default(), Times::default());
        for n in 0..self.pairs {
            // Who comes second finds what the first has left behind.
            if n % 2 == 0 {
                a.push(ours()?);
                b.push(theirs()?);
            } else {
                b.push(theirs()?);
                a.push(ours()?);
            }
        }
        print_row(name, &a, &b);
        Ok(())
    }

    /// Seconds of time and of CPU.
    fn timed(&self, argv: &[&str], made: &[&str]) -> anyhow::Result<(f64, f64)> {
        for m in made {
            let _ = std::fs::remove_file(m);
        }
        let (before, started) = (children()?, Instant::now());
        let out = output(argv)?;
        let (elapsed, cpu) = (started.elapsed().as_secs_f64(), children()? - before);
        // A program that measures itself says so.
        let told = out.split("Run completed in ").nth(1).and_then(|s| s.split(' ').next()).unwrap_or(out.trim());
        Ok((told.parse().unwrap_or(elapsed), cpu))
    }

    fn creation(&self, fixed: &str) -> anyhow::Result<()> {
        let (visor, new) = (self.visor.clone(), self.path("new.qcow2"));
        self.row(
            "create 50 GiB dynamic / qemu-img",
            &[&visor, "-q", "disk", "create", &new, "--size", "50G"],
            &["qemu-img", "create", "-q", "-f", "qcow2", &new, "50G"],
            &[&new],
        )?;
        let taken = std::fs::metadata(&new)?.blocks() * 512;
        println!("    takes {taken} bytes");
        let raw = self.path("new.raw");
        self.row(
            &format!("create {fixed} static / fallocate"),
            &[&visor, "-q", "disk", "create", &raw, "--size", fixed, "--alloc", "static"],
            &["fallocate", "-l", fixed, &raw],
            &[&raw],
        )?;
        println!("    takes {} bytes", std::fs::metadata(&raw)?.blocks() * 512);
        Ok(std::fs::remove_file(&raw)?)
    }

    fn copies(&self) -> anyhow::Result<()> {
        let (visor, raw, q, z, out) =
            (self.visor.clone(), self.path("in.raw"), self.path("in.qcow2"), self.path("z.qcow2"), self.path("out"));
        output(&["qemu-img", "convert", "-f", "raw", "-O", "qcow2", &raw, &q])?;
        output(&["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", &raw, &z])?;
        // The host is not to write them while others are measured.
        output(&["sync", &q, &z])?;
        let theirs = |from: &str, to: &str, input: &str, extra: &[&str]| -> Vec<String> {
            let mut v: Vec<String> = ["qemu-img", "convert", "-f", from, "-O", to].map(Into::into).to_vec();
            v.extend(extra.iter().map(|s| (*s).to_owned()));
            v.extend([input.to_owned(), out.clone()]);
            v
        };
        let ours = |input: &str, extra: &[&str]| -> Vec<String> {
            let mut v = vec![visor.clone()];
            v.extend(["-q", "disk", "convert", input, &out].map(Into::into));
            v.extend(extra.iter().map(|s| (*s).to_owned()));
            v
        };
        let zlib = ["--format", "qcow2", "--compress", "--compression", "zlib"];
        let zstd = ["--format", "qcow2", "--compress"];
        let rows = [
            ("convert raw to qcow2", ours(&raw, &["--format", "qcow2"]), theirs("raw", "qcow2", &raw, &[])),
            ("convert qcow2 to raw", ours(&q, &["--format", "raw"]), theirs("qcow2", "raw", &q, &[])),
            ("convert compressed qcow2 to raw", ours(&z, &["--format", "raw"]), theirs("qcow2", "raw", &z, &[])),
            ("convert raw to qcow2, zlib", ours(&raw, &zlib), theirs("raw", "qcow2", &raw, &["-c"])),
            (
                "convert raw to qcow2, zstd",
                ours(&raw, &zstd),
                theirs("raw", "qcow2", &raw, &["-c", "-o", "compression_type=zstd"]),
            ),
        ];
        for (name, a, b) in &rows {
            let (a, b): (Vec<&str>, Vec<&str>) = (a.iter().map(|s| &**s).collect(), b.iter().map(|s| &**s).collect());
            self.row(&format!("{name} / qemu-img"), &a, &b, &[&out])?;
        }
        let copy = self.path("copy.qcow2");
        let ours = || {
            std::fs::copy(&q, &copy)?;
            // Not to be paid for by whoever flushes next.
            std::fs::File::open(&copy)?.sync_all()?;
            self.timed(&[&visor, "-q", "disk", "compact", &copy, "--rewrite"], &[])
        };
        // What takes the place of an image must be on the medium.
        let theirs = format!("qemu-img convert -f qcow2 -O qcow2 {q} {out} && sync {out}");
        let theirs = || self.timed(&["sh", "-c", &theirs], &[&out]);
        self.alternate("compact --rewrite / qemu-img convert, sync", ours, theirs)
    }

    fn requests(&self) -> anyhow::Result<()> {
        let (count, step) = (REQUESTS.to_string(), STEP.to_string());
        for (name, file) in [("raw", "in.raw"), ("qcow2", "in.qcow2")] {
            let path = self.path(file);
            for (op, flag) in [("read", None), ("write", Some("-w"))] {
                let ours = [&*self.backend, &path, op, &count, DEPTH, "4096", &step];
                let mut theirs =
                    vec!["qemu-img", "bench", "-f", name, "-c", &count, "-d", DEPTH, "-s", "4096", "-S", &step];
                theirs.extend(flag);
                theirs.push(&path);
                self.row(&format!("{op} 4 KiB, {DEPTH} at a time, {name} / qemu-img"), &ours, &theirs, &[])?;
            }
        }
        Ok(())
    }
}

/// What the runs of a side took: seconds of time and of CPU.
#[derive(Default)]
pub(super) struct Times(Vec<f64>, Vec<f64>);

impl Times {
    pub(super) fn push(&mut self, (seconds, cpu): (f64, f64)) {
        self.0.push(seconds);
        self.1.push(cpu);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the columns are.
fn print_head() {
    println!("{:<46}{:>10}{:>10}{:>8}{:>14}{:>8}", "row", "visor, s", "other, s", "ratio", "half within", "of CPU");
}

/// A row: the medians of both sides, and the ratios of time and of CPU; the middle half of the ratios of single pairs between them.
pub(super) fn print_row(name: &str, ours: &Times, theirs: &Times) {
    let (a, b) = (median(&ours.0), median(&theirs.0));
    let cpu = median(&ours.1) / median(&theirs.1).max(1e-9);
    let (low, high) = middle_half(&ours.0, &theirs.0);
    println!("{name:<46}{a:>10.4}{b:>10.4}{:>8.2}{low:>8.2}..{high:<4.2}{cpu:>8.2}", a / b.max(1e-9));
}

/// Between which ratios the middle half of the pairs lies; all of them if they are fewer than four.
fn middle_half(ours: &[f64], theirs: &[f64]) -> (f64, f64) {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b.max(1e-9)).collect();
    ratios.sort_by(f64::total_cmp);
    let out = ratios.len() / 4;
    let at = |i: usize| ratios.get(i).copied().unwrap_or(f64::NAN);
    (at(out), at(ratios.len().wrapping_sub(1 + out)))
}

pub(super) fn output(argv: &[&str]) -> anyhow::Result<String> {
    let (program, args) = argv.split_first().context("nothing to run")?;
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| {
        format!("cannot run {program}; the comparison needs qemu-utils: apt-get install qemu-utils")
    })?;
    if !out.status.success() {
        bail!("{argv:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A folder that goes away with its contents.
struct Folder(PathBuf);

impl Folder {
    fn new(base: &Path) -> anyhow::Result<Self> {
        let path = base.join(format!("bench-disk-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::middle_half;

    #[test]
    fn the_middle_half_of_pairs() {
        assert_eq!(middle_half(&[8.0, 1.0, 2.0, 3.0, 4.0], &[1.0; 5]), (2.0, 4.0));
        assert_eq!(middle_half(&[2.0, 1.0], &[1.0, 2.0]), (0.5, 2.0));
        assert!(middle_half(&[], &[]).0.is_nan());
    }
}
