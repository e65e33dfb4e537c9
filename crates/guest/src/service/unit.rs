//! Unit files: where they are found, and the settings this system knows (systemd.unit(5), systemd.service(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::unit_file::{Section, parse_duration, parse_sections, split_command};

#[cfg(test)]
mod tests;

/// Directories with unit files, the first wins.
pub const UNIT_DIRECTORIES: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// The target all services belong to.
pub const DEFAULT_TARGET: &str = "multi-user.target";

/// When a service counts as started (systemd.service(5), `Type=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// As soon as its process runs.
    #[default]
    Simple,
    /// When its process has ended.
    Oneshot,
    /// When its process has ended and left a daemon behind.
    Forking,
}

/// When a service that ended by itself is started again (`Restart=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Always.
    Always,
    /// When it failed or was killed.
    OnFailure,
    /// When it ended well.
    OnSuccess,
}

/// One command of `ExecStart=` or `ExecStop=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `-` in front: failure counts as success.
    pub may_fail: bool,
}

/// A service as its unit file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// Full name, for example `httpd.service`.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// `Description=`, or the name.
    pub description: String,
    /// `After=`.
    pub after: Vec<String>,
    /// `Type=`.
    pub service_type: ServiceType,
    /// `ExecStart=`; more than one only for `oneshot`.
    pub exec_start: Vec<CommandLine>,
    /// `ExecStop=`.
    pub exec_stop: Vec<CommandLine>,
    /// `Restart=`.
    pub restart: Restart,
    /// `RestartSec=`.
    pub restart_delay: Duration,
    /// `TimeoutStopSec=`.
    pub stop_timeout: Duration,
    /// `RemainAfterExit=`.
    pub remain_after_exit: bool,
    /// `Environment=`, as name and value.
    pub environment: Vec<(String, String)>,
    /// `WorkingDirectory=`.
    pub working_directory: Option<PathBuf>,
    /// `PIDFile=`.
    pub pid_file: Option<PathBuf>,
    /// `WantedBy=`; empty: the service cannot be enabled ("static").
    pub wanted_by: Vec<String>,
}

/// Why a unit cannot be used.
#[derive(Debug)]
pub enum UnitError {
    /// There is no file for the name.
    NotFound,
    /// The name is not one of a service.
    BadName,
    /// The file says something that does not work; the text says what.
    Bad(String),
    /// It cannot be read.
    Io(io::Error),
}

impl std::fmt::Display for UnitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found"),
            Self::BadName => f.write_str("invalid unit name"),
            Self::Bad(what) => f.write_str(what),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for UnitError {}

/// Completes a name as typed: `httpd` becomes `httpd.service`.
///
/// # Errors
/// `BadName` when it cannot be the name of a unit.
pub fn full_name(typed: &str) -> Result<String, UnitError> {
    let good = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    if typed.is_empty() || typed.len() > 200 || typed.starts_with('.') || !typed.chars().all(good) {
        return Err(UnitError::BadName);
    }
    let has_type = [".service", ".target"].iter().any(|t| typed.ends_with(t));
    Ok(if has_type { typed.to_owned() } else { format!("{typed}.service") })
}

impl Unit {
    /// Reads the unit `name` (complete, see [`full_name`]) of the system at `root`.
    ///
    /// # Errors
    /// `NotFound`, or what is wrong with the file.
    pub fn load(root: &Path, name: &str) -> Result<Self, UnitError> {
        let path = find(root, name).ok_or(UnitError::NotFound)?;
        let text = fs::read_to_string(root.join(&path)).map_err(UnitError::Io)?;
        Self::parse(name, Path::new("/").join(path), &text)
    }

    /// Reads a unit from the text of its file.
    ///
    /// # Errors
    /// `Bad` when the service could not be started as described.
    pub fn parse(name: &str, path: PathBuf, text: &str) -> Result<Self, UnitError> {
        let mut unit = Self {
            name: name.to_owned(),
            path,
            description: name.to_owned(),
            restart_delay: Duration::from_millis(100),
            stop_timeout: Duration::from_secs(10),
            ..Self::default()
        };
        for Section { name: section, settings } in parse_sections(text) {
            for (key, value) in settings {
                unit.set(&section, &key, &specifiers(&value, name))?;
            }
        }
        if name.ends_with(".service") {
            unit.check()?;
        }
        Ok(unit)
    }

    fn set(&mut self, section: &str, key: &str, value: &str) -> Result<(), UnitError> {
        let words = || value.split_whitespace().map(str::to_owned);
        match (section, key) {
            ("Unit", "Description") => self.description = value.to_owned(),
            ("Unit", "After") => self.after.extend(words()),
            ("Install", "WantedBy") => self.wanted_by.extend(words()),
            ("Service", "Type") => {
                self.service_type = match value {
                    "simple" | "exec" | "notify" | "idle" => ServiceType::Simple,
                    "oneshot" => ServiceType::Oneshot,
                    "forking" => ServiceType::Forking,
                    other => return Err(UnitError::Bad(format!("unknown service type `{other}`"))),
                }
            }
            ("Service", "Restart") => {
                self.restart = match value {
                    "always" => Restart::Always,
                    "on-failure" | "on-abnormal" | "on-abort" => Restart::OnFailure,
                    "on-success" => Restart::OnSuccess,
                    _ => Restart::No,
                }
            }
            ("Service", "ExecStart") => add_command(&mut self.exec_start, value)?,
            ("Service", "ExecStop") => add_command(&mut self.exec_stop, value)?,
            ("Service", "RestartSec") => self.restart_delay = parse_duration(value).unwrap_or(self.restart_delay),
            ("Service", "TimeoutStopSec") => self.stop_timeout = parse_duration(value).unwrap_or(self.stop_timeout),
            ("Service", "RemainAfterExit") => self.remain_after_exit = is_true(value),
            ("Service", "WorkingDirectory") => self.working_directory = Some(value.trim_start_matches('-').into()),
            ("Service", "PIDFile") => self.pid_file = Some(value.into()),
            ("Service", "Environment") => {
                let entries = split_command(value).ok_or_else(|| UnitError::Bad("open quote".into()))?;
                let pairs = entries.iter().filter_map(|e| e.split_once('='));
                self.environment.extend(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())));
            }
            // What systemd knows and this system does not is no reason to refuse the service.
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), UnitError> {
        match self.exec_start.len() {
            0 => Err(UnitError::Bad("Service has no ExecStart= setting.".into())),
            1 => Ok(()),
            _ if self.service_type == ServiceType::Oneshot => Ok(()),
            _ => Err(UnitError::Bad(
                "Service has more than one ExecStart= setting, which is only allowed for Type=oneshot services.".into(),
            )),
        }
    }
}

/// The file of a unit, relative to `root`; an instance `a@b.service` comes from the template `a@.service`.
pub fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let template = name.split_once('@').and_then(|(stem, rest)| {
        let kind = rest.rsplit_once('.')?.1;
        (rest.len() > kind.len() + 1).then(|| format!("{stem}@.{kind}"))
    });
    let names = [Some(name.to_owned()), template];
    let candidates = names.iter().flatten();
    candidates.flat_map(|n| UNIT_DIRECTORIES.iter().map(move |d| Path::new(d).join(n))).find(|p| root.join(p).is_file())
}

/// All units of the system at `root`, templates included, by name.
pub fn list(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = UNIT_DIRECTORIES
        .iter()
        .filter_map(|d| fs::read_dir(root.join(d)).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.ends_with(".service"))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The directory with the links of enabled services, relative to the root.
pub fn wants_directory(target: &str) -> PathBuf {
    Path::new(UNIT_DIRECTORIES[0]).join(format!("{target}.wants"))
}

/// Names of the services that are enabled, in no useful order.
pub fn enabled(root: &Path) -> Vec<String> {
    let directories = UNIT_DIRECTORIES.iter().map(|d| Path::new(d).join(format!("{DEFAULT_TARGET}.wants")));
    let mut names: Vec<String> = directories
        .filter_map(|d| fs::read_dir(root.join(d)).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.ends_with(".service"))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn add_command(commands: &mut Vec<CommandLine>, value: &str) -> Result<(), UnitError> {
    if value.is_empty() {
        // An empty setting takes back those before it (systemd.service(5)).
        commands.clear();
        return Ok(());
    }
    let plain = value.trim_start_matches(['-', '@', ':', '+', '!']);
    let prefix = value.strip_suffix(plain).unwrap_or_default();
    let argv = split_command(plain).ok_or_else(|| UnitError::Bad(format!("open quote in `{value}`")))?;
    if argv.is_empty() {
        return Err(UnitError::Bad("empty command".into()));
    }
    commands.push(CommandLine { argv, may_fail: prefix.contains('-') });
    Ok(())
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "yes" | "true" | "on")
}

/// Replaces `%n`, `%N`, `%p`, `%i` and `%%` (systemd.unit(5), "Specifiers").
fn specifiers(value: &str, name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(s, _)| s);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push_str(name),
            Some('N') => out.push_str(stem),
            Some('p') => out.push_str(prefix),
            Some('i' | 'I') => out.push_str(instance),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}
