//! `visor disk bench`: static against dynamic allocation, measured on this host.
//!
//! The rows are those of the usual comparison: time to create, space at the start, speed of the first write, fragments, and
//! waste while the disk is mostly empty. Nothing is taken from books: where the difference is small, small is what is printed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use visor_block::{BlockBackend, BlockError, BlockOp, Sector, SharedBuffer};
use visor_disk::{Access, Alloc, ImageOptions, RawDisk, open_disk};
use visor_qcow2::{CreateOptions, FileStorage, Image};

use super::extents;
use super::work::{Work, block_failure, host_failure, human, image_failure};
use crate::progress::Unit;
use crate::report::Failure;

/// First writes that are timed: 4 KiB each, scattered.
const WRITES: u64 = 512;
const BLOCK: usize = 4096;

/// What was measured of one way to allocate.
struct Row {
    create: Duration,
    at_start: u64,
    /// Of the first writes, the middle one and the slowest of a hundred.
    median: Duration,
    slow: Duration,
    after: u64,
    written: u64,
    /// Where the host tells.
    fragments: Option<u64>,
}

pub(super) fn bench(size: u64, directory: Option<&Path>, as_json: bool, quiet: bool) -> Result<u8, Failure> {
    if size < 16 << 20 {
        return Err(Failure::new("disks of less than 16 MiB show nothing").hint("--size 1G"));
    }
    let base = match directory {
        Some(d) => d.to_owned(),
        None => {
            let d = super::names::directory()?;
            std::fs::create_dir_all(&d).map_err(|e| host_failure("cannot make", &d, e))?;
            d
        }
    };
    let folder = Folder::new(&base)?;
    if !quiet && !as_json {
        println!(
            "Two disks of {} in {};\n{WRITES} first writes of 4 KiB to each, scattered, every one made durable\n",
            human(size),
            base.display()
        );
    }
    let mut work = Work::new(quiet || as_json)?;
    let fixed = measure(&folder.0.join("static.raw"), size, true, &mut work)?;
    let dynamic = measure(&folder.0.join("dynamic.qcow2"), size, false, &mut work)?;
    drop(work);
    if as_json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "size": size, "static": row(&fixed), "dynamic": row(&dynamic) }))?
        );
    } else {
        print(&fixed, &dynamic);
    }
    Ok(0)
}

fn row(r: &Row) -> Value {
    json!({
        "create_seconds": r.create.as_secs_f64(), "allocated_at_start": r.at_start,
        "first_write_median_seconds": r.median.as_secs_f64(), "first_write_p99_seconds": r.slow.as_secs_f64(),
        "allocated_after": r.after, "written": r.written, "fragments": r.fragments,
    })
}

fn print(s: &Row, d: &Row) {
    let ms = |t: Duration| format!("{:.3} ms", t.as_secs_f64() * 1e3);
    let line = |what: &str, a: String, b: String, say: String| {
        println!("{}", format!("{what:<24} {a:>18} {b:>18}   {say}").trim_end())
    };
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    line("", "static".into(), "dynamic".into(), String::new());
    let create = ratio(s.create.as_secs_f64(), d.create.as_secs_f64());
    line("time to create", ms(s.create), ms(d.create), format!("static takes {create:.2} times as long"));
    line("space taken at first", human(s.at_start), human(d.at_start), "static takes everything at once".into());
    let first = ratio(d.median.as_secs_f64(), s.median.as_secs_f64());
    line("first write (median)", ms(s.median), ms(d.median), format!("dynamic takes {first:.2} times as long"));
    line("first write (99 %)", ms(s.slow), ms(d.slow), String::new());
    let pieces = |r: &Row| r.fragments.map_or_else(|| "unknown".into(), |n| n.to_string());
    line("fragments afterwards", pieces(s), pieces(d), "pieces of the file on the host's device".into());
    let waste = |r: &Row| human(r.after.saturating_sub(r.written)).to_string();
    line("waste afterwards", waste(s), waste(d), format!("taken beyond the {} written", human(s.written)));
}

fn measure(path: &Path, size: u64, fixed: bool, work: &mut Work) -> Result<Row, Failure> {
    let started = Instant::now();
    if fixed {
        RawDisk::create(path, size, Alloc::Static).map_err(block_failure)?;
    } else {
        let new = visor_disk::NewFile::create(path).map_err(block_failure)?;
        let storage = Arc::new(FileStorage::hasty(new.handle().map_err(block_failure)?));
        Image::create(storage, &CreateOptions::new(size), &mut |_, _| true).map_err(image_failure(path))?;
        new.finish().map_err(block_failure)?;
    }
    let create = started.elapsed();
    let blocks = || std::fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    let at_start = blocks();
    let disk = open_disk(path, &ImageOptions::new(Access::ReadWrite)).map_err(block_failure)?;
    let mut times = Vec::new();
    let count = size / BLOCK as u64;
    work.start(if fixed { "static" } else { "dynamic" }, Some(WRITES), Unit::Pieces);
    for i in 0..WRITES {
        if !work.at(i) {
            return Err(Failure { status: 130, ..Failure::new("stopped; nothing was left behind") });
        }
        // An odd multiplier visits every place of a power of two once.
        let block = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
        let started = Instant::now();
        run(&*disk, BlockOp::Write, block * (BLOCK as u64 / 512), vec![i as u8 | 1; BLOCK]).map_err(block_failure)?;
        run(&*disk, BlockOp::Flush, 0, Vec::new()).map_err(block_failure)?;
        times.push(started.elapsed());
    }
    work.finish();
    drop(disk);
    times.sort_unstable();
    // Not every file system tells where it puts files.
    let fragments = std::fs::File::open(path).and_then(|f| extents::pieces(&f)).ok();
    let (median, slow) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    Ok(Row { create, at_start, median, slow, after: blocks(), written: WRITES * BLOCK as u64, fragments })
}

/// Submits a request and waits for it.
fn run(disk: &dyn BlockBackend, op: BlockOp, sector: u64, data: Vec<u8>) -> Result<(), BlockError> {
    let len = data.len() as u64;
    visor_block::run(disk, op, Sector(sector), len, Box::new(SharedBuffer::new(data)))
}

/// A folder that goes away with its contents.
struct Folder(PathBuf);

impl Folder {
    fn new(base: &Path) -> Result<Self, Failure> {
        let path = base.join(format!(".bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| host_failure("cannot make", &path, e))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
