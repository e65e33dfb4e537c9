//! Control registers and TLB management (SDM 3A §2.5, §4.1, §4.10.4, §9.8.5; SDM 2B, MOV CR).

use visor_x86::cpuid::feature;
use visor_x86::exception::Exception;
use visor_x86::paging::{PDPTE_RESERVED, PHYS_BITS, PRESENT, is_canonical};
use visor_x86::regs::{Cr0, Cr4, Efer};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::{CS, umip};
use crate::sys::operand::end;

const PE: u64 = Cr0::PE.bits();
const PG: u64 = Cr0::PG.bits();
const PAE: u64 = Cr4::PAE.bits();
const PCIDE: u64 = Cr4::PCIDE.bits();
/// CR3 source operand: keep what the PCID has cached.
const NO_FLUSH: u64 = 1 << 63;

fn ring0(cpu: &mut Cpu) -> Guest<()> {
    if cpu.cpl != 0 { cpu.fail(Exception::gp(0)) } else { Ok(()) }
}

/// MOV r, CRn.
pub(super) fn mov_from_cr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if !matches!(op.imm, 0 | 2 | 3 | 4 | 8) || (op.imm == 8 && !cpu.cpuid.has(feature::LM)) {
        return cpu.fail(Exception::UD);
    }
    ring0(cpu)?;
    let value = match op.imm {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => cpu.cr8(),
    };
    cpu.reg_put(op.r0, if cpu.is_64() { 8 } else { 4 }, value);
    Ok(Flow::Next)
}

/// MOV CRn, r.
pub(super) fn mov_to_cr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if !matches!(op.imm, 0 | 2 | 3 | 4 | 8) || (op.imm == 8 && !cpu.cpuid.has(feature::LM)) {
        return cpu.fail(Exception::UD);
    }
    ring0(cpu)?;
    let value = cpu.reg_get(op.r0, if cpu.is_64() { 8 } else { 4 });
    let next = op.next_rip(cpu);
    match op.imm {
        0 => cpu.write_cr0(value)?,
        2 => cpu.cr2 = value,
        3 => cpu.write_cr3(value)?,
        4 => cpu.write_cr4(value)?,
        _ if value > 15 => return cpu.fail(Exception::gp(0)),
        _ => cpu.set_cr8(value as u8),
    }
    cpu.rip = next;
    Ok(Flow::End)
}

impl Cpu {
    fn write_cr0(&mut self, value: u64) -> Guest<()> {
        let bits = Cr0::all().bits();
        let bad = value >> 32 != 0
            || (value & PG != 0 && value & PE == 0)
            || (value & Cr0::NW.bits() != 0 && value & Cr0::CD.bits() == 0);
        if bad {
            return self.fail(Exception::gp(0));
        }
        let new = (value & bits) | Cr0::ET.bits();
        let changed = self.cr0 ^ new;
        let mut efer = self.efer;
        if changed & new & PG != 0 && efer & Efer::LME.bits() != 0 {
            // SDM 3A §9.8.5: PAE must be on and CS must not be a 64-bit segment.
            if self.cr4 & PAE == 0 || self.seg[CS].attr.long() {
                return self.fail(Exception::gp(0));
            }
            efer |= Efer::LMA.bits();
        }
        if changed & PG != 0 && new & PG == 0 {
            if self.is_64() || self.cr4 & PCIDE != 0 {
                return self.fail(Exception::gp(0));
            }
            efer &= !Efer::LMA.bits();
        }
        let cache = Cr0::CD.bits() | Cr0::NW.bits();
        if new & PG != 0 && changed & (PG | cache) != 0 && self.cr4 & PAE != 0 && efer & Efer::LMA.bits() == 0 {
            self.load_pdptes(self.cr3)?;
        }
        self.cr0 = new;
        self.efer = efer;
        if changed & (PG | PE | Cr0::WP.bits()) != 0 {
            self.mmu.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    /// MOV to CR3, and the CR3 of a task switch.
    pub(super) fn write_cr3(&mut self, value: u64) -> Guest<()> {
        let pcids = self.cr4 & PCIDE != 0;
        let keep = pcids && value & NO_FLUSH != 0;
        let value = if pcids { value & !NO_FLUSH } else { value };
        if self.long_mode() && value >> PHYS_BITS != 0 {
            return self.fail(Exception::gp(0));
        }
        if self.cr0 & PG != 0 && self.cr4 & PAE != 0 && !self.long_mode() {
            self.load_pdptes(value)?;
        }
        self.cr3 = value;
        self.mmu.switch(if pcids { value as u16 & 0xfff } else { 0 }, keep);
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Guest<()> {
        let changed = self.cr4 ^ value;
        let sets_pcid = changed & value & PCIDE != 0;
        let bad = value & !self.cr4_bits() != 0
            || (self.long_mode() && value & PAE == 0)
            || (sets_pcid && (!self.long_mode() || self.cr3 & 0xfff != 0));
        if bad {
            return self.fail(Exception::gp(0));
        }
        let paging = (Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::SMEP | Cr4::SMAP | Cr4::PCIDE).bits();
        if self.cr0 & PG != 0 && !self.long_mode() && value & PAE != 0 && changed & paging != 0 {
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        if changed & (paging | (Cr4::PKE | Cr4::PKS).bits()) != 0 {
            if changed & PCIDE != 0 && value & PCIDE == 0 {
                self.mmu.switch(0, false);
            }
            self.mmu.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    /// Bits of CR4 that exist with this CPUID.
    pub(super) fn cr4_bits(&self) -> u64 {
        let has = |f, bits: Cr4| if self.cpuid.has(f) { bits.bits() } else { 0 };
        let extended = Cr4::OSFXSR | Cr4::OSXMMEXCPT;
        has(feature::VME, Cr4::VME | Cr4::PVI)
            | has(feature::TSC, Cr4::TSD)
            | has(feature::DE, Cr4::DE)
            | has(feature::PSE, Cr4::PSE)
            | has(feature::PAE, Cr4::PAE)
            | has(feature::MCE, Cr4::MCE)
            | has(feature::PGE, Cr4::PGE)
            | has(feature::MSR, Cr4::PCE)
            | has(feature::FXSR, extended)
            | has(feature::UMIP, Cr4::UMIP)
            | has(feature::FSGSBASE, Cr4::FSGSBASE)
            | has(feature::PCID, Cr4::PCIDE)
            | has(feature::XSAVE, Cr4::OSXSAVE)
            | has(feature::SMEP, Cr4::SMEP)
            | has(feature::SMAP, Cr4::SMAP)
            | has(feature::PKU, Cr4::PKE)
            | has(feature::PKS, Cr4::PKS)
    }

    /// Loads the four PDPTEs of PAE paging (SDM 3A §4.4.1).
    pub(super) fn load_pdptes(&mut self, cr3: u64) -> Guest<()> {
        let table = cr3 & 0xffff_ffe0;
        let mut entries = [0; 4];
        for (i, entry) in entries.iter_mut().enumerate() {
            *entry = self.read_physical(table + 8 * i as u64);
            if *entry & PRESENT != 0 && *entry & PDPTE_RESERVED != 0 {
                return self.fail(Exception::gp(0));
            }
        }
        self.mmu.pdpte = entries;
        Ok(())
    }

    /// Reads eight aligned bytes of physical memory; ones where there is no RAM.
    fn read_physical(&self, at: u64) -> u64 {
        match self.ram.page(visor_memory::Gpa(at)) {
            // SAFETY: aligned and within a page of guest RAM.
            Some(page) => unsafe { crate::mmu::peek::<u64>(page.host.add((at % visor_memory::PAGE) as usize)) },
            None => !0,
        }
    }
}

/// CLTS.
pub(super) fn clts(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    cpu.cr0 &= !Cr0::TS.bits();
    cpu.mode_changed();
    end(cpu, op)
}

/// SMSW: 16 bits to memory.
pub(super) fn smsw(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    umip(cpu)?;
    cpu.rm_put(op, op.r0, if op.r2 == 1 { 2 } else { op.aux }, cpu.cr0)?;
    Ok(Flow::Next)
}

/// LMSW: loads PE, MP, EM and TS, but cannot clear PE.
pub(super) fn lmsw(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    let next = op.next_rip(cpu);
    let value = cpu.rm_get(op, op.r0, 2)? & 0xf;
    cpu.write_cr0((cpu.cr0 & !0xe) | value)?;
    cpu.rip = next;
    Ok(Flow::End)
}

/// INVLPG.
pub(super) fn invlpg(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    let lin = cpu.wrap(cpu.ea(&op.mem).wrapping_add(cpu.seg_base[usize::from(op.mem.seg_base)]));
    if !cpu.is_64() || is_canonical(lin) {
        cpu.mmu.flush_page(lin);
    }
    end(cpu, op)
}

/// INVPCID.
pub(super) fn invpcid(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if !cpu.cpuid.has(feature::INVPCID) || cpu.is_real() {
        return cpu.fail(Exception::UD);
    }
    ring0(cpu)?;
    let kind = cpu.reg_get(op.r0, if cpu.is_64() { 8 } else { 4 });
    let lin = cpu.linear(op, 16, false)?;
    let low = cpu.read::<u64>(lin, op.mem.seg)?;
    let address = cpu.read::<u64>(cpu.wrap(lin.wrapping_add(8)), op.mem.seg)?;
    let pcid = low as u16 & 0xfff;
    let no_pcids = cpu.cr4 & PCIDE == 0;
    let bad =
        low >> 12 != 0 || kind > 3 || (kind < 2 && no_pcids && pcid != 0) || (kind == 0 && !is_canonical(address));
    if bad {
        return cpu.fail(Exception::gp(0));
    }
    match kind {
        0 => cpu.mmu.flush_page_of(pcid, address),
        1 => cpu.mmu.flush_pcid(pcid),
        2 => cpu.mmu.flush_all(),
        _ => cpu.mmu.flush_not_global(),
    }
    end(cpu, op)
}

/// WBINVD: the caches of this CPU are those of the host and always coherent.
pub(super) fn wbinvd(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    Ok(Flow::Next)
}

/// HLT.
pub(super) fn hlt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    cpu.halted = true;
    end(cpu, op)
}
