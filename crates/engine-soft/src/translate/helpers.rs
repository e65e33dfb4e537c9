//! What translated code calls.

use std::sync::atomic::Ordering;

use visor_memory::Frame;

use super::build::{NO_SITE, Site};
use super::context::Context;
use super::map::{Lowered, Map};
use crate::cpu::{Cpu, Mode, attention};
use crate::decode::lower;
use crate::op::{Flow, Op, REG_BLOCK_RIP};
use crate::run::leave;

/// Executes the instruction of site `site`. 0: translated code goes on behind it; 1: RIP is exact.
pub(super) extern "sysv64" fn interpret(cpu: *mut Cpu, site: u64) -> u32 {
    // SAFETY: called by translated code of this CPU, whose `run` is on the stack and touches neither meanwhile; the translator
    // is not part of the CPU.
    let (cpu, translator) = unsafe { (&mut *cpu, &mut *(*cpu).frame.translator) };
    translator.stats.interpreted += 1;
    translator.tally.add(translator.map.sites[site as usize].site.ins.mnemonic());
    let before = Surroundings::of(cpu);
    u32::from(
        !execute(cpu, &mut translator.map, site as u32) && !before.last(cpu, &translator.map.sites[site as usize].site),
    )
}

/// Fills the TLB for the instruction of site `site`, if that is what it lacks, and answers 2: try again. Otherwise as
/// [`interpret`].
pub(super) extern "sysv64" fn refill(cpu: *mut Cpu, site: u64) -> u32 {
    // SAFETY: as in `interpret`.
    let (cpu, translator) = unsafe { (&mut *cpu, &mut *(*cpu).frame.translator) };
    if super::refill::refill(cpu, &translator.map.sites[site as usize].site) {
        translator.stats.refills += 1;
        return 2;
    }
    translator.stats.interpreted += 1;
    translator.tally.add(translator.map.sites[site as usize].site.ins.mnemonic());
    translator.branched = Some(site as u32);
    u32::from(!execute(cpu, &mut translator.map, site as u32))
}

/// As [`refill`] for an instruction that loads. If what it loads lies in two pages, collects it and answers 3.
pub(super) extern "sysv64" fn load(cpu: *mut Cpu, site: u64) -> u32 {
    // SAFETY: as in `interpret`.
    let (guest, translator) = unsafe { (&mut *cpu, &mut *(*cpu).frame.translator) };
    if super::refill::straddle(guest, &translator.map.sites[site as usize].site) {
        return 3;
    }
    refill(cpu, site)
}

/// Fills the TLB for the instruction of site `site` and answers 2, or 0 if that is not what it lacks.
pub(super) extern "sysv64" fn only_refill(cpu: *mut Cpu, site: u64) -> u32 {
    // SAFETY: as in `interpret`.
    let (cpu, translator) = unsafe { (&mut *cpu, &mut *(*cpu).frame.translator) };
    if super::refill::refill(cpu, &translator.map.sites[site as usize].site) { 2 } else { 0 }
}

/// `info` / 2^32 bytes were stored at `host`, in a frame with code, by the instruction of site `info` % 2^32 (or by one that goes
/// on in any case). 0: goes on; 1: RIP is exact, behind the instruction.
pub(super) extern "sysv64" fn wrote_code(cpu: *mut Cpu, host: u64, info: u64) -> u32 {
    // SAFETY: as in `interpret`.
    let (cpu, translator) = unsafe { (&mut *cpu, &mut *(*cpu).frame.translator) };
    let at = host.wrapping_sub(cpu.mmu.ram_base);
    let hit = cpu.ram.frames().wrote(Frame((at >> 12) as u32), at & 0xfff, info >> 32);
    translator.stats.checked_writes += 1;
    let site = info as u32;
    if !hit || site == NO_SITE {
        return 0;
    }
    let site = &translator.map.sites[site as usize].site;
    let page = site.page.unwrap_or(cpu.gpr[usize::from(REG_BLOCK_RIP)]);
    cpu.rip = page.wrapping_add(u64::from(site.off) + site.ins.len() as u64) & cpu.rip_mask;
    1
}

/// Executes one instruction of translated code, which its unit has counted; true if the code may go on behind it, otherwise RIP is exact.
pub(super) fn execute(cpu: &mut Cpu, map: &mut Map, site: u32) -> bool {
    let state = &mut map.sites[site as usize];
    if let Some(page) = state.site.page {
        cpu.gpr[usize::from(REG_BLOCK_RIP)] = page;
    }
    let (ins, off, mode) = (&state.site.ins, state.site.off, cpu.mode);
    let lowered = state.op.get_or_insert_with(|| prepare(cpu, ins, mode, off));
    let (op, ends): (*const Op, bool) = (&raw const lowered.op, lowered.ends);
    // SAFETY: in a box that nobody drops before the next instruction.
    let op = unsafe { &*op };
    // It is a block of its own: STI, for one, asks whether it is the last one.
    cpu.block_end = std::ptr::from_ref(op).wrapping_add(1);
    let flow = (op.run)(cpu, op);
    if flow == Flow::Next {
        // Whoever writes to code sets this.
        let changed = cpu.port.attention.load(Ordering::Relaxed) & attention::WORK != 0;
        cpu.rip = op.next_rip(cpu);
        return !ends && !changed;
    } else if flow != Flow::End {
        leave(cpu, op, flow);
    }
    false
}

/// What translated code relies on that instructions may change behind which a unit goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Surroundings {
    context: Option<Context>,
    generation: u64,
    /// Deadlines are the business of the loop around translated code.
    timer: u64,
    /// See [`crate::mmu::Mmu`].
    window: u64,
}

impl Surroundings {
    fn of(cpu: &Cpu) -> Self {
        let page = cpu.gpr[usize::from(REG_BLOCK_RIP)];
        Surroundings {
            context: Context::of(cpu),
            generation: cpu.mmu.generation(page),
            timer: cpu.timer_tsc,
            window: cpu.mmu.window,
        }
    }

    /// The instruction of `site`, which may have changed all that, has been executed and RIP is exact: code behind it may go on all the
    /// same. What generated code finds through GS is seen to.
    fn last(self, cpu: &Cpu, site: &Site) -> bool {
        let now = Surroundings::of(cpu);
        let page = cpu.gpr[usize::from(REG_BLOCK_RIP)];
        let next = page.wrapping_add(u64::from(site.off) + site.ins.len() as u64) & cpu.rip_mask;
        let quiet = cpu.port.attention.load(Ordering::Relaxed) == 0 && !cpu.halted && !cpu.shutdown;
        if (Surroundings { window: self.window, ..now }) != self || cpu.rip != next || !quiet {
            return false;
        }
        now.window == self.window || cpu.frame.sets_gs && set_window(now.window)
    }
}

/// Another GS base, which programs must be able to set.
fn set_window(window: u64) -> bool {
    // SAFETY: the kernel permits it (the caller has looked), and nothing but translated code uses GS.
    unsafe { std::arch::asm!("wrgsbase {}", in(reg) window, options(nostack, preserves_flags)) };
    true
}

fn prepare(cpu: &mut Cpu, ins: &iced_x86::Instruction, mode: Mode, off: u16) -> Box<Lowered> {
    let lowered = lower(cpu, ins, mode, off);
    Box::new(Lowered { op: lowered.op, ends: lowered.ends })
}
