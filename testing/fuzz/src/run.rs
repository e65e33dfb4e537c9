//! One input after the other, within limits of memory and time, and what broke.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use nix::time::{ClockId, clock_gettime};

use crate::{Target, mutate};

/// Host CPU that one input may take. The slowest takes a tenth of it on a busy machine.
const CPU: Duration = Duration::from_secs(10);
/// How long one input may take in all before the process is ended: it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which inputs.
    pub seed: u64,
    /// The first of them.
    pub first: u64,
    /// How many.
    pub inputs: u64,
    /// For how long at most.
    pub time: Option<Duration>,
}

/// What was run.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Inputs.
    pub inputs: u64,
    /// Most bytes of heap that one of them made live at once.
    pub peak: usize,
    /// Most CPU time that one of them took.
    pub cpu: Duration,
}

/// Measures the heap; the program's allocator, if it counts.
pub trait Heap {
    /// Forgets the peak, and tells how many bytes are live.
    fn begin(&self) -> usize;
    /// Most bytes that were live since.
    fn peak(&self) -> usize;
}

impl Heap for peak_alloc::PeakAlloc {
    fn begin(&self) -> usize {
        self.reset_peak_usage();
        self.current_usage()
    }
    fn peak(&self) -> usize {
        self.peak_usage()
    }
}

/// The first panic of any thread since it was asked for last.
static PANIC: Mutex<Option<String>> = Mutex::new(None);
/// Milliseconds from the start of the watch to the beginning of the present input, plus one; 0 for none.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// Its number.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Runs `plan`.
///
/// # Errors
/// The input that broke something, how to run it again, and what happened.
pub fn run(target: &'static Target, plan: &Plan, heap: &impl Heap) -> anyhow::Result<Summary> {
    watch(target, plan.seed);
    let seeds = (target.seeds)();
    let start = Instant::now();
    let mut summary = Summary { inputs: 0, peak: 0, cpu: Duration::ZERO };
    for n in plan.first..plan.first.saturating_add(plan.inputs) {
        if plan.time.is_some_and(|t| start.elapsed() >= t) {
            break;
        }
        NUMBER.store(n, Ordering::SeqCst);
        let data = mutate::input(target, &seeds, plan.seed, n);
        let (peak, cpu) = one(target, &data, heap).map_err(|e| {
            anyhow!(
                "{}: input {n}: {e:#}\nagain: cargo run -p visor-test-fuzz -- {} {}",
                target.name,
                target.name,
                place(plan.seed, n)
            )
        })?;
        summary.peak = summary.peak.max(peak);
        summary.cpu = summary.cpu.max(cpu);
        summary.inputs += 1;
    }
    Ok(summary)
}

/// Runs one input; gives the heap and the CPU time it took.
///
/// # Errors
/// What broke.
pub fn one(target: &Target, data: &[u8], heap: &impl Heap) -> anyhow::Result<(usize, Duration)> {
    let (live, begin) = (heap.begin(), cpu_time());
    BEGUN.store(millis() + 1, Ordering::SeqCst);
    let result = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    BEGUN.store(0, Ordering::SeqCst);
    let (peak, cpu) = (heap.peak().saturating_sub(live), cpu_time().saturating_sub(begin));
    let panicked = PANIC.lock().ok().and_then(|mut p| p.take());
    if result.is_err() || panicked.is_some() {
        bail!("{}", panicked.unwrap_or_else(|| "a panic".into()));
    }
    if peak > target.heap {
        bail!("{peak} bytes of heap for {} bytes of input; {} are allowed", data.len(), target.heap);
    }
    if cpu > CPU {
        bail!("{cpu:?} of CPU for {} bytes of input", data.len());
    }
    Ok((peak, cpu))
}

fn place(seed: u64, n: u64) -> String {
    format!("--seed {seed} --first {n} --inputs 1")
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn millis() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_millis() as u64)
}

/// Notes panics of all threads, and ends the process when an input does not end.
fn watch(target: &'static Target, seed: u64) {
    panic::set_hook(Box::new(|info| {
        let mut first = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{info}\n{}", std::backtrace::Backtrace::capture()));
    }));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let begun = BEGUN.load(Ordering::SeqCst);
            if begun != 0 && millis() + 1 - begun.min(millis() + 1) > PATIENCE.as_millis() as u64 {
                let n = NUMBER.load(Ordering::SeqCst);
                eprintln!("{}: input {n} does not end ({})", target.name, place(seed, n));
                std::process::exit(3);
            }
        }
    });
}
