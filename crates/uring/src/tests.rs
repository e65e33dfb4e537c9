use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

/// None where the host has no io_uring, which is said.
fn ring(depth: u32) -> Option<Ring<u64>> {
    match probe() {
        Ok(()) => Some(Ring::new(depth).unwrap()),
        Err(why) => {
            eprintln!("not tested: {why}");
            None
        }
    }
}

fn all(ring: &mut Ring<u64>) -> Vec<Done<u64>> {
    let mut list = Vec::new();
    while ring.under_way() > 0 {
        ring.wait(true).unwrap();
        list.extend(std::iter::from_fn(|| ring.done()));
    }
    list.sort_by_key(|d| d.tag);
    list
}

#[test]
fn what_was_written_is_read_back_in_any_number() {
    let Some(mut ring) = ring(8) else { return };
    let file = Arc::new(tempfile::tempfile().unwrap());
    for i in 0..8u64 {
        ring.write(&file, i * 512, vec![i as u8 + 1; 512], i).unwrap();
    }
    assert_eq!((ring.room(), ring.under_way()), (0, 8));
    let (buffer, tag) = ring.write(&file, 0, vec![9; 3], 77).unwrap_err();
    assert_eq!((buffer, tag), (vec![9; 3], 77), "no room: everything comes back");
    assert!(all(&mut ring).iter().all(|d| d.result.as_ref().unwrap() == &512));
    ring.sync(&file, 5).unwrap();
    assert!(all(&mut ring)[0].result.is_ok());
    for i in 0..8u64 {
        ring.read(&file, i * 512 + 256, vec![0; 512], i).unwrap();
    }
    for d in all(&mut ring) {
        let last = d.tag == 7;
        assert_eq!(*d.result.as_ref().unwrap(), if last { 256 } else { 512 }, "short at the end of the file");
        assert!(d.buffer[..256].iter().all(|b| *b == d.tag as u8 + 1));
        assert!(last || d.buffer[256..].iter().all(|b| *b == d.tag as u8 + 2));
    }
}

#[test]
fn errors_of_the_host_are_results() {
    let Some(mut ring) = ring(2) else { return };
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(b"x").unwrap();
    let read_only = Arc::new(File::open(path.path()).unwrap());
    ring.write(&read_only, 0, vec![1; 8], 1).unwrap();
    let done = all(&mut ring);
    assert_eq!(done[0].result.as_ref().unwrap_err().raw_os_error(), Some(nix::errno::Errno::EBADF as i32));
    assert_eq!(done[0].buffer.len(), 8);
}

#[test]
fn another_thread_ends_the_wait() {
    let Some(mut ring) = ring(4) else { return };
    for _ in 0..3 {
        let waker = ring.waker();
        let started = Instant::now();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        while !std::mem::take(&mut ring.woken) {
            ring.wait(true).unwrap();
            assert!(ring.done().is_none());
        }
        assert!(started.elapsed() >= Duration::from_millis(20));
        other.join().unwrap();
    }
    ring.waker().wake();
    ring.wait(true).unwrap();
    assert!(ring.done().is_none(), "before the wait counts too");
}

#[test]
fn a_ring_that_is_dropped_waits_for_the_kernel() {
    let Some(mut ring) = ring(64) else { return };
    let path = tempfile::NamedTempFile::new().unwrap();
    let file = Arc::new(File::options().read(true).write(true).open(path.path()).unwrap());
    for i in 0..64u64 {
        ring.write(&file, i * 65536, vec![0xab; 65536], i).unwrap();
    }
    drop(ring);
    let bytes = std::fs::read(path.path()).unwrap();
    assert!(bytes.len() == 64 << 16 && bytes.iter().all(|b| *b == 0xab));
}
