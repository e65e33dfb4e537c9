//! Descriptor tables and loading segment registers (SDM 3A §3.4, §3.5, §5.8).

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::segment::{SegAttr, Segment, TableReg};

use crate::cpu::Cpu;
use crate::mmu::{Privilege, Word};
use crate::op::{Flow, Guest, Op};
use crate::sys::operand::end;

/// Indices into [`Cpu::seg`].
pub(super) const CS: usize = 1;
pub(super) const SS: usize = 2;
pub(super) const FS: usize = 4;
pub(super) const GS: usize = 5;

/// System descriptor types (SDM 3A table 3-2).
pub(super) mod kind {
    pub(crate) const TSS16: u8 = 1;
    pub(crate) const LDT: u8 = 2;
    pub(crate) const TSS16_BUSY: u8 = 3;
    pub(crate) const CALL16: u8 = 4;
    pub(crate) const TASK: u8 = 5;
    pub(crate) const INTERRUPT16: u8 = 6;
    pub(crate) const TRAP16: u8 = 7;
    pub(crate) const TSS32: u8 = 9;
    pub(crate) const TSS32_BUSY: u8 = 11;
    pub(crate) const CALL32: u8 = 12;
    pub(crate) const INTERRUPT32: u8 = 14;
    pub(crate) const TRAP32: u8 = 15;
}

/// A descriptor as found in its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    /// Its first eight bytes.
    pub(super) raw: u64,
    /// Its linear address.
    pub(super) at: u64,
    /// The selector that named it.
    pub(super) selector: u16,
}

impl Descriptor {
    pub(super) fn attr(&self) -> SegAttr {
        SegAttr(((self.raw >> 40) & 0xf0ff) as u32)
    }

    /// Type of a system descriptor.
    pub(super) fn kind(&self) -> u8 {
        self.attr().kind()
    }

    /// RPL of the selector.
    pub(super) fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    /// The selector as error codes hold it.
    pub(super) fn error(&self) -> u32 {
        u32::from(self.selector & !3)
    }

    /// The segment register that this descriptor makes, with RPL `rpl`. Marked accessed, as loading it does.
    pub(super) fn segment(&self, rpl: u8) -> Segment {
        let mut s = Segment::from_descriptor((self.selector & !3) | u16::from(rpl), self.raw);
        if s.attr.is_code_or_data() {
            s.attr.0 |= 1;
        }
        s
    }

    /// Gates: the target selector.
    pub(super) fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Gates: the low 32 bits of the target offset.
    pub(super) fn gate_offset(&self) -> u64 {
        (self.raw & 0xffff) | ((self.raw >> 32) & 0xffff_0000)
    }
}

/// A segment register loaded with a null selector.
pub(super) fn null_segment(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, attr: SegAttr::UNUSABLE }
}

/// A virtual-8086 segment.
pub(super) fn v86_segment(selector: u16) -> Segment {
    Segment { attr: SegAttr(0xf3), ..Segment::real_mode(selector) }
}

impl Cpu {
    /// Reads what the processor itself needs, with supervisor rights.
    #[inline]
    pub(super) fn sys_read<T: Word>(&mut self, lin: u64) -> Guest<T> {
        let lin = if self.long_mode() { lin } else { lin & 0xffff_ffff };
        match self.mmu.load(Privilege::Supervisor).lookup(lin, T::SIZE) {
            // SAFETY: a TLB hit is `SIZE` bytes of guest RAM.
            Some(host) => Ok(unsafe { crate::mmu::peek(host) }),
            None => self.read_sys(lin),
        }
    }

    /// Writes what the processor itself needs, with supervisor rights.
    pub(super) fn sys_write<T: Word>(&mut self, lin: u64, value: T) -> Guest<()> {
        let lin = if self.long_mode() { lin } else { lin & 0xffff_ffff };
        self.write_sys(lin, value)
    }

    /// The table that `selector` points into, and the linear address of its descriptor; `None` beyond the limit.
    fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.attr.unusable() || self.ldtr.selector & !3 == 0 {
            return None;
        } else {
            (self.ldtr.base, self.ldtr.limit)
        };
        (offset + bytes - 1 <= u64::from(limit)).then(|| base.wrapping_add(offset))
    }

    /// Reads the descriptor that `selector` names; beyond the table's limit raises `fault` with the selector and `ext`.
    pub(super) fn descriptor(&mut self, selector: u16, fault: fn(u32) -> Exception, ext: u32) -> Guest<Descriptor> {
        match self.descriptor_address(selector, 8) {
            Some(at) => Ok(Descriptor { raw: self.sys_read(at)?, at, selector }),
            None => self.fail(fault(u32::from(selector & !3) | ext)),
        }
    }

    /// Reads the upper half of a 16-byte system descriptor.
    pub(super) fn descriptor_high(&mut self, d: &Descriptor, fault: fn(u32) -> Exception, ext: u32) -> Guest<u64> {
        if self.descriptor_address(d.selector, 16).is_none() {
            return self.fail(fault(d.error() | ext));
        }
        self.sys_read(d.at.wrapping_add(8))
    }

    /// Sets the accessed bit of a code or data descriptor in memory.
    pub(super) fn mark_accessed(&mut self, d: &Descriptor) -> Guest<()> {
        if d.raw & (1 << 40) == 0 {
            self.sys_write(d.at.wrapping_add(5), (d.raw >> 40) as u8 | 1)?;
        }
        Ok(())
    }

    /// Loads segment register `seg` (not CS) with all checks of the mode.
    pub(super) fn load_segment(&mut self, seg: usize, selector: u16) -> Guest<()> {
        let loaded = if self.mode.protected {
            if seg == SS { self.checked_stack_segment(selector)? } else { self.checked_data_segment(selector)? }
        } else {
            self.real_segment(seg, selector)
        };
        self.set_segment(seg, loaded);
        Ok(())
    }

    /// Replaces a segment register other than CS and what follows from it.
    pub(super) fn set_segment(&mut self, seg: usize, value: Segment) {
        self.seg[seg] = value;
        self.seg_base[seg] = if self.is_64() && seg < FS { 0 } else { value.base };
        if seg == SS && !self.is_64() {
            self.stack_mask = if value.attr.db() { 0xffff_ffff } else { 0xffff };
        }
    }

    /// What loading `selector` makes of register `seg` in real and virtual-8086 mode. Real mode keeps the limit and size of
    /// the descriptor cache ("unreal mode").
    pub(super) fn real_segment(&self, seg: usize, selector: u16) -> Segment {
        if self.is_v86() {
            return v86_segment(selector);
        }
        let old = &self.seg[seg];
        let mut new = Segment::real_mode(selector);
        if !old.attr.unusable() {
            new.limit = old.limit;
            new.attr = SegAttr((old.attr.0 & 0xc000) | 0x93);
        }
        new
    }

    fn checked_data_segment(&mut self, selector: u16) -> Guest<Segment> {
        if selector & !3 == 0 {
            return Ok(null_segment(selector));
        }
        let d = self.descriptor(selector, Exception::gp, 0)?;
        let a = d.attr();
        let readable = a.is_code_or_data() && (!a.is_code() || a.is_rw());
        let private = !(a.is_code() && a.is_down_or_conforming());
        if !readable || (private && (d.rpl() > a.dpl() || self.cpl > a.dpl())) {
            return self.fail(Exception::gp(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::np(d.error()));
        }
        self.mark_accessed(&d)?;
        Ok(d.segment(d.rpl()))
    }

    fn checked_stack_segment(&mut self, selector: u16) -> Guest<Segment> {
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if self.is_64() && self.cpl != 3 && rpl == self.cpl {
                return Ok(null_segment(selector));
            }
            return self.fail(Exception::gp(0));
        }
        let d = self.descriptor(selector, Exception::gp, 0)?;
        let a = d.attr();
        if rpl != self.cpl || !is_stack(a) || a.dpl() != self.cpl {
            return self.fail(Exception::gp(d.error()));
        }
        if !a.present() {
            return self.fail(Exception::ss(d.error()));
        }
        self.mark_accessed(&d)?;
        Ok(d.segment(rpl))
    }

    /// Loads LDTR (SDM 2A, LLDT).
    pub(super) fn load_ldtr(&mut self, selector: u16, fault: fn(u32) -> Exception) -> Guest<()> {
        if selector & !3 == 0 {
            self.ldtr = null_segment(selector);
            return Ok(());
        }
        if selector & 4 != 0 {
            return self.fail(fault(u32::from(selector & !3)));
        }
        let d = self.descriptor(selector, fault, 0)?;
        if d.attr().is_code_or_data() || d.kind() != kind::LDT {
            return self.fail(fault(d.error()));
        }
        if !d.attr().present() {
            return self.fail(if fault(0) == Exception::gp(0) { Exception::np(d.error()) } else { fault(d.error()) });
        }
        let mut s = Segment::from_descriptor(selector, d.raw);
        if self.long_mode() {
            s.base |= self.descriptor_high(&d, fault, 0)? << 32;
            if !is_canonical(s.base) {
                return self.fail(Exception::gp(d.error()));
            }
        }
        self.ldtr = s;
        Ok(())
    }

    /// Loads the task register (SDM 2A, LTR).
    fn load_tr(&mut self, selector: u16) -> Guest<()> {
        if selector & !3 == 0 {
            return self.fail(Exception::gp(0));
        }
        if selector & 4 != 0 {
            return self.fail(Exception::gp(u32::from(selector & !3)));
        }
        let d = self.descriptor(selector, Exception::gp, 0)?;
        let available = matches!((d.kind(), self.long_mode()), (kind::TSS32, _) | (kind::TSS16, false));
        if d.attr().is_code_or_data() || !available {
            return self.fail(Exception::gp(d.error()));
        }
        if !d.attr().present() {
            return self.fail(Exception::np(d.error()));
        }
        let mut s = Segment::from_descriptor(selector, d.raw);
        if self.long_mode() {
            let high = self.descriptor_high(&d, Exception::gp, 0)?;
            s.base |= high << 32;
            if !is_canonical(s.base) || (high >> 40) & 0x1f != 0 {
                return self.fail(Exception::gp(d.error()));
            }
        }
        self.set_busy(&d, true)?;
        s.attr.0 |= 2;
        self.tr = s;
        Ok(())
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    pub(super) fn set_busy(&mut self, d: &Descriptor, busy: bool) -> Guest<()> {
        let kind = (d.raw >> 40) as u8;
        self.sys_write(d.at.wrapping_add(5), if busy { kind | 2 } else { kind & !2 })
    }
}

/// A writable data segment.
pub(super) fn is_stack(a: SegAttr) -> bool {
    a.is_code_or_data() && !a.is_code() && a.is_rw()
}

/// MOV r/m, Sreg: 16 bits to memory, zero-extended to a register.
pub(super) fn mov_from_seg(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let selector = u64::from(cpu.seg[op.imm as usize % 6].selector);
    cpu.rm_put(op, op.r0, if op.r2 == 1 { 2 } else { op.aux }, selector)?;
    Ok(Flow::Next)
}

/// MOV Sreg, r/m16.
pub(super) fn mov_to_seg(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let seg = op.imm as usize % 6;
    if seg == CS {
        return cpu.fail(Exception::UD);
    }
    let selector = cpu.rm_get(op, op.r0, 2)? as u16;
    cpu.load_segment(seg, selector)?;
    after_load(cpu, op, seg)
}

/// A load of SS holds off interrupts and debug traps (SDM 3A §6.8.3); what the decoder assumed of segments stays true
/// otherwise.
fn after_load(cpu: &mut Cpu, op: &Op, seg: usize) -> Guest<Flow> {
    if seg == SS {
        cpu.shadow = true;
        cpu.hold_debug();
        cpu.single_changed();
        return end(cpu, op);
    }
    Ok(Flow::Next)
}

/// PUSH Sreg.
pub(super) fn push_seg(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let selector = cpu.seg[op.imm as usize % 6].selector;
    let size = op.aux;
    let rsp = cpu.gpr[4].wrapping_sub(u64::from(size)) & cpu.stack_mask;
    let lin = cpu.stack_linear(rsp, if size == 4 { 4 } else { u64::from(size) }, true)?;
    // SDM 2B, PUSH: with a 32-bit operand size current processors write 16 bits only.
    let width = if size == 4 { 2 } else { size };
    cpu.write_sized(lin, SS as u8, width, u64::from(selector), op)?;
    cpu.set_sp(rsp);
    Ok(Flow::Next)
}

/// POP Sreg.
pub(super) fn pop_seg(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let seg = op.imm as usize % 6;
    let rsp = cpu.gpr[4] & cpu.stack_mask;
    let lin = cpu.stack_linear(rsp, u64::from(op.aux), false)?;
    // The whole slot is read, so that all of it may fault.
    let selector = cpu.read_sized(lin, SS as u8, op.aux)? as u16;
    // The stack pointer moves by the size of the stack segment that was popped from.
    let next = rsp.wrapping_add(u64::from(op.aux)) & cpu.stack_mask;
    let mask = cpu.stack_mask;
    cpu.load_segment(seg, selector)?;
    cpu.gpr[4] = (cpu.gpr[4] & !mask) | next;
    after_load(cpu, op, seg)
}

/// LDS, LES, LSS, LFS, LGS.
pub(super) fn load_far_ptr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let seg = op.imm as usize % 6;
    let (selector, offset) = cpu.far_pointer(op)?;
    cpu.load_segment(seg, selector)?;
    cpu.reg_put(op.r0, op.aux, offset);
    // LSS needs no window without events: it loads the stack pointer as well.
    if seg == SS { end(cpu, op) } else { Ok(Flow::Next) }
}

fn ring0(cpu: &mut Cpu) -> Guest<()> {
    if cpu.cpl != 0 { cpu.fail(Exception::gp(0)) } else { Ok(()) }
}

/// System segment registers exist in protected mode only.
fn protected(cpu: &mut Cpu) -> Guest<()> {
    if cpu.mode.protected { Ok(()) } else { cpu.fail(Exception::UD) }
}

/// LLDT.
pub(super) fn lldt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    protected(cpu)?;
    ring0(cpu)?;
    let selector = cpu.rm_get(op, op.r0, 2)? as u16;
    cpu.load_ldtr(selector, Exception::gp)?;
    Ok(Flow::Next)
}

/// LTR.
pub(super) fn ltr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    protected(cpu)?;
    ring0(cpu)?;
    let selector = cpu.rm_get(op, op.r0, 2)? as u16;
    cpu.load_tr(selector)?;
    Ok(Flow::Next)
}

/// SLDT and STR: 16 bits to memory, zero-extended to a register.
fn store_selector(cpu: &mut Cpu, op: &Op, selector: u16) -> Guest<Flow> {
    protected(cpu)?;
    umip(cpu)?;
    cpu.rm_put(op, op.r0, if op.r2 == 1 { 2 } else { op.aux }, u64::from(selector))?;
    Ok(Flow::Next)
}

/// #GP(0) outside ring 0 if CR4.UMIP is set.
pub(super) fn umip(cpu: &mut Cpu) -> Guest<()> {
    if cpu.cpl != 0 && cpu.cr4 & visor_x86::regs::Cr4::UMIP.bits() != 0 { cpu.fail(Exception::gp(0)) } else { Ok(()) }
}

/// SLDT.
pub(super) fn sldt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    store_selector(cpu, op, cpu.ldtr.selector)
}

/// STR.
pub(super) fn str(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    store_selector(cpu, op, cpu.tr.selector)
}

/// LGDT and LIDT.
fn load_table(cpu: &mut Cpu, op: &Op) -> Guest<TableReg> {
    ring0(cpu)?;
    let wide = cpu.is_64();
    let lin = cpu.linear(op, if wide { 10 } else { 6 }, false)?;
    let limit = cpu.read::<u16>(lin, op.mem.seg)?;
    let at = cpu.wrap(lin.wrapping_add(2));
    let base = cpu.read_sized(at, op.mem.seg, if wide { 8 } else { 4 })?;
    if wide && !is_canonical(base) {
        return cpu.fail(Exception::gp(0));
    }
    let base = if !wide && op.aux == 2 { base & 0xff_ffff } else { base };
    Ok(TableReg { base, limit })
}

/// SGDT and SIDT.
fn store_table(cpu: &mut Cpu, op: &Op, table: TableReg) -> Guest<Flow> {
    umip(cpu)?;
    let wide = cpu.is_64();
    let size = if wide { 8 } else { 4 };
    let lin = cpu.linear(op, size + 2, true)?;
    cpu.probe_store(lin, size + 2, op.mem.seg)?;
    cpu.write_sized(lin, op.mem.seg, 2, u64::from(table.limit), op)?;
    let at = cpu.wrap(lin.wrapping_add(2));
    cpu.write_sized(at, op.mem.seg, size as u8, table.base, op)?;
    Ok(Flow::Next)
}

/// LGDT.
pub(super) fn lgdt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.gdtr = load_table(cpu, op)?;
    Ok(Flow::Next)
}

/// LIDT.
pub(super) fn lidt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.idtr = load_table(cpu, op)?;
    Ok(Flow::Next)
}

/// SGDT.
pub(super) fn sgdt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    store_table(cpu, op, cpu.gdtr)
}

/// SIDT.
pub(super) fn sidt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    store_table(cpu, op, cpu.idtr)
}
