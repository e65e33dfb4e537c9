//! IRET in all modes (SDM 2A, IRET).

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::regs::Rflags;
use visor_x86::segment::{SegAttr, Segment};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::{CS, Descriptor, SS, is_stack, null_segment, v86_segment};
use crate::sys::flags::{ANY_RING, InterruptFlag};

const NT: u64 = Rflags::NT.bits();
const RF: u64 = Rflags::RF.bits();
const VM: u64 = Rflags::VM.bits();
const IF: u64 = Rflags::IF.bits();
const TF: u64 = Rflags::TF.bits();
const VIF: u64 = Rflags::VIF.bits();
const VIP: u64 = Rflags::VIP.bits();
const IOPL: u64 = Rflags::IOPL.bits();

/// IRET, `aux` the operand size.
pub(super) fn iret(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if cpu.is_real() {
        cpu.iret_real(op)?;
    } else if cpu.is_v86() {
        cpu.iret_v86(op)?;
    } else if cpu.sysflags & NT != 0 {
        if cpu.long_mode() {
            return cpu.fail(Exception::gp(0));
        }
        cpu.return_task(op.next_rip(cpu))?;
    } else if cpu.long_mode() {
        cpu.iret_long(op)?;
    } else {
        cpu.iret_protected(op)?;
    }
    if cpu.nmi_blocked {
        cpu.nmi_blocked = false;
        if cpu.port.merge_nmis() {
            cpu.look_again();
        }
    }
    cpu.keep_rf();
    cpu.single_changed();
    Ok(Flow::End)
}

impl Cpu {
    /// Replaces flags by an IRET from ring `cpl`, as far as it may; `size` is the operand size.
    fn iret_flags(&mut self, image: u64, mut mask: u64, size: u8) {
        mask |= ANY_RING | RF;
        if size == 2 {
            mask &= 0xffff;
        }
        self.change_flags(image, mask);
    }

    fn iret_real(&mut self, op: &Op) -> Guest<()> {
        let size = op.aux;
        let [ip, cs, flags] = self.peek_stack(0, size)?;
        if ip > u64::from(self.seg[CS].limit) {
            return self.fail(Exception::gp(0));
        }
        self.drop_stack(3 * u64::from(size));
        self.iret_flags(flags, IF | IOPL, size);
        let cs = self.real_segment(CS, cs as u16);
        self.commit_code(cs, 0, ip);
        Ok(())
    }

    fn iret_v86(&mut self, op: &Op) -> Guest<()> {
        let size = op.aux;
        let kind = match self.v86_flag() {
            InterruptFlag::Virtual if size != 2 => InterruptFlag::Forbidden,
            kind => kind,
        };
        if kind == InterruptFlag::Forbidden {
            return self.fail(Exception::gp(0));
        }
        let [ip, cs, flags] = self.peek_stack(0, size)?;
        if ip > 0xffff {
            return self.fail(Exception::gp(0));
        }
        let virtual_flag = kind == InterruptFlag::Virtual;
        if virtual_flag && (flags & TF != 0 || (flags & IF != 0 && self.sysflags & VIP != 0)) {
            return self.fail(Exception::gp(0));
        }
        self.drop_stack(3 * u64::from(size));
        if virtual_flag {
            self.sysflags = (self.sysflags & !VIF) | if flags & IF != 0 { VIF } else { 0 };
            self.iret_flags(flags, 0, size);
        } else {
            self.iret_flags(flags, IF, size);
        }
        let cs = self.real_segment(CS, cs as u16);
        self.commit_code(cs, 3, ip);
        Ok(())
    }

    /// Reads and checks the code segment to return to.
    pub(super) fn return_segment(&mut self, selector: u16) -> Guest<Descriptor> {
        if selector & !3 == 0 {
            return self.fail(Exception::gp(0));
        }
        let d = self.descriptor(selector, Exception::gp, 0)?;
        let (a, rpl) = (d.attr(), d.rpl());
        let level = if a.is_down_or_conforming() { a.dpl() <= rpl } else { a.dpl() == rpl };
        let both = self.long_mode() && a.long() && a.db();
        if !a.is_code() || rpl < self.cpl || !level || both {
            return self.fail(Exception::gp(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::np(d.error()));
        }
        Ok(d)
    }

    /// Checks where in `cs` execution would continue.
    pub(super) fn check_target(&mut self, cs: &Descriptor, rip: u64) -> Guest<()> {
        let s = cs.segment(0);
        let ok = if self.long_mode() && s.attr.long() { is_canonical(rip) } else { rip <= u64::from(s.limit) };
        if ok { Ok(()) } else { self.fail(Exception::gp(0)) }
    }

    /// Reads and checks the stack segment of ring `rpl` to return to; `None` is the null segment of 64-bit mode.
    pub(super) fn return_stack(&mut self, selector: u16, rpl: u8, to_64: bool) -> Guest<Option<Descriptor>> {
        if selector & !3 == 0 {
            if to_64 && rpl != 3 && (selector & 3) as u8 == rpl {
                return Ok(None);
            }
            return self.fail(Exception::gp(0));
        }
        let d = self.descriptor(selector, Exception::gp, 0)?;
        let a = d.attr();
        if d.rpl() != rpl || a.dpl() != rpl || !is_stack(a) {
            return self.fail(Exception::gp(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::ss(d.error()));
        }
        Ok(Some(d))
    }

    fn iret_long(&mut self, op: &Op) -> Guest<()> {
        let size = op.aux;
        let [rip, cs, flags] = self.peek_stack(0, size)?;
        let cs = self.return_segment(cs as u16)?;
        let rpl = cs.rpl();
        let outer = rpl != self.cpl;
        let to_64 = cs.attr().long();
        // 64-bit mode pops SS:RSP always.
        if !self.is_64() && !outer {
            self.check_target(&cs, rip)?;
            self.mark_accessed(&cs)?;
            self.drop_stack(3 * u64::from(size));
            self.iret_flags(flags, self.privileged_flags(), size);
            self.commit_code(cs.segment(rpl), rpl, rip);
            return Ok(());
        }
        let [rsp, ss] = self.peek_stack(3 * u64::from(size), size)?;
        let stack = self.return_stack(ss as u16, rpl, to_64)?;
        self.check_target(&cs, rip)?;
        self.mark_accessed(&cs)?;
        if let Some(stack) = &stack {
            self.mark_accessed(stack)?;
        }
        self.iret_flags(flags, self.privileged_flags(), size);
        self.seg[SS] = stack.map_or_else(|| null_segment(ss as u16), |d| d.segment(rpl));
        self.commit_code(cs.segment(rpl), rpl, rip);
        self.set_sp(rsp);
        if outer {
            self.drop_inner_segments();
        }
        Ok(())
    }

    fn iret_protected(&mut self, op: &Op) -> Guest<()> {
        let size = op.aux;
        let [eip, cs, flags] = self.peek_stack(0, size)?;
        if size == 4 && flags & VM != 0 && self.cpl == 0 {
            return self.iret_to_v86(eip, cs as u16, flags);
        }
        let cs = self.return_segment(cs as u16)?;
        let rpl = cs.rpl();
        let supervisor = if self.cpl == 0 { VIF | VIP } else { 0 };
        let mask = self.privileged_flags() | supervisor;
        if rpl == self.cpl {
            self.check_target(&cs, eip)?;
            self.mark_accessed(&cs)?;
            self.drop_stack(3 * u64::from(size));
            self.iret_flags(flags, mask, size);
            self.commit_code(cs.segment(rpl), rpl, eip);
            return Ok(());
        }
        let [esp, ss] = self.peek_stack(3 * u64::from(size), size)?;
        let Some(stack) = self.return_stack(ss as u16, rpl, false)? else { return self.fail(Exception::gp(0)) };
        self.check_target(&cs, eip)?;
        self.mark_accessed(&cs)?;
        self.mark_accessed(&stack)?;
        self.iret_flags(flags, mask, size);
        self.seg[SS] = stack.segment(rpl);
        self.commit_code(cs.segment(rpl), rpl, eip);
        self.set_sp(esp);
        self.drop_inner_segments();
        Ok(())
    }

    /// SDM 3A §20.2.3.
    fn iret_to_v86(&mut self, eip: u64, cs: u16, flags: u64) -> Guest<()> {
        if eip > 0xffff {
            return self.fail(Exception::gp(0));
        }
        let [esp, ss, es, ds, fs, gs] = self.peek_stack(12, 4)?;
        let all = ANY_RING | RF | VM | IF | IOPL | VIF | VIP;
        for (seg, selector) in [es, u64::from(cs), ss, ds, fs, gs].into_iter().enumerate() {
            self.seg[seg] = v86_segment(selector as u16);
        }
        self.change_flags(flags, all);
        let cs = self.seg[CS];
        self.commit_code(cs, 3, eip);
        self.gpr[4] = esp;
        Ok(())
    }

    /// After a return to an outer ring: data segments that it may not use become null (SDM 3A §5.8.6).
    pub(super) fn drop_inner_segments(&mut self) {
        for i in [0, 3, 4, 5] {
            let a = self.seg[i].attr;
            let conforming = a.is_code() && a.is_down_or_conforming();
            if !a.unusable() && a.dpl() < self.cpl && !conforming {
                // Only the selector and its rights go: the hidden base stays, which 64-bit code sees in FS and GS.
                let segment = Segment { selector: 0, attr: SegAttr::UNUSABLE, ..self.seg[i] };
                self.set_segment(i, segment);
            }
        }
    }
}
