//! Scenarios in which the host takes part: kicks, stops, saved states, DMA, two engines.
//!
//! Each returns the account of what went wrong, empty when all is well.

use std::time::{Duration, Instant};

use visor_engine::{Engine, EngineError, Gpa, GuestMemory, Stop};
use visor_x86::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

use crate::harness::{Access, Guest, Options, Watchdog, run};
use crate::image;

/// The time limit of one scenario.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A doubleword of guest RAM.
pub fn dword(memory: &GuestMemory, at: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.view().read_slice(&mut bytes, GuestAddress(at)).expect("the address is in RAM");
    u32::from_le_bytes(bytes)
}

/// A triple fault stops the CPU with [`Stop::TripleFault`], in the three ways there are.
///
/// # Errors
/// Those of the engine.
pub fn triple_fault(engine: &dyn Engine) -> Result<String, EngineError> {
    let mut text = String::new();
    for name in ["drive/triple-fault-16", "drive/triple-fault-32", "drive/triple-fault-64"] {
        let mut guest = Guest::new(engine, &image::program(name), 1)?;
        let stop = guest.run_boot(LIMIT)?;
        if stop != Stop::TripleFault {
            text += &format!("  {name}: {stop:?}\n");
        }
    }
    Ok(text)
}

/// HLT with interrupts off: [`Stop::Halted`] once; then the CPU sleeps until an NMI, and goes on behind HLT.
///
/// # Errors
/// Those of the engine.
pub fn halted(engine: &dyn Engine) -> Result<String, EngineError> {
    let mut guest = Guest::new(engine, &image::program("drive/halt"), 1)?;
    let mut text = String::new();
    let first = guest.run_boot(LIMIT)?;
    if first != Stop::Halted {
        text += &format!("  HLT with IF clear: {first:?}\n");
    }
    let second = guest.run_boot(Duration::from_millis(50))?;
    if second != Stop::Kicked || guest.ended() {
        text += &format!("  the second run did not sleep: {second:?}\n");
    }
    guest.vm.nmi();
    let outcome = guest.finish(LIMIT)?;
    Ok(text + &outcome.differences())
}

/// A kick ends `run` soon, from a tight loop, from HLT and from before the run; and nothing of the guest is lost.
///
/// # Errors
/// Those of the engine.
pub fn kick(engine: &dyn Engine) -> Result<String, EngineError> {
    let mut text = String::new();
    for name in ["drive/loop", "drive/loop-of-loops", "drive/halt-open", "drive/rep-loop", "drive/io-loop"] {
        let mut guest = Guest::new(engine, &image::program(name), 1)?;
        for round in 0..20 {
            let after = Duration::from_millis(if round == 0 { 50 } else { 3 });
            let begin = Instant::now();
            let stop = guest.run_boot(after)?;
            let late = begin.elapsed().saturating_sub(after);
            if stop != Stop::Kicked || late > Duration::from_millis(500) {
                text += &format!("  {name}, kick {round}: {stop:?} after {late:?}\n");
                break;
            }
        }
        guest.boot.kicker().kick();
        let begin = Instant::now();
        let stop = guest.run_boot(LIMIT)?;
        if stop != Stop::Kicked || begin.elapsed() > Duration::from_secs(1) {
            text += &format!("  {name}: a kick before the run was lost ({stop:?})\n");
        }
    }
    Ok(text)
}

/// A program is stopped again and again; its state is saved, restored into a fresh VM of `other`, and goes on there. The
/// result must be that of an undisturbed run.
///
/// # Errors
/// Those of the engines.
pub fn migrate(engine: &dyn Engine, other: &dyn Engine) -> Result<String, EngineError> {
    let mut text = String::new();
    for name in ["drive/compute-16", "drive/compute-32", "drive/compute-64"] {
        text += &migrate_one(engine, other, name)?;
    }
    Ok(text)
}

fn migrate_one(engine: &dyn Engine, other: &dyn Engine, name: &str) -> Result<String, EngineError> {
    let program = image::program(name);
    let whole = Guest::new(engine, &program, 1)?.finish(LIMIT)?;
    let mut text = whole.differences();
    let mut guest = Guest::new(engine, &program, 1)?;
    let mut moves = 0;
    while moves < 40 {
        // Half of the stops are where the guest asks for one, behind an OUT; the others are anywhere.
        if moves % 4 < 2 {
            guest.obey_stops();
        }
        guest.run_boot(Duration::from_millis(if moves % 4 < 2 { 5000 } else { 1 }))?;
        if guest.ended() {
            break;
        }
        let state = guest.boot.save()?;
        guest.boot.restore(&state)?;
        let again = guest.boot.save()?;
        text += &state_difference(name, &state, &again);
        let target = if moves % 2 == 0 { other } else { engine };
        guest = guest.moved_to(target, &state)?;
        moves += 1;
    }
    let outcome = guest.finish(LIMIT)?;
    text += &outcome.differences();
    if outcome.trace != whole.trace || outcome.exit != whole.exit {
        text += &format!("  {name}: after {moves} moves {:x?}, undisturbed {:x?}\n", outcome.trace, whole.trace);
    }
    if moves < 2 {
        text += &format!("  {name}: it ended after {moves} moves\n");
    }
    Ok(text)
}

/// What a save, restore and save changed, but for what follows time.
fn state_difference(name: &str, before: &CpuState, after: &CpuState) -> String {
    let timeless = |s: &CpuState| {
        let mut s = s.clone();
        s.msrs.retain(|m| m.0 != 0x10);
        s
    };
    let (before, after) = (timeless(before), timeless(after));
    if before == after { String::new() } else { format!("  {name}: saved {before:x?}\n  then {after:x?}\n") }
}

/// The reset vector: CPU 0 starts at FFFFFFF0h, where this machine has no RAM and so finds all ones.
///
/// # Errors
/// Those of the engine.
pub fn reset_state(engine: &dyn Engine) -> Result<String, EngineError> {
    let mut guest = Guest::bare(engine, 2)?;
    let state = guest.boot.save()?;
    let want = CpuState::default();
    let mut text = String::new();
    let mut check = |what: &str, good: bool| {
        if !good {
            text += &format!("  after reset: {what}\n");
        }
    };
    check("CS:RIP", state.seg[1] == want.seg[1] && state.rip == want.rip);
    check("RFLAGS", state.rflags == 2);
    check("CR0", state.cr0 == want.cr0);
    check("CR4, EFER", state.cr4 == 0 && state.efer == 0);
    check("GDTR, IDTR", state.gdtr == want.gdtr && state.idtr == want.idtr);
    check("data segments", [0, 2, 3, 4, 5].iter().all(|&i| state.seg[i] == want.seg[i]));
    check("CPU 0 runs", !state.wait_for_sipi && !state.halted);
    let second = guest.others[0].save()?;
    check("CPU 1 waits for a start-up IPI", second.wait_for_sipi);
    let kicker = guest.others[0].kicker();
    let begin = Instant::now();
    let watch = Watchdog::new(vec![kicker], Duration::from_millis(30));
    let stop = guest.run_other(0)?;
    drop(watch);
    check("a waiting CPU can be kicked", stop == Stop::Kicked && begin.elapsed() < Duration::from_secs(2));
    Ok(text)
}

/// Devices see accesses with the size and at the address that the guest used, each once and in order.
///
/// # Errors
/// Those of the engine.
pub fn accesses(engine: &dyn Engine) -> Result<String, EngineError> {
    let outcome = run(engine, &image::program("io/mmio-sizes"), Options::default())?;
    let at = |offset: u64| Gpa(0xd000_0000 + offset);
    // The program loads a checked quadword twice.
    let q = Access::Load { at: at(0), value: 0x1122_3344_5566_7788, size: 8 };
    let want = [
        Access::Store { at: at(0), value: 0x1122_3344_5566_7788, size: 8 },
        q,
        q,
        Access::Store { at: at(8), value: 0xaabb_ccdd, size: 4 },
        Access::Load { at: at(8), value: 0xaabb_ccdd, size: 4 },
        Access::Store { at: at(8), value: 0x1234, size: 2 },
        Access::Load { at: at(8), value: 0xaabb_1234, size: 4 },
        Access::Store { at: at(11), value: 0x99, size: 1 },
        Access::Load { at: at(8), value: 0x99bb_1234, size: 4 },
        Access::Load { at: at(9), value: 0x12, size: 1 },
        Access::Load { at: at(11), value: 0x99, size: 1 },
        Access::Load { at: at(10), value: 0x99bb, size: 2 },
    ];
    let mut text = difference("io/mmio-sizes", &outcome.accesses, &want);
    let outcome = run(engine, &image::program("io/strings"), Options::default())?;
    let out = |value| Access::Out { port: 0x208, value, size: 4 };
    let start = outcome.accesses.get(..2).unwrap_or_default();
    text += &difference("io/strings", start, &[out(0x4433_2211), out(0x8877_6655)]);
    let words = |a: &&Access| matches!(a, Access::In { port: 0x208, size: 2, .. });
    let bytes = |a: &&Access| matches!(a, Access::In { port: 0x208, size: 1, .. });
    let counts = (outcome.accesses.iter().filter(words).count(), outcome.accesses.iter().filter(bytes).count());
    if counts != (3, 2 + 0x200) {
        text += &format!("  io/strings: {counts:?} IN of words and bytes\n");
    }
    let outcome = run(engine, &image::program("irq/level-eoi"), Options::default())?;
    let eois = outcome.accesses.iter().filter(|a| **a == Access::Eoi { vector: 0x61 }).count();
    if eois != 1 {
        text += &format!("  irq/level-eoi: the machine saw {eois} ends of interrupt 61h\n");
    }
    Ok(text)
}

fn difference(name: &str, got: &[Access], want: &[Access]) -> String {
    let mut text = String::new();
    for n in 0..got.len().max(want.len()) {
        if got.get(n) != want.get(n) {
            text += &format!("  {name}, access {n}: got {:x?}, want {:x?}\n", got.get(n), want.get(n));
        }
    }
    text
}
