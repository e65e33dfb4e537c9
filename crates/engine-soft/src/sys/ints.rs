//! INT n, INT3, INTO, INT1 (SDM 2A, INT n; SDM 3A §20.2, §20.3 for virtual-8086 mode).

use visor_x86::exception::Exception;
use visor_x86::regs::{Cr4, Rflags};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::CS;
use crate::sys::flags::virtual_image;
use crate::sys::interrupt::{Cause, Delivery};

fn software(cpu: &mut Cpu, op: &Op, vector: u8, cause: Cause) -> Guest<Flow> {
    let d = Delivery { vector, cause, error: None, rip: op.next_rip(cpu), flags: cpu.rflags() };
    cpu.enter(&d)?;
    // The handler starts with TF clear: nothing traces into it.
    cpu.cancel_step();
    Ok(Flow::End)
}

/// INT n.
pub(super) fn int_n(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let vector = op.imm as u8;
    if cpu.is_v86() {
        if cpu.cr4 & Cr4::VME.bits() != 0 && !cpu.redirected(vector)? {
            return cpu.enter_8086(op, vector);
        }
        if cpu.iopl() < 3 {
            return cpu.fail(Exception::gp(0));
        }
    }
    software(cpu, op, vector, Cause::Software)
}

/// INT3.
pub(super) fn int3(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    software(cpu, op, 3, Cause::Software)
}

/// INTO.
pub(super) fn into(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if cpu.is_64() {
        return cpu.fail(Exception::UD);
    }
    if cpu.status & Rflags::OF.bits() == 0 {
        return Ok(Flow::Next);
    }
    software(cpu, op, 4, Cause::Software)
}

/// INT1 (ICEBP).
pub(super) fn int1(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    // A data breakpoint that a load of SS before it held off is reported by the same #DB (SDM 3A §6.8.3).
    let held = cpu.debug.pending;
    let flow = software(cpu, op, 1, Cause::Int1)?;
    if held != 0 {
        cpu.debug_status(held);
    }
    Ok(flow)
}

/// UD0, UD1, UD2 and whatever does not exist.
pub(super) fn ud(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    cpu.fail(Exception::UD)
}

impl Cpu {
    /// The software interrupt redirection bitmap, 32 bytes below the I/O permission map, sends `vector` to the
    /// protected-mode handler (SDM 3A §20.3.3.1).
    fn redirected(&mut self, vector: u8) -> Guest<bool> {
        let limit = u64::from(self.tr.limit);
        if self.tr.attr.unusable() || self.tr.attr.kind() & 8 == 0 || limit < 0x67 {
            return self.fail(Exception::gp(0));
        }
        let map = u64::from(self.sys_read::<u16>(self.tr.base.wrapping_add(0x66))?);
        let at = map.wrapping_sub(32).wrapping_add(u64::from(vector / 8));
        if at > limit {
            return self.fail(Exception::gp(0));
        }
        let byte = self.sys_read::<u8>(self.tr.base.wrapping_add(at))?;
        Ok(byte >> (vector % 8) & 1 != 0)
    }

    /// Enters the 8086 program's own handler, through the interrupt table at linear address 0.
    fn enter_8086(&mut self, op: &Op, vector: u8) -> Guest<Flow> {
        let target = u64::from(self.read::<u32>(u64::from(vector) * 4, 3)?);
        let virtual_if = self.iopl() < 3;
        let image = if virtual_if { virtual_image(self.rflags()) } else { self.rflags() };
        let mut stack = self.current_stack(0);
        let next = op.next_rip(self);
        stack.push_all(self, 2, &[image, u64::from(self.seg[CS].selector), next])?;
        self.set_sp(stack.rsp);
        let clear = if virtual_if { Rflags::VIF } else { Rflags::IF };
        self.sysflags &= !(Rflags::TF | Rflags::NT | clear).bits();
        let cs = self.real_segment(CS, (target >> 16) as u16);
        self.commit_code(cs, 3, target & 0xffff);
        self.cancel_step();
        Ok(Flow::End)
    }
}
