//! Starting the processes of a service.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::agent::DEFAULT_ENV;
use crate::service::unit::{CommandLine, Unit};
use crate::sys;

/// A log longer than this is begun anew when its service starts.
const LOG_LIMIT: u64 = 1024 * 1024;

/// Where the output of a service goes.
pub(crate) fn log_path(logs: &Path, unit: &str) -> PathBuf {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    logs.join(format!("{stem}.log"))
}

pub(super) fn spawn(unit: &Unit, line: &CommandLine, log: &Path) -> io::Result<u32> {
    let (program, arguments) = line.argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(DEFAULT_ENV);
    command.envs(unit.environment.iter().map(|(n, v)| (n, v)));
    command.current_dir(unit.working_directory.as_deref().unwrap_or(Path::new("/")));
    command.stdin(Stdio::null());
    match open_log(log) {
        Ok(log) => command.stdout(log.try_clone()?).stderr(log),
        // A full or read-only disk must not keep a service from starting.
        Err(_) => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    sys::become_session_leader(&mut command);
    command.spawn().map(|child| child.id())
}

pub(super) fn read_pid_file(unit: &Unit) -> Option<u32> {
    let text = fs::read_to_string(unit.pid_file.as_ref()?).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1)
}

/// The status as `systemctl status` words it.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "0/SUCCESS".to_owned(),
        (Some(code), _) => format!("{code}/FAILURE"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let long = fs::metadata(path).is_ok_and(|m| m.len() > LOG_LIMIT);
    if long {
        File::create(path)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
