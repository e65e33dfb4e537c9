//! Far jumps, calls and returns, with call gates and task gates (SDM 3A §5.8; SDM 2A, CALL, JMP, RET).

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::segment::Segment;

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::{CS, Descriptor, SS, kind, null_segment};
use crate::sys::operand::ones;
use crate::sys::stack::NewStack;
use crate::sys::task::Transfer;

/// A far pointer and how it is used.
#[derive(Clone, Copy)]
struct Far {
    selector: u16,
    offset: u64,
    /// Operand size in bytes.
    size: u8,
    call: bool,
    /// Address of the next instruction.
    next: u64,
}

/// JMP ptr16:16/32. `imm` is the offset, `mem.disp` the selector.
pub(super) fn jmp_far_imm(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    immediate(cpu, op, false)
}

/// CALL ptr16:16/32.
pub(super) fn call_far_imm(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    immediate(cpu, op, true)
}

/// JMP m16:16/32/64.
pub(super) fn jmp_far_mem(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    indirect(cpu, op, false)
}

/// CALL m16:16/32/64.
pub(super) fn call_far_mem(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    indirect(cpu, op, true)
}

fn immediate(cpu: &mut Cpu, op: &Op, call: bool) -> Guest<Flow> {
    let next = op.next_rip(cpu);
    let far = Far { selector: op.mem.disp as u16, offset: op.imm & ones(op.aux), size: op.aux, call, next };
    cpu.far(&far)
}

fn indirect(cpu: &mut Cpu, op: &Op, call: bool) -> Guest<Flow> {
    let (selector, offset) = cpu.far_pointer(op)?;
    let next = op.next_rip(cpu);
    cpu.far(&Far { selector, offset, size: op.aux, call, next })
}

impl Cpu {
    fn far(&mut self, far: &Far) -> Guest<Flow> {
        if !self.mode.protected {
            self.far_real(far)?;
            return Ok(Flow::End);
        }
        if far.selector & !3 == 0 {
            return self.fail(Exception::gp(0));
        }
        let d = self.descriptor(far.selector, Exception::gp, 0)?;
        if d.attr().is_code() {
            self.far_code(far, &d)?;
            return Ok(Flow::End);
        }
        let long = self.long_mode();
        let usable = !d.attr().is_code_or_data()
            && match d.kind() {
                kind::CALL32 => true,
                kind::CALL16 | kind::TASK | kind::TSS16 | kind::TSS32 => !long,
                _ => false,
            };
        if !usable || d.attr().dpl() < self.cpl || d.attr().dpl() < d.rpl() {
            return self.fail(Exception::gp(d.error()));
        }
        if !d.attr().present() {
            return self.fail(Exception::np(d.error()));
        }
        let transfer = if far.call { Transfer::Call } else { Transfer::Jump };
        match d.kind() {
            kind::CALL16 | kind::CALL32 if long => self.call_gate_long(far, &d)?,
            kind::CALL16 | kind::CALL32 => self.call_gate(far, &d)?,
            kind::TASK => self.task_gate(d.gate_selector(), transfer, far.next)?,
            _ => self.switch_task(&d, transfer, far.next, None)?,
        }
        Ok(Flow::End)
    }

    fn far_real(&mut self, far: &Far) -> Guest<()> {
        if far.offset > u64::from(self.seg[CS].limit) {
            return self.fail(Exception::gp(0));
        }
        if far.call {
            let mut stack = self.current_stack(0);
            stack.push_all(self, far.size, &[u64::from(self.seg[CS].selector), far.next])?;
            self.set_sp(stack.rsp);
        }
        let cs = self.real_segment(CS, far.selector);
        self.commit_code(cs, self.cpl, far.offset);
        Ok(())
    }

    /// Straight to a code segment of the same privilege level, or a conforming one.
    fn far_code(&mut self, far: &Far, d: &Descriptor) -> Guest<()> {
        let a = d.attr();
        let level =
            if a.is_down_or_conforming() { a.dpl() <= self.cpl } else { d.rpl() <= self.cpl && a.dpl() == self.cpl };
        if !level || (self.long_mode() && a.long() && a.db()) {
            return self.fail(Exception::gp(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::np(d.error()));
        }
        self.check_target(d, far.offset)?;
        let mut stack = self.current_stack(0);
        if far.call {
            stack.push_all(self, far.size, &[u64::from(self.seg[CS].selector), far.next])?;
        }
        self.mark_accessed(d)?;
        if far.call {
            self.set_sp(stack.rsp);
        }
        self.commit_code(d.segment(self.cpl), self.cpl, far.offset);
        Ok(())
    }

    /// Reads and checks the code segment that a call gate leads to; returns it with the new privilege level.
    fn gate_target(&mut self, far: &Far, selector: u16) -> Guest<(Descriptor, u8)> {
        if selector & !3 == 0 {
            return self.fail(Exception::gp(0));
        }
        let cs = self.descriptor(selector, Exception::gp, 0)?;
        let a = cs.attr();
        let conforming = a.is_down_or_conforming();
        // Only calls change the privilege level.
        let level = if far.call || conforming { a.dpl() <= self.cpl } else { a.dpl() == self.cpl };
        let long = !self.long_mode() || (a.long() && !a.db());
        if !a.is_code() || !level || !long {
            return self.fail(Exception::gp(cs.error()));
        }
        if !a.present() {
            return self.fail(Exception::np(cs.error()));
        }
        Ok((cs, if conforming || !far.call { self.cpl } else { a.dpl() }))
    }

    /// A 16- or 32-bit call gate.
    fn call_gate(&mut self, far: &Far, gate: &Descriptor) -> Guest<()> {
        let wide = gate.kind() == kind::CALL32;
        let size = if wide { 4 } else { 2 };
        let target = gate.gate_offset() & ones(size);
        let (cs, cpl) = self.gate_target(far, gate.gate_selector())?;
        if target > u64::from(cs.segment(0).limit) {
            return self.fail(Exception::gp(0));
        }
        let return_to = [u64::from(self.seg[CS].selector), far.next];
        if cpl == self.cpl {
            let mut stack = self.current_stack(0);
            if far.call {
                stack.push_all(self, size, &return_to)?;
            }
            self.mark_accessed(&cs)?;
            self.set_sp(stack.rsp);
            self.commit_code(cs.segment(cpl), cpl, target);
            return Ok(());
        }
        let (ss, esp) = self.inner_stack(cpl, 0)?;
        let segment = ss.segment(cpl);
        let mask = if segment.attr.db() { 0xffff_ffff } else { 0xffff };
        let who = self.rights_of(cpl);
        let mut stack = NewStack { ss: segment, rsp: esp & mask, mask, flat: false, who, error: ss.error() };
        stack.push_all(self, size, &[u64::from(self.seg[SS].selector), self.gpr[4] & self.stack_mask])?;
        // Parameters keep their order: the last one is copied first.
        let count = (gate.raw >> 32) & 0x1f;
        for i in (0..count).rev() {
            let [parameter] = self.peek_stack(i * u64::from(size), size)?;
            stack.push(self, size, parameter)?;
        }
        stack.push_all(self, size, &return_to)?;
        self.mark_accessed(&cs)?;
        self.mark_accessed(&ss)?;
        self.seg[SS] = segment;
        self.commit_code(cs.segment(cpl), cpl, target);
        self.set_sp(stack.rsp);
        Ok(())
    }

    /// A 64-bit call gate (SDM 3A §5.8.3.1).
    fn call_gate_long(&mut self, far: &Far, gate: &Descriptor) -> Guest<()> {
        let high = self.descriptor_high(gate, Exception::gp, 0)?;
        if (high >> 40) & 0x1f != 0 {
            return self.fail(Exception::gp(gate.error()));
        }
        let target = gate.gate_offset() | (high << 32);
        let (cs, cpl) = self.gate_target(far, gate.gate_selector())?;
        if !is_canonical(target) {
            return self.fail(Exception::gp(0));
        }
        let inner = cpl != self.cpl;
        let rsp = if inner { self.tss_rsp(4 + 8 * u64::from(cpl), 0)? } else { self.gpr[4] & self.stack_mask };
        let who = self.rights_of(cpl);
        let mut stack = NewStack { ss: Segment::default(), rsp, mask: !0, flat: true, who, error: 0 };
        if inner {
            stack.push_all(self, 8, &[u64::from(self.seg[SS].selector), self.gpr[4]])?;
        }
        if far.call {
            stack.push_all(self, 8, &[u64::from(self.seg[CS].selector), far.next])?;
        }
        self.mark_accessed(&cs)?;
        if inner {
            self.seg[SS] = null_segment(u16::from(cpl));
        }
        self.commit_code(cs.segment(cpl), cpl, target);
        if far.call {
            self.gpr[4] = stack.rsp;
        }
        Ok(())
    }
}

/// RET far, `imm` bytes of parameters, `aux` the operand size.
pub(super) fn ret_far(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let (size, parameters) = (op.aux, op.imm & 0xffff);
    let bytes = 2 * u64::from(size) + parameters;
    let [rip, cs] = cpu.peek_stack(0, size)?;
    if !cpu.mode.protected {
        if rip > u64::from(cpu.seg[CS].limit) {
            return cpu.fail(Exception::gp(0));
        }
        cpu.drop_stack(bytes);
        let cs = cpu.real_segment(CS, cs as u16);
        cpu.commit_code(cs, cpu.cpl, rip);
        return Ok(Flow::End);
    }
    let cs = cpu.return_segment(cs as u16)?;
    let rpl = cs.rpl();
    if rpl == cpu.cpl {
        cpu.check_target(&cs, rip)?;
        cpu.mark_accessed(&cs)?;
        cpu.drop_stack(bytes);
        cpu.commit_code(cs.segment(rpl), rpl, rip);
        return Ok(Flow::End);
    }
    let [rsp, ss] = cpu.peek_stack(bytes, size)?;
    let to_64 = cpu.long_mode() && cs.attr().long();
    let stack = cpu.return_stack(ss as u16, rpl, to_64)?;
    cpu.check_target(&cs, rip)?;
    cpu.mark_accessed(&cs)?;
    if let Some(stack) = &stack {
        cpu.mark_accessed(stack)?;
    }
    cpu.seg[SS] = stack.map_or_else(|| null_segment(ss as u16), |d| d.segment(rpl));
    cpu.commit_code(cs.segment(rpl), rpl, rip);
    cpu.set_sp(rsp.wrapping_add(parameters));
    cpu.drop_inner_segments();
    Ok(Flow::End)
}
