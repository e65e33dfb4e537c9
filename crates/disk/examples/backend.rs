//! Requests through a back end without a guest, for comparison with `qemu-img bench`:
//! `backend FILE read|write COUNT DEPTH BYTES STEP [auto|threads|ring]` prints the seconds until COUNT requests were
//! answered; what was written is flushed after that.
#![allow(clippy::unwrap_used, reason = "a measuring program ends where something fails")]

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockOp, BlockRequest, Sector};
use visor_disk::{Access, ImageOptions, Io, open_disk};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, op, count, depth, bytes, step, rest @ ..] = args.as_slice() else {
        eprintln!("backend FILE read|write COUNT DEPTH BYTES STEP [auto|threads|ring]");
        std::process::exit(2);
    };
    let number = |s: &String| s.parse::<u64>().unwrap();
    let (count, depth, bytes, step) = (number(count), number(depth), number(bytes), number(step));
    let (op, access) = match op.as_str() {
        "write" => (BlockOp::Write, Access::ReadWrite),
        _ => (BlockOp::Read, Access::ReadOnly),
    };
    let io = match rest.first().map(String::as_str) {
        Some("threads") => Io::Threads,
        Some("ring") => Io::Ring,
        _ => Io::Auto,
    };
    let disk = open_disk(Path::new(file), &ImageOptions { io, ..ImageOptions::new(access) }).unwrap();
    let seconds = run(&*disk, op, count, depth, bytes, step);
    println!("{seconds:.6}");
}

fn run(disk: &dyn BlockBackend, op: BlockOp, count: u64, depth: u64, bytes: u64, step: u64) -> f64 {
    let size = disk.geometry().sectors * 512;
    let open = Arc::new((Mutex::new(0u64), Condvar::new()));
    let started = Instant::now();
    let mut at = 0;
    for _ in 0..count {
        let mut n = open.0.lock().unwrap();
        while *n >= depth {
            n = open.1.wait(n).unwrap();
        }
        *n += 1;
        drop(n);
        let (buffer, open) = (Box::new(SharedBuffer::new(vec![0x5a; bytes as usize])), open.clone());
        disk.submit(BlockRequest::new(op, Sector(at / 512), bytes, buffer, move |r| {
            r.unwrap();
            let mut n = open.0.lock().unwrap();
            *n -= 1;
            // Nobody waits while there is room.
            let waits = *n + 1 == depth;
            drop(n);
            if waits {
                open.1.notify_one();
            }
        }));
        at += step;
        if at + bytes > size {
            at = at % size / 512 * 512;
            at = if at + bytes > size { 0 } else { at };
        }
    }
    disk.drain();
    // As `qemu-img bench` does, which flushes when it closes the image, and does not count that.
    let seconds = started.elapsed().as_secs_f64();
    if op == BlockOp::Write {
        let (tx, rx) = std::sync::mpsc::channel();
        let done = move |r: Result<(), _>| tx.send(r.is_ok()).unwrap();
        disk.submit(BlockRequest::new(BlockOp::Flush, Sector(0), 0, Box::new(SharedBuffer::default()), done));
        assert!(rx.recv().unwrap());
    }
    seconds
}
