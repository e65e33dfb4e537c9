//! Machines of the image `tiny` that sleep, for tests of what can be done to them meanwhile.
#![allow(dead_code, reason = "every test file uses its part")]

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{self, stderr, stdout, visor};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// A user's folders, and the machines of one test; what still runs at its end is killed.
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    pub(crate) machines: Vec<Child>,
}

impl Home {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        static BUILT: Once = Once::new();
        BUILT.call_once(|| {
            let out = common::run(&["image", "build", "tiny"]);
            assert!(out.status.success(), "{}", stderr(&out));
        });
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let folder = std::env::temp_dir().join(format!("visor-live-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        Home { folder, machines: Vec::new() }
    }

    pub(crate) fn set(&self, mut command: Command) -> Command {
        command.env("XDG_RUNTIME_DIR", &self.folder).env("XDG_DATA_HOME", &self.folder).current_dir(&self.folder);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.set(visor(args)).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}{}", stdout(&out), stderr(&out));
        stdout(&out)
    }

    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(125), "{args:?}: {}{}", stdout(&out), stderr(&out));
        stderr(&out)
    }

    /// Starts a machine of `tiny` that sleeps, and waits until it takes commands.
    pub(crate) fn start(&mut self, name: &str, more: &[&str]) -> u32 {
        let args = [&["-q", "run", "--engine", "soft", "--timeout", "600s", "--name", name], more].concat();
        self.spawn(visor(&[&args[..], &["tiny", "--", "sleep", "600"]].concat()), name)
    }

    pub(crate) fn spawn(&mut self, command: Command, name: &str) -> u32 {
        let log = std::fs::File::create(self.folder.join(format!("{name}.log"))).unwrap();
        let child = self.set(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let id = child.id();
        self.machines.push(child);
        let end = Instant::now() + PATIENCE;
        while !self.run(&["exec", name, "--", "true"]).status.success() {
            let ended = self.machines.last_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", self.log(name));
            std::thread::sleep(Duration::from_millis(100));
        }
        id
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap()
    }

    /// A script in the guest; its output.
    #[track_caller]
    pub(crate) fn guest(&self, name: &str, script: &str) -> String {
        self.ok(&["exec", name, "--", "sh", "-c", script])
    }

    #[track_caller]
    pub(crate) fn until(&self, done: impl Fn(&Home) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "it takes too long");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join("visor/disks").join(name)
    }

    /// A raw disk of `size` bytes that takes no space.
    pub(crate) fn sparse(&self, name: &str, size: u64) -> String {
        let path = self.folder.join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for m in &mut self.machines {
            let _ = m.kill();
            let _ = m.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[track_caller]
pub(crate) fn check(path: &Path) {
    let out = Command::new("qemu-img").arg("check").arg(path).output().expect("these tests need qemu-utils");
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
}
