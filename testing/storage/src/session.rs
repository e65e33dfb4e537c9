//! A conversation with a guest over its serial line.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use visor_machine::{EngineChoice, Machine, MachineSpec, SerialInput, SerialOutput, StopReason, choose};

/// How long anything may take; many times what it needs.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running guest.
pub struct Session {
    machine: Machine,
    output: SerialOutput,
    input: SerialInput,
    /// What has been read and not yet been looked at.
    pending: String,
    /// All of it, for messages.
    log: String,
}

impl Session {
    /// Starts a machine on the software engine.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn start(spec: MachineSpec) -> anyhow::Result<Self> {
        let config = spec.validate()?;
        let engine = choose(EngineChoice::Soft)?;
        let machine = Machine::new(&config, &*engine.engine)?;
        let (output, input) = (machine.serial_output(), machine.serial_input());
        machine.start()?;
        Ok(Session { machine, output, input, pending: String::new(), log: String::new() })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Waits for the next line that the script said (firmware may have left the cursor somewhere on it), and gives what follows
    /// `word` there. A line that says something else is an error.
    ///
    /// # Errors
    /// If another line or the end comes first, or nothing in ten minutes.
    pub fn expect(&mut self, word: &str) -> anyhow::Result<String> {
        let line = self
            .line(|l| l.split_once("@@ ").map(|(_, said)| said.to_owned()))
            .with_context(|| format!("waiting for {word:?}"))?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("the guest says {line:?} instead of {word:?}; all it said:\n{}", self.log),
        }
    }

    /// Waits for text anywhere on the line.
    ///
    /// # Errors
    /// If the end comes first, or nothing in ten minutes.
    pub fn wait_for(&mut self, text: &str) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.pending.contains(text) {
            self.more(end).with_context(|| format!("waiting for {text:?}"))?;
        }
        let at = self.pending.find(text).unwrap_or(0) + text.len();
        self.pending.drain(..at);
        Ok(())
    }

    /// Gives the guest a line.
    ///
    /// # Errors
    /// If the machine has stopped.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        use std::io::Write;
        Ok(self.input.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Waits until the machine has stopped.
    ///
    /// # Errors
    /// If it goes on for ten minutes.
    pub fn end(self) -> anyhow::Result<StopReason> {
        match self.machine.wait_timeout(PATIENCE) {
            Some(reason) => Ok(reason),
            None => bail!("the guest goes on; all it said:\n{}", self.log),
        }
    }

    /// The first line for which `f` gives something.
    fn line<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some(at) = self.pending.find('\n') {
                let line: String = self.pending.drain(..=at).collect();
                if let Some(found) = f(line.trim_end()) {
                    return Ok(found);
                }
            }
            self.more(end)?;
        }
    }

    /// Reads what comes next.
    fn more(&mut self, end: Instant) -> anyhow::Result<()> {
        let mut bytes = [0; 4096];
        let left = end.saturating_duration_since(Instant::now());
        match self.output.read_timeout(&mut bytes, left) {
            None => bail!("the guest is silent; all it said:\n{}", self.log),
            Some(0) => bail!("the guest has stopped; all it said:\n{}", self.log),
            Some(n) => {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                self.log.push_str(&text);
                self.pending.push_str(&text);
                Ok(())
            }
        }
    }
}
