//! The soft TLB of one CPU: address spaces, the code TLB, and what flushes them (SDM 3A §4.10).
//!
//! With PCIDs (SDM 3A §4.10.1) several [`Space`]s are kept, so that a switch of address spaces costs no refills.

use visor_memory::RamPage;

use crate::mmu::space::{Fill, Filter, Privilege, Space};

/// Address spaces kept at a time; Linux rotates through six PCIDs.
const SPACES: usize = 8;
/// Entries of the code TLB.
const CODE_ENTRIES: usize = 512;

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
    /// Flushes of more than one page.
    pub(crate) flushes: u64,
}

// SAFETY: `code_marks` points into the machine's RAM tables, which the CPU keeps alive through its `ram` field; the host
// addresses in the tables point into the same RAM.
unsafe impl Send for Mmu {}

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
            flushes: 0,
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
        self.flushes += 1;
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
            self.flushes += 1;
            self.space.clear(true);
            self.move_lower();
        }
    }

    /// Drops what is not global in the space of `pcid`.
    pub(crate) fn flush_pcid(&mut self, pcid: u16) {
        self.flushes += 1;
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
