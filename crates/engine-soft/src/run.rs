//! The run loop: find a block, execute it, look up when something wants attention.

use std::sync::atomic::Ordering;
use std::time::Duration;

use visor_engine::Stop;

use crate::account::Phase;
use crate::blocks::{Blocks, Run};
use crate::cpu::{Cpu, Mode, attention};
use crate::op::{Flow, Op, REG_BLOCK_RIP};
use crate::sys::{Activity, Event};
use crate::translate::Translator;

/// Blocks between two looks at the clock. A block is some tens of nanoseconds, so a timer is late by some microseconds.
const CLOCK_INTERVAL: u32 = 128;

/// Runs guest code until something of [`Stop`] arises.
pub(crate) fn run(cpu: &mut Cpu, blocks: &mut Blocks, mut translator: Option<&mut Translator>) -> Stop {
    let _listening = translator.as_mut().map(|t| t.attach(cpu));
    let mut fuel = 0u32;
    loop {
        if fuel == 0 || cpu.port.attention.load(Ordering::Relaxed) != 0 {
            fuel = CLOCK_INTERVAL;
            if let Some(stop) = attend(cpu, translator.as_deref_mut()) {
                return stop;
            }
        }
        fuel -= 1;
        if cpu.mode.single || cpu.shadow {
            step(cpu, blocks);
            fuel = 0;
        } else {
            advance(cpu, blocks, translator.as_deref_mut());
        }
        if cpu.halted || cpu.shutdown {
            fuel = 0;
        }
    }
}

/// Timers, interrupts, halts and kicks.
#[cold]
fn attend(cpu: &mut Cpu, mut translator: Option<&mut Translator>) -> Option<Stop> {
    loop {
        let why = cpu.port.attention.fetch_and(!(attention::KICK | attention::TIMER), Ordering::SeqCst);
        if why & attention::WORK != 0 {
            let changed = cpu.port.take_changed();
            if let Some(t) = &mut translator {
                t.invalidate(changed);
            }
        }
        if let Some(t) = &mut translator
            && why & attention::TIMER != 0
        {
            t.alarm_rang();
        }
        if why & attention::KICK != 0 {
            return Some(Stop::Kicked);
        }
        if cpu.port.attention.fetch_and(!attention::REMAP, Ordering::SeqCst) & attention::REMAP != 0 {
            cpu.mmu.flush_all();
        }
        cpu.tick_timer();
        match cpu.take_events() {
            Activity::Run => {
                cpu.reported_halt = false;
                return None;
            }
            Activity::Shutdown => return Some(Stop::TripleFault),
            Activity::Halted { maskable: false } if !cpu.reported_halt => {
                cpu.reported_halt = true;
                return Some(Stop::Halted);
            }
            Activity::Halted { .. } | Activity::WaitForSipi => {
                let timeout = cpu.time_to_timer();
                let asleep = cpu.account.enter(Phase::Idle);
                cpu.port.sleep(timeout);
                let ticks = cpu.account.leave(asleep);
                cpu.stats.exits.hlt.add(ticks);
            }
        }
    }
}

/// Translated code, or one interpreted block.
#[inline(always)]
fn advance(cpu: &mut Cpu, blocks: &mut Blocks, translator: Option<&mut Translator>) {
    if let Some(t) = translator {
        let before = cpu.account.enter(Phase::Translated);
        let ran = t.run(cpu);
        cpu.account.leave(before);
        match ran {
            Ok(true) => return,
            // Translated code may have changed how what follows has to be run.
            Ok(false) if cpu.mode.single || cpu.shadow => return,
            Ok(false) => {}
            Err(_) => return cpu.deliver(Event::Exception(cpu.fault)),
        }
    }
    let _ = go(cpu, blocks, cpu.mode);
}

/// One instruction with everything looked at around it: breakpoints, single-step, interrupt shadow.
#[cold]
fn step(cpu: &mut Cpu, blocks: &mut Blocks) {
    if cpu.before_single() {
        return;
    }
    let mode = Mode { single: true, ..cpu.mode };
    match go(cpu, blocks, mode) {
        Flow::Fault => {}
        flow => cpu.after_single(flow == Flow::Again),
    }
}

/// Executes the block at RIP, and says how it ended.
#[inline(always)]
fn go(cpu: &mut Cpu, blocks: &mut Blocks, mode: Mode) -> Flow {
    let lin = cpu.rip.wrapping_add(cpu.seg_base[1]);
    match blocks.find(cpu, lin, mode) {
        Ok(run) => execute(cpu, run),
        Err(_) => {
            cpu.deliver(Event::Exception(cpu.fault));
            Flow::Fault
        }
    }
}

#[inline(always)]
fn execute(cpu: &mut Cpu, run: Run) -> Flow {
    cpu.gpr[REG_BLOCK_RIP as usize] = cpu.rip;
    let mut op = run.first;
    // SAFETY: `find` promises at least one op, and that they live until its next call, which is not before this is done;
    // `block_end` only ever moves to an op among them.
    unsafe {
        cpu.block_end = run.end;
        let flow = loop {
            let flow = ((*op).run)(cpu, &*op);
            // One well predicted test for what nearly every instruction answers, rather than a jump table.
            if flow != Flow::Next {
                if flow != Flow::End {
                    leave(cpu, &*op, flow);
                }
                break flow;
            }
            let next = op.add(1);
            if next == cpu.block_end {
                cpu.rip = (*op).next_rip(cpu);
                break flow;
            }
            op = next;
        };
        cpu.stats.instructions += op.offset_from(run.first) as u64 + u64::from(flow != Flow::Fault);
        flow
    }
}

/// Makes RIP exact after `op` has ended a block with `flow`.
#[cold]
#[inline(never)]
pub(crate) fn leave(cpu: &mut Cpu, op: &Op, flow: Flow) {
    match flow {
        Flow::Again => cpu.rip = op.rip(cpu),
        Flow::Fault => {
            cpu.rip = if cpu.fault_is_trap { op.next_rip(cpu) } else { op.rip(cpu) };
            cpu.deliver(Event::Exception(cpu.fault));
        }
        Flow::Next | Flow::End => {}
    }
}

impl Cpu {
    /// Lets the local APIC's timer expire if its time has come.
    fn tick_timer(&mut self) {
        let now = self.now();
        if now.tsc >= self.timer_tsc {
            let port = self.port.clone();
            let mut apic = port.apic();
            apic.tick(now);
            if apic.has_pending() {
                port.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
            }
            drop(apic);
            self.rearm_timer();
        }
    }

    /// Recomputes `timer_tsc` after anything that may have moved the local APIC timer's deadline.
    pub(crate) fn rearm_timer(&mut self) {
        let now = self.now();
        self.timer_tsc = match self.port.apic().next_deadline(now) {
            Some(at) => now.tsc.saturating_add(self.clock.ticks(at.saturating_sub(now.nanos))),
            None => u64::MAX,
        };
    }

    /// How long a halted CPU may sleep, or `None` for as long as nothing wakes it.
    fn time_to_timer(&mut self) -> Option<Duration> {
        if self.timer_tsc == u64::MAX {
            return None;
        }
        Some(Duration::from_nanos(self.clock.nanos(self.timer_tsc.saturating_sub(self.now().tsc))))
    }
}
