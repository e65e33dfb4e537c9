//! The page walk: linear to guest-physical under the current paging mode (SDM 3A §4).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use visor_memory::{Gpa, PAGE, RamPage};
use visor_x86::exception::{Exception, pf};
use visor_x86::paging::{
    ACCESSED, ADDRESS, DIRTY, GLOBAL, LARGE, NX, PHYS_BITS, PRESENT, RESERVED_ADDRESS, USER, WRITE, is_canonical,
};
use visor_x86::regs::{Cr0, Cr4, Efer};

use crate::cpu::Cpu;
use crate::mmu::Privilege;
use crate::mmu::tlb::Paging;
use crate::op::Guest;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Data read.
    Load,
    /// Data write, or the write half of a read-modify-write.
    Store,
    /// Instruction fetch.
    Fetch,
}

/// The result of a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    /// Where the byte is.
    pub(crate) gpa: Gpa,
    /// Survives address-space switches.
    pub(crate) global: bool,
    /// Part of a page of more than 4 KiB.
    pub(crate) large: bool,
    /// The last entry of the walk, 0 without one.
    pub(crate) leaf: u64,
    /// Where that entry is, if it has 64 bits.
    table: Option<(RamPage, u64)>,
}

/// What of an entry decides about rights and the kind of page: all but the address, the accessed and dirty bits, and what is ignored.
const RIGHTS: u64 = PRESENT | WRITE | USER | LARGE | GLOBAL | NX | 0xf << 59;

/// A paging-structure entry on the way to the page.
#[derive(Clone, Copy)]
struct Entry {
    raw: u64,
    /// Where it is, or `None` outside RAM.
    page: Option<RamPage>,
    offset: u64,
    wide: bool,
}

/// How often a walk starts over because another processor changed an entry under it.
const RETRIES: u32 = 64;

/// The page-fault error code of a failed walk, or that an entry changed meanwhile.
enum Miss {
    Fault(u32),
    Changed,
}

/// What a walk has gathered so far.
struct Walk {
    entries: [Option<Entry>; 4],
    count: usize,
    /// AND of the entries' R/W and U/S bits, OR of NX.
    rights: u64,
}

impl Cpu {
    /// Translates `lin` for `access` with the rights of `who`, setting accessed and dirty bits.
    ///
    /// # Errors
    /// A page fault, recorded in `self.fault`; CR2 is set at delivery.
    pub(crate) fn translate(&mut self, lin: u64, access: Access, who: Privilege) -> Guest<Translation> {
        // Callers that tell #SS from #GP have checked already; the walk itself would ignore the upper bits.
        if self.mmu.paging == Paging::Long && !is_canonical(lin) {
            return self.fail(Exception::gp(0));
        }
        self.stats.tlb.walks += u64::from(self.mmu.paging != Paging::Off);
        for _ in 0..RETRIES {
            match self.walk(lin, access, who) {
                Ok(t) => return Ok(t),
                Err(Miss::Changed) => {}
                Err(Miss::Fault(code)) => {
                    let code = code | self.error_bits(access, who);
                    return self.fail(Exception::pf(code, lin));
                }
            }
        }
        // Another processor rewrites the entry faster than we can: behave as if it had been absent at this moment.
        let code = self.error_bits(access, who);
        self.fail(Exception::pf(code, lin))
    }

    /// Error-code bits that tell what the access was (SDM 3A §4.7).
    fn error_bits(&self, access: Access, who: Privilege) -> u32 {
        let mut code = if who.is_user() { pf::USER } else { 0 };
        match access {
            Access::Store => code |= pf::WRITE,
            Access::Fetch if self.efer & Efer::NXE.bits() != 0 && self.cr4 & Cr4::PAE.bits() != 0 => code |= pf::FETCH,
            Access::Fetch if self.cr4 & Cr4::SMEP.bits() != 0 => code |= pf::FETCH,
            _ => {}
        }
        code
    }

    fn walk(&self, lin: u64, access: Access, who: Privilege) -> Result<Translation, Miss> {
        let mut walk = Walk { entries: [None; 4], count: 0, rights: WRITE | USER };
        match self.mmu.paging {
            Paging::Off => {
                Ok(Translation { gpa: Gpa(lin & 0xffff_ffff), global: false, large: false, leaf: 0, table: None })
            }
            Paging::Long => self.walk_wide(&mut walk, self.cr3 & ADDRESS, 4, lin, access, who),
            Paging::Pae => {
                let pdpte = self.mmu.pdpte[(lin >> 30) as usize & 3];
                if pdpte & PRESENT == 0 {
                    return Err(Miss::Fault(0));
                }
                self.walk_wide(&mut walk, pdpte & ADDRESS, 2, lin, access, who)
            }
            Paging::Legacy => self.walk_legacy(&mut walk, lin, access, who),
        }
    }

    /// Levels of 512 eight-byte entries, from `level` (4: PML4) down.
    fn walk_wide(
        &self,
        walk: &mut Walk,
        mut table: u64,
        mut level: u32,
        lin: u64,
        access: Access,
        who: Privilege,
    ) -> Result<Translation, Miss> {
        let reserved = RESERVED_ADDRESS
            | if self.efer & Efer::NXE.bits() == 0 { NX } else { 0 }
            // SDM 3A tables 4-9 to 4-11: bits 62 to 52 are reserved with PAE paging, ignored with 4-level paging.
            | if self.mmu.paging == Paging::Pae { 0x7ff0_0000_0000_0000 } else { 0 };
        loop {
            let shift = 12 + 9 * (level - 1);
            let entry = self.entry(table + ((lin >> shift) & 0x1ff) * 8, true);
            walk.add(entry)?;
            let leaf = level == 1 || (entry.raw & LARGE != 0 && level <= 3);
            let mut forbidden = reserved;
            if level == 4 {
                forbidden |= LARGE;
            } else if leaf && level > 1 {
                // Below the page's address only bit 12 (PAT) is defined.
                forbidden |= ((1 << shift) - 1) & !0x1fff;
            }
            if entry.raw & forbidden != 0 {
                return Err(Miss::Fault(pf::PRESENT | pf::RESERVED));
            }
            if leaf {
                let offset = (1 << shift) - 1;
                let gpa = (entry.raw & ADDRESS & !offset) | (lin & offset);
                return self.finish(walk, gpa, level > 1, access, who);
            }
            table = entry.raw & ADDRESS;
            level -= 1;
        }
    }

    /// 32-bit paging (SDM 3A §4.3).
    fn walk_legacy(&self, walk: &mut Walk, lin: u64, access: Access, who: Privilege) -> Result<Translation, Miss> {
        let directory = self.entry((self.cr3 & 0xffff_f000) + ((lin >> 22) & 0x3ff) * 4, false);
        walk.add(directory)?;
        if directory.raw & LARGE != 0 && self.cr4 & Cr4::PSE.bits() != 0 {
            // PSE-36: bits 20 to 13 are address bits 39 to 32; those above MAXPHYADDR and bit 21 are reserved.
            let high_bits = PHYS_BITS - 32;
            let reserved = (1 << 21) | (((1 << 21) - 1) & !((1 << (13 + high_bits)) - 1));
            if directory.raw & reserved != 0 {
                return Err(Miss::Fault(pf::PRESENT | pf::RESERVED));
            }
            let high = (directory.raw >> 13) & ((1 << high_bits) - 1);
            let gpa = high << 32 | (directory.raw & 0xffc0_0000) | (lin & 0x3f_ffff);
            return self.finish(walk, gpa, true, access, who);
        }
        let entry = self.entry((directory.raw & 0xffff_f000) + ((lin >> 12) & 0x3ff) * 4, false);
        walk.add(entry)?;
        let gpa = (entry.raw & 0xffff_f000) | (lin & 0xfff);
        self.finish(walk, gpa, false, access, who)
    }

    /// Checks the rights and sets accessed and dirty bits.
    fn finish(&self, walk: &Walk, gpa: u64, large: bool, access: Access, who: Privilege) -> Result<Translation, Miss> {
        let leaf = walk.count - 1;
        let raw = walk.entries[leaf].map_or(0, |e| e.raw);
        let key = self.key_forbids(raw, walk.rights, access, who);
        if key || !self.allowed(walk.rights, access, who) {
            return Err(Miss::Fault(pf::PRESENT | if key { pf::KEY } else { 0 }));
        }
        for (i, entry) in walk.entries.iter().take(walk.count).enumerate() {
            let Some(entry) = entry else { continue };
            let wanted = if i == leaf && access == Access::Store { ACCESSED | DIRTY } else { ACCESSED };
            if entry.raw & wanted != wanted {
                self.mark(entry, wanted)?;
            }
        }
        let global = raw & GLOBAL != 0 && self.cr4 & Cr4::PGE.bits() != 0;
        let table = walk.entries[leaf].and_then(|e| e.page.filter(|_| e.wide).map(|page| (page, e.offset)));
        Ok(Translation { gpa: Gpa(gpa), global, large, leaf: raw, table })
    }

    /// The translation of the page `n` pages behind that of `t`, if it needs no walk: it is part of the same large page, or its entry
    /// follows in the same table, gives the same rights, and has the accessed bit, and for stores the dirty bit (a processor
    /// may cache such a translation at any time; SDM 3A §4.10.2.3).
    pub(crate) fn following(&self, t: &Translation, n: u64, access: Access) -> Option<Translation> {
        let next = |gpa: u64, leaf: u64| Some(Translation { gpa: Gpa(gpa), leaf, ..*t });
        let page = t.gpa.0 & !(PAGE - 1);
        if t.large {
            let gpa = page + n * PAGE;
            return if (gpa ^ page) >> 21 == 0 { next(gpa, t.leaf) } else { None };
        }
        let (table, offset) = t.table?;
        let offset = offset + 8 * n;
        if offset >= PAGE {
            return None;
        }
        // SAFETY: aligned and within a page of guest RAM; read atomically, since other processors may change it.
        let raw = unsafe { (*table.host.add(offset as usize).cast::<AtomicU64>()).load(Ordering::Acquire) };
        let wanted = if access == Access::Store { ACCESSED | DIRTY } else { ACCESSED };
        let same = (raw ^ t.leaf) & (RIGHTS | RESERVED_ADDRESS) == 0;
        if same && raw & wanted == wanted { next(raw & ADDRESS, raw) } else { None }
    }

    /// SDM 3A §4.6.1.
    fn allowed(&self, rights: u64, access: Access, who: Privilege) -> bool {
        let user_page = rights & USER != 0;
        if who.is_user() && !user_page {
            return false;
        }
        match access {
            Access::Fetch => rights & NX == 0 && (who.is_user() || !user_page || self.cr4 & Cr4::SMEP.bits() == 0),
            _ if user_page && who == Privilege::Supervisor && self.cr4 & Cr4::SMAP.bits() != 0 => false,
            Access::Load => true,
            Access::Store => rights & WRITE != 0 || (!who.is_user() && self.cr0 & Cr0::WP.bits() == 0),
        }
    }

    /// Reads an entry at guest-physical `at`.
    fn entry(&self, at: u64, wide: bool) -> Entry {
        let page = self.ram.page(Gpa(at));
        let offset = at % PAGE;
        let raw = match page {
            Some(page) => {
                // SAFETY: aligned and within a page of guest RAM, which lives as long as the CPU; read atomically, since
                // other processors may change it.
                unsafe {
                    let at = page.host.add(offset as usize);
                    if wide {
                        (*at.cast::<AtomicU64>()).load(Ordering::Acquire)
                    } else {
                        u64::from((*at.cast::<AtomicU32>()).load(Ordering::Acquire))
                    }
                }
            }
            // Where there is no RAM reads give ones.
            None => !0,
        };
        Entry { raw, page, offset, wide }
    }

    /// Sets `bits` in an entry, if it is still what it was.
    fn mark(&self, entry: &Entry, bits: u64) -> Result<(), Miss> {
        let Some(page) = entry.page.filter(|p| p.writable) else { return Ok(()) };
        let (old, new) = (entry.raw, entry.raw | bits);
        // SAFETY: see `entry`.
        let at = unsafe { page.host.add(entry.offset as usize) };
        let same = if entry.wide {
            // SAFETY: see `entry`.
            let word = unsafe { &*at.cast::<AtomicU64>() };
            word.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        } else {
            // SAFETY: see `entry`.
            let word = unsafe { &*at.cast::<AtomicU32>() };
            word.compare_exchange(old as u32, new as u32, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        if !same {
            return Err(Miss::Changed);
        }
        self.ram.frames().wrote(page.frame, entry.offset, 8.min(PAGE - entry.offset));
        Ok(())
    }
}

impl Walk {
    #[inline]
    fn add(&mut self, entry: Entry) -> Result<(), Miss> {
        if entry.raw & PRESENT == 0 {
            return Err(Miss::Fault(0));
        }
        self.entries[self.count] = Some(entry);
        self.count += 1;
        let nx = if entry.wide { (self.rights | entry.raw) & NX } else { 0 };
        self.rights = (self.rights & entry.raw & (WRITE | USER)) | nx;
        Ok(())
    }
}
