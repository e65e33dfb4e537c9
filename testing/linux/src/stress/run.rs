//! A run of the stress guest in visor.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Guest, Report};
use crate::ramfs::Ramfs;

/// What the guest shall do, and on what machine.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Tests of the 64-bit program.
    pub tests: Vec<&'a str>,
    /// Tests of the 32-bit program.
    pub tests_32: Vec<&'a str>,
    /// Compilers to use: `tcc`, `gcc`.
    pub compilers: Vec<&'a str>,
    /// Times as often as usual that tests do what they do.
    pub scale: f64,
    /// What tests make their random numbers of.
    pub seed: u64,
    /// All at the same time, again and again, for so many minutes.
    pub minutes: Option<u32>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Further arguments of `visor run`.
    pub visor: Vec<String>,
    /// Seconds after which the machine is stopped.
    pub timeout: u64,
    /// Show the guest's output as it comes.
    pub show: bool,
}

impl Default for Job<'_> {
    fn default() -> Self {
        Job {
            tests: Vec::new(),
            tests_32: Vec::new(),
            compilers: Vec::new(),
            scale: 1.0,
            seed: 1,
            minutes: None,
            cpus: 1,
            visor: Vec::new(),
            timeout: 1800,
            show: false,
        }
    }
}

/// Boots `guest` in `visor`, and judges what it says.
///
/// # Errors
/// If visor cannot be started. What goes wrong within the guest is in the report.
pub fn run(visor: &Path, guest: &Guest, job: &Job<'_>) -> anyhow::Result<Report> {
    let initrd = initrd(guest, job)?;
    let mut command = Command::new(visor);
    command.args(["-q", "run", "--no-reboot", "--cpus", &job.cpus.to_string()]);
    command.args(["--memory", "1536M", "--timeout", &job.timeout.to_string()]).args(&job.visor);
    command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(initrd.path());
    command.args(["--append", APPEND]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| visor.display().to_string())?;
    let mut errors = child.stderr.take().context("no standard error")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        text
    });
    let mut out = child.stdout.take().context("no output")?;
    let (mut text, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let n = out.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        if job.show {
            use std::io::Write;
            std::io::stdout().write_all(&chunk[..n])?;
        }
        text.extend_from_slice(&chunk[..n]);
    }
    let status = child.wait()?;
    let errors = reader.join().unwrap_or_default();
    let mut report = Report::read(&String::from_utf8_lossy(&text));
    report.visor = String::from_utf8_lossy(&errors).into_owned();
    report.expect(job.tests.iter().map(|t| (*t).to_owned()));
    report.expect(job.tests_32.iter().map(|t| format!("32:{t}")));
    report.expect(job.compilers.iter().map(|c| format!("compile-{c}")));
    if !status.success() {
        report.faults.push(format!("visor: {status}"));
    }
    Ok(report)
}

/// Warnings go to the console; the log has room for all that is said in an hour. A host that does not run the machine for some ticks is
/// no reason to give up: Linux counts 10 ms of timer interrupts against the TSC. How long a test may wait for the kernel's locks is the
/// business of its own limit (`init`), not of the kernel's watch over tasks that sleep.
const APPEND: &str = "console=ttyS0 loglevel=5 log_buf_len=4M panic=-1 vsyscall=emulate no_timer_check \
                      sysctl.kernel.hung_task_timeout_secs=1500";

/// The guest's initial ramfs with the job behind it: a second archive, which the kernel unpacks over the first.
fn initrd(guest: &Guest, job: &Job<'_>) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    let mut base = std::fs::File::open(&guest.initrd).with_context(|| guest.initrd.display().to_string())?;
    std::io::copy(&mut base, &mut file)?;
    let mut more = Ramfs::default();
    more.file("job", variables(job).into_bytes());
    more.write(&mut file)?;
    Ok(file)
}

/// The job for the guest's shell.
fn variables(job: &Job<'_>) -> String {
    let mut text = format!("SCALE={}\nSEED={}\n", job.scale, job.seed);
    for (name, list) in [("TESTS", &job.tests), ("TESTS32", &job.tests_32), ("COMPILERS", &job.compilers)] {
        text += &format!("{name}={}\n", list.join(","));
    }
    text += &format!("MINUTES={}\n", job.minutes.map(|m| m.to_string()).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_comes_as_variables() {
        let job = Job { tests: vec!["a", "b"], minutes: Some(3), scale: 0.5, ..Job::default() };
        assert_eq!(variables(&job), "SCALE=0.5\nSEED=1\nTESTS=a,b\nTESTS32=\nCOMPILERS=\nMINUTES=3\n");
        assert!(variables(&Job::default()).ends_with("MINUTES=\n"));
    }
}
