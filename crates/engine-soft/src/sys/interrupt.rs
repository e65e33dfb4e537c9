//! Delivery of exceptions and interrupts: nesting, error codes, and the way into a handler (SDM 3A §6).

use visor_x86::exception::{Exception, Vector};
use visor_x86::paging::is_canonical;
use visor_x86::regs::Rflags;
use visor_x86::segment::Segment;

use crate::account::Phase;
use crate::cpu::Cpu;
use crate::op::{Faulted, Guest};
use crate::sys::descriptor::{CS, Descriptor, SS, is_stack, kind, null_segment};
use crate::sys::event::Event;
use crate::sys::stack::NewStack;

const NT: u64 = Rflags::NT.bits();
const TF: u64 = Rflags::TF.bits();
const RF: u64 = Rflags::RF.bits();
const VM: u64 = Rflags::VM.bits();
const IF: u64 = Rflags::IF.bits();

/// What causes a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// An exception, NMI or external interrupt.
    Hardware,
    /// INT n, INT3, INTO: the gate's DPL counts.
    Software,
    /// INT1: like hardware, but not an exception that nests.
    Int1,
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) vector: u8,
    pub(super) cause: Cause,
    pub(super) error: Option<u32>,
    /// Return address.
    pub(super) rip: u64,
    /// RFLAGS to push.
    pub(super) flags: u64,
}

impl Delivery {
    /// The EXT bit of error codes of exceptions during this delivery (SDM 3A §6.13).
    fn ext(&self) -> u32 {
        u32::from(self.cause != Cause::Software)
    }

    /// Error code that names the gate.
    fn gate_error(&self) -> u32 {
        u32::from(self.vector) * 8 + 2 + self.ext()
    }
}

/// SDM 3A table 6-4.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(v: Vector) -> Class {
    match v {
        Vector::DivideError
        | Vector::InvalidTss
        | Vector::SegmentNotPresent
        | Vector::StackFault
        | Vector::GeneralProtection => Class::Contributory,
        Vector::PageFault => Class::PageFault,
        Vector::DoubleFault => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What follows when `second` is raised while `first` is delivered (SDM 3A table 6-5); `None`: shutdown.
pub(super) fn nest(first: Option<Vector>, second: Exception) -> Option<Exception> {
    let double = Exception { vector: Vector::DoubleFault, error: 0, info: 0 };
    match (first.map_or(Class::Benign, class), class(second.vector)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
        (Class::Contributory, Class::Contributory) => Some(double),
        (Class::PageFault, Class::Contributory | Class::PageFault) => Some(double),
        _ => Some(second),
    }
}

impl Cpu {
    /// Delivers `event`: pushes the frame and enters the handler, nesting exceptions as the SDM says. Sets `shutdown`
    /// on a triple fault.
    pub(crate) fn deliver(&mut self, event: Event) {
        let entered = self.account.enter(Phase::Helpers);
        self.deliver_event(event);
        let ticks = self.account.leave(entered);
        match event {
            Event::Exception(_) => self.stats.exits.exception.add(ticks),
            Event::Interrupt(_) | Event::Nmi => self.stats.exits.interrupt.add(ticks),
        }
    }

    fn deliver_event(&mut self, event: Event) {
        let flags = self.rflags();
        let delivery = |vector, error, flags| Delivery { vector, cause: Cause::Hardware, error, rip: self.rip, flags };
        let (first, current) = match event {
            Event::Exception(e) => {
                self.deliver_exception(e);
                return;
            }
            Event::Interrupt(vector) => (None, delivery(vector, None, flags)),
            Event::Nmi => (Some(Vector::Nmi), delivery(Vector::Nmi as u8, None, flags)),
        };
        self.shadow = false;
        self.release_debug();
        if let Err(Faulted) = self.enter(&current) {
            self.deliver_nested(first, self.fault);
        }
    }

    fn deliver_exception(&mut self, e: Exception) {
        self.shadow = false;
        self.release_debug();
        self.prepare(&e);
        let flags = self.rflags() | if pushes_rf(&e, self.fault_is_trap) { RF } else { 0 };
        self.fault_is_trap = false;
        let error = e.vector.has_error_code().then_some(e.error);
        let d = Delivery { vector: e.vector as u8, cause: Cause::Hardware, error, rip: self.rip, flags };
        if let Err(Faulted) = self.enter(&d) {
            self.deliver_nested(Some(e.vector), self.fault);
        }
    }

    /// Delivers `second`, raised while `first` (`None`: an interrupt) was delivered. Ends after at most a double fault.
    pub(super) fn deliver_nested(&mut self, mut first: Option<Vector>, mut second: Exception) {
        // Each round either delivers, shuts down or comes closer to a double fault: interrupt, contributory, #PF, #DF.
        for _ in 0..6 {
            let Some(next) = nest(first, second) else { break };
            self.prepare(&next);
            let error = next.vector.has_error_code().then_some(next.error);
            let flags = self.rflags() | RF;
            let d = Delivery { vector: next.vector as u8, cause: Cause::Hardware, error, rip: self.rip, flags };
            match self.enter(&d) {
                Ok(()) => return,
                Err(Faulted) => (first, second) = (Some(next.vector), self.fault),
            }
        }
        tracing::debug!(rip = self.rip, "triple fault");
        self.shutdown = true;
    }

    /// CR2 and DR6, which delivery of page faults and debug exceptions sets.
    fn prepare(&mut self, e: &Exception) {
        match e.vector {
            Vector::PageFault => self.cr2 = e.info,
            Vector::Debug => self.debug_status(e.info),
            _ => {}
        }
    }

    /// Enters the handler of `d`. On an error nothing has changed but memory below the new stack pointer.
    pub(super) fn enter(&mut self, d: &Delivery) -> Guest<()> {
        if self.is_real() {
            self.enter_real(d)
        } else if self.long_mode() {
            self.enter_long(d)
        } else {
            self.enter_protected(d)
        }
    }

    /// SDM 3A §20.1.4.
    fn enter_real(&mut self, d: &Delivery) -> Guest<()> {
        let at = u64::from(d.vector) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return self.fail(Exception::gp(d.gate_error()));
        }
        let vector = self.sys_read::<u32>(self.idtr.base.wrapping_add(at))?;
        let mut stack = self.current_stack(0);
        stack.push_all(self, 2, &[d.flags, u64::from(self.seg[CS].selector), d.rip])?;
        self.set_sp(stack.rsp);
        self.sysflags &= !(IF | TF | RF | Rflags::AC.bits());
        self.seg[CS] = self.real_segment(CS, (vector >> 16) as u16);
        self.rip = u64::from(vector & 0xffff);
        self.mode_changed();
        Ok(())
    }

    /// Reads gate `d.vector` of `size` bytes; checks limit, type, DPL and presence.
    fn gate(&mut self, d: &Delivery, size: u64, accepts: fn(u8) -> bool) -> Guest<Descriptor> {
        let at = u64::from(d.vector) * size;
        if at + size - 1 > u64::from(self.idtr.limit) {
            return self.fail(Exception::gp(d.gate_error()));
        }
        let at = self.idtr.base.wrapping_add(at);
        let gate = Descriptor { raw: self.sys_read(at)?, at, selector: 0 };
        let attr = gate.attr();
        let refused = d.cause == Cause::Software && attr.dpl() < self.cpl;
        if attr.is_code_or_data() || !accepts(attr.kind()) || refused {
            return self.fail(Exception::gp(d.gate_error()));
        }
        if !attr.present() {
            return self.fail(Exception::np(d.gate_error()));
        }
        Ok(gate)
    }

    /// Reads and checks the code segment of a gate; returns it and the privilege level of the handler.
    fn handler_segment(&mut self, selector: u16, ext: u32) -> Guest<(Descriptor, u8)> {
        if selector & !3 == 0 {
            return self.fail(Exception::gp(ext));
        }
        let cs = self.descriptor(selector, Exception::gp, ext)?;
        let a = cs.attr();
        let long = self.long_mode();
        if !a.is_code() || a.dpl() > self.cpl || (long && (!a.long() || a.db())) {
            return self.fail(Exception::gp(cs.error() | ext));
        }
        if !a.present() {
            return self.fail(Exception::np(cs.error() | ext));
        }
        Ok((cs, if a.is_down_or_conforming() { self.cpl } else { a.dpl() }))
    }

    /// SDM 3A §6.14: 64-bit mode handlers.
    fn enter_long(&mut self, d: &Delivery) -> Guest<()> {
        let ext = d.ext();
        let gate = self.gate(d, 16, |k| matches!(k, kind::INTERRUPT32 | kind::TRAP32))?;
        let high = self.sys_read::<u64>(gate.at.wrapping_add(8))?;
        let target = gate.gate_offset() | (high << 32);
        let (cs, cpl) = self.handler_segment(gate.gate_selector(), ext)?;
        if !is_canonical(target) {
            return self.fail(Exception::gp(ext));
        }
        let ist = (gate.raw >> 32) & 7;
        let rsp = match (ist, cpl == self.cpl) {
            (0, true) => self.gpr[4],
            (0, false) => self.tss_rsp(4 + 8 * u64::from(cpl), ext)?,
            (n, _) => self.tss_rsp(0x24 + 8 * (n - 1), ext)?,
        };
        let who = self.rights_of(cpl);
        let mut stack = NewStack { ss: self.seg[SS], rsp: rsp & !15, mask: !0, flat: true, who, error: ext };
        let ss = u64::from(self.seg[SS].selector);
        stack.push_all(self, 8, &[ss, self.gpr[4], d.flags, u64::from(self.seg[CS].selector), d.rip])?;
        if let Some(error) = d.error {
            stack.push(self, 8, u64::from(error))?;
        }
        self.mark_accessed(&cs)?;
        if cpl != self.cpl {
            self.seg[SS] = null_segment(u16::from(cpl));
        }
        self.commit_handler(&cs, cpl, target, gate.kind() == kind::INTERRUPT32);
        self.gpr[4] = stack.rsp;
        Ok(())
    }

    /// A stack pointer from the 64-bit TSS.
    pub(super) fn tss_rsp(&mut self, offset: u64, ext: u32) -> Guest<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return self.fail(Exception::ts(u32::from(self.tr.selector & !3) | ext));
        }
        let rsp = self.sys_read::<u64>(self.tr.base.wrapping_add(offset))?;
        if !is_canonical(rsp) {
            return self.fail(Exception::ss(ext));
        }
        Ok(rsp)
    }

    /// CS, RIP and flags of the handler.
    fn commit_handler(&mut self, cs: &Descriptor, cpl: u8, target: u64, interrupt_gate: bool) {
        self.seg[CS] = cs.segment(cpl);
        self.cpl = cpl;
        self.rip = target;
        self.sysflags &= !(TF | NT | RF | VM | if interrupt_gate { IF } else { 0 });
        self.mode_changed();
    }

    /// SDM 3A §6.12: protected mode and virtual-8086 mode.
    fn enter_protected(&mut self, d: &Delivery) -> Guest<()> {
        use kind::{INTERRUPT16, INTERRUPT32, TASK, TRAP16, TRAP32};
        let ext = d.ext();
        let gate = self.gate(d, 8, |k| matches!(k, TASK | INTERRUPT16 | TRAP16 | INTERRUPT32 | TRAP32))?;
        if gate.kind() == TASK {
            return self.enter_task(gate.gate_selector(), d.error, d.rip, d.flags, ext);
        }
        let wide = gate.kind() & 8 != 0;
        let target = if wide { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
        let (cs, cpl) = self.handler_segment(gate.gate_selector(), ext)?;
        let v86 = self.is_v86();
        if v86 && cpl != 0 {
            return self.fail(Exception::gp(cs.error() | ext));
        }
        let size = if wide { 4 } else { 2 };
        let inner = cpl != self.cpl;
        let (mut stack, new_ss) = if inner {
            let (ss, esp) = self.inner_stack(cpl, ext)?;
            let segment = ss.segment(cpl);
            let mask = if segment.attr.db() { 0xffff_ffff } else { 0xffff };
            let error = ss.error() | ext;
            let who = self.rights_of(cpl);
            (NewStack { ss: segment, rsp: esp & mask, mask, flat: false, who, error }, Some(ss))
        } else {
            (self.current_stack(ext), None)
        };
        if v86 {
            let [es, _, _, ds, fs, gs] = self.seg.map(|s| u64::from(s.selector));
            stack.push_all(self, size, &[gs, fs, ds, es])?;
        }
        if inner {
            stack.push_all(self, size, &[u64::from(self.seg[SS].selector), self.gpr[4]])?;
        }
        stack.push_all(self, size, &[d.flags, u64::from(self.seg[CS].selector), d.rip])?;
        if let Some(error) = d.error {
            stack.push(self, size, u64::from(error))?;
        }
        if target > u64::from(cs.segment(cpl).limit) {
            return self.fail(Exception::gp(ext));
        }
        self.mark_accessed(&cs)?;
        if let Some(ss) = new_ss {
            self.mark_accessed(&ss)?;
            self.seg[SS] = stack.ss;
        }
        if v86 {
            for i in [0, 3, 4, 5] {
                self.seg[i] = null_segment(0);
            }
        }
        self.commit_handler(&cs, cpl, target, gate.kind() & 1 == 0);
        self.set_sp(stack.rsp);
        Ok(())
    }

    /// The stack for privilege level `cpl` from the 16- or 32-bit TSS, with all checks.
    pub(super) fn inner_stack(&mut self, cpl: u8, ext: u32) -> Guest<(Descriptor, u64)> {
        let tss = u32::from(self.tr.selector & !3) | ext;
        let wide = self.tr.attr.kind() & 8 != 0;
        let (at, size) = if wide { (4 + 8 * u64::from(cpl), 6) } else { (2 + 4 * u64::from(cpl), 4) };
        if self.tr.attr.unusable() || at + size - 1 > u64::from(self.tr.limit) {
            return self.fail(Exception::ts(tss));
        }
        let base = self.tr.base.wrapping_add(at);
        let (esp, selector) = if wide {
            (u64::from(self.sys_read::<u32>(base)?), self.sys_read::<u16>(base.wrapping_add(4))?)
        } else {
            (u64::from(self.sys_read::<u16>(base)?), self.sys_read::<u16>(base.wrapping_add(2))?)
        };
        if selector & !3 == 0 {
            return self.fail(Exception::ts(ext));
        }
        let ss = self.descriptor(selector, Exception::ts, ext)?;
        let a = ss.attr();
        if ss.rpl() != cpl || a.dpl() != cpl || !is_stack(a) {
            return self.fail(Exception::ts(ss.error() | ext));
        }
        if !a.present() {
            return self.fail(Exception::ss(ss.error() | ext));
        }
        Ok((ss, esp))
    }

    /// Enters the code segment `cs` of a far transfer that ends in ring `cpl`.
    pub(super) fn commit_code(&mut self, cs: Segment, cpl: u8, rip: u64) {
        self.seg[CS] = cs;
        self.cpl = cpl;
        self.rip = rip;
        self.mode_changed();
    }
}

/// Faults push RF set, so that an instruction breakpoint does not hit again; traps and instruction breakpoints themselves
/// push it as it is (SDM 3A §17.3.1.1).
fn pushes_rf(e: &Exception, trap: bool) -> bool {
    !trap && !matches!(e.vector, Vector::Debug | Vector::Breakpoint | Vector::Overflow | Vector::Nmi)
}
