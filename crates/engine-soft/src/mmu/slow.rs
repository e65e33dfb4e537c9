//! The slow path of loads and stores: TLB fill, page crossings, MMIO, code pages, watched pages, alignment checks; and
//! instruction fetch.

use std::sync::atomic::Ordering;

use visor_memory::{Frame, Gpa, PAGE, RamPage};
use visor_x86::exception::{Exception, Vector};

use crate::account::Phase;
use crate::changed;
use crate::cpu::{Cpu, attention};
use crate::mmu::access::{peek, poke};
use crate::mmu::space::Fill;
use crate::mmu::walk::Translation;
use crate::mmu::{Access, Privilege, Word};
use crate::op::{Guest, Op};

/// Pages behind the one asked for that are cached with it.
const AHEAD: u64 = 3;

/// Where a translated page lies.
pub(crate) enum Place {
    /// In RAM.
    Ram(RamPage),
    /// On a bus: to be accessed with [`Cpu::bus_read`] and [`Cpu::bus_write`].
    Bus(Gpa),
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
    /// Translates and finds the page of `lin`, caching RAM pages in the TLB.
    pub(crate) fn place(&mut self, lin: u64, access: Access, who: Privilege) -> Guest<Place> {
        let t = self.translate(lin, access, who)?;
        if t.gpa.0 & !(PAGE - 1) == self.mmu.apic_page {
            return Ok(Place::Bus(t.gpa));
        }
        let Some(page) = self.ram.page(t.gpa) else { return Ok(Place::Bus(t.gpa)) };
        self.note_key(t.leaf);
        if access == Access::Store && !page.writable {
            return Ok(Place::Bus(t.gpa));
        }
        let fill = Fill { lin, host: page.host, global: t.global, large: t.large };
        self.mmu.fill(access == Access::Store, who, &fill);
        self.foresee(lin, &t, access, who);
        Ok(Place::Ram(page))
    }

    /// Caches the pages behind that of `lin` as well where that is cheap: memory is mostly walked through upwards.
    fn foresee(&mut self, lin: u64, t: &Translation, access: Access, who: Privilege) {
        for n in 1..=AHEAD {
            let Some(next) = self.following(t, n, access) else { return };
            let at = (lin & !(PAGE - 1)).wrapping_add(n * PAGE);
            if next.gpa.0 == self.mmu.apic_page || (at ^ lin) >> 21 != 0 {
                return;
            }
            let Some(page) = self.ram.page(next.gpa) else { return };
            if access == Access::Store && !page.writable {
                return;
            }
            let fill = Fill { lin: at, host: page.host, global: t.global, large: t.large };
            self.mmu.fill(access == Access::Store, who, &fill);
        }
    }

    /// Finds the page of code at `lin` (CS base added), with the rights of an instruction fetch at the current CPL.
    ///
    /// # Errors
    /// A page fault, or #GP for a non-canonical address.
    pub(crate) fn fetch(&mut self, lin: u64) -> Guest<FetchPlace> {
        let user = self.cpl == 3;
        let lin = self.wrap(lin);
        if !self.is_64() && self.wrap(lin.wrapping_sub(self.seg_base[1])) > u64::from(self.seg[1].limit) {
            return self.fail(Exception::gp(0));
        }
        let offset = lin % PAGE;
        if let Some((gpa, page)) = self.mmu.code_page(lin, user) {
            return Ok(FetchPlace { gpa: Gpa(gpa + offset), page });
        }
        self.stats.tlb.fetch_misses += 1;
        self.check_canonical(lin, 1, 1)?;
        let who = if user { Privilege::User } else { Privilege::Supervisor };
        let t = self.translate(lin, Access::Fetch, who)?;
        let apic = t.gpa.0 & !(PAGE - 1) == self.mmu.apic_page;
        let page = if apic { None } else { self.ram.page(t.gpa) };
        self.mmu.fill_code(lin, user, t.gpa.0, page, t.global, t.large);
        Ok(FetchPlace { gpa: t.gpa, page })
    }

    /// A load that the TLB did not serve.
    #[cold]
    pub(crate) fn load_slow(&mut self, lin: u64, data: &mut [u8], who: Privilege) -> Guest<()> {
        self.stats.tlb.load_misses += 1;
        self.check_alignment(lin, data.len(), who)?;
        let room = (PAGE - lin % PAGE) as usize;
        if data.len() > room {
            let next = self.next_page(lin, room);
            // Nothing is read from a device if the other page faults.
            self.place(lin, Access::Load, who)?;
            self.place(next, Access::Load, who)?;
            let (a, b) = data.split_at_mut(room);
            self.load_piece(lin, a, who)?;
            return self.load_piece(next, b, who);
        }
        self.load_piece(lin, data, who)
    }

    fn load_piece(&mut self, lin: u64, data: &mut [u8], who: Privilege) -> Guest<()> {
        match self.place(lin, Access::Load, who)? {
            Place::Ram(page) => copy_from(page, lin % PAGE, data),
            Place::Bus(gpa) => self.bus_read(gpa, data),
        }
        self.watch_access(lin, data.len() as u64, false);
        Ok(())
    }

    /// A store that the TLB did not serve. Nothing is written if any byte of it faults.
    #[cold]
    pub(crate) fn store_slow(&mut self, lin: u64, data: &[u8], who: Privilege, op: Option<&Op>) -> Guest<()> {
        self.stats.tlb.store_misses += 1;
        self.check_alignment(lin, data.len(), who)?;
        let room = (PAGE - lin % PAGE) as usize;
        if data.len() > room {
            let next = self.next_page(lin, room);
            self.place(lin, Access::Store, who)?;
            self.place(next, Access::Store, who)?;
            let (a, b) = data.split_at(room);
            self.store_piece(lin, a, who, op)?;
            return self.store_piece(next, b, who, op);
        }
        self.store_piece(lin, data, who, op)
    }

    fn store_piece(&mut self, lin: u64, data: &[u8], who: Privilege, op: Option<&Op>) -> Guest<()> {
        match self.place(lin, Access::Store, who)? {
            Place::Ram(page) => {
                copy_to(page, lin % PAGE, data);
                if self.ram.frames().wrote(page.frame, lin % PAGE, data.len() as u64) {
                    self.code_changed(op);
                }
            }
            Place::Bus(gpa) => {
                self.bus_write(gpa, data);
                // The device may have changed what memory is shown where, which counts for the next instruction.
                if self.port.attention.load(Ordering::Relaxed) & attention::REMAP != 0 {
                    self.code_changed(op);
                }
            }
        }
        self.watch_access(lin, data.len() as u64, true);
        Ok(())
    }

    /// Reads from the machine's memory bus, in accesses of sizes that it takes.
    pub(crate) fn bus_read(&mut self, at: Gpa, data: &mut [u8]) {
        let apic = at.0 & !(PAGE - 1) == self.mmu.apic_page;
        let mut done = 0;
        while done < data.len() {
            let n = bus_size(at.0 + done as u64, data.len() - done);
            let piece = &mut data[done..done + n];
            if apic {
                self.apic_read((at.0 % PAGE) as u32 + done as u32, piece);
            } else {
                let entered = self.account.enter(Phase::Devices);
                let acting = changed::as_device();
                self.io().mmio_read(Gpa(at.0 + done as u64), piece);
                drop(acting);
                let ticks = self.account.leave(entered);
                self.stats.exits.mmio.add(ticks);
            }
            done += n;
        }
    }

    /// Writes to the machine's memory bus, in accesses of sizes that it takes.
    pub(crate) fn bus_write(&mut self, at: Gpa, data: &[u8]) {
        let apic = at.0 & !(PAGE - 1) == self.mmu.apic_page;
        let mut done = 0;
        while done < data.len() {
            let n = bus_size(at.0 + done as u64, data.len() - done);
            let piece = &data[done..done + n];
            if apic {
                self.apic_write((at.0 % PAGE) as u32 + done as u32, piece);
            } else {
                let entered = self.account.enter(Phase::Devices);
                let acting = changed::as_device();
                self.io().mmio_write(Gpa(at.0 + done as u64), piece);
                drop(acting);
                let ticks = self.account.leave(entered);
                self.stats.exits.mmio.add(ticks);
            }
            done += n;
        }
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

    /// Host address for a read-modify-write of `size` bytes at `lin`, or `None` if it crosses a page, is not RAM, or is
    /// watched by a data breakpoint.
    pub(crate) fn rmw_host(&mut self, lin: u64, size: u64, who: Privilege) -> Guest<Option<*mut u8>> {
        if let Some(host) = self.mmu.store(who).lookup(lin, size) {
            return Ok(Some(host));
        }
        self.stats.tlb.store_misses += 1;
        self.check_alignment(lin, size as usize, who)?;
        if lin % PAGE + size > PAGE {
            return Ok(None);
        }
        let place = self.place(lin, Access::Store, who)?;
        Ok(match place {
            Place::Ram(_) if self.mmu.is_watched(lin) => None,
            // SAFETY: the offset is within the page.
            Place::Ram(page) => Some(unsafe { page.host.add((lin % PAGE) as usize) }),
            Place::Bus(_) => None,
        })
    }

    /// #AC for a misaligned access where alignment checks are in force (SDM 3A §6.15, vector 17).
    pub(crate) fn check_alignment(&mut self, lin: u64, size: usize, who: Privilege) -> Guest<()> {
        // Only operands of 2, 4 and 8 bytes: those of 16 have rules of their own, and others are parts of larger ones.
        if who == Privilege::UserAligned && matches!(size, 2 | 4 | 8) && lin & (size as u64 - 1) != 0 {
            return self.fail(Exception { vector: Vector::AlignmentCheck, error: 0, info: 0 });
        }
        Ok(())
    }

    /// The linear address `room` bytes on, which is in the next page; 32-bit addresses wrap.
    fn next_page(&self, lin: u64, room: usize) -> u64 {
        let next = lin.wrapping_add(room as u64);
        if self.is_64() { next } else { next & 0xffff_ffff }
    }
}

/// The largest power of two up to 8 that divides `at` and is at most `left`.
fn bus_size(at: u64, left: usize) -> usize {
    [8, 4, 2].into_iter().find(|n| *n <= left && at & (*n as u64 - 1) == 0).unwrap_or(1)
}

/// Copies out of a RAM page; other threads may write it meanwhile. Sizes that instructions use are read at once, so that
/// aligned ones are atomic (SDM 3A §8.1.1).
fn copy_from(page: RamPage, offset: u64, data: &mut [u8]) {
    // SAFETY: the caller keeps `offset + data.len()` within the page, which lives as long as guest RAM.
    unsafe {
        let at = page.host.add(offset as usize);
        match data.len() {
            2 => peek::<u16>(at).put_le(data),
            4 => peek::<u32>(at).put_le(data),
            8 => peek::<u64>(at).put_le(data),
            16 => {
                peek::<u64>(at).put_le(&mut data[..8]);
                peek::<u64>(at.add(8)).put_le(&mut data[8..]);
            }
            _ => data.iter_mut().enumerate().for_each(|(i, b)| *b = at.add(i).read_volatile()),
        }
    }
}

/// Copies into a RAM page, with the same care.
fn copy_to(page: RamPage, offset: u64, data: &[u8]) {
    // SAFETY: the caller keeps `offset + data.len()` within the page, which lives as long as guest RAM.
    unsafe {
        let at = page.host.add(offset as usize);
        match data.len() {
            2 => poke(at, <u16 as Word>::from_le(data)),
            4 => poke(at, <u32 as Word>::from_le(data)),
            8 => poke(at, <u64 as Word>::from_le(data)),
            16 => {
                poke(at, <u64 as Word>::from_le(&data[..8]));
                poke(at.add(8), <u64 as Word>::from_le(&data[8..]));
            }
            _ => data.iter().enumerate().for_each(|(i, b)| at.add(i).write_volatile(*b)),
        }
    }
}
