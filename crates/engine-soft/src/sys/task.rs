//! Hardware task switches (SDM 3A §7.3).

use visor_x86::exception::Exception;
use visor_x86::regs::{Cr0, Rflags};
use visor_x86::segment::Segment;

use crate::cpu::Cpu;
use crate::op::{Faulted, Guest};
use crate::sys::debug::BT;
use crate::sys::descriptor::{CS, Descriptor, SS, is_stack, kind, null_segment, v86_segment};
use crate::sys::event::Event;

/// What causes a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Jump,
    Call,
    /// IRET with NT set.
    Return,
    /// An interrupt or exception through a task gate.
    Interrupt,
}

/// Registers in a TSS: EIP, EFLAGS, EAX to EDI, then selectors ES, CS, SS, DS, FS, GS, LDT.
#[derive(Clone, Copy)]
struct Image {
    cr3: Option<u32>,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    seg: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// JMP, CALL or IRET to a task gate.
    pub(super) fn task_gate(&mut self, selector: u16, transfer: Transfer, next: u64) -> Guest<()> {
        let tss = self.gate_tss(selector, 0)?;
        self.switch_task(&tss, transfer, next, None)
    }

    /// An event through a task gate: `error` is pushed on the new task's stack.
    pub(super) fn enter_task(
        &mut self,
        selector: u16,
        error: Option<u32>,
        rip: u64,
        flags: u64,
        ext: u32,
    ) -> Guest<()> {
        let tss = self.gate_tss(selector, ext)?;
        let old = self.rflags();
        // The outgoing task's image gets the flags that the frame would have had.
        self.set_rflags(flags);
        let switched = self.switch_task(&tss, Transfer::Interrupt, rip, error);
        if switched.is_err() && self.tr.selector & !3 != tss.selector & !3 {
            self.set_rflags(old);
        }
        switched
    }

    /// IRET with NT set: back to the task that the back link names.
    pub(super) fn return_task(&mut self, next: u64) -> Guest<()> {
        let link = self.sys_read::<u16>(self.tr.base)?;
        let selector = link;
        if selector & 4 != 0 || selector & !3 == 0 {
            return self.fail(Exception::ts(u32::from(selector & !3)));
        }
        let tss = self.descriptor(selector, Exception::ts, 0)?;
        let busy = matches!(tss.kind(), kind::TSS16_BUSY | kind::TSS32_BUSY);
        if tss.attr().is_code_or_data() || !busy {
            return self.fail(Exception::ts(tss.error()));
        }
        if !tss.attr().present() {
            return self.fail(Exception::np(tss.error()));
        }
        self.switch_task(&tss, Transfer::Return, next, None)
    }

    fn gate_tss(&mut self, selector: u16, ext: u32) -> Guest<Descriptor> {
        if selector & 4 != 0 || selector & !3 == 0 {
            return self.fail(Exception::gp(u32::from(selector & !3) | ext));
        }
        let tss = self.descriptor(selector, Exception::gp, ext)?;
        let available = matches!(tss.kind(), kind::TSS16 | kind::TSS32);
        if tss.attr().is_code_or_data() || !available {
            return self.fail(Exception::gp(tss.error() | ext));
        }
        if !tss.attr().present() {
            return self.fail(Exception::np(tss.error() | ext));
        }
        Ok(tss)
    }

    /// Switches to the task of `tss`, whose type the caller has checked. Faults before the new task is loaded belong to
    /// the old one; later ones (#TS, #NP, #SS from segment loads) are raised in the new one, as the SDM says.
    pub(super) fn switch_task(
        &mut self,
        tss: &Descriptor,
        transfer: Transfer,
        next: u64,
        error: Option<u32>,
    ) -> Guest<()> {
        let wide = tss.kind() & 8 != 0;
        let new_tr = Segment::from_descriptor(tss.selector & !3, tss.raw);
        if new_tr.limit < if wide { 0x67 } else { 0x2b } {
            return self.fail(Exception::ts(tss.error()));
        }
        let image = self.read_task(new_tr.base, wide)?;
        let nested = matches!(transfer, Transfer::Call | Transfer::Interrupt);
        self.leave_task(tss, transfer, next)?;
        if nested {
            self.sys_write(new_tr.base, self.tr.selector)?;
        }
        if transfer != Transfer::Return {
            self.set_busy(tss, true)?;
        }
        self.tr = new_tr;
        self.tr.attr.0 |= 2;
        self.cr0 |= Cr0::TS.bits();
        self.dr7 &= !0x55;
        self.breakpoints_changed();
        if let Some(cr3) = image.cr3.filter(|_| self.cr0 & Cr0::PG.bits() != 0) {
            self.write_cr3(u64::from(cr3))?;
        }
        self.load_task(&image, wide, nested);
        let loaded = self.load_task_segments(&image);
        self.mode_changed();
        self.keep_rf();
        let entered = match loaded {
            Ok(()) => self.begin_task(wide, error),
            fault => fault,
        };
        if entered.is_err() && transfer != Transfer::Interrupt {
            // The new task's own fault, at its own EIP: not one of the instruction that switched.
            self.deliver(Event::Exception(self.fault));
            return Ok(());
        }
        entered?;
        if image.trap {
            self.debug.pending |= BT;
            self.single_changed();
            // The trap comes before the new task's first instruction.
            self.look_again();
        }
        Ok(())
    }

    /// What is left once the new task's state is in place: the error code of an exception, and the check of EIP.
    fn begin_task(&mut self, wide: bool, error: Option<u32>) -> Guest<()> {
        if let Some(error) = error {
            let mut stack = self.current_stack(1);
            stack.push(self, if wide { 4 } else { 2 }, u64::from(error))?;
            self.set_sp(stack.rsp);
        }
        if self.rip > u64::from(self.seg[CS].limit) {
            return self.fail(Exception::gp(0));
        }
        Ok(())
    }

    fn read_task(&mut self, base: u64, wide: bool) -> Guest<Image> {
        let mut image = Image { cr3: None, eip: 0, eflags: 0, gpr: [0; 8], seg: [0; 6], ldt: 0, trap: false };
        if wide {
            image.cr3 = Some(self.sys_read(base + 0x1c)?);
            image.eip = self.sys_read(base + 0x20)?;
            image.eflags = self.sys_read(base + 0x24)?;
            for (i, r) in image.gpr.iter_mut().enumerate() {
                *r = self.sys_read(base + 0x28 + 4 * i as u64)?;
            }
            for (i, s) in image.seg.iter_mut().enumerate() {
                *s = self.sys_read(base + 0x48 + 4 * i as u64)?;
            }
            image.ldt = self.sys_read(base + 0x60)?;
            image.trap = self.sys_read::<u16>(base + 0x64)? & 1 != 0;
            return Ok(image);
        }
        image.eip = u32::from(self.sys_read::<u16>(base + 0x0e)?);
        image.eflags = u32::from(self.sys_read::<u16>(base + 0x10)?);
        for (i, r) in image.gpr.iter_mut().enumerate() {
            *r = u32::from(self.sys_read::<u16>(base + 0x12 + 2 * i as u64)?) | 0xffff_0000;
        }
        for (i, s) in image.seg.iter_mut().take(4).enumerate() {
            *s = self.sys_read(base + 0x22 + 2 * i as u64)?;
        }
        image.ldt = self.sys_read(base + 0x2a)?;
        Ok(image)
    }

    /// Saves the outgoing task and makes it not busy, unless the new one returns to it.
    fn leave_task(&mut self, tss: &Descriptor, transfer: Transfer, next: u64) -> Guest<()> {
        let mut flags = self.rflags() as u32;
        if transfer == Transfer::Return {
            flags &= !Rflags::NT.bits() as u32;
        }
        let base = self.tr.base;
        if self.tr.attr.kind() & 8 != 0 {
            self.sys_write(base + 0x20, next as u32)?;
            self.sys_write(base + 0x24, flags)?;
            for i in 0..8 {
                self.sys_write(base + 0x28 + 4 * i, self.gpr[i as usize] as u32)?;
            }
            for i in 0..6 {
                self.sys_write(base + 0x48 + 4 * i, self.seg[i as usize].selector)?;
            }
        } else {
            self.sys_write(base + 0x0e, next as u16)?;
            self.sys_write(base + 0x10, flags as u16)?;
            for i in 0..8 {
                self.sys_write(base + 0x12 + 2 * i, self.gpr[i as usize] as u16)?;
            }
            for i in 0..4 {
                self.sys_write(base + 0x22 + 2 * i, self.seg[i as usize].selector)?;
            }
        }
        if matches!(transfer, Transfer::Jump | Transfer::Return) && self.tr.selector & !3 != tss.selector & !3 {
            let old = self.descriptor(self.tr.selector, Exception::ts, 0)?;
            self.set_busy(&old, false)?;
        }
        Ok(())
    }

    /// General registers, EIP and EFLAGS of the incoming task.
    fn load_task(&mut self, image: &Image, wide: bool, nested: bool) {
        for (r, value) in self.gpr.iter_mut().zip(image.gpr) {
            *r = u64::from(value);
        }
        self.rip = u64::from(image.eip);
        let mut flags = u64::from(image.eflags) & 0x3f_7fd5;
        if !wide {
            flags &= 0xffff;
        }
        if nested {
            flags |= Rflags::NT.bits();
        }
        self.set_rflags(flags);
        self.interrupts_opened();
    }

    /// LDTR and the segment registers. On a fault those not yet loaded are null, with their selectors visible.
    fn load_task_segments(&mut self, image: &Image) -> Guest<()> {
        for (s, selector) in self.seg.iter_mut().zip(image.seg) {
            *s = null_segment(selector);
        }
        self.ldtr = null_segment(image.ldt);
        if self.is_v86() {
            for (s, selector) in self.seg.iter_mut().zip(image.seg) {
                *s = v86_segment(selector);
            }
            self.cpl = 3;
        } else {
            // Until CS is loaded the privilege is that of its selector.
            self.cpl = (image.seg[CS] & 3) as u8;
        }
        self.mode_changed();
        self.load_ldtr(image.ldt, Exception::ts)?;
        if self.is_v86() {
            return Ok(());
        }
        self.load_task_code(image.seg[CS])?;
        self.load_task_stack(image.seg[SS])?;
        for i in [0, 3, 4, 5] {
            self.load_task_data(i, image.seg[i])?;
        }
        Ok(())
    }

    fn load_task_code(&mut self, selector: u16) -> Guest<()> {
        if selector & !3 == 0 {
            return self.fail(Exception::ts(0));
        }
        let d = self.descriptor(selector, Exception::ts, 0)?;
        let (a, rpl) = (d.attr(), d.rpl());
        let level = if a.is_down_or_conforming() { a.dpl() <= rpl } else { a.dpl() == rpl };
        if !a.is_code() || !level {
            return self.fail(Exception::ts(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::np(d.error()));
        }
        self.mark_accessed(&d)?;
        self.seg[CS] = d.segment(rpl);
        self.mode_changed();
        Ok(())
    }

    fn load_task_stack(&mut self, selector: u16) -> Guest<()> {
        if selector & !3 == 0 {
            return self.fail(Exception::ts(0));
        }
        let d = self.descriptor(selector, Exception::ts, 0)?;
        let a = d.attr();
        if d.rpl() != self.cpl || a.dpl() != self.cpl || !is_stack(a) {
            return self.fail(Exception::ts(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::ss(d.error()));
        }
        self.mark_accessed(&d)?;
        self.set_segment(SS, d.segment(self.cpl));
        Ok(())
    }

    fn load_task_data(&mut self, seg: usize, selector: u16) -> Guest<()> {
        match self.load_segment(seg, selector) {
            Ok(()) => Ok(()),
            // What would be #GP in a load is #TS in a task switch.
            Err(Faulted) => {
                if self.fault.vector == visor_x86::Vector::GeneralProtection {
                    self.fault = Exception::ts(self.fault.error);
                }
                Err(Faulted)
            }
        }
    }
}
