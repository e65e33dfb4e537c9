//! Protection keys (SDM 3A §4.6.2): the rights registers PKRU and IA32_PKRS, and what they forbid.
//!
//! The soft TLBs hold finished rights, so that a change of the registers must drop what they may have allowed or refused: entries
//! of pages with a key other than 0 ([`Keys::used`] says whether there may be any), or all if key 0 itself changes.

use visor_x86::cpuid::feature;
use visor_x86::exception::Exception;
use visor_x86::paging::USER;
use visor_x86::regs::{Cr0, Cr4};

use crate::cpu::Cpu;
use crate::mmu::{Access, Paging, Privilege};
use crate::op::{Flow, Guest, Op};
use crate::sys::operand::end;

/// XCR0: PKRU.
pub(super) const XCR0_PKRU: u64 = 1 << 9;
/// Rights of one key: no access, no writes.
const DENIED: u32 = 1;
const READ_ONLY: u32 = 2;

/// Where a page-table entry has its key.
const KEY_SHIFT: u32 = 59;

/// The state of protection keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys {
    /// PKRU: rights for user pages.
    pub(crate) pkru: u32,
    /// IA32_PKRS: rights for supervisor pages.
    pub(crate) pkrs: u32,
    /// The TLBs may hold pages with a key other than 0.
    pub(crate) used: bool,
}

impl Cpu {
    /// Whether protection keys are in force at all.
    #[inline]
    fn keys_enabled(&self) -> bool {
        self.cr4 & (Cr4::PKE | Cr4::PKS).bits() != 0 && self.mmu.paging == Paging::Long
    }

    /// Whether the key of the page with the last-level entry `leaf` forbids the access; `rights` are those of the whole walk.
    #[inline]
    pub(crate) fn key_forbids(&self, leaf: u64, rights: u64, access: Access, who: Privilege) -> bool {
        if !self.keys_enabled() || access == Access::Fetch {
            return false;
        }
        let (enabled, register) =
            if rights & USER != 0 { (Cr4::PKE, self.msr.keys.pkru) } else { (Cr4::PKS, self.msr.keys.pkrs) };
        if self.cr4 & enabled.bits() == 0 {
            return false;
        }
        let key = register >> (2 * (leaf >> KEY_SHIFT & 15));
        let write_protect = who.is_user() || self.cr0 & Cr0::WP.bits() != 0;
        key & DENIED != 0 || key & READ_ONLY != 0 && access == Access::Store && write_protect
    }

    /// Notes that the TLBs will hold rights that depend on the key of `leaf`.
    #[inline]
    pub(crate) fn note_key(&mut self, leaf: u64) {
        self.msr.keys.used |= self.keys_enabled() && leaf >> KEY_SHIFT & 15 != 0;
    }

    /// Changes PKRU; true if translations were dropped.
    pub(super) fn set_pkru(&mut self, value: u32) -> bool {
        let old = std::mem::replace(&mut self.msr.keys.pkru, value);
        self.rights_changed(old ^ value)
    }

    /// Changes IA32_PKRS.
    pub(super) fn set_pkrs(&mut self, value: u32) {
        let old = std::mem::replace(&mut self.msr.keys.pkrs, value);
        self.rights_changed(old ^ value);
    }

    fn rights_changed(&mut self, changed: u32) -> bool {
        let drop = changed & 3 != 0 || changed != 0 && self.msr.keys.used;
        let drop = drop && self.cr4 & (Cr4::PKE | Cr4::PKS).bits() != 0;
        if drop {
            self.mmu.flush_all();
            self.msr.keys.used = false;
        }
        drop
    }

    fn pkru_allowed(&mut self) -> Guest<()> {
        if self.cr4 & Cr4::PKE.bits() == 0 || !self.cpuid.has(feature::PKU) {
            return self.fail(Exception::UD);
        }
        if self.gpr[1] as u32 != 0 { self.fail(Exception::gp(0)) } else { Ok(()) }
    }
}

/// RDPKRU.
pub(super) fn rdpkru(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    cpu.pkru_allowed()?;
    cpu.set_edx_eax(u64::from(cpu.msr.keys.pkru));
    Ok(Flow::Next)
}

/// WRPKRU.
pub(super) fn wrpkru(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.pkru_allowed()?;
    if cpu.gpr[2] as u32 != 0 {
        return cpu.fail(Exception::gp(0));
    }
    let value = cpu.gpr[0] as u32;
    cpu.set_pkru(value);
    end(cpu, op)
}
