//! What follows from the control registers and segments: execution mode, masks, bases, TLB privilege.

use visor_x86::regs::{Cr0, Cr4, Efer, Rflags};

use crate::cpu::{CodeSize, Cpu, Mode};
use crate::mmu::{Paging, Privilege};

const CS: usize = 1;
const SS: usize = 2;

impl Cpu {
    /// Recomputes what follows from CR0, CR4, EFER, RFLAGS, CS, SS, the CPL and the debug registers: mode, masks, bases, TLB
    /// privilege. To be called after any of them changed.
    pub(crate) fn mode_changed(&mut self) {
        let v86 = self.is_v86();
        let protected = self.cr0 & Cr0::PE.bits() != 0 && !v86;
        let cs = self.seg[CS].attr;
        let long = self.long_mode();
        let size = match (long && cs.long(), cs.db() && (protected || self.cr0 & Cr0::PE.bits() == 0)) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        };
        self.mode = Mode { size, protected, single: false };
        self.single_changed();
        // EIP has 32 bits in 16-bit segments too, whose limit may be larger than 64 KiB: only near branches with 16-bit operands cut it
        // off. UEFI goes back to real mode through such a segment when a machine wakes from S3.
        self.rip_mask = match size {
            CodeSize::Bits16 | CodeSize::Bits32 => 0xffff_ffff,
            CodeSize::Bits64 => !0,
        };
        let is_64 = size == CodeSize::Bits64;
        self.stack_mask = match (is_64, self.seg[SS].attr.db()) {
            (true, _) => !0,
            (false, true) => 0xffff_ffff,
            (false, false) => 0xffff,
        };
        for i in 0..6 {
            self.seg_base[i] = if is_64 && i < 4 { 0 } else { self.seg[i].base };
        }
        self.mmu.paging = match (self.cr0 & Cr0::PG.bits() != 0, self.cr4 & Cr4::PAE.bits() != 0, long) {
            (false, _, _) => Paging::Off,
            (true, _, true) => Paging::Long,
            (true, true, false) => Paging::Pae,
            (true, false, false) => Paging::Legacy,
        };
        self.privilege_changed();
    }

    /// Recomputes whose rights accesses use, after the CPL, RFLAGS.AC, CR0.AM or CR4.SMAP changed.
    #[inline]
    pub(crate) fn privilege_changed(&mut self) {
        let ac = self.sysflags & Rflags::AC.bits() != 0;
        self.mmu.privilege = match self.cpl {
            3 if ac && self.cr0 & Cr0::AM.bits() != 0 => Privilege::UserAligned,
            3 => Privilege::User,
            _ if ac && self.cr4 & Cr4::SMAP.bits() != 0 => Privilege::SupervisorAc,
            _ => Privilege::Supervisor,
        };
    }

    /// Recomputes whether instructions must run one by one, after TF, RF, the interrupt shadow or DR7 changed.
    #[inline]
    pub(crate) fn single_changed(&mut self) {
        // Without breakpoints nobody can tell whether RF lasts for one instruction, and every return from a fault sets it.
        if self.dr7 & 0xff == 0 {
            self.sysflags &= !Rflags::RF.bits();
        }
        self.mode.single = self.needs_single_steps();
    }

    #[inline]
    fn needs_single_steps(&self) -> bool {
        self.sysflags & (Rflags::TF | Rflags::RF).bits() != 0
            || self.shadow
            || self.debug.pending != 0
            || self.dr7 & 0xff != 0
    }

    /// IA32_EFER.LMA: 64-bit or compatibility mode.
    #[inline]
    pub(crate) fn long_mode(&self) -> bool {
        self.efer & Efer::LMA.bits() != 0
    }

    /// Virtual-8086 mode.
    #[inline]
    pub(crate) fn is_v86(&self) -> bool {
        self.sysflags & Rflags::VM.bits() != 0
    }

    /// Real mode.
    #[inline]
    pub(crate) fn is_real(&self) -> bool {
        self.cr0 & Cr0::PE.bits() == 0
    }

    /// The I/O privilege level.
    #[inline]
    pub(crate) fn iopl(&self) -> u8 {
        ((self.sysflags >> 12) & 3) as u8
    }

    /// Rights with which ring `cpl` pushes and pops.
    #[inline]
    pub(super) fn rights_of(&self, cpl: u8) -> Privilege {
        match cpl {
            // Alignment checks are in force as long as CPL 3 lasts.
            3 if self.mmu.privilege == Privilege::UserAligned => Privilege::UserAligned,
            3 => Privilege::User,
            _ => Privilege::Supervisor,
        }
    }
}
