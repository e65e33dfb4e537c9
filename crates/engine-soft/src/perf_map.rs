//! Names of translated blocks for Linux `perf`: `/tmp/perf-PID.map`, a line `START SIZE NAME` in hexadecimal for each piece of
//! code that has no file (linux/tools/perf/Documentation/jit-interface.txt).
//!
//! `perf report` reads the file when the process is gone, and the last line that covers an address wins; code that was evicted
//! keeps its line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest name that is written, in bytes.
const LONGEST: usize = 200;

/// The file, shared by the CPUs of a VM.
#[derive(Debug)]
pub struct PerfMap {
    path: PathBuf,
    /// `None` once writing has failed.
    out: Mutex<Option<BufWriter<File>>>,
}

impl PerfMap {
    /// Makes the file of this process. A file that an earlier process of the same number left is replaced.
    ///
    /// # Errors
    /// Those of opening it, with another user's file of that name among the reasons.
    pub fn create() -> io::Result<Self> {
        Self::create_in(Path::new("/tmp"), std::process::id())
    }

    fn create_in(folder: &Path, pid: u32) -> io::Result<Self> {
        let path = folder.join(format!("perf-{pid}.map"));
        // The folder is everybody's: never write through what someone else has put there.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(PerfMap { path, out: Mutex::new(Some(BufWriter::with_capacity(1 << 16, file))) })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names the `len` bytes of host code at `start`. After an error nothing more is written.
    pub fn add(&self, start: u64, len: u64, name: &str) {
        let mut guard = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(out) = guard.as_mut() else { return };
        if let Err(error) = write_line(out, start, len, name) {
            tracing::warn!(path = %self.path.display(), %error, "the perf map ends here");
            *guard = None;
        }
    }

    /// Writes what is still in memory. Dropping the map does the same.
    pub fn flush(&self) {
        let mut guard = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.as_mut().is_some_and(|out| out.flush().is_err()) {
            *guard = None;
        }
    }
}

fn write_line(out: &mut impl Write, start: u64, len: u64, name: &str) -> io::Result<()> {
    // A name goes to the end of its line, blanks included.
    let clean: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cut = (0..=LONGEST.min(clean.len())).rev().find(|i| clean.is_char_boundary(*i)).unwrap_or(0);
    writeln!(out, "{start:x} {len:x} {}", &clean[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("visor-perf-map-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_are_what_perf_reads() {
        let folder = Folder::new("lines");
        let map = PerfMap::create_in(&folder.0, 7).unwrap();
        assert_eq!(map.path(), folder.0.join("perf-7.map"));
        map.add(0x7f00_1234_5000, 0x40, "guest 0xffffffff81000000\nforged 1 2");
        map.add(0xabc, 1, &"é".repeat(200));
        map.flush();
        let text = std::fs::read_to_string(map.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "7f0012345000 40 guest 0xffffffff81000000 forged 1 2");
        assert_eq!(lines[1], format!("abc 1 {}", "é".repeat(100)));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_link_in_its_place_is_replaced_not_followed() {
        let folder = Folder::new("link");
        let victim = folder.0.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.0.join("perf-9.map")).unwrap();
        let map = PerfMap::create_in(&folder.0, 9).unwrap();
        map.add(1, 2, "x");
        drop(map);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(folder.0.join("perf-9.map")).unwrap(), "1 2 x\n");
    }
}
