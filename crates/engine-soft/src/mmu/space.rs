//! What flushes need to know of the soft TLB's tables: bitmaps that tell which entries are in use, global, or parts of large
//! pages, so that a flush visits only those; and the address spaces to which the tables belong.

use std::sync::atomic::AtomicU32;

use crate::mmu::tables::{ENTRIES, Entry, Tables, index};

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
struct Bits([u64; ENTRIES / 64]);

impl Default for Bits {
    fn default() -> Self {
        Bits([0; ENTRIES / 64])
    }
}

/// Bitmaps over one table's entries.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    used: Bits,
    global: Bits,
    large: Bits,
}

/// A Bloom filter over page numbers with one hash: may say yes wrongly, never no.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter([u64; 16]);

/// A pair of tables with its bitmaps.
#[derive(Debug)]
pub(super) struct Kept {
    tables: *mut Tables,
    load: Marks,
    store: Marks,
    /// 1 GiB regions with parts of large pages.
    giant: Filter,
}

/// An address space (PCID) and its tables.
#[derive(Debug)]
pub(crate) struct Space {
    /// Ring 3.
    pub(super) user: Kept,
    /// Supervisor with RFLAGS.AC.
    pub(super) ac: Kept,
    /// Which user tables of the CPU's home these are.
    pub(super) slot: usize,
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

impl Kept {
    /// Around empty tables, which must live as long as this.
    pub(super) fn new(tables: *mut Tables) -> Self {
        Kept { tables, load: Marks::default(), store: Marks::default(), giant: Filter::default() }
    }

    /// Permits loads, and stores if the frame's code mark `mark` is given.
    pub(super) fn fill(&mut self, fill: &Fill, mark: Option<*const AtomicU32>) {
        let entry = Entry { tag: fill.lin & !0xfff, host: fill.host as u64 };
        let i = index(fill.lin);
        // SAFETY: the tables live as long as this, and belong to the CPU that calls.
        let tables = unsafe { &mut *self.tables };
        tables.put_load(entry);
        self.load.set(i, fill);
        if let Some(mark) = mark {
            tables.put_store(entry, mark);
            self.store.set(i, fill);
        }
        if fill.large {
            self.giant.add(fill.lin >> 30);
        }
    }

    /// Drops every entry (`keep_global`: but the global ones).
    pub(super) fn clear(&mut self, keep_global: bool) {
        // SAFETY: as in `fill`.
        let tables = unsafe { &mut *self.tables };
        self.load.clear(keep_global, |i| tables.empty_load(i));
        self.store.clear(keep_global, |i| tables.empty_store(i));
        if !keep_global {
            self.giant = Filter::default();
        }
    }

    /// Drops what translates the page of `lin`, which may be large.
    pub(super) fn drop_page(&mut self, lin: u64) {
        // SAFETY: as in `fill`.
        let tables = unsafe { &mut *self.tables };
        let i = index(lin);
        tables.empty(i);
        self.load.used.set(i, false);
        self.store.used.set(i, false);
        if self.giant.has(lin >> 30) {
            // A page of 1 GiB cannot be told from one of 2 MiB here: drop the whole gigabyte's large ones.
            for i in self.load.large_entries() {
                if (tables.load.tag(i) ^ lin) >> 30 == 0 {
                    tables.empty_load(i);
                    self.load.used.set(i, false);
                }
            }
            for i in self.store.large_entries() {
                if (tables.store.page.tag(i) ^ lin) >> 30 == 0 {
                    tables.empty_store(i);
                    self.store.used.set(i, false);
                }
            }
        }
    }
}

impl Space {
    pub(super) fn new(pcid: u16, slot: usize, user: *mut Tables, ac: *mut Tables) -> Box<Self> {
        Box::new(Space {
            user: Kept::new(user),
            ac: Kept::new(ac),
            slot,
            generation: 0,
            code: Filter::default(),
            pcid,
            valid: true,
            last_use: 0,
        })
    }

    /// Drops every entry (`keep_global`: but the global ones).
    pub(super) fn clear(&mut self, keep_global: bool) {
        self.user.clear(keep_global);
        self.ac.clear(keep_global);
    }

    /// Drops what translates the page of `lin`.
    pub(super) fn drop_page(&mut self, lin: u64) {
        self.user.drop_page(lin);
        self.ac.drop_page(lin);
    }
}

impl Marks {
    fn set(&mut self, i: usize, fill: &Fill) {
        self.used.set(i, true);
        self.global.set(i, fill.global);
        self.large.set(i, fill.large);
    }

    fn clear(&mut self, keep_global: bool, mut empty: impl FnMut(usize)) {
        for word in 0..self.used.0.len() {
            let mut bits = self.used.0[word] & if keep_global { !self.global.0[word] } else { !0 };
            self.used.0[word] &= !bits;
            while bits != 0 {
                empty(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Entries in use that are parts of large pages.
    fn large_entries(&self) -> impl Iterator<Item = usize> + use<> {
        let words: Vec<u64> = self.used.0.iter().zip(&self.large.0).map(|(u, l)| u & l).collect();
        words
            .into_iter()
            .enumerate()
            .flat_map(|(w, bits)| (0..64).filter(move |b| bits >> b & 1 != 0).map(move |b| w * 64 + b))
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
