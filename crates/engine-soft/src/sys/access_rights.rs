//! LAR, LSL, VERR, VERW, ARPL: questions about selectors (SDM 3A §5.10).

use visor_x86::exception::Exception;
use visor_x86::regs::Rflags;
use visor_x86::segment::Segment;

use crate::cpu::Cpu;
use crate::op::{Faulted, Flow, Guest, Op};
use crate::sys::descriptor::Descriptor;

const ZF: u64 = Rflags::ZF.bits();

fn protected(cpu: &mut Cpu) -> Guest<()> {
    if cpu.mode.protected { Ok(()) } else { cpu.fail(Exception::UD) }
}

fn set_zf(cpu: &mut Cpu, on: bool) -> Flow {
    cpu.status = (cpu.status & !ZF) | if on { ZF } else { 0 };
    Flow::Next
}

impl Cpu {
    /// The descriptor of `selector` if there is one and the running code may see it.
    fn visible(&mut self, selector: u16) -> Guest<Option<Descriptor>> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let d = match self.descriptor(selector, Exception::gp, 0) {
            Ok(d) => d,
            // Beyond the table; anything but #GP is a fault of reading the table.
            Err(Faulted) if self.fault == Exception::gp(u32::from(selector & !3)) => return Ok(None),
            Err(Faulted) => return Err(Faulted),
        };
        let a = d.attr();
        let conforming = a.is_code() && a.is_down_or_conforming();
        Ok((conforming || (self.cpl <= a.dpl() && d.rpl() <= a.dpl())).then_some(d))
    }
}

/// The source of LAR and LSL: the first register is the destination.
fn source(cpu: &mut Cpu, op: &Op) -> Guest<u16> {
    protected(cpu)?;
    Ok(cpu.rm_get(op, op.r1, 2)? as u16)
}

/// LAR.
pub(super) fn lar(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let selector = source(cpu, op)?;
    let found = cpu.visible(selector)?;
    let long = cpu.long_mode();
    let found = found.filter(|d| {
        d.attr().is_code_or_data()
            || match d.kind() {
                2 | 9 | 11 | 12 => true,
                1 | 3 | 4 | 5 => !long,
                _ => false,
            }
    });
    if let Some(d) = found {
        let rights = (d.raw >> 32) & 0xff_ff00;
        cpu.reg_put(op.r0, op.aux, rights);
    }
    Ok(set_zf(cpu, found.is_some()))
}

/// LSL.
pub(super) fn lsl(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let selector = source(cpu, op)?;
    let found = cpu.visible(selector)?;
    let long = cpu.long_mode();
    let found = found.filter(|d| {
        d.attr().is_code_or_data()
            || match d.kind() {
                2 | 9 | 11 => true,
                1 | 3 => !long,
                _ => false,
            }
    });
    if let Some(d) = found {
        let limit = Segment::from_descriptor(selector, d.raw).limit;
        cpu.reg_put(op.r0, op.aux, u64::from(limit));
    }
    Ok(set_zf(cpu, found.is_some()))
}

fn verify(cpu: &mut Cpu, op: &Op, write: bool) -> Guest<Flow> {
    protected(cpu)?;
    let selector = cpu.rm_get(op, op.r0, 2)? as u16;
    let found = cpu.visible(selector)?;
    let ok = found.is_some_and(|d| {
        let a = d.attr();
        match (a.is_code_or_data(), a.is_code(), write) {
            (false, ..) | (_, true, true) => false,
            (_, false, false) => true,
            _ => a.is_rw(),
        }
    });
    Ok(set_zf(cpu, ok))
}

/// VERR.
pub(super) fn verr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    verify(cpu, op, false)
}

/// VERW.
pub(super) fn verw(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    verify(cpu, op, true)
}

/// ARPL r/m16, r16: with a memory destination the source is the first register operand.
pub(super) fn arpl(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    protected(cpu)?;
    let source = cpu.reg_get(if op.r2 == 1 { op.r0 } else { op.r1 }, 2) & 3;
    let selector = cpu.rm_get(op, op.r0, 2)?;
    let raise = selector & 3 < source;
    if raise {
        cpu.rm_put(op, op.r0, 2, (selector & !3) | source)?;
    }
    Ok(set_zf(cpu, raise))
}
