//! The soft TLB: direct-mapped tables per address space, privilege mode and kind of access.

/// Entries in one table.
pub const ENTRIES: usize = 1024;

/// One entry: hits when `lin - tag <= 4096 - size`, and then `lin + addend` is the host address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Linear address of the page; in an empty entry a page that maps to another entry, which can never match.
    pub tag: u64,
    /// Host address of the page minus `tag` (wrapping).
    pub addend: u64,
}

/// A table for one kind of access in one mode.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Table(pub [TlbEntry; ENTRIES]);

/// Whose rights an access uses; selects the pair of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Privilege {
    /// Rings 0 to 2, SMAP in force if CR4 says so.
    Supervisor,
    /// Rings 0 to 2 with RFLAGS.AC set, which lifts SMAP.
    SupervisorAc,
    /// Ring 3.
    User,
}

/// The tables of one address space (PCID).
#[derive(Debug)]
#[repr(C)]
pub struct Space {
    /// Loads, by [`Privilege`].
    pub load: [Table; 3],
    /// Stores, by [`Privilege`].
    pub store: [Table; 3],
}

impl Table {
    /// A table without entries.
    pub fn empty() -> Self {
        let mut t = Table([TlbEntry { tag: 0, addend: 0 }; ENTRIES]);
        t.clear();
        t
    }

    /// Drops every entry.
    pub fn clear(&mut self) {
        self.0.fill(TlbEntry { tag: 0, addend: 0 });
        // Page 0 maps to entry 0, so entry 0 gets the tag of a page that maps to entry 1.
        self.0[0].tag = 1 << 12;
    }

    /// Drops the entry that may hold the page of `lin`.
    pub fn drop_page(&mut self, lin: u64) {
        let i = index(lin);
        self.0[i] = TlbEntry { tag: if i == 0 { 1 << 12 } else { 0 }, addend: 0 };
    }

    /// Host address of `size` bytes at `lin` if the table permits the access and it stays within one page.
    #[inline(always)]
    pub fn lookup(&self, lin: u64, size: u64) -> Option<*mut u8> {
        let e = &self.0[index(lin)];
        if lin.wrapping_sub(e.tag) <= 4096 - size { Some(lin.wrapping_add(e.addend) as *mut u8) } else { None }
    }

    /// Permits accesses to the page of `lin`, which lies at `host`.
    pub fn insert(&mut self, lin: u64, host: *mut u8) {
        let tag = lin & !0xfff;
        self.0[index(lin)] = TlbEntry { tag, addend: (host as u64).wrapping_sub(tag) };
    }
}

/// The entry that a linear address maps to.
#[inline(always)]
fn index(lin: u64) -> usize {
    (lin >> 12) as usize & (ENTRIES - 1)
}

/// Translation state of one CPU.
#[derive(Debug)]
pub struct Mmu {
    /// Whose rights loads and stores of instructions use; follows CPL, RFLAGS.AC and CR4.SMAP.
    pub privilege: Privilege,
    /// The tables of the current address space.
    pub space: Box<Space>,
    /// Host address of frame 0.
    pub ram_base: u64,
    /// Code marks, one word per frame.
    pub code_marks: *const std::sync::atomic::AtomicU32,
    /// Moves on whenever a linear code address may mean other bytes than before: cached lookups of blocks die.
    pub code_generation: u64,
}

// SAFETY: `code_marks` points into the machine's RAM tables, which the CPU keeps alive through its `ram` field.
unsafe impl Send for Mmu {}

impl Mmu {
    /// Empty tables over `ram`.
    pub fn new(ram: &visor_memory::GuestMemory) -> Self {
        let three = || [Table::empty(), Table::empty(), Table::empty()];
        Mmu {
            privilege: Privilege::Supervisor,
            space: Box::new(Space { load: three(), store: three() }),
            ram_base: ram.base() as u64,
            code_marks: ram.frames().code_marks(),
            code_generation: 0,
        }
    }

    /// Drops everything.
    pub fn flush_all(&mut self) {
        self.space.load.iter_mut().chain(self.space.store.iter_mut()).for_each(Table::clear);
        self.code_generation += 1;
    }
}
