//! The soft TLB: direct-mapped tables per address space, privilege mode and kind of access.
//!
//! With PCIDs (SDM 3A §4.10.1) several [`Space`]s are kept, so that a switch of address spaces costs no refills. Bitmaps
//! beside each table tell which entries are in use, global, or parts of large pages; flushes visit only those.

use visor_memory::RamPage;

/// Entries in one table.
pub(crate) const ENTRIES: usize = 1024;
/// Address spaces kept at a time; Linux rotates through six PCIDs.
const SPACES: usize = 8;
/// Entries of the code TLB.
const CODE_ENTRIES: usize = 512;

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
struct Filter([u64; 16]);

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
    /// See [`Mmu::code_generation`], lower half.
    generation: u64,
    /// Pages in the lower half whose code may be cached.
    code: Filter,
    /// The PCID whose translations these are.
    pcid: u16,
    /// False: nothing in it counts; to be cleared before use.
    valid: bool,
    last_use: u64,
}

/// An entry of the code TLB.
#[derive(Clone, Copy, Debug)]
struct CodeEntry {
    /// Linear page number × 2, plus 1 for ring 3; all ones: empty.
    key: u64,
    /// Generation under which it is valid.
    generation: u64,
    gpa: u64,
    page: Option<RamPage>,
}

/// The paging mode (SDM 3A §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Paging {
    /// CR0.PG = 0.
    #[default]
    Off,
    /// 32-bit paging.
    Legacy,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Long,
}

/// Translation state of one CPU.
#[derive(Debug)]
pub(crate) struct Mmu {
    /// Whose rights loads and stores of instructions use; follows CPL, RFLAGS.AC and CR4.SMAP.
    pub(crate) privilege: Privilege,
    /// The tables of the current address space.
    pub(crate) space: Box<Space>,
    /// Host address of frame 0.
    pub(crate) ram_base: u64,
    /// Code marks, one word per frame.
    pub(crate) code_marks: *const std::sync::atomic::AtomicU32,
    /// For the lower and the upper half of the linear address space (see [`Mmu::generation`]): moves on whenever a
    /// code address there may mean other bytes than before, or other rights.
    pub(crate) code_generation: [u64; 2],
    /// Current paging mode.
    pub(crate) paging: Paging,
    /// PAE paging: the four PDPTEs as loaded with CR3.
    pub(crate) pdpte: [u64; 4],
    /// Guest-physical page of the local APIC's registers, or all ones.
    pub(crate) apic_page: u64,
    /// Linear pages that data breakpoints watch; all ones: none.
    pub(crate) watched: [u64; 4],
    others: Vec<Box<Space>>,
    code: Box<[CodeEntry]>,
    upper_code: Filter,
    /// Code of a page that is not global was fetched from the upper half since `code_generation[1]` moved.
    upper_not_global: bool,
    /// A global page in the lower half was cached: INVLPG there concerns every space.
    lower_global: bool,
    clock: u64,
}

// SAFETY: `code_marks` points into the machine's RAM tables, which the CPU keeps alive through its `ram` field; the host
// addresses in the tables point into the same RAM.
unsafe impl Send for Mmu {}

impl Table {
    /// Host address of `size` bytes at `lin` if the table permits the access and it stays within one page.
    #[inline(always)]
    pub(crate) fn lookup(&self, lin: u64, size: u64) -> Option<*mut u8> {
        let e = &self.0[index(lin)];
        if lin.wrapping_sub(e.tag) <= 4096 - size { Some(lin.wrapping_add(e.addend) as *mut u8) } else { None }
    }
}

impl Space {
    fn new(pcid: u16) -> Box<Self> {
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
    fn clear(&mut self, keep_global: bool) {
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
    fn drop_page(&mut self, lin: u64) {
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
    fn add(&mut self, page: u64) {
        let (word, bit) = Self::place(page);
        self.0[word] |= bit;
    }

    #[inline]
    fn has(&self, page: u64) -> bool {
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

impl Mmu {
    /// Empty tables over `ram`.
    pub(crate) fn new(ram: &visor_memory::GuestMemory) -> Self {
        let none = CodeEntry { key: !0, generation: 0, gpa: 0, page: None };
        let mut mmu = Mmu {
            privilege: Privilege::Supervisor,
            space: Space::new(0),
            ram_base: ram.base() as u64,
            code_marks: ram.frames().code_marks(),
            code_generation: [1, 2],
            paging: Paging::Off,
            pdpte: [0; 4],
            apic_page: !0,
            watched: [!0; 4],
            others: Vec::new(),
            code: vec![none; CODE_ENTRIES].into_boxed_slice(),
            upper_code: Filter::default(),
            upper_not_global: false,
            lower_global: false,
            clock: 2,
        };
        mmu.space.generation = 1;
        mmu
    }

    /// The generation that code at `lin` belongs to. What was found at `lin` under one generation is valid while this
    /// returns the same number; no number ever returns after another one.
    #[inline(always)]
    pub(crate) fn generation(&self, lin: u64) -> u64 {
        self.code_generation[(lin >> 63) as usize]
    }

    /// Drops everything, in every address space.
    pub(crate) fn flush_all(&mut self) {
        self.space.clear(false);
        for space in &mut self.others {
            space.valid = false;
        }
        self.lower_global = false;
        self.move_lower();
        self.move_upper();
    }

    /// MOV to CR3: goes to the space of `pcid`, flushing what is not global there unless `keep`.
    pub(crate) fn switch(&mut self, pcid: u16, keep: bool) {
        if self.upper_not_global {
            self.move_upper();
        }
        if self.space.pcid != pcid {
            self.activate(pcid);
        }
        if !keep {
            self.space.clear(true);
            self.move_lower();
        }
    }

    /// Drops what is not global in the space of `pcid`.
    pub(crate) fn flush_pcid(&mut self, pcid: u16) {
        if self.space.pcid == pcid {
            self.space.clear(true);
            self.move_lower();
            if self.upper_not_global {
                self.move_upper();
            }
        }
        for space in self.others.iter_mut().filter(|s| s.pcid == pcid) {
            space.valid = false;
        }
    }

    /// Drops what is not global in every space.
    pub(crate) fn flush_not_global(&mut self) {
        for space in &mut self.others {
            space.valid = false;
        }
        self.flush_pcid(self.space.pcid);
    }

    /// INVLPG.
    pub(crate) fn flush_page(&mut self, lin: u64) {
        self.space.drop_page(lin);
        if lin >> 63 != 0 || self.lower_global {
            for space in self.others.iter_mut().filter(|s| s.valid) {
                space.drop_page(lin);
            }
        }
        self.flush_code_page(lin);
    }

    /// INVPCID type 0: one page of one address space.
    pub(crate) fn flush_page_of(&mut self, pcid: u16, lin: u64) {
        if self.space.pcid == pcid {
            self.space.drop_page(lin);
            self.flush_code_page(lin);
        }
        let mut generation = self.clock;
        for space in self.others.iter_mut().filter(|s| s.pcid == pcid && s.valid) {
            space.drop_page(lin);
            generation += 1;
            space.generation = generation;
            space.code = Filter::default();
        }
        self.clock = generation;
        if lin >> 63 != 0 {
            self.flush_code_page(lin);
        }
    }

    /// Caches that `who` may load (`store`: load and store) the page of `fill`.
    pub(crate) fn fill(&mut self, store: bool, who: Privilege, fill: &Fill) {
        if who == Privilege::UserAligned || self.is_watched(fill.lin) {
            return;
        }
        self.lower_global |= fill.global && fill.lin >> 63 == 0;
        self.space.fill(false, who, fill);
        if store {
            self.space.fill(true, who, fill);
        }
    }

    /// The page of code at `lin`, as cached by [`Mmu::fill_code`].
    #[inline]
    pub(crate) fn code_page(&self, lin: u64, user: bool) -> Option<(u64, Option<RamPage>)> {
        let key = code_key(lin, user);
        let e = &self.code[key as usize % CODE_ENTRIES];
        (e.key == key && e.generation == self.generation(lin)).then_some((e.gpa, e.page))
    }

    /// Caches where the page of code at `lin` is; `gpa` is that of the page.
    pub(crate) fn fill_code(
        &mut self,
        lin: u64,
        user: bool,
        gpa: u64,
        page: Option<RamPage>,
        global: bool,
        large: bool,
    ) {
        let upper = lin >> 63 != 0;
        self.upper_not_global |= upper && !global;
        let filter = if upper { &mut self.upper_code } else { &mut self.space.code };
        filter.add(lin >> 12);
        if large {
            filter.add(large_key(lin));
        }
        let key = code_key(lin, user);
        let generation = self.generation(lin);
        self.code[key as usize % CODE_ENTRIES] = CodeEntry { key, generation, gpa: gpa & !0xfff, page };
    }

    /// Watches pages for data breakpoints: `pages` are linear addresses.
    pub(crate) fn watch(&mut self, pages: [Option<u64>; 4]) {
        let pages = pages.map(|p| p.map_or(!0, |p| p & !0xfff));
        if pages == self.watched {
            return;
        }
        self.watched = pages;
        self.flush_all();
    }

    /// A data breakpoint lies in the page of `lin`.
    #[inline]
    pub(crate) fn is_watched(&self, lin: u64) -> bool {
        self.watched.contains(&(lin & !0xfff))
    }

    fn flush_code_page(&mut self, lin: u64) {
        let upper = lin >> 63 != 0;
        let filter = if upper { &self.upper_code } else { &self.space.code };
        if filter.has(lin >> 12) || filter.has(large_key(lin)) {
            if upper { self.move_upper() } else { self.move_lower() }
        }
    }

    fn activate(&mut self, pcid: u16) {
        self.clock += 1;
        self.space.last_use = self.clock;
        let i = match self.others.iter().position(|s| s.pcid == pcid) {
            Some(i) => i,
            None if self.others.len() < SPACES - 1 => {
                self.others.push(Space::new(pcid));
                self.others.len() - 1
            }
            None => {
                let oldest = self.others.iter().enumerate().min_by_key(|(_, s)| (s.valid, s.last_use));
                let i = oldest.map_or(0, |(i, _)| i);
                self.others[i].valid = false;
                self.others[i].pcid = pcid;
                i
            }
        };
        std::mem::swap(&mut self.space, &mut self.others[i]);
        if !self.space.valid || self.space.generation == 0 {
            self.space.clear(false);
            self.space.valid = true;
            self.move_lower();
        }
        self.code_generation[0] = self.space.generation;
    }

    fn move_lower(&mut self) {
        self.clock += 1;
        self.space.generation = self.clock;
        self.space.code = Filter::default();
        self.code_generation[0] = self.clock;
    }

    fn move_upper(&mut self) {
        self.clock += 1;
        self.upper_code = Filter::default();
        self.upper_not_global = false;
        self.code_generation[1] = self.clock;
    }
}

#[inline]
fn code_key(lin: u64, user: bool) -> u64 {
    lin >> 12 << 1 | u64::from(user)
}

/// Key of a 1 GiB region in the filters of code pages, apart from those of small pages.
fn large_key(lin: u64) -> u64 {
    lin >> 30 | 1 << 60
}
