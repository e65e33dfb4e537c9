//! The tables of the soft TLB as memory: direct-mapped, one array per field, so that an entry is found with the scaled index of
//! an x86 address and generated code can use them without knowing more than their offsets.
//!
//! An access of `size` bytes at `lin` hits entry `i = index(lin)` when `lin + neg_tag[i] <= 4096 - size` (unsigned); its host
//! address then is `lin + addend[i]`, which is also the offset in the page plus `host[i]`.

use std::sync::atomic::AtomicU32;

/// Entries in one table.
pub(crate) const ENTRIES: usize = 4096;

/// Pages from which loads are permitted in one privilege mode.
#[repr(C)]
pub(crate) struct LoadTable {
    /// Minus the linear address of the page; in an empty entry that of a page which maps to another entry.
    pub(crate) neg_tag: [u64; ENTRIES],
    /// Host address of the page.
    pub(crate) host: [u64; ENTRIES],
    /// Host address minus linear address of the page (wrapping).
    pub(crate) addend: [u64; ENTRIES],
}

/// Pages to which stores are permitted in one privilege mode.
#[repr(C)]
pub(crate) struct StoreTable {
    /// As for loads.
    pub(crate) page: LoadTable,
    /// Where the code mark of the page's frame is (see `visor_memory`); meaningless in an empty entry.
    pub(crate) mark: [*const AtomicU32; ENTRIES],
}

/// A pair of tables.
#[repr(C)]
pub(crate) struct Tables {
    pub(crate) load: LoadTable,
    pub(crate) store: StoreTable,
}

/// What an entry says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Linear address of the page.
    pub(crate) tag: u64,
    /// Host address of the page.
    pub(crate) host: u64,
}

impl LoadTable {
    /// Host address of `size` bytes at `lin` if the table permits the access and it stays within one page.
    #[inline(always)]
    pub(crate) fn lookup(&self, lin: u64, size: u64) -> Option<*mut u8> {
        let i = index(lin);
        if lin.wrapping_add(self.neg_tag[i]) <= 4096 - size {
            Some(lin.wrapping_add(self.addend[i]) as *mut u8)
        } else {
            None
        }
    }

    fn put(&mut self, i: usize, e: Entry) {
        self.neg_tag[i] = e.tag.wrapping_neg();
        self.host[i] = e.host;
        self.addend[i] = e.host.wrapping_sub(e.tag);
    }

    /// Linear address of the page of entry `i`.
    pub(super) fn tag(&self, i: usize) -> u64 {
        self.neg_tag[i].wrapping_neg()
    }
}

impl StoreTable {
    /// As [`LoadTable::lookup`].
    #[inline(always)]
    pub(crate) fn lookup(&self, lin: u64, size: u64) -> Option<*mut u8> {
        self.page.lookup(lin, size)
    }
}

impl Tables {
    /// Makes zeroed memory a pair of empty tables.
    pub(super) fn init(&mut self) {
        self.empty(0);
        self.empty(ENTRIES - 1);
    }

    /// Empties entry `i` of both.
    pub(super) fn empty(&mut self, i: usize) {
        self.empty_load(i);
        self.empty_store(i);
    }

    pub(super) fn empty_load(&mut self, i: usize) {
        self.load.put(i, nothing(i));
    }

    pub(super) fn empty_store(&mut self, i: usize) {
        self.store.page.put(i, nothing(i));
    }

    pub(super) fn put_load(&mut self, e: Entry) {
        self.load.put(index(e.tag), e);
    }

    pub(super) fn put_store(&mut self, e: Entry, mark: *const AtomicU32) {
        let i = index(e.tag);
        self.store.page.put(i, e);
        self.store.mark[i] = mark;
    }
}

/// What an empty entry `i` holds: a page that maps to another entry, and so does the page before it, since generated code looks at
/// the last byte of an access. That is page 0 in most.
fn nothing(i: usize) -> Entry {
    let tag = if i == 0 || i == ENTRIES - 1 { 2 << 12 } else { 0 };
    Entry { tag, host: 0 }
}

/// The entry that a linear address maps to.
#[inline(always)]
pub(crate) fn index(lin: u64) -> usize {
    (lin >> 12) as usize & (ENTRIES - 1)
}
