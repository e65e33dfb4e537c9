//! A user's directories of their own with running machines in them.
#![allow(dead_code, reason = "every test file uses its part")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::common::{run, stderr, stdout, visor};

pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Directories in which nobody else's machines and networks are. The image stays where it is.
pub(crate) struct Home(pub(crate) PathBuf);

/// A machine; its guest runs a script that prints `up` when it is ready, and may print more.
pub(crate) struct Machine {
    child: Child,
    lines: Receiver<String>,
    /// What the guest said before it was ready.
    pub(crate) before: String,
}

impl Home {
    pub(crate) fn new(name: &str) -> Self {
        let out = run(&["image", "build", "tiny"]);
        assert!(out.status.success(), "{}", stderr(&out));
        let path = std::env::temp_dir().join(format!("visor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    pub(crate) fn visor(&self, args: &[&str]) -> Command {
        let mut command = visor(args);
        command.env("XDG_DATA_HOME", self.0.join("data")).env("XDG_RUNTIME_DIR", self.0.join("run"));
        command
    }

    /// Standard output, standard error and status.
    pub(crate) fn run(&self, args: &[&str]) -> (String, String, Option<i32>) {
        let out = self.visor(args).output().unwrap();
        (stdout(&out), stderr(&out), out.status.code())
    }

    /// Runs a command that must succeed; gives its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let (out, err, status) = self.run(args);
        assert_eq!(status, Some(0), "visor {args:?}: {err}");
        out
    }

    /// Starts a machine called `name`; its guest runs `script`, says `up`, and waits.
    pub(crate) fn start(&self, name: &str, options: &[&str], script: &str) -> Machine {
        let script = format!("{script}\necho up; cat");
        let mut args = vec!["run", "--engine", "soft", "--timeout", "900s", "--name", name];
        args.extend(options);
        args.extend(["tiny", "--", "sh", "-c", &script]);
        let mut command = self.visor(&args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|l| tx.send(l).is_ok()));
        let mut machine = Machine { child, lines, before: String::new() };
        machine.before = machine.until("up");
        machine
    }
}

impl Machine {
    /// Waits for a line of the guest with `wanted` in it.
    #[track_caller]
    pub(crate) fn says(&self, wanted: &str) {
        self.until(wanted);
    }

    /// The next line of the guest.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the guest says nothing") + "\n"
    }

    /// As [`Machine::says`]; gives the lines before it.
    #[track_caller]
    fn until(&self, wanted: &str) -> String {
        let (end, mut seen) = (Instant::now() + PATIENCE, String::new());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("the guest does not say {wanted:?}:\n{seen}") };
            if line.contains(wanted) {
                return seen;
            }
            seen += &line;
            seen.push('\n');
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let list = self.run(&["net", "ls", "--json"]).0;
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
        for network in list.as_array().into_iter().flatten() {
            self.run(&["net", "rm", "--force", network["name"].as_str().unwrap()]);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Tries until `done` gives something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
