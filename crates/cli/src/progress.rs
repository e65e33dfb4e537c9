//! Progress on stderr: a bar per phase on a terminal, plain lines elsewhere, nothing when quiet.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a phase counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown with a rate.
    Bytes,
    /// Files, packages, steps.
    Pieces,
}

/// Shows one phase after the other.
#[derive(Debug)]
pub(crate) struct Phases {
    bar: Option<ProgressBar>,
    plain: bool,
    started: Instant,
    name: String,
}

impl Phases {
    /// Progress on stderr, or nothing with `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (!quiet && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Phases { bar, plain: !quiet && !terminal, started: Instant::now(), name: String::new() }
    }

    /// Ends the phase before and starts `name`; `total` is its size, if known, counted in `unit`.
    pub(crate) fn start(&mut self, name: &str, total: Option<u64>, unit: Unit) {
        self.finish();
        self.name = name.to_owned();
        self.started = Instant::now();
        let Some(bar) = &self.bar else { return };
        let template = match (total, unit) {
            (Some(_), Unit::Bytes) => "{msg:<24} {bar:30} {bytes:>10}/{total_bytes} {bytes_per_sec} {eta}",
            (Some(_), Unit::Pieces) => "{msg:<24} {bar:30} {pos:>10}/{len}",
            (None, _) => "{msg:<24} {spinner} {elapsed}",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset();
        bar.set_length(total.unwrap_or(0));
        bar.set_position(0);
        bar.set_message(self.name.clone());
    }

    /// A line beside the phases.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.plain => eprintln!("{text}"),
            None => {}
        }
    }

    /// How much of the phase is done.
    pub(crate) fn at(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Ends the phase: a line with its name and time stays.
    pub(crate) fn finish(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let line = format!("{:<24} {:.1} s", self.name, self.started.elapsed().as_secs_f64());
        match &self.bar {
            // What comes on standard output next must not find the bar in its place.
            Some(bar) => {
                bar.println(line);
                bar.finish_and_clear();
            }
            None if self.plain => eprintln!("{line}"),
            None => {}
        }
        self.name.clear();
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
