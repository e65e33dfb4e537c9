//! A user's folders of their own, for tests of disks.
#![allow(dead_code, reason = "every test file uses its part")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::{stderr, stdout, visor};

/// A folder that goes away, with `data` and `cache` in it, and the first words of every command.
pub(crate) struct Home(pub(crate) PathBuf, &'static [&'static str]);

impl Home {
    /// For commands of all kinds.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// For `visor disk`.
    pub(crate) fn of_disks(name: &str) -> Self {
        Self::with(name, &["disk"])
    }

    fn with(name: &str, first: &'static [&'static str]) -> Self {
        let path = std::env::temp_dir().join(format!("visor-disks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Home(path, first)
    }

    /// The program itself, to be started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = visor(&[self.1, args].concat());
        self.place(&mut command);
        command
    }

    /// Without a terminal, so that nobody can be asked.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let command = self.command(args);
        let mut all = Command::new("setsid");
        all.arg("-w").arg(command.get_program()).args(command.get_args());
        self.place(&mut all);
        all.output().unwrap()
    }

    fn place(&self, command: &mut Command) {
        command.env("XDG_DATA_HOME", self.0.join("data")).env("XDG_CACHE_HOME", self.0.join("cache"));
        command.current_dir(&self.0).stdin(Stdio::null());
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out)
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(125), "{args:?}: {}", stdout(&out));
        stderr(&out)
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// The file of a disk.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.0.join("data/visor/disks").join(name)
    }

    /// Names of all files of disks, hidden ones too.
    pub(crate) fn disks(&self) -> Vec<String> {
        let list = std::fs::read_dir(self.0.join("data/visor/disks")).unwrap();
        let mut list: Vec<String> = list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        list.sort();
        list
    }

    /// A file with this content that only its owner can read.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
