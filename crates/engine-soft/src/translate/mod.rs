//! Tier 2: guest code becomes host code of the same instruction set.
//!
//! What is executed often enough is translated, unit by unit (`unit`), and stays in a cache (`cache`) until its bytes change or
//! the cache is full. Most instructions stay what they are (`native`), with registers renamed (`regs`) and memory operands checked
//! through the soft TLB (`address`); branches are linked to each other (`branch`, `map`); everything else, and every access
//! that the soft TLB does not serve, is a call of the interpreter for one instruction. The guest's flags are the host's
//! (`liveness` finds out which of them are needed), and so are the vector and x87 registers while code that uses them runs.
//!
//! - `unit`: a straight run of instructions; `liveness`: which flags they must preserve;
//! - `classify`: which instruction is translated how;
//! - `context`: what of the CPU's mode code is made for;
//! - `narrow`: what is different in 32-bit code;
//! - `hoist`: which accesses share a check;
//! - `joins`: branches within a unit; `unroll`: short loops, several turns in one unit;
//! - `turns`, `rounds`, `anchors`: loops that check for many turns at once;
//! - `asm`, `build`: code under construction;
//! - `system`, `state`: instructions on the system's state; `crossing`: SYSCALL and SYSRET; `strings`: REP MOVS and
//!   STOS;
//! - `stubs`, `frame`: the way in and out;
//! - `targets`: where indirect branches go;
//! - `map`: translations by place; `map/link`, `map/invalidate`: led to each other, and dropped;
//! - `dispatch`: the loop around it; `helpers`, `refill`: what code calls;
//! - `lockstep`: each unit executed by the interpreter as well, and compared;
//! - `tally`: what was handed to the interpreter;
//! - `verify`: proves that what was emitted touches nothing of the host's;
//! - `alarm`: how a timer gets translated code to come back.

mod address;
pub(crate) mod alarm;
mod anchors;
mod asm;
mod branch;
mod build;
mod cache;
mod classify;
mod context;
mod crossing;
mod dispatch;
pub(crate) mod frame;
mod helpers;
mod hoist;
mod joins;
mod liveness;
mod lockstep;
mod map;
mod narrow;
mod native;
mod refill;
mod regs;
mod rounds;
mod state;
mod strings;
mod stubs;
mod system;
mod tally;
mod targets;
mod turns;
mod unit;
mod unroll;
mod verify;

pub(crate) use dispatch::Translator;
pub(crate) use frame::{Frame, PAUSES};
pub(crate) use targets::Targets;

use build::{Build, Built};
use classify::Kind;
use unit::Insn;

/// Translates `unit`, which starts at offset `start` of its page.
fn translate(mut build: Build<'_>, unit: &[Insn], start: u16) -> Built {
    if build.page.is_none() {
        build.set_page(start);
    }
    let entry = build.asm.here() as u32;
    if build.host.count {
        // Each further turn of a loop counts for itself.
        let first = unit.iter().position(|insn| insn.again != 0).map_or(unit.len(), |closing| closing + 1);
        build.count(first as i32);
    }
    build.unit(unit, entry as usize);
    build.finish(start.into(), entry, unit.len() as u32)
}

fn one(b: &mut Build<'_>, insn: &Insn) {
    match insn.kind {
        Kind::Plain | Kind::Vector | Kind::X87 => {
            if !b.same(insn) {
                if b.leads() {
                    // Those who follow rely on it.
                    let start = b.asm.here();
                    let apart = b.asm.jmp();
                    b.go_apart(smallvec::smallvec![apart], start, insn);
                } else {
                    b.interpret(insn);
                }
            }
        }
        Kind::Nop => {}
        Kind::Pause => b.pause(insn),
        Kind::Lea => b.lea(insn),
        Kind::Push => b.push(insn),
        Kind::Pop => b.pop(insn),
        Kind::Leave => b.leave_frame(insn),
        Kind::Jcc => b.jcc(insn),
        Kind::Counted => b.counted(insn),
        Kind::Jmp => b.jmp(insn),
        Kind::Call => b.call(insn),
        Kind::Indirect | Kind::CallIndirect | Kind::Return => b.indirect(insn),
        Kind::System(what) => b.system(insn, what),
        Kind::Interpret { ends: false } => b.interpret(insn),
        Kind::Interpret { ends: true } => b.interpret_and_leave(insn),
    }
}
