//! The two sides of a comparison, and one run of a guest.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::resource::{UsageWho, getrusage};

use crate::shell::{cargo, root, step};

const QEMU: &str = "-M pc -accel tcg,thread=multi -cpu max -smp {cpus} -m 512 -nodefaults -no-user-config -display none \
                    -serial stdio -no-reboot -kernel {kernel} -initrd {initrd} -append {append}";
const VISOR: &str = "-q run --engine soft --memory 512M --no-reboot --cpus {cpus} --kernel {kernel} --initrd {initrd} \
                     --append {append}";

/// What a side boots.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) kernel: String,
    pub(super) initrd: String,
    pub(super) append: String,
    pub(super) cpus: u32,
}

/// A program that boots guests: its words, with the holes of [`Guest`].
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) name: String,
    words: Vec<String>,
}

/// What a run showed.
#[derive(Debug)]
pub(super) struct Run {
    /// Seconds from exec to the line READY.
    pub(super) ready: f64,
    /// Seconds of host CPU up to the end of the run.
    pub(super) cpu: f64,
    /// Seconds of host CPU that were used between the line READY, or the row before, and each row of the output.
    pub(super) row_cpu: Vec<f64>,
    /// All output.
    pub(super) text: String,
}

impl Side {
    /// Visor as built, with more arguments.
    pub(super) fn visor(more: &str) -> anyhow::Result<Self> {
        Self::visor_with(&format!("{VISOR} {more}"))
    }

    /// Visor as built, with just these arguments.
    pub(super) fn visor_with(arguments: &str) -> anyhow::Result<Self> {
        step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
        let mut words = vec![root().join("target/release/visor").to_string_lossy().into_owned()];
        words.extend(split(arguments));
        Ok(Side { name: "visor".to_owned(), words })
    }

    /// Any command.
    pub(super) fn command(name: &str, command: &str) -> anyhow::Result<Self> {
        let words: Vec<String> = split(command).collect();
        let program = words.first().context("an empty command")?;
        if Command::new(program).arg("--version").output().is_err() {
            bail!("{program} cannot be run");
        }
        Ok(Side { name: name.to_owned(), words })
    }

    /// A command in parts.
    pub(super) fn with(name: &str, program: &[&str], more: &[&str], rest: &[&str]) -> Self {
        let words = [program, more, rest].concat();
        Side { name: name.to_owned(), words: words.into_iter().map(str::to_owned).collect() }
    }

    /// QEMU: a path, or a whole command.
    pub(super) fn qemu(name: String, command: &str) -> anyhow::Result<Self> {
        let mut words: Vec<String> = split(command).collect();
        let program = words.first().context("an empty QEMU command")?.clone();
        if Command::new(&program).arg("--version").output().is_err() {
            bail!("{program} cannot be run (apt-get install qemu-system-x86)");
        }
        if words.len() == 1 {
            words.extend(split(QEMU));
        }
        Ok(Side { name, words })
    }

    /// Boots `guest` and reads its output to the end; with `until_ready`, ends it at the line READY.
    pub(super) fn run(&self, guest: &Guest, until_ready: bool, limit: Duration) -> anyhow::Result<Run> {
        let mut words = self.words.iter().map(|w| fill(w, guest));
        let mut command = Command::new(words.next().context("an empty command")?);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let before = children()?;
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let chunks = reader(child.stdout.take().context("no output")?);
        let complaints = reader(child.stderr.take().context("no standard error")?);
        let (mut text, mut ready, mut marks) = (Vec::new(), None, Vec::new());
        while let Ok(chunk) = chunks.recv_timeout(limit.saturating_sub(start.elapsed())) {
            text.extend(chunk);
            if ready.is_none() && text.windows(5).any(|w| w == b"READY") {
                ready = Some(start.elapsed().as_secs_f64());
                if until_ready {
                    break;
                }
            }
            // Lines come one by one: rows take long.
            let rows = text.windows(6).filter(|w| w == b"BENCH ").count();
            if ready.is_some() && marks.len() <= rows {
                marks.resize(rows + 1, used(child.id()).unwrap_or_default());
            }
        }
        // At its end already, or over the limit, or no longer needed.
        if until_ready || start.elapsed() >= limit {
            child.kill()?;
        }
        child.wait()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let Some(ready) = ready else {
            let why: Vec<u8> = complaints.iter().flatten().collect();
            bail!("no READY from {}:\n{}{}", self.name, tail(&text), String::from_utf8_lossy(&why));
        };
        let row_cpu = marks.windows(2).map(|w| w[1] - w[0]).collect();
        Ok(Run { ready, cpu: children()? - before, row_cpu, text })
    }
}

/// The last part of a long text.
pub(super) fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(1500);
    let from = (from..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    &text[from..]
}

fn split(words: &str) -> impl Iterator<Item = String> + '_ {
    words.split_whitespace().map(str::to_owned)
}

fn fill(word: &str, guest: &Guest) -> String {
    let word = word.replace("{kernel}", &guest.kernel).replace("{initrd}", &guest.initrd);
    word.replace("{append}", &guest.append).replace("{cpus}", &guest.cpus.to_string())
}

/// What `from` gives, piece by piece, read by a thread of its own.
fn reader(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(n) = from.read(&mut chunk) {
            if n == 0 || send.send(chunk[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

/// Seconds of CPU that a process has used, all its threads together (proc(5)).
fn used(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold blanks, the state is the first field, and the 12th and 13th are the times.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(ticks / each as f64)
}

/// Seconds of CPU that children took that have ended.
pub(super) fn children() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest { kernel: "k".into(), initrd: "i".into(), append: "a b".into(), cpus: 2 }
    }

    fn side(words: &[&str]) -> Side {
        Side { name: "test".into(), words: words.iter().map(|w| (*w).to_owned()).collect() }
    }

    #[test]
    fn holes_are_filled_and_blanks_kept() {
        let run =
            side(&["sh", "-c", "echo READY; printf '%s|' \"$@\"", "x", "{append}", "{kernel}-{cpus}", "{initrd}"]);
        let run = run.run(&guest(), false, Duration::from_secs(60)).unwrap();
        assert_eq!(run.text, "READY\na b|k-2|i|");
        assert!(run.ready > 0.0 && run.cpu >= 0.0);
    }

    #[test]
    fn a_run_ends_at_ready_if_no_more_is_wanted() {
        let run = side(&["sh", "-c", "echo READY; sleep 600"]).run(&guest(), true, Duration::from_secs(60)).unwrap();
        assert!(run.text.contains("READY"));
    }

    #[test]
    fn the_cpu_of_a_row_is_its_own() {
        let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let script =
            format!("{work}; echo READY; sleep 0.3; echo BENCH idle 1 s; sleep 0.1; {work}; echo BENCH busy 1 s");
        let run = side(&["sh", "-c", &script]).run(&guest(), false, Duration::from_secs(100)).unwrap();
        assert!(run.row_cpu.len() == 2 && run.row_cpu[0] < run.row_cpu[1], "{:?}", run.row_cpu);
    }

    #[test]
    fn silence_is_an_error_that_tells_what_was_said() {
        let run = side(&["sh", "-c", "echo what; echo why >&2"]).run(&guest(), false, Duration::from_secs(60));
        let error = run.unwrap_err().to_string();
        assert!(error.contains("what\nwhy"), "{error}");
    }
}
