//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel semantics), SWAPGS and FSGSBASE.

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::regs::{Cr4, Efer, Rflags};
use visor_x86::segment::{SegAttr, Segment};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::{CS, FS, GS, SS};

const CODE64: u32 = 0xa09b;
const CODE32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const RING3: u32 = 0x60;
/// RFLAGS bits that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

fn flat(selector: u16, attr: u32) -> Segment {
    Segment { selector, base: 0, limit: 0xffff_ffff, attr: SegAttr(attr) }
}

/// SYSCALL.
pub(super) fn syscall(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if cpu.efer & Efer::SCE.bits() == 0 {
        return cpu.fail(Exception::UD);
    }
    if !cpu.is_64() {
        return cpu.syscall_amd(op);
    }
    let flags = cpu.rflags() & !Rflags::RF.bits();
    cpu.gpr[1] = op.next_rip(cpu);
    cpu.gpr[11] = flags;
    let selector = (cpu.msr.star >> 32) as u16 & !3;
    cpu.seg[CS] = flat(selector, CODE64);
    cpu.seg[SS] = flat(selector.wrapping_add(8), DATA);
    cpu.cpl = 0;
    cpu.rip = cpu.msr.lstar;
    cpu.set_rflags(flags & !cpu.msr.fmask);
    // The code stays 64-bit, so nothing but the rights and single-stepping can have changed.
    cpu.privilege_changed();
    cpu.step_by_new_flags();
    cpu.single_changed();
    Ok(Flow::End)
}

/// SYSRET. `aux` 8: to 64-bit mode.
pub(super) fn sysret(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if !cpu.is_64() || cpu.efer & Efer::SCE.bits() == 0 {
        return cpu.fail(Exception::UD);
    }
    let wide = op.aux == 8;
    if cpu.cpl != 0 || (wide && !is_canonical(cpu.gpr[1])) {
        return cpu.fail(Exception::gp(0));
    }
    let base = (cpu.msr.star >> 48) as u16;
    let cs = if wide { base.wrapping_add(16) } else { base };
    cpu.seg[CS] = flat(cs | 3, RING3 | if wide { CODE64 } else { CODE32 });
    cpu.seg[SS] = flat(base.wrapping_add(8) | 3, RING3 | DATA);
    cpu.cpl = 3;
    cpu.rip = if wide { cpu.gpr[1] } else { cpu.gpr[1] & 0xffff_ffff };
    cpu.set_rflags(cpu.gpr[11] & SYSRET_FLAGS);
    cpu.step_by_new_flags();
    if wide {
        cpu.privilege_changed();
        cpu.single_changed();
    } else {
        cpu.mode_changed();
    }
    cpu.interrupts_opened();
    Ok(Flow::End)
}

/// SYSENTER.
pub(super) fn sysenter(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    let selector = cpu.msr.sysenter_cs as u16 & !3;
    if cpu.is_real() || selector == 0 {
        return cpu.fail(Exception::gp(0));
    }
    let long = cpu.long_mode();
    let mask = if long { !0 } else { 0xffff_ffff };
    cpu.sysflags &= !(Rflags::VM | Rflags::IF | Rflags::RF).bits();
    cpu.gpr[4] = cpu.msr.sysenter_esp & mask;
    cpu.seg[SS] = flat(selector.wrapping_add(8), DATA);
    let rip = cpu.msr.sysenter_eip & mask;
    cpu.commit_code(flat(selector, if long { CODE64 } else { CODE32 }), 0, rip);
    Ok(Flow::End)
}

/// SYSEXIT. `aux` 8: to 64-bit mode.
pub(super) fn sysexit(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let selector = cpu.msr.sysenter_cs as u16 & !3;
    let wide = op.aux == 8;
    let (rsp, rip) = (cpu.gpr[1], cpu.gpr[2]);
    let bad = wide && !(is_canonical(rsp) && is_canonical(rip));
    if cpu.is_real() || selector == 0 || cpu.cpl != 0 || bad {
        return cpu.fail(Exception::gp(0));
    }
    let mask = if wide { !0 } else { 0xffff_ffff };
    let cs = selector.wrapping_add(if wide { 32 } else { 16 }) | 3;
    cpu.gpr[4] = rsp & mask;
    cpu.seg[SS] = flat(cs.wrapping_add(8), RING3 | DATA);
    cpu.commit_code(flat(cs, RING3 | if wide { CODE64 } else { CODE32 }), 3, rip & mask);
    Ok(Flow::End)
}

/// SWAPGS.
pub(super) fn swapgs(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    if !cpu.is_64() {
        return cpu.fail(Exception::UD);
    }
    if cpu.cpl != 0 {
        return cpu.fail(Exception::gp(0));
    }
    std::mem::swap(&mut cpu.seg[GS].base, &mut cpu.msr.kernel_gs_base);
    cpu.seg_base[GS] = cpu.seg[GS].base;
    Ok(Flow::Next)
}

fn fsgsbase(cpu: &mut Cpu) -> Guest<()> {
    if !cpu.is_64() || cpu.cr4 & Cr4::FSGSBASE.bits() == 0 { cpu.fail(Exception::UD) } else { Ok(()) }
}

fn read_base(cpu: &mut Cpu, op: &Op, seg: usize) -> Guest<Flow> {
    fsgsbase(cpu)?;
    cpu.reg_put(op.r0, op.aux, cpu.seg[seg].base);
    Ok(Flow::Next)
}

fn write_base(cpu: &mut Cpu, op: &Op, seg: usize) -> Guest<Flow> {
    fsgsbase(cpu)?;
    let base = cpu.reg_get(op.r0, op.aux);
    if !is_canonical(base) {
        return cpu.fail(Exception::gp(0));
    }
    cpu.set_base(seg, base);
    Ok(Flow::Next)
}

impl Cpu {
    /// SYSCALL in compatibility mode, which only AMD processors have (AMD64 APM 3, SYSCALL). Legacy mode, where nobody uses
    /// it, is left out.
    fn syscall_amd(&mut self, op: &Op) -> Guest<Flow> {
        if !self.is_amd() || !self.long_mode() {
            return self.fail(Exception::UD);
        }
        let flags = self.rflags() & !Rflags::RF.bits();
        self.gpr[1] = op.next_rip(self);
        self.gpr[11] = flags;
        let selector = (self.msr.star >> 32) as u16 & !3;
        self.seg[SS] = flat(selector.wrapping_add(8), DATA);
        self.set_rflags(flags & !self.msr.fmask);
        self.step_by_new_flags();
        let rip = self.msr.cstar;
        self.commit_code(flat(selector, CODE64), 0, rip);
        Ok(Flow::End)
    }

    /// Sets the base of FS or GS.
    pub(super) fn set_base(&mut self, seg: usize, base: u64) {
        self.seg[seg].base = base;
        self.seg_base[seg] = base;
    }
}

/// RDFSBASE.
pub(super) fn rdfsbase(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    read_base(cpu, op, FS)
}

/// RDGSBASE.
pub(super) fn rdgsbase(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    read_base(cpu, op, GS)
}

/// WRFSBASE.
pub(super) fn wrfsbase(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    write_base(cpu, op, FS)
}

/// WRGSBASE.
pub(super) fn wrgsbase(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    write_base(cpu, op, GS)
}
