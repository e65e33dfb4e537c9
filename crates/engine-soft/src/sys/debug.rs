//! Debug registers, breakpoints and single-stepping (SDM 3B §18.2, §18.3).

use visor_x86::exception::{Exception, Vector};
use visor_x86::regs::{Cr4, Rflags};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::event::Event;
use crate::sys::operand::end;

/// DR6: single step.
pub(super) const BS: u64 = 1 << 14;
/// DR6: debug register access detected.
const BD: u64 = 1 << 13;
/// DR6: task switch.
pub(super) const BT: u64 = 1 << 15;
/// DR7: general detect.
const GD: u64 = 1 << 13;
/// DR6 bits that read as one.
const DR6_FIXED: u64 = 0xffff_0ff0;
/// DR6 bits that software may change.
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7 bits that software may change.
const DR7_WRITABLE: u64 = 0xffff_23ff;
/// DR7: bit 10 reads as one.
const DR7_FIXED: u64 = 1 << 10;

/// What debugging keeps between instructions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debug {
    /// DR6 bits of a debug trap to be taken at the next instruction boundary.
    pub(crate) pending: u64,
    /// TF was set when the running instruction began.
    stepping: bool,
    /// RF was set when it began.
    resumed: bool,
    /// The interrupt shadow was in force when it began.
    shadowed: bool,
    /// Debug exceptions are held off until after the next instruction (MOV SS, POP SS; SDM 3A §6.8.3).
    held: bool,
    /// They were when the running instruction began.
    was_held: bool,
}

impl Cpu {
    /// In single mode ([`crate::cpu::Mode::single`]), before the instruction at `cpu.rip`: instruction breakpoints. True
    /// if a #DB was delivered instead, so that the run loop starts over.
    pub(crate) fn before_single(&mut self) -> bool {
        self.debug.stepping = self.sysflags & Rflags::TF.bits() != 0;
        self.debug.resumed = self.sysflags & Rflags::RF.bits() != 0;
        self.debug.shadowed = self.shadow;
        self.debug.was_held = self.debug.held;
        if self.debug.resumed || self.debug.held || self.dr7 & 0xff == 0 {
            return false;
        }
        let lin = self.rip.wrapping_add(self.seg_base[1]);
        let lin = if self.is_64() { lin } else { lin & 0xffff_ffff };
        let hit = self.breakpoints(lin, 1, |rw| rw == 0);
        if hit & self.enabled_breakpoints() == 0 {
            return false;
        }
        self.deliver(Event::Exception(Exception { vector: Vector::Debug, error: 0, info: hit }));
        true
    }

    /// In single mode, after an instruction (also after one that returned [`Flow::Again`], with `again` set, but not after a
    /// fault), `cpu.rip` being exact: ends the interrupt shadow, clears RF, arms the TF trap, which
    /// [`Cpu::take_events`] then delivers.
    pub(crate) fn after_single(&mut self, again: bool) {
        if self.debug.stepping {
            self.debug.pending |= BS;
        }
        // RF covers one instruction; an IRET that has just set it covers the next one.
        if self.debug.resumed && !again {
            self.sysflags &= !Rflags::RF.bits();
        }
        if self.debug.shadowed {
            self.shadow = false;
            self.interrupts_opened();
        }
        if self.debug.was_held {
            self.release_debug();
        }
        self.single_changed();
    }

    /// No trap follows the running instruction although TF was set when it began.
    pub(super) fn cancel_step(&mut self) {
        self.debug.stepping = false;
    }

    /// MOV SS and POP SS: no debug exception before the end of the next instruction.
    pub(super) fn hold_debug(&mut self) {
        self.debug.stepping = false;
        self.debug.held = true;
    }

    /// Debug exceptions are no longer held off: the next instruction has ended, or another event comes before it.
    pub(super) fn release_debug(&mut self) {
        (self.debug.held, self.debug.was_held) = (false, false);
    }

    /// A debug trap is to be taken before the next instruction.
    pub(super) fn debug_trap_due(&self) -> bool {
        self.debug.pending != 0 && !self.debug.held
    }

    /// SYSCALL and SYSRET: the trap follows if TF is set *after* them.
    pub(super) fn step_by_new_flags(&mut self) {
        // They may not be run one by one: TF can have been clear before.
        self.debug.stepping = false;
        if self.sysflags & Rflags::TF.bits() != 0 {
            self.debug.pending |= BS;
            self.look_again();
        }
    }

    /// IRET and task switches: RF as they loaded it counts for the next instruction.
    pub(super) fn keep_rf(&mut self) {
        self.debug.resumed = false;
    }

    /// DR6 and DR7 at the delivery of a debug exception with cause `info`.
    pub(super) fn debug_status(&mut self, info: u64) {
        self.dr6 = (self.dr6 & !0xf) | info | DR6_FIXED;
        self.dr7 &= !GD;
        self.debug.pending = 0;
        self.single_changed();
    }

    /// A data access by the running instruction, on the slow path, which all accesses to watched pages take.
    pub(crate) fn watch_access(&mut self, lin: u64, len: u64, write: bool) {
        if !self.mmu.is_watched(lin) {
            return;
        }
        let hit = self.breakpoints(lin, len, |rw| rw == 3 || (write && rw == 1));
        self.hit_trap(hit);
    }

    /// A port access by the running instruction.
    pub(super) fn watch_port(&mut self, port: u16, len: u64) {
        if self.dr7 & 0xff != 0 && self.cr4 & Cr4::DE.bits() != 0 {
            let hit = self.breakpoints(u64::from(port), len, |rw| rw == 2);
            self.hit_trap(hit);
        }
    }

    fn hit_trap(&mut self, hit: u64) {
        if hit & self.enabled_breakpoints() != 0 {
            self.debug.pending |= hit;
            self.single_changed();
        }
    }

    /// One bit per breakpoint, enabled or not, that covers `len` bytes at `at` and whose R/W field `kind` accepts.
    fn breakpoints(&self, at: u64, len: u64, kind: impl Fn(u64) -> bool) -> u64 {
        let mut hit = 0;
        for i in 0..4 {
            let control = self.dr7 >> (16 + 4 * i);
            // LEN: 1, 2, 8, 4 bytes, and the address is aligned to it.
            let size = [1, 2, 8, 4][(control >> 2) as usize & 3];
            let start = self.dr[i] & !(size - 1);
            let overlap = start.wrapping_sub(at) < len || at.wrapping_sub(start) < size;
            if kind(control & 3) && overlap {
                hit |= 1 << i;
            }
        }
        hit
    }

    /// One bit per breakpoint that DR7 enables, locally or globally.
    fn enabled_breakpoints(&self) -> u64 {
        (0..4).filter(|i| self.dr7 >> (2 * i) & 3 != 0).fold(0, |bits, i| bits | 1 << i)
    }

    /// Makes accesses to pages with data breakpoints take the slow path.
    pub(super) fn breakpoints_changed(&mut self) {
        let enabled = self.enabled_breakpoints();
        let pages = std::array::from_fn(|i| {
            let data = self.dr7 >> (16 + 4 * i) & 1 == 1;
            (data && enabled >> i & 1 == 1).then_some(self.dr[i])
        });
        self.mmu.watch(pages);
        self.single_changed();
    }

    /// Sets DR7 to what bits of `value` exist.
    pub(super) fn set_dr7(&mut self, value: u64) {
        self.dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
        self.breakpoints_changed();
    }

    /// Sets DR6 to what bits of `value` exist.
    pub(super) fn set_dr6(&mut self, value: u64) {
        self.dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    }
}

/// Checks an access to debug register `n`; returns its number with DR4 and DR5 resolved.
fn access(cpu: &mut Cpu, n: u64) -> Guest<usize> {
    let n = match n {
        4 | 5 if cpu.cr4 & Cr4::DE.bits() != 0 => return cpu.fail(Exception::UD),
        4 | 5 => n as usize + 2,
        0..8 => n as usize,
        _ => return cpu.fail(Exception::UD),
    };
    if cpu.cpl != 0 {
        return cpu.fail(Exception::gp(0));
    }
    if cpu.dr7 & GD != 0 {
        return cpu.fail(Exception { vector: Vector::Debug, error: 0, info: BD });
    }
    Ok(n)
}

/// MOV r, DRn.
pub(super) fn mov_from_dr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let n = access(cpu, op.imm)?;
    let value = match n {
        6 => cpu.dr6,
        7 => cpu.dr7,
        n => cpu.dr[n],
    };
    let size = if cpu.is_64() { 8 } else { 4 };
    cpu.reg_put(op.r0, size, value);
    Ok(Flow::Next)
}

/// MOV DRn, r.
pub(super) fn mov_to_dr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let n = access(cpu, op.imm)?;
    let value = cpu.reg_get(op.r0, if cpu.is_64() { 8 } else { 4 });
    if n >= 6 && value >> 32 != 0 {
        return cpu.fail(Exception::gp(0));
    }
    match n {
        6 => cpu.set_dr6(value),
        7 => cpu.set_dr7(value),
        n => {
            cpu.dr[n] = value;
            cpu.breakpoints_changed();
        }
    }
    end(cpu, op)
}
