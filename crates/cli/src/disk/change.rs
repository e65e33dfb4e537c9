//! `visor disk check`, `compact`, `resize` and `rm`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use serde_json::json;
use visor_disk::{
    Access, ConvertOptions, Format, ImageOptions, NbdAddress, NewFile, Opened, Target, is_remote, open_disk, open_image,
};
use visor_qcow2::{CreateOptions, ExtentKind, FileStorage, Image, Preallocation, Report, Source};

use super::args::Which;
use super::live;
use super::names::{self, find};
use super::work::{Work, block_failure, host_failure, human, image_failure, open, stopped};
use super::{create, encrypt, failure_of, keys};
use crate::progress::Unit;
use crate::report::Failure;
use crate::values::parse_size;

/// Exit statuses of `check`, as those of `qemu-img check`.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;

/// Bytes looked at in one go when a disk is searched for zeroes.
const CHUNK: u64 = 2 << 20;
/// Bytes of space taken in one go.
const SPACE: u64 = 1 << 30;

pub(super) fn check(which: &Which, repair: bool, quiet: bool) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    if is_far(&which.disk) {
        return Err(not_a_file(&which.disk, Format::Raw, "can be checked"));
    }
    let access = if repair { Access::ReadWrite } else { Access::ReadOnly };
    let options =
        ImageOptions { format: which.format, policy: names::policy(), repair: true, ..ImageOptions::new(access) };
    let Opened::Qcow2(image) = open_image(&path, &options).map_err(failure_of(&path))? else {
        return Err(Failure::new("a disk of this format has nothing that could be checked"));
    };
    let mut work = Work::new(quiet)?;
    work.start("checking", None, Unit::Pieces);
    let mut progress = |done, _| work.at(done);
    let result = if repair { image.repair(&mut progress) } else { image.check(&mut progress) };
    let report = result.map_err(image_failure(&path))?;
    work.finish();
    if which.json {
        println!("{}", serde_json::to_string_pretty(&report_json(&path, &report))?);
    } else {
        print_report(&report);
    }
    Ok(match (report.is_clean(), report.corruptions) {
        (true, _) => 0,
        (false, 0) => LEAKS,
        (false, _) => CORRUPT,
    })
}

fn report_json(path: &Path, r: &Report) -> serde_json::Value {
    json!({
        "disk": path, "corruptions": r.corruptions, "leaks": r.leaks, "repaired": r.repaired, "findings": r.findings,
        "allocated_clusters": r.allocated_clusters, "compressed_clusters": r.compressed_clusters,
        "fragmented_clusters": r.fragmented_clusters, "total_clusters": r.total_clusters, "end": r.end,
    })
}

fn print_report(r: &Report) {
    for finding in &r.findings {
        println!("{finding}");
    }
    match (r.corruptions, r.leaks) {
        (0, 0) => println!("no errors"),
        (c, l) => println!("{c} errors, {l} leaked clusters, {} repaired", r.repaired),
    }
    let percent = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    println!(
        "{} of {} clusters in use ({:.1} %), {:.1} % fragmented, {:.1} % compressed; the image ends at {}",
        r.allocated_clusters,
        r.total_clusters,
        percent(r.allocated_clusters, r.total_clusters),
        percent(r.fragmented_clusters, r.allocated_clusters),
        percent(r.compressed_clusters, r.allocated_clusters),
        human(r.end)
    );
}

pub(super) fn compact(which: &Which, rewrite: bool, quiet: bool) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    let blocks = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    let before = blocks(&path);
    let opened = open(&path, Access::ReadWrite, which.format)?;
    let mut work = Work::new(quiet)?;
    match &opened {
        Opened::Qcow2(image) if rewrite => rewrite_qcow2(image, &path, &mut work)?,
        Opened::Qcow2(image) => compact_qcow2(image, &path, &mut work)?,
        Opened::Raw(source) => compact_raw(&**source, &path, &mut work)?,
        Opened::Foreign(format, _) => return Err(not_a_file(&which.disk, *format, "is made smaller")),
    }
    drop(opened);
    work.finish();
    let after = blocks(&path);
    if which.json {
        println!("{}", json!({ "disk": path, "before": before, "after": after }));
    } else if !quiet {
        println!("{}: {} before, {} now", path.display(), human(before), human(after));
    }
    Ok(0)
}

/// Replaces the image by a copy of it without holes and fragments.
fn rewrite_qcow2(image: &Image, path: &Path, work: &mut Work) -> Result<(), Failure> {
    let info = image.describe();
    if info.snapshots > 0 || info.data_file.is_some() || info.backing_file.is_some() {
        return Err(Failure::new("a disk with snapshots, a data file or a backing file cannot be written anew")
            .hint("without --rewrite, its free space is given back where it is"));
    }
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    let new = NewFile::create(&temporary).map_err(block_failure)?;
    // All of it is flushed before it takes the place of the other, and nothing before.
    let storage = FileStorage::eager(new.handle().map_err(block_failure)?);
    let options = CreateOptions {
        version: info.version,
        cluster_size: info.cluster_size,
        refcount_bits: info.refcount_bits,
        extended_l2: info.extended_l2,
        compression: info.compression,
        ..CreateOptions::new(info.size)
    };
    let copy = Image::create(std::sync::Arc::new(storage), &options, &mut |_, _| true).map_err(image_failure(path))?;
    work.start("writing anew", Some(info.size), Unit::Bytes);
    let old = std::fs::File::open(path).map_err(|e| host_failure("cannot open", path, e))?;
    std::thread::scope(|scope| {
        let (read, forget) = mpsc::channel();
        scope.spawn(move || forget_behind(&old, &forget));
        let mut at = 0;
        visor_disk::convert(image, &Target::Qcow2(&copy), &ConvertOptions::default(), &mut |done, _| {
            at = tell_read(image, at, done, &read);
            work.at(done)
        })
        .and_then(|_| copy.flush())
        .map_err(image_failure(path))?;
        drop((copy, read));
        // While the last pages are forgotten.
        new.finish().map_err(block_failure)
    })?;
    let mode = std::fs::metadata(path).map_err(|e| host_failure("cannot look at", path, e))?.permissions();
    let replaced = std::fs::set_permissions(&temporary, mode).and_then(|()| std::fs::rename(&temporary, path));
    replaced.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        host_failure("cannot replace", path, e)
    })
}

/// Sends where the data between two positions of the disk lies in the file; the position up to which that is done.
fn tell_read(image: &Image, mut at: u64, end: u64, to: &mpsc::Sender<(u64, u64)>) -> u64 {
    while at < end {
        let Ok(e) = image.extent(at, end - at) else { return end };
        if let ExtentKind::Data { host, .. } = e.kind {
            // Without a listener nothing is forgotten.
            let _ = to.send((host, e.len));
        }
        at += e.len;
    }
    at
}

/// Has the host forget what it keeps in its cache of a file that is about to go: when the file is removed, somebody would have to wait
/// for all of that at once.
fn forget_behind(file: &std::fs::File, parts: &mpsc::Receiver<(u64, u64)>) {
    for (at, len) in parts {
        // A hint: what stays goes with the file.
        let _ = posix_fadvise(file, at as i64, len as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Turns clusters of zeroes into holes; cuts off what lies behind the last cluster in use.
fn compact_qcow2(image: &Image, path: &Path, work: &mut Work) -> Result<(), Failure> {
    let (size, cluster) = (image.size(), image.cluster_size());
    work.start("looking for zeroes", Some(size), Unit::Bytes);
    let each = |at: u64, len: u64| image.write_zeroes(at, len, true);
    find_zeroes(image, size, cluster, work, each).map_err(image_failure(path))?;
    image.flush().and_then(|()| image.trim()).map_err(image_failure(path))
}

fn compact_raw(source: &dyn Source, path: &Path, work: &mut Work) -> Result<(), Failure> {
    let size = source.size();
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|e| host_failure("cannot open", path, e))?;
    let storage = FileStorage::new(file);
    work.start("looking for zeroes", Some(size), Unit::Bytes);
    let each = |at: u64, len: u64| {
        visor_qcow2::Storage::release(&storage, at, len).map_err(|e| visor_qcow2::Error::host("cannot release", at, e))
    };
    find_zeroes(source, size, 4096, work, each).map_err(image_failure(path))
}

/// Calls `each` for stretches of `grain` bytes that hold data which is all zero.
fn find_zeroes(
    source: &dyn Source,
    size: u64,
    grain: u64,
    work: &mut Work,
    each: impl Fn(u64, u64) -> visor_qcow2::Result<()>,
) -> visor_qcow2::Result<()> {
    let mut at = 0;
    let mut data = Vec::new();
    while at < size {
        if !work.at(at) {
            return Err(visor_qcow2::Error::new(visor_qcow2::ErrorKind::Cancelled, "stopped"));
        }
        let (zero, len) = source.is_zero(at, size - at)?;
        if zero {
            at = (at + len).min(size);
            continue;
        }
        let start = at / grain * grain;
        let end = (start + CHUNK.max(grain)).min(size);
        data.resize((end - start) as usize, 0);
        source.read(start, &mut data)?;
        for (i, piece) in data.chunks(grain as usize).enumerate() {
            if piece.iter().all(|b| *b == 0) {
                each(start + i as u64 * grain, piece.len() as u64)?;
            }
        }
        at = end;
    }
    Ok(())
}

pub(super) fn resize(which: &Which, size: &str, quiet: bool) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    let bad = |e: String| Failure::new(format!("`{size}` is no size: {e}")).hint("write for example 20G or +5G");
    let wanted = |old: u64| match size.strip_prefix('+') {
        Some(more) => old.checked_add(parse_size(more).map_err(bad)?).ok_or_else(|| bad("too large".into())),
        None => parse_size(size).map_err(bad),
    };
    if let Some((target, name, old)) = live::user_of(&path) {
        let new = live::resize(&target, &name, wanted(old)?)?;
        tell_size(&path, which, old, new, quiet);
        return Ok(0);
    }
    // What the user says is what the guest sees: an encrypted disk has its header in front of that.
    let header = if keys::is_encrypted(&path) { encrypt::header(&path, Access::ReadWrite)?.1.data_offset() } else { 0 };
    let opened = open(&path, Access::ReadWrite, which.format.or_else(|| encrypt::outer(&path)))?;
    let old = opened.source().size();
    let new = wanted(old.saturating_sub(header))?.checked_add(header).ok_or_else(|| bad("too large".into()))?;
    match &opened {
        Opened::Qcow2(image) => {
            let mut work = Work::new(quiet)?;
            image.resize(new, Preallocation::Off, &mut |done, _| work.at(done)).map_err(image_failure(&path))?;
        }
        Opened::Raw(source) => resize_raw(&path, &**source, (old, new), &mut Work::new(quiet)?)?,
        Opened::Foreign(format, _) => return Err(not_a_file(&which.disk, *format, "changes its size")),
    }
    tell_size(&path, which, old - header, new - header, quiet);
    Ok(0)
}

/// Why a disk that is no image file of ours cannot be changed like one.
fn not_a_file(disk: &str, format: Format, what: &str) -> Failure {
    if crate::pool::volume(disk).is_some() {
        return Failure::new(format!("{disk} is a volume of a pool, none of which {what}"))
            .hint("make another volume and copy the data within a machine that has both");
    }
    if is_far(disk) {
        return Failure::new(format!("{disk} belongs to a server: nothing {what} from here"))
            .hint("a copy of it can be changed: visor disk convert DISK NEW");
    }
    create::cannot_make(format)
}

/// Whether a disk is more than a file of this host.
fn is_far(disk: &str) -> bool {
    NbdAddress::is_one(disk) || is_remote(disk) || crate::pool::volume(disk).is_some()
}

fn tell_size(path: &Path, which: &Which, old: u64, new: u64, quiet: bool) {
    if which.json {
        println!("{}", json!({ "disk": path, "before": old, "size": new }));
    } else if !quiet {
        println!("{}: {} before, {} now", path.display(), human(old), human(new));
    }
}

fn resize_raw(path: &Path, source: &dyn Source, (old, new): (u64, u64), work: &mut Work) -> Result<(), Failure> {
    let end = data_end(source, new.min(old), work).map_err(image_failure(path))?;
    if end > new {
        return Err(Failure::new(format!(
            "{} holds data up to {}, so that it cannot shrink to {}",
            path.display(),
            human(end),
            human(new)
        ))
        .hint("shrink the file system in it first"));
    }
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|e| host_failure("cannot open", path, e))?;
    let full = std::fs::metadata(path).is_ok_and(|m| m.blocks() * 512 >= old);
    if full && new > old {
        // A static disk stays one. The space is taken before the disk has its size, so that there is nothing between.
        work.start("taking space", Some(new - old), Unit::Bytes);
        if let Err(e) = take_space(&file, old, new, work) {
            let _ = file.set_len(old);
            return Err(e.map_or_else(stopped, |e| host_failure("cannot take space for", path, e)));
        }
    }
    file.set_len(new).map_err(|e| host_failure("cannot resize", path, e))?;
    file.sync_all().map_err(|e| host_failure("cannot resize", path, e))?;
    work.finish();
    Ok(())
}

/// Where data from `at` on ends; zero if there is none.
fn data_end(source: &dyn Source, mut at: u64, work: &mut Work) -> visor_qcow2::Result<u64> {
    let (mut end, size) = (0, source.size());
    work.start("looking for data", Some(size.saturating_sub(at)), Unit::Bytes);
    let first = at;
    while at < size {
        if !work.at(at - first) {
            return Err(visor_qcow2::Error::new(visor_qcow2::ErrorKind::Cancelled, "stopped"));
        }
        let (zero, len) = source.is_zero(at, size - at)?;
        if zero {
            at += len;
            continue;
        }
        let mut data = vec![0; len.min(CHUNK) as usize];
        source.read(at, &mut data)?;
        if let Some(last) = data.iter().rposition(|b| *b != 0) {
            end = at + last as u64 + 1;
        }
        at += data.len() as u64;
    }
    Ok(end)
}

/// Takes space behind the end of a file, whose size stays; the host's error, or nothing if the user wants no more of it.
fn take_space(file: &std::fs::File, old: u64, new: u64, work: &mut Work) -> Result<(), Option<std::io::Error>> {
    let mut at = old;
    while at < new {
        if !work.at(at - old) {
            return Err(None);
        }
        let len = SPACE.min(new - at);
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at as i64, len as i64) {
            Ok(()) => at += len,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Some(e.into())),
        }
    }
    Ok(())
}

pub(super) fn remove(disks: &[String], quiet: bool) -> Result<u8, Failure> {
    for disk in disks {
        if let Some((pool, volume)) = crate::pool::volume(disk) {
            crate::pool::remove(pool, volume)?;
            if !quiet {
                println!("{disk} removed");
            }
            continue;
        }
        let path = find(disk)?;
        // Whoever can lock it for writing is its only user. What the format says does not matter for that.
        let options = ImageOptions { format: Some(Format::Raw), ..ImageOptions::new(Access::ReadWrite) };
        let held = open_disk(&path, &options).map_err(failure_of(&path))?;
        std::fs::remove_file(&path).map_err(|e| host_failure("cannot remove", &path, e))?;
        drop(held);
        if !quiet {
            println!("{} removed", path.display());
        }
    }
    Ok(0)
}
