//! Instructions on the system flags: CLI, STI, PUSHF, POPF, CLAC, STAC, with IOPL, VME and PVI (SDM 3A §20.3, §20.4).

use std::sync::atomic::Ordering;

use visor_x86::exception::Exception;
use visor_x86::regs::{Cr4, Rflags};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::SS;
use crate::sys::operand::end;

const IF: u64 = Rflags::IF.bits();
const TF: u64 = Rflags::TF.bits();
const RF: u64 = Rflags::RF.bits();
const VM: u64 = Rflags::VM.bits();
const AC: u64 = Rflags::AC.bits();
const IOPL: u64 = Rflags::IOPL.bits();
const VIF: u64 = Rflags::VIF.bits();
const VIP: u64 = Rflags::VIP.bits();

/// Flags that POPF and IRET change at any privilege level, with 32-bit operands.
pub(super) const ANY_RING: u64 =
    Rflags::STATUS.bits() | TF | Rflags::DF.bits() | Rflags::NT.bits() | AC | Rflags::ID.bits();

/// Which flag CLI, STI and the 16-bit PUSHF and POPF work on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InterruptFlag {
    Real,
    Virtual,
    Forbidden,
}

impl Cpu {
    /// In virtual-8086 mode: IOPL 3 gives the real flag, CR4.VME the virtual one.
    pub(super) fn v86_flag(&self) -> InterruptFlag {
        match (self.iopl(), self.cr4 & Cr4::VME.bits() != 0) {
            (3, _) => InterruptFlag::Real,
            (_, true) => InterruptFlag::Virtual,
            (_, false) => InterruptFlag::Forbidden,
        }
    }

    fn sti_flag(&self) -> InterruptFlag {
        if self.is_v86() {
            self.v86_flag()
        } else if self.cpl <= self.iopl() {
            InterruptFlag::Real
        } else if self.cpl == 3 && self.cr4 & Cr4::PVI.bits() != 0 {
            InterruptFlag::Virtual
        } else {
            InterruptFlag::Forbidden
        }
    }

    /// Replaces those bits of RFLAGS that are in `mask`, and has the consequences seen to. True if the block must end.
    pub(super) fn change_flags(&mut self, value: u64, mask: u64) -> bool {
        let old = self.rflags();
        let new = (old & !mask) | (value & mask);
        self.set_rflags(new);
        let changed = old ^ new;
        if changed & AC != 0 {
            self.privilege_changed();
        }
        if changed & (TF | RF) != 0 {
            self.single_changed();
        }
        let opened = changed & new & IF != 0;
        if opened {
            self.interrupts_opened();
        }
        changed & (TF | RF) != 0 || (opened && self.irq_waiting)
    }
}

/// CLI.
pub(super) fn cli(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    match cpu.sti_flag() {
        InterruptFlag::Real => cpu.sysflags &= !IF,
        InterruptFlag::Virtual => cpu.sysflags &= !VIF,
        InterruptFlag::Forbidden => return cpu.fail(Exception::gp(0)),
    }
    Ok(Flow::Next)
}

/// STI.
pub(super) fn sti(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    match cpu.sti_flag() {
        InterruptFlag::Real => {}
        InterruptFlag::Virtual if cpu.sysflags & VIP == 0 => {
            cpu.sysflags |= VIF;
            return Ok(Flow::Next);
        }
        _ => return cpu.fail(Exception::gp(0)),
    }
    if cpu.sysflags & IF != 0 {
        return Ok(Flow::Next);
    }
    cpu.sysflags |= IF;
    // Within a block nothing interrupts, so the next instruction is held off by itself; only where something waits or
    // the block ends here must the run loop take the one instruction apart.
    let last = std::ptr::from_ref(op).wrapping_add(1) == cpu.block_end;
    if !last && !cpu.irq_waiting && cpu.port.attention.load(Ordering::Relaxed) == 0 {
        return Ok(Flow::Next);
    }
    cpu.shadow = true;
    cpu.interrupts_opened();
    cpu.single_changed();
    end(cpu, op)
}

/// PUSHF.
pub(super) fn pushf(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let mut image = cpu.rflags() & !(RF | VM);
    if cpu.is_v86() {
        match cpu.v86_flag() {
            InterruptFlag::Real => {}
            InterruptFlag::Virtual if op.aux == 2 => image = virtual_image(image),
            _ => return cpu.fail(Exception::gp(0)),
        }
    }
    let size = u64::from(op.aux);
    let rsp = cpu.gpr[4].wrapping_sub(size) & cpu.stack_mask;
    let lin = cpu.stack_linear(rsp, size, true)?;
    cpu.write_sized(lin, SS as u8, op.aux, image, op)?;
    cpu.set_sp(rsp);
    Ok(Flow::Next)
}

/// FLAGS as virtual-8086 code with VME sees them: VIF in the place of IF, IOPL 3.
pub(super) fn virtual_image(flags: u64) -> u64 {
    (flags & !IF) | if flags & VIF != 0 { IF } else { 0 } | IOPL
}

/// POPF.
pub(super) fn popf(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let mut virtual_flag = false;
    if cpu.is_v86() {
        match cpu.v86_flag() {
            InterruptFlag::Real => {}
            InterruptFlag::Virtual if op.aux == 2 => virtual_flag = true,
            _ => return cpu.fail(Exception::gp(0)),
        }
    }
    let [image] = cpu.peek_stack(0, op.aux)?;
    let mut value = image & !RF;
    let mut mask = ANY_RING | RF;
    if virtual_flag {
        if image & TF != 0 || (image & IF != 0 && cpu.sysflags & VIP != 0) {
            return cpu.fail(Exception::gp(0));
        }
        value = (value & !VIF) | if image & IF != 0 { VIF } else { 0 };
        mask |= VIF;
    } else {
        mask |= cpu.privileged_flags();
    }
    if op.aux == 2 {
        mask &= 0xffff | VIF;
    }
    cpu.drop_stack(u64::from(op.aux));
    if cpu.change_flags(value, mask) { end(cpu, op) } else { Ok(Flow::Next) }
}

impl Cpu {
    /// IF and IOPL, as far as POPF and IRET may change them at the current CPL.
    pub(super) fn privileged_flags(&self) -> u64 {
        let iopl = if self.cpl == 0 { IOPL } else { 0 };
        let interrupt = if self.cpl <= self.iopl() { IF } else { 0 };
        iopl | interrupt
    }
}

/// CLAC.
pub(super) fn clac(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    set_ac(cpu, op, false)
}

/// STAC.
pub(super) fn stac(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    set_ac(cpu, op, true)
}

fn set_ac(cpu: &mut Cpu, _op: &Op, on: bool) -> Guest<Flow> {
    if cpu.cpl != 0 {
        return cpu.fail(Exception::UD);
    }
    cpu.sysflags = (cpu.sysflags & !AC) | if on { AC } else { 0 };
    cpu.privilege_changed();
    Ok(Flow::Next)
}
