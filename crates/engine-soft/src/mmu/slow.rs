//! The slow path of loads and stores: TLB fill, page crossings, MMIO, code pages.

use visor_memory::{Frame, Gpa, PAGE, RamPage};

use crate::cpu::Cpu;
use crate::mmu::{Access, Privilege};
use crate::op::{Guest, Op};

/// Where a translated page lies.
pub(crate) enum Place {
    /// In RAM.
    Ram(RamPage),
    /// On a bus.
    Bus(Gpa),
}

impl Cpu {
    /// Translates and finds the page of `lin`, caching RAM pages in the TLB.
    pub(crate) fn place(&mut self, lin: u64, access: Access, who: Privilege) -> Guest<Place> {
        let t = self.translate(lin, access, who)?;
        let Some(page) = self.ram.page(t.gpa) else { return Ok(Place::Bus(t.gpa)) };
        let space = &mut self.mmu.space;
        match access {
            Access::Store => space.store[who as usize].insert(lin, page.host),
            Access::Load => space.load[who as usize].insert(lin, page.host),
            Access::Fetch => {}
        }
        Ok(Place::Ram(page))
    }

    /// A load that the TLB did not serve.
    #[cold]
    pub(crate) fn load_slow(&mut self, lin: u64, data: &mut [u8], who: Privilege) -> Guest<()> {
        let room = (PAGE - lin % PAGE) as usize;
        if data.len() > room {
            let (a, b) = data.split_at_mut(room);
            self.load_slow(lin, a, who)?;
            return self.load_slow(lin.wrapping_add(room as u64), b, who);
        }
        match self.place(lin, Access::Load, who)? {
            Place::Ram(page) => copy_from(page, lin % PAGE, data),
            Place::Bus(gpa) => self.io().mmio_read(gpa, data),
        }
        Ok(())
    }

    /// A store that the TLB did not serve. Nothing is written if any byte of it faults.
    #[cold]
    pub(crate) fn store_slow(&mut self, lin: u64, data: &[u8], who: Privilege, op: Option<&Op>) -> Guest<()> {
        let room = (PAGE - lin % PAGE) as usize;
        if data.len() > room {
            let (a, b) = data.split_at(room);
            self.place(lin, Access::Store, who)?;
            self.place(lin.wrapping_add(room as u64), Access::Store, who)?;
            self.store_slow(lin, a, who, op)?;
            return self.store_slow(lin.wrapping_add(room as u64), b, who, op);
        }
        match self.place(lin, Access::Store, who)? {
            Place::Ram(page) => {
                copy_to(page, lin % PAGE, data);
                if self.ram.frames().wrote(page.frame, lin % PAGE, data.len() as u64) {
                    self.code_changed(op);
                }
            }
            Place::Bus(gpa) => self.io().mmio_write(gpa, data),
        }
        Ok(())
    }

    /// A store into a page with code, already done through the TLB: invalidates what it hit.
    #[cold]
    pub(crate) fn wrote_code(&mut self, frame: Frame, offset: u64, len: u64, op: Option<&Op>) {
        if self.ram.frames().wrote(frame, offset, len) {
            self.code_changed(op);
        }
    }

    /// Ends the running block after `op`, since its later instructions may have changed.
    fn code_changed(&mut self, op: Option<&Op>) {
        if let Some(op) = op {
            self.block_end = std::ptr::from_ref(op).wrapping_add(1);
        }
    }

    /// Host address for a read-modify-write of `size` bytes at `lin`, or `None` if it crosses a page or is not RAM.
    pub(crate) fn rmw_host(&mut self, lin: u64, size: u64, who: Privilege) -> Guest<Option<*mut u8>> {
        if let Some(host) = self.mmu.space.store[who as usize].lookup(lin, size) {
            return Ok(Some(host));
        }
        if lin % PAGE + size > PAGE {
            return Ok(None);
        }
        Ok(match self.place(lin, Access::Store, who)? {
            // SAFETY: the offset is within the page.
            Place::Ram(page) => Some(unsafe { page.host.add((lin % PAGE) as usize) }),
            Place::Bus(_) => None,
        })
    }
}

/// Copies out of a RAM page; other threads may write it meanwhile, so bytes are read one by one, volatile.
fn copy_from(page: RamPage, offset: u64, data: &mut [u8]) {
    for (i, b) in data.iter_mut().enumerate() {
        // SAFETY: the caller keeps `offset + data.len()` within the page, which lives as long as guest RAM.
        *b = unsafe { page.host.add(offset as usize + i).read_volatile() };
    }
}

/// Copies into a RAM page, byte by byte, volatile.
fn copy_to(page: RamPage, offset: u64, data: &[u8]) {
    for (i, b) in data.iter().enumerate() {
        // SAFETY: the caller keeps `offset + data.len()` within the page, which lives as long as guest RAM.
        unsafe { page.host.add(offset as usize + i).write_volatile(*b) };
    }
}

/// Where code lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchPlace {
    /// Guest-physical address of the byte asked for.
    pub(crate) gpa: Gpa,
    /// Its page of RAM, or `None` if it must be fetched from the bus.
    pub(crate) page: Option<RamPage>,
}

impl Cpu {
    /// Finds the page of code at `lin` (CS base added), with the rights of an instruction fetch at the current CPL.
    ///
    /// # Errors
    /// A page fault, or #GP for a non-canonical address.
    pub(crate) fn fetch(&mut self, lin: u64) -> Guest<FetchPlace> {
        let who = if self.cpl == 3 { Privilege::User } else { Privilege::Supervisor };
        let t = self.translate(lin, Access::Fetch, who)?;
        Ok(FetchPlace { gpa: t.gpa, page: self.ram.page(t.gpa) })
    }
}
