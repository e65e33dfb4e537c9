//! One address space of the soft TLB: direct-mapped tables by privilege mode and kind of access, with bitmaps beside them
//! that tell which entries are in use, global, or parts of large pages; flushes visit only those.

/// Entries in one table.
pub(crate) const ENTRIES: usize = 1024;
/// One entry: hits when `lin - tag <= 4096 - size`, and then `lin + addend` is the host address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TlbEntry {
    /// Linear address of the page; in an empty entry a page that maps to another entry, which can never match.
    pub(crate) tag: u64,
    /// Host address of the page minus `tag` (wrapping).
    pub(crate) addend: u64,
}

/// A table for one kind of access in one mode.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct Table(pub(crate) [TlbEntry; ENTRIES]);

/// Whose rights an access uses; selects the pair of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Privilege {
    /// Rings 0 to 2, SMAP in force if CR4 says so.
    Supervisor,
    /// Rings 0 to 2 with RFLAGS.AC set, which lifts SMAP.
    SupervisorAc,
    /// Ring 3.
    User,
    /// Ring 3 with alignment checks: its tables stay empty, so that every access takes the slow path, which checks.
    UserAligned,
}

impl Privilege {
    /// Ring 3.
    pub(crate) fn is_user(self) -> bool {
        matches!(self, Privilege::User | Privilege::UserAligned)
    }
}

/// What a filled entry needs to be found again by flushes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    /// Linear address.
    pub(crate) lin: u64,
    /// Host address of the page.
    pub(crate) host: *mut u8,
    /// The translation survives CR3 loads.
    pub(crate) global: bool,
    /// The translation is part of a large page.
    pub(crate) large: bool,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Bits([u64; ENTRIES / 64]);

/// Bitmaps over one table's entries.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Marks {
    used: Bits,
    global: Bits,
    large: Bits,
}

/// A Bloom filter over page numbers with one hash: may say yes wrongly, never no.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Filter([u64; 16]);

/// The tables of one address space (PCID).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Space {
    /// Loads, by [`Privilege`].
    pub(crate) load: [Table; 4],
    /// Stores, by [`Privilege`].
    pub(crate) store: [Table; 4],
    /// By kind (loads, stores) and privilege.
    marks: [[Marks; 4]; 2],
    /// 1 GiB regions with parts of large pages.
    giant: Filter,
    /// See `Mmu::generation`, lower half.
    pub(super) generation: u64,
    /// Pages in the lower half whose code may be cached.
    pub(super) code: Filter,
    /// The PCID whose translations these are.
    pub(super) pcid: u16,
    /// False: nothing in it counts; to be cleared before use.
    pub(super) valid: bool,
    pub(super) last_use: u64,
}

impl Table {
    /// Host address of `size` bytes at `lin` if the table permits the access and it stays within one page.
    #[inline(always)]
    pub(crate) fn lookup(&self, lin: u64, size: u64) -> Option<*mut u8> {
        let e = &self.0[index(lin)];
        if lin.wrapping_sub(e.tag) <= 4096 - size { Some(lin.wrapping_add(e.addend) as *mut u8) } else { None }
    }
}

impl Space {
    pub(super) fn new(pcid: u16) -> Box<Self> {
        // SAFETY: all zeroes is a valid value of every field.
        let mut space = unsafe { Box::<Space>::new_zeroed().assume_init() };
        space.pcid = pcid;
        space.valid = true;
        for table in space.load.iter_mut().chain(&mut space.store) {
            table.0[0] = empty(0);
        }
        space
    }

    /// Permits loads (`store`: stores) by `who`.
    pub(crate) fn fill(&mut self, store: bool, who: Privilege, fill: &Fill) {
        let i = index(fill.lin);
        let tag = fill.lin & !0xfff;
        let entry = TlbEntry { tag, addend: (fill.host as u64).wrapping_sub(tag) };
        let tables = if store { &mut self.store } else { &mut self.load };
        tables[who as usize].0[i] = entry;
        let marks = &mut self.marks[usize::from(store)][who as usize];
        marks.used.set(i, true);
        marks.global.set(i, fill.global);
        marks.large.set(i, fill.large);
        if fill.large {
            self.giant.add(fill.lin >> 30);
        }
    }

    /// Drops every entry (`keep_global`: but the global ones).
    pub(super) fn clear(&mut self, keep_global: bool) {
        for (store, marks) in self.marks.iter_mut().enumerate() {
            let tables = if store == 1 { &mut self.store } else { &mut self.load };
            for (table, marks) in tables.iter_mut().zip(marks) {
                marks.clear(table, keep_global);
            }
        }
        if !keep_global {
            self.giant = Filter::default();
        }
    }

    /// Drops what translates the page of `lin`, which may be large.
    pub(super) fn drop_page(&mut self, lin: u64) {
        let giant = self.giant.has(lin >> 30);
        let i = index(lin);
        for (store, marks) in self.marks.iter_mut().enumerate() {
            let tables = if store == 1 { &mut self.store } else { &mut self.load };
            for (table, marks) in tables.iter_mut().zip(marks) {
                table.0[i] = empty(i);
                marks.used.set(i, false);
                if giant {
                    // A page of 1 GiB cannot be told from one of 2 MiB here: drop the whole gigabyte's large ones.
                    marks.drop_large(table, lin);
                }
            }
        }
    }
}

impl Marks {
    fn clear(&mut self, table: &mut Table, keep_global: bool) {
        for word in 0..self.used.0.len() {
            let mut bits = self.used.0[word] & if keep_global { !self.global.0[word] } else { !0 };
            self.used.0[word] &= !bits;
            while bits != 0 {
                let i = word * 64 + bits.trailing_zeros() as usize;
                table.0[i] = empty(i);
                bits &= bits - 1;
            }
        }
    }

    fn drop_large(&mut self, table: &mut Table, lin: u64) {
        for word in 0..self.used.0.len() {
            let mut bits = self.used.0[word] & self.large.0[word];
            while bits != 0 {
                let i = word * 64 + bits.trailing_zeros() as usize;
                if (table.0[i].tag ^ lin) >> 30 == 0 {
                    table.0[i] = empty(i);
                    self.used.set(i, false);
                }
                bits &= bits - 1;
            }
        }
    }
}

impl Bits {
    #[inline]
    fn set(&mut self, i: usize, on: bool) {
        let bit = 1 << (i % 64);
        if on { self.0[i / 64] |= bit } else { self.0[i / 64] &= !bit }
    }
}

impl Filter {
    #[inline]
    pub(super) fn add(&mut self, page: u64) {
        let (word, bit) = Self::place(page);
        self.0[word] |= bit;
    }

    #[inline]
    pub(super) fn has(&self, page: u64) -> bool {
        let (word, bit) = Self::place(page);
        self.0[word] & bit != 0
    }

    #[inline]
    fn place(page: u64) -> (usize, u64) {
        let hash = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
}

/// The entry that a linear address maps to.
#[inline(always)]
fn index(lin: u64) -> usize {
    (lin >> 12) as usize & (ENTRIES - 1)
}

/// The empty entry at `i`: page 0 maps to entry 0, so an empty entry 0 has the tag of a page that maps to entry 1.
fn empty(i: usize) -> TlbEntry {
    TlbEntry { tag: if i == 0 { 1 << 12 } else { 0 }, addend: 0 }
}
