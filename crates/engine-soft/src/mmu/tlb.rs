//! The soft TLB of one CPU: address spaces, the code TLB, and what flushes them (SDM 3A §4.10).
//!
//! With PCIDs (SDM 3A §4.10.1) several [`Space`]s are kept, so that a switch of address spaces costs no refills.

use std::sync::Arc;

use visor_memory::RamPage;

use crate::mmu::home::{Home, SPACES};
use crate::mmu::space::{Fill, Filter, Kept, Privilege, Space};
use crate::mmu::tables::{LoadTable, StoreTable};

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
    /// The tables in force, by [`Privilege`].
    load: [*const LoadTable; 4],
    store: [*const StoreTable; 4],
    /// The GS base under which generated code sees them.
    pub(crate) window: u64,
    /// Where the tables are.
    pub(crate) home: Arc<Home>,
    /// Supervisor accesses of every address space. What is not global belongs to the current one.
    kernel: Kept,
    /// The current address space.
    space: Box<Space>,
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
    /// The kernel's branch targets know some in the lower half.
    lower_targets: std::cell::Cell<bool>,
    clock: u64,
    /// Flushes of more than one page.
    pub(crate) flushes: u64,
}

// SAFETY: `code_marks` points into the machine's RAM tables, which the CPU keeps alive through its `ram` field; the host
// addresses in the tables point into the same RAM.
unsafe impl Send for Mmu {}

impl Mmu {
    /// Empty tables over `ram`, in `home`.
    pub(crate) fn new(ram: &visor_memory::GuestMemory, home: Arc<Home>) -> Self {
        let none = CodeEntry { key: !0, generation: 0, gpa: 0, page: None };
        let mut mmu = Mmu {
            privilege: Privilege::Supervisor,
            load: [std::ptr::null(); 4],
            store: [std::ptr::null(); 4],
            window: 0,
            // SAFETY: addresses of fields only.
            kernel: Kept::new(unsafe { &raw mut (*home.kernel()).tables }),
            space: space(&home, 0, 0),
            home,
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
            lower_targets: std::cell::Cell::new(false),
            clock: 2,
            flushes: 0,
        };
        mmu.space.generation = 1;
        mmu.look_at_space();
        mmu
    }

    /// The table of loads with the rights of `who`.
    #[inline(always)]
    pub(crate) fn load(&self, who: Privilege) -> &LoadTable {
        // SAFETY: set by `look_at_space` to tables in the home, which lives as long as this; only this CPU changes them.
        unsafe { &*self.load[who as usize] }
    }

    /// The table of stores with the rights of `who`.
    #[inline(always)]
    pub(crate) fn store(&self, who: Privilege) -> &StoreTable {
        // SAFETY: as in `load`.
        unsafe { &*self.store[who as usize] }
    }

    /// Says that the code at `lin` is translated at host address `code`.
    pub(crate) fn put_target(&self, lin: u64, code: u64, user: bool) {
        // SAFETY: the CPU that lives in the home calls, and no translated code runs.
        unsafe {
            match (user, lin >> 63 != 0) {
                (true, false) => (*self.home.user(self.space.slot)).targets.put(lin, code),
                (false, true) => (*self.home.kernel()).targets.put(lin, code),
                (false, false) => {
                    self.lower_targets.set(true);
                    (*self.home.kernel()).targets.put(lin, code);
                }
                // What is remembered there would not be forgotten in time.
                (true, true) => {}
            }
        }
    }

    /// Branch targets of the kernel, or of user code of this address space, are those of code of kind `layout` from here on.
    #[inline]
    pub(crate) fn lay_out_targets(&self, user: bool, layout: u32) {
        // SAFETY: as in `put_target`.
        unsafe {
            if user {
                let tables = self.home.user(self.space.slot);
                if (*tables).layout != layout {
                    (*tables).layout = layout;
                    (*tables).targets.clear();
                }
            } else {
                let tables = self.home.kernel();
                if (*tables).layout != layout {
                    (*tables).layout = layout;
                    (*tables).targets.clear();
                }
            }
        }
    }

    /// The lower half of the address space shows something else: what the kernel's branch targets know of it is void.
    fn forget_lower_targets(&self) {
        if self.lower_targets.replace(false) {
            // SAFETY: as in `put_target`.
            unsafe { (*self.home.kernel()).targets.clear() };
        }
    }

    /// Forgets where user code of `slot` is translated.
    fn forget_targets(home: &Home, slot: usize) {
        // SAFETY: as in `put_target`.
        unsafe { (*home.user(slot)).targets.clear() };
    }

    /// Makes the tables of `space` those in force.
    fn look_at_space(&mut self) {
        let user = self.home.user(self.space.slot);
        // SAFETY: addresses of fields only.
        unsafe {
            let kernel = &raw const (*self.home.kernel()).tables;
            let tables = [kernel, &raw const (*user).ac, &raw const (*user).user, self.home.aligned().cast_const()];
            self.load = tables.map(|t| &raw const (*t).load);
            self.store = tables.map(|t| &raw const (*t).store);
        }
        self.window = self.home.window(self.space.slot);
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
        self.kernel.clear(false);
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
            self.kernel.clear(true);
            self.activate(pcid);
        }
        if !keep {
            self.flushes += 1;
            self.kernel.clear(true);
            self.space.clear(true);
            self.move_lower();
        }
    }

    /// Drops what is not global in the space of `pcid`.
    pub(crate) fn flush_pcid(&mut self, pcid: u16) {
        self.flushes += 1;
        if self.space.pcid == pcid {
            self.kernel.clear(true);
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
        self.kernel.drop_page(lin);
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
            self.kernel.drop_page(lin);
            self.space.drop_page(lin);
            self.flush_code_page(lin);
        }
        let mut generation = self.clock;
        for space in self.others.iter_mut().filter(|s| s.pcid == pcid && s.valid) {
            space.drop_page(lin);
            generation += 1;
            space.generation = generation;
            space.code = Filter::default();
            Self::forget_targets(&self.home, space.slot);
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
        let frame = ((fill.host as u64).wrapping_sub(self.ram_base) >> 12) as usize;
        // SAFETY: filled pages are RAM, each frame of which has a mark.
        let mark = store.then(|| unsafe { self.code_marks.add(frame) });
        match who {
            Privilege::Supervisor => self.kernel.fill(fill, mark),
            Privilege::SupervisorAc => self.space.ac.fill(fill, mark),
            Privilege::User | Privilege::UserAligned => self.space.user.fill(fill, mark),
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
                let slot = self.others.len() + 1;
                self.others.push(space(&self.home, pcid, slot));
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
        self.forget_lower_targets();
        self.look_at_space();
    }

    fn move_lower(&mut self) {
        self.clock += 1;
        self.space.generation = self.clock;
        self.space.code = Filter::default();
        self.code_generation[0] = self.clock;
        self.forget_lower_targets();
        Self::forget_targets(&self.home, self.space.slot);
    }

    fn move_upper(&mut self) {
        self.clock += 1;
        self.upper_code = Filter::default();
        self.upper_not_global = false;
        self.code_generation[1] = self.clock;
        // SAFETY: as in `put_target`.
        unsafe { (*self.home.kernel()).targets.clear() };
    }
}

fn space(home: &Home, pcid: u16, slot: usize) -> Box<Space> {
    let user = home.user(slot);
    // SAFETY: addresses of fields only.
    unsafe { Space::new(pcid, slot, &raw mut (*user).user, &raw mut (*user).ac) }
}

#[inline]
fn code_key(lin: u64, user: bool) -> u64 {
    lin >> 12 << 1 | u64::from(user)
}

/// Key of a 1 GiB region in the filters of code pages, apart from those of small pages.
fn large_key(lin: u64) -> u64 {
    lin >> 30 | 1 << 60
}
