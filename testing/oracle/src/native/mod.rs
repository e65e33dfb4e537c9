//! Runs cases on the host's CPU, in a forked child that a case cannot escape from.
//!
//! Parent and child share a batch of cases; a futex hands it over. The child enters each case with all its registers and
//! takes them back in the handler of the signal that ends it. The parent watches the child's CPU time: a case that
//! loops for good, or that ends the child, is marked and a new child continues after it. Nothing here needs privileges.

mod child;
mod futex;
mod pages;
mod seccomp;
mod shared;
#[cfg(test)]
mod tests;
mod trampoline;

use crate::case::{Case, Outcome, Status};
use crate::subject::Subject;
use shared::{SLOTS, Shared};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// CPU time after which a case counts as endless. Real cases take microseconds.
const CASE_CPU_LIMIT: Duration = Duration::from_millis(30);
const POLL: Duration = Duration::from_millis(20);
/// Children that may die one after the other without finishing a case before the host is given up.
const MAX_BARREN_CHILDREN: u32 = 3;

/// The host CPU as a subject.
#[derive(Debug)]
pub struct Native {
    shared: &'static Shared,
    child: i32,
    barren: u32,
}

/// Cases handed to the child; [`Native::collect`] takes the outcomes.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    count: usize,
}

impl Native {
    /// Starts the child.
    ///
    /// # Errors
    /// Where the host CPU lacks AVX or user-mode FSGSBASE, or refuses memory or processes.
    pub fn new() -> io::Result<Native> {
        if !std::is_x86_feature_detected!("avx") || !has_fsgsbase() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the oracle needs AVX and user-mode FSGSBASE"));
        }
        // Built before the fork, because the child must not allocate.
        crate::layout::base_image();
        crate::layout::rodata_image();
        let shared = Shared::map()?;
        let mut native = Native { shared, child: -1, barren: 0 };
        native.spawn()?;
        Ok(native)
    }

    /// Cases one batch can hold.
    pub const BATCH: usize = SLOTS;

    /// Starts running up to [`Self::BATCH`] cases (more are ignored) while the caller does something else.
    pub fn submit(&mut self, cases: &[Case]) -> Pending {
        let count = cases.len().min(SLOTS);
        for (i, case) in cases[..count].iter().enumerate() {
            // SAFETY: the child does not touch the slots between batches.
            unsafe { self.shared.case(i).write(case.clone()) };
        }
        self.launch(0, count);
        Pending { count }
    }

    /// Waits for the batch.
    ///
    /// # Errors
    /// Where the child keeps dying before it has run anything.
    pub fn collect(&mut self, pending: Pending) -> io::Result<Vec<Outcome>> {
        let target = self.shared.submitted.load(Ordering::Acquire);
        let mut seen = (u32::MAX, Duration::ZERO);
        loop {
            let completed = self.shared.completed.load(Ordering::Acquire);
            if completed == target {
                break;
            }
            futex::wait(&self.shared.completed, completed, Some(POLL));
            if self.shared.completed.load(Ordering::Acquire) == target {
                break;
            }
            let progress = self.shared.progress.load(Ordering::Acquire);
            let cpu = cpu_time(self.child);
            if self.child_is_gone() {
                self.skip(progress, pending.count, Status::Escaped)?;
                seen.0 = u32::MAX;
            } else if progress != seen.0 {
                seen = (progress, cpu);
            } else if cpu.saturating_sub(seen.1) > CASE_CPU_LIMIT {
                self.kill();
                self.skip(progress, pending.count, Status::Timeout)?;
                seen.0 = u32::MAX;
            }
        }
        self.barren = 0;
        // SAFETY: the batch is complete; every slot holds a whole outcome.
        Ok((0..pending.count).map(|i| unsafe { self.shared.outcome(i).read() }).collect())
    }

    /// Marks the case a child was lost in and lets a new child run the rest.
    fn skip(&mut self, lost: u32, count: usize, status: Status) -> io::Result<()> {
        self.barren = if lost == self.shared.first.load(Ordering::Acquire) { self.barren + 1 } else { 0 };
        if self.barren > MAX_BARREN_CHILDREN && status == Status::Escaped {
            return Err(io::Error::other("the child process dies before it runs a case"));
        }
        // SAFETY: the child is gone, nobody else writes.
        unsafe { self.shared.outcome(lost as usize).write(Outcome { status, ..Outcome::default() }) };
        self.shared.submitted.fetch_sub(1, Ordering::AcqRel);
        self.spawn()?;
        self.launch(lost as usize + 1, count);
        Ok(())
    }

    fn launch(&mut self, first: usize, count: usize) {
        self.shared.first.store(first as u32, Ordering::Release);
        self.shared.count.store(count as u32, Ordering::Release);
        self.shared.progress.store(first as u32, Ordering::Release);
        self.shared.submitted.fetch_add(1, Ordering::AcqRel);
        futex::wake(&self.shared.submitted);
    }

    fn spawn(&mut self) -> io::Result<()> {
        // SAFETY: the child runs only `child::main`, which is safe after a fork of a threaded process.
        unsafe {
            let parent = libc::getpid();
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => child::main(self.shared, parent),
                pid => {
                    self.child = pid;
                    Ok(())
                }
            }
        }
    }

    fn child_is_gone(&mut self) -> bool {
        // SAFETY: waits for our own child only.
        let gone = unsafe { libc::waitpid(self.child, std::ptr::null_mut(), libc::WNOHANG) } != 0;
        if gone {
            self.child = -1;
        }
        gone
    }

    fn kill(&mut self) {
        if self.child > 0 {
            // SAFETY: our own child, not yet waited for.
            unsafe {
                libc::kill(self.child, libc::SIGKILL);
                libc::waitpid(self.child, std::ptr::null_mut(), 0);
            }
            self.child = -1;
        }
    }
}

impl Subject for Native {
    fn name(&self) -> &str {
        "native"
    }

    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(cases.len());
        for batch in cases.chunks(SLOTS) {
            let pending = self.submit(batch);
            outcomes.append(&mut self.collect(pending)?);
        }
        Ok(outcomes)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.kill();
    }
}

fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// CPU time that process `pid` has used, zero where it cannot be told.
fn cpu_time(pid: i32) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut clock = 0;
    // SAFETY: both pointers are valid for the calls.
    let known = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut now) == 0 };
    if known { Duration::new(now.tv_sec as u64, now.tv_nsec as u32) } else { Duration::ZERO }
}
