//! A place for the named machines of one test.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{stderr, stdout, visor};
use crate::{PATIENCE, kill, text};

/// A directory of running machines for one test. What still runs at its end is killed.
pub(crate) struct Home(pub(crate) PathBuf);

impl Home {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("visor-home-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Home(path)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = visor(args);
        command.env("XDG_RUNTIME_DIR", &self.0);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}{}", stdout(&out), stderr(&out));
        stdout(&out)
    }

    /// Standard error of a command that must fail.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(125), "{args:?}: {}{}", stdout(&out), stderr(&out));
        stderr(&out)
    }

    pub(crate) fn launch(&self, disk: &Path, more: &[&str]) {
        let mut args = vec!["launch", "--engine", "soft", "--net", "none", "--disk", text(disk)];
        args.extend(more);
        self.ok(&args);
    }

    pub(crate) fn ls(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["ls", "--json"])).unwrap()
    }

    /// Waits until `command` prints something that holds `words`.
    pub(crate) fn wait_for(&self, command: &[&str], words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = stdout(&self.run(command));
            if said.contains(words) {
                return said;
            }
            assert!(Instant::now() < end, "{command:?} never says {words:?}: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn wait_until_gone(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.ls().is_empty() {
            assert!(Instant::now() < end, "{:?}", self.ls());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.0.join("visor/machines").join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for machine in self.ls() {
            if let Some(pid) = machine["machine"]["pid"].as_i64() {
                kill(pid as u32);
            }
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
