//! `systemctl`: the commands people type, with the words and exit statuses of the original (systemctl(1)).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::control::{SOCKET, ask};
use super::manager::log_path;
use super::unit::{self, DEFAULT_TARGET, Unit, UnitError, full_name, wants_directory};
use crate::sys;

mod date;
#[cfg(test)]
mod tests;

/// Exit statuses of systemctl(1), after the LSB's init script conventions.
mod status {
    pub(super) const OK: u8 = 0;
    pub(super) const FAILURE: u8 = 1;
    pub(super) const NOT_RUNNING: u8 = 3;
    pub(super) const NO_SUCH_UNIT: u8 = 4;
    pub(super) const START_NO_SUCH_UNIT: u8 = 5;
}

const USAGE: &str = "\
systemctl [--now] [--quiet] COMMAND [UNIT...]

Query and control the services of this guest.

  start UNIT...        Start (activate) units
  stop UNIT...         Stop (deactivate) units
  restart UNIT...      Start or restart units
  status [UNIT...]     Show what units are doing
  show UNIT...         Show the same for programs
  kill UNIT...         Send SIGTERM to the processes of units
  is-active UNIT...    Check whether units are active
  is-failed UNIT...    Check whether units have failed
  is-enabled UNIT...   Check whether units start at boot
  enable UNIT...       Start units at boot (--now: and now)
  disable UNIT...      Do not start units at boot (--now: and stop them)
  cat UNIT...          Show the unit files
  list-units           List units and what they do
  list-unit-files      List unit files and whether they are enabled
  daemon-reload        Read the unit files again
  poweroff | reboot | halt
";

/// Where `systemctl` finds things; other than the defaults only in tests.
pub struct Systemctl<'a> {
    /// Root of the file system with the unit files.
    pub root: &'a Path,
    /// PID 1's socket.
    pub socket: &'a Path,
    /// Directory of the services' logs.
    pub logs: &'a Path,
    /// Receives what the original writes to standard output.
    pub out: &'a mut dyn Write,
    /// Receives what the original writes to standard error.
    pub err: &'a mut dyn Write,
}

#[derive(Default)]
struct Options {
    now: bool,
    quiet: bool,
    failed: bool,
}

/// Runs `systemctl` on this machine and returns its exit status.
pub fn main(arguments: &[String]) -> u8 {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let mut ctl = Systemctl {
        root: Path::new("/"),
        socket: Path::new(SOCKET),
        logs: Path::new("/var/log"),
        out: &mut out,
        err: &mut err,
    };
    // A reader that closed the pipe early is no failure of ours.
    ctl.run(arguments).unwrap_or(status::FAILURE)
}

impl Systemctl<'_> {
    /// Carries out one command line (without the program's name).
    ///
    /// # Errors
    /// Only of writing the output.
    pub fn run(&mut self, arguments: &[String]) -> io::Result<u8> {
        let mut options = Options::default();
        let mut words = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "--now" => options.now = true,
                "-q" | "--quiet" => options.quiet = true,
                "--failed" => options.failed = true,
                "-h" | "--help" => {
                    self.out.write_all(USAGE.as_bytes())?;
                    return Ok(status::OK);
                }
                "--no-pager" | "-l" | "--full" | "-a" | "--all" | "--system" | "--no-block" | "-f" | "--force" => {}
                other if other.starts_with('-') => {
                    writeln!(self.err, "systemctl: unrecognized option '{other}'")?;
                    return Ok(status::FAILURE);
                }
                word => words.push(word.to_owned()),
            }
        }
        let verb = if words.is_empty() { "list-units".to_owned() } else { words.remove(0) };
        self.dispatch(&verb, &words, &options)
    }

    fn dispatch(&mut self, verb: &str, units: &[String], options: &Options) -> io::Result<u8> {
        let needs_unit = !matches!(
            verb,
            "list-units"
                | "list-unit-files"
                | "daemon-reload"
                | "poweroff"
                | "reboot"
                | "halt"
                | "status"
                | "is-system-running"
        );
        if needs_unit && units.is_empty() {
            writeln!(self.err, "Too few arguments.")?;
            return Ok(status::FAILURE);
        }
        match verb {
            "start" | "stop" | "restart" => self.change(verb, units),
            "try-restart" | "reload-or-restart" | "reload" => self.change("restart", units),
            "kill" => self.change("kill", units),
            "status" if units.is_empty() => self.list_units(options),
            "status" => self.each_worst(units, |s, name| s.status(name)),
            "show" => self.each_worst(units, |s, name| s.show(name)),
            "cat" => self.each_worst(units, |s, name| s.cat(name)),
            "is-active" => self.is_state(units, options, &["active"], status::NOT_RUNNING),
            "is-failed" => self.is_state(units, options, &["failed"], status::FAILURE),
            "is-enabled" => self.is_enabled(units, options),
            "enable" | "disable" => self.enable(units, verb == "enable", options),
            "list-units" => self.list_units(options),
            "list-unit-files" => self.list_unit_files(),
            "is-system-running" => {
                writeln!(self.out, "running")?;
                Ok(status::OK)
            }
            "daemon-reload" => self.request("reload").map(|ok| u8::from(!ok)),
            "poweroff" => self.power(libc::SIGUSR2),
            "reboot" => self.power(libc::SIGTERM),
            "halt" => self.power(libc::SIGUSR1),
            other => {
                writeln!(self.err, "Unknown command verb {other}.")?;
                Ok(status::FAILURE)
            }
        }
    }

    fn power(&mut self, signo: i32) -> io::Result<u8> {
        match sys::kill(1, signo) {
            Ok(()) => Ok(status::OK),
            Err(e) => {
                writeln!(self.err, "Failed to signal PID 1: {e}")?;
                Ok(status::FAILURE)
            }
        }
    }

    fn request(&mut self, request: &str) -> io::Result<bool> {
        match ask(self.socket, request) {
            Ok(_) => Ok(true),
            Err(words) => {
                writeln!(self.err, "{words}")?;
                Ok(false)
            }
        }
    }

    fn change(&mut self, verb: &str, units: &[String]) -> io::Result<u8> {
        let mut worst = status::OK;
        for name in units {
            if !self.request(&format!("{verb} {name}"))? {
                let known = full_name(name).is_ok_and(|n| unit::find(self.root, &n).is_some());
                worst = worst.max(if known { status::FAILURE } else { status::START_NO_SUCH_UNIT });
            }
        }
        Ok(worst)
    }

    fn each_worst(
        &mut self,
        units: &[String],
        mut act: impl FnMut(&mut Self, &str) -> io::Result<u8>,
    ) -> io::Result<u8> {
        let mut worst = status::OK;
        for (index, name) in units.iter().enumerate() {
            if index > 0 {
                writeln!(self.out)?;
            }
            worst = worst.max(act(self, name)?);
        }
        Ok(worst)
    }

    fn facts(&mut self, name: &str) -> Result<BTreeMap<String, String>, String> {
        let text = ask(self.socket, &format!("show {name}"))?;
        Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn show(&mut self, name: &str) -> io::Result<u8> {
        match ask(self.socket, &format!("show {name}")) {
            Ok(text) => self.out.write_all(text.as_bytes()).map(|()| status::OK),
            Err(words) => writeln!(self.err, "{words}").map(|()| status::FAILURE),
        }
    }

    fn status(&mut self, name: &str) -> io::Result<u8> {
        let facts = match self.facts(name) {
            Ok(facts) => facts,
            Err(words) => return writeln!(self.err, "{words}").map(|()| status::FAILURE),
        };
        let get = |key: &str| facts.get(key).map_or("", String::as_str);
        let id = get("Id");
        if get("LoadState") == "not-found" {
            writeln!(self.err, "Unit {id} could not be found.")?;
            return Ok(status::NO_SUCH_UNIT);
        }
        let (active, sub) = (get("ActiveState"), get("SubState"));
        let dot = match active {
            "active" => '●',
            "failed" => '×',
            _ => '○',
        };
        let enabled = enablement(self.root, id).unwrap_or("bad");
        let since: u64 = get("StateChangeTimestamp").parse().unwrap_or(0);
        let mut text = String::new();
        let _ = writeln!(text, "{dot} {id} - {}", get("Description"));
        let _ = writeln!(text, "     Loaded: {} ({}; {enabled})", get("LoadState"), get("FragmentPath"));
        let _ = write!(text, "     Active: {active} ({sub})");
        if active != "inactive" || facts.contains_key("ExecMainStatus") {
            let _ = write!(text, " since {}", date::since(since));
        }
        text.push('\n');
        if let Some(exit) = facts.get("ExecMainStatus").filter(|_| active != "active") {
            let _ = writeln!(text, "    Process: ended, status={exit}");
        }
        let pid = get("MainPID");
        if pid != "0" && !pid.is_empty() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let _ = writeln!(text, "   Main PID: {pid} ({})", comm.trim_end());
        }
        let log = fs::read(log_path(self.logs, id)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        if !tail.is_empty() {
            text.push('\n');
            tail.iter().rev().for_each(|line| {
                let _ = writeln!(text, "{line}");
            });
        }
        self.out.write_all(text.as_bytes())?;
        Ok(if matches!(active, "active" | "reloading") { status::OK } else { status::NOT_RUNNING })
    }

    fn cat(&mut self, name: &str) -> io::Result<u8> {
        let found = full_name(name).ok().and_then(|n| unit::find(self.root, &n));
        let Some(path) = found else {
            writeln!(self.err, "No files found for {name}.")?;
            return Ok(status::FAILURE);
        };
        writeln!(self.out, "# /{}", path.display())?;
        self.out.write_all(&fs::read(self.root.join(path))?)?;
        Ok(status::OK)
    }

    /// Prints a word per unit; 0 when at least one is in one of the `good` states.
    fn is_state(&mut self, units: &[String], options: &Options, good: &[&str], otherwise: u8) -> io::Result<u8> {
        let mut any = false;
        for name in units {
            let facts = self.facts(name).unwrap_or_default();
            let state = facts.get("ActiveState").map_or("unknown", String::as_str);
            any |= good.contains(&state);
            if !options.quiet {
                writeln!(self.out, "{state}")?;
            }
        }
        Ok(if any { status::OK } else { otherwise })
    }

    fn is_enabled(&mut self, units: &[String], options: &Options) -> io::Result<u8> {
        let mut any = false;
        for name in units {
            let Some(state) = full_name(name).ok().and_then(|n| enablement(self.root, &n)) else {
                writeln!(self.err, "Failed to get unit file state for {name}: No such file or directory")?;
                continue;
            };
            any |= matches!(state, "enabled" | "static");
            if !options.quiet {
                writeln!(self.out, "{state}")?;
            }
        }
        Ok(if any { status::OK } else { status::FAILURE })
    }

    fn enable(&mut self, units: &[String], on: bool, options: &Options) -> io::Result<u8> {
        for name in units {
            let full = full_name(name);
            let unit = full.and_then(|n| Unit::load(self.root, &n));
            let unit = match unit {
                Ok(unit) => unit,
                Err(UnitError::NotFound | UnitError::BadName) => {
                    let verb = if on { "enable" } else { "disable" };
                    writeln!(self.err, "Failed to {verb} unit: Unit file {name} does not exist.")?;
                    return Ok(status::FAILURE);
                }
                Err(other) => {
                    writeln!(self.err, "Failed to read unit {name}: {other}")?;
                    return Ok(status::FAILURE);
                }
            };
            if let Err(error) = self.link(&unit, on) {
                writeln!(self.err, "Failed to change the links of {name}: {error}")?;
                return Ok(status::FAILURE);
            }
        }
        // A virtual machine may be switched off at any moment, and this is what has to survive.
        sys::sync();
        if options.now {
            return self.change(if on { "start" } else { "stop" }, units);
        }
        Ok(status::OK)
    }

    fn link(&mut self, unit: &Unit, on: bool) -> io::Result<()> {
        if unit.wanted_by.is_empty() {
            return writeln!(
                self.err,
                "The unit files have no installation config (WantedBy=), so {} cannot be enabled or disabled.",
                unit.name
            );
        }
        for target in &unit.wanted_by {
            let relative = wants_directory(target).join(&unit.name);
            let link = self.root.join(&relative);
            let exists = fs::symlink_metadata(&link).is_ok();
            if on && !exists {
                fs::create_dir_all(self.root.join(wants_directory(target)))?;
                std::os::unix::fs::symlink(&unit.path, &link)?;
                writeln!(self.err, "Created symlink /{} → {}.", relative.display(), unit.path.display())?;
            } else if !on && exists {
                fs::remove_file(&link)?;
                writeln!(self.err, "Removed \"/{}\".", relative.display())?;
            }
        }
        Ok(())
    }

    fn list_units(&mut self, options: &Options) -> io::Result<u8> {
        let text = match ask(self.socket, "list") {
            Ok(text) => text,
            Err(words) => return writeln!(self.err, "{words}").map(|()| status::FAILURE),
        };
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
        let rows = rows.into_iter().filter(|r| !options.failed || r.get(2) == Some(&"failed"));
        let mut table = vec![vec!["UNIT", "LOAD", "ACTIVE", "SUB", "DESCRIPTION"]];
        table.extend(rows);
        let count = table.len() - 1;
        write_table(self.out, &table)?;
        writeln!(self.out, "\n{count} loaded units listed.")?;
        Ok(status::OK)
    }

    fn list_unit_files(&mut self) -> io::Result<u8> {
        let names = unit::list(self.root);
        let mut table = vec![vec!["UNIT FILE", "STATE"]];
        for name in &names {
            table.push(vec![name, enablement(self.root, name).unwrap_or("bad")]);
        }
        write_table(self.out, &table)?;
        writeln!(self.out, "\n{} unit files listed.", names.len())?;
        Ok(status::OK)
    }
}

/// `enabled`, `disabled` or `static`; `None` when there is no such unit.
fn enablement(root: &Path, name: &str) -> Option<&'static str> {
    let unit = Unit::load(root, name).ok()?;
    let links: Vec<PathBuf> =
        unit.wanted_by.iter().map(|target| root.join(wants_directory(target)).join(name)).collect();
    let shipped = unit::enabled(root).iter().any(|n| n == name) && unit.wanted_by.iter().any(|t| t == DEFAULT_TARGET);
    Some(if links.is_empty() {
        "static"
    } else if shipped || links.iter().any(|l| fs::symlink_metadata(l).is_ok()) {
        "enabled"
    } else {
        "disabled"
    })
}

/// Columns as wide as their longest entry; the last one is not padded.
fn write_table(out: &mut dyn Write, rows: &[Vec<&str>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$} ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
