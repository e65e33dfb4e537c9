//! The smallest guest that can run a case: page tables with the layout's addresses at ring 3, a copy of a 64-bit Linux
//! kernel's GDT, and an IDT whose every handler is one HLT.
//!
//! ```text
//! guest-physical          linear
//! 0_1000 PML4             -
//! 0_2000 to 0_7000 tables -
//! 0_8000 descriptors      KERNEL           GDT, LDT, TSS, IDT
//! 0_9000 handlers         KERNEL + 1000    16 bytes per vector: HLT
//! 0_a000 ring-0 stack     KERNEL + 2000
//! 1_0000 code             CODE
//! 1_2000 data, read-only  DATA
//! 1_5000 stack            STACK
//! ```

use crate::layout;
use anyhow::Context;
use visor_engine::{Gpa, GuestMemory};
use visor_memory::RamRange;
use vm_memory::{Bytes, GuestAddress};

/// Where the supervisor's pages are.
pub(super) const KERNEL: u64 = 0xffff_c000_0000_0000;
const GDT: u64 = 0;
/// Last valid byte of the GDT, as in Linux.
pub(super) const GDT_LIMIT: u16 = 0x7f;
const LDT: u64 = 0x100;
const TSS: u64 = 0x200;
const IDT: u64 = 0x400;
const VECTORS: u64 = 32;
pub(super) const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;
pub(super) const HANDLERS: u64 = KERNEL + 0x1000;
const HANDLER_LEN: u64 = 16;
pub(super) const KERNEL_STACK_TOP: u64 = KERNEL + 0x3000;

const PML4: u64 = 0x1000;
const DESCRIPTORS: u64 = 0x8000;
const HANDLER_CODE: u64 = 0x9000;
const KERNEL_STACK: u64 = 0xa000;
const CODE: u64 = 0x1_0000;
const DATA: u64 = 0x1_2000;
const RODATA: u64 = 0x1_4000;
const STACK: u64 = 0x1_5000;
const RAM: u64 = 0x10_0000;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED_DIRTY: u64 = 0x60;
const NO_EXECUTE: u64 = 1 << 63;

/// Descriptors of a 64-bit Linux kernel (arch/x86/include/asm/segment.h names the slots).
pub(super) const DESCRIPTORS_BY_SLOT: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff, // 08 kernel 32-bit code
    0x00af_9b00_0000_ffff, // 10 kernel code
    0x00cf_9300_0000_ffff, // 18 kernel data
    0x00cf_fb00_0000_ffff, // 20 user 32-bit code
    0x00cf_f300_0000_ffff, // 28 user data
    0x00af_fb00_0000_ffff, // 30 user code
    0,
    system(KERNEL + TSS, 0x67, 0x8b), // 40 TSS
    KERNEL >> 32,
    system(KERNEL + LDT, 15, 0x82), // 50 LDT
    KERNEL >> 32,
    0,
    0,
    0,
    0x0040_f500_0000_0000, // 78 CPU and node number
];

/// The LDT's two data segments; Linux sets AVL in the descriptors that modify_ldt(2) makes.
pub(super) const LDT_DESCRIPTORS: [u64; 2] =
    [data(layout::LDT_FS_BASE, 0xf_ffff, 0xd), data(layout::LDT_GS_BASE, layout::LDT_GS_LIMIT, 5)];

const fn system(base: u64, limit: u64, access: u64) -> u64 {
    limit | (base & 0xff_ffff) << 16 | access << 40 | (base >> 24 & 0xff) << 56
}

const fn data(base: u32, limit: u32, flags: u64) -> u64 {
    let limit = limit as u64;
    limit & 0xffff
        | (limit >> 16) << 48
        | (base as u64 & 0xff_ffff) << 16
        | (base as u64 >> 24) << 56
        | 0xf3 << 40
        | flags << 52
}

/// The guest's memory and access to it by linear address.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) memory: std::sync::Arc<GuestMemory>,
    dirty_code: (u64, usize),
}

impl Guest {
    /// Builds the guest.
    pub(super) fn new() -> anyhow::Result<Guest> {
        let memory = GuestMemory::new(&[RamRange { start: Gpa(0), len: RAM }])?;
        let guest = Guest { memory: memory.into(), dirty_code: (CODE, 0) };
        guest.map_pages()?;
        guest.write_tables()?;
        guest.put(CODE, &vec![layout::FILL; layout::CODE_LEN as usize])?;
        guest.put(RODATA, layout::rodata_image())?;
        guest.put(HANDLER_CODE, &[0xf4; (VECTORS * HANDLER_LEN) as usize])?;
        guest.reset_writable()?;
        Ok(guest)
    }

    /// Value for CR3.
    pub(super) fn cr3(&self) -> u64 {
        PML4
    }

    /// Linear addresses of the descriptor tables, the LDT and the TSS.
    pub(super) fn tables(&self) -> [u64; 4] {
        [KERNEL + GDT, KERNEL + IDT, KERNEL + LDT, KERNEL + TSS]
    }

    fn put(&self, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.memory.view().write_slice(bytes, GuestAddress(at)).context("guest RAM")
    }

    fn map_pages(&self) -> anyhow::Result<()> {
        let table = |at: u64, index: u64, entry: u64| self.put(at + 8 * index, &entry.to_le_bytes());
        let through = PRESENT | WRITE | USER | ACCESSED_DIRTY;
        // PML4 → PDPT, PDPT → PD, and one PT for the code, one for data and stack.
        table(PML4, 0, 0x2000 | through)?;
        table(0x2000, 0, 0x3000 | through)?;
        table(0x3000, layout::CODE >> 21, 0x4000 | through)?;
        table(0x3000, layout::DATA >> 21, 0x5000 | through)?;
        let kernel = |shift: u32| KERNEL >> shift & 0x1ff;
        table(PML4, kernel(39), 0x6000 | through)?;
        table(0x6000, kernel(30), 0x7000 | through)?;
        table(0x7000, kernel(21), 0xb000 | through)?;
        let pages = [
            (0x4000, layout::CODE, CODE, layout::CODE_LEN, USER),
            (0x5000, layout::DATA, DATA, layout::DATA_LEN, USER | WRITE | NO_EXECUTE),
            (0x5000, layout::RODATA, RODATA, layout::PAGE, USER | NO_EXECUTE),
            (0x5000, layout::STACK, STACK, layout::STACK_LEN, USER | WRITE | NO_EXECUTE),
            (0xb000, KERNEL, DESCRIPTORS, 0x1000, WRITE | NO_EXECUTE),
            (0xb000, HANDLERS, HANDLER_CODE, 0x1000, 0),
            (0xb000, KERNEL + 0x2000, KERNEL_STACK, 0x1000, WRITE | NO_EXECUTE),
        ];
        for (pt, linear, physical, len, rights) in pages {
            for page in 0..len / layout::PAGE {
                let entry = (physical + page * layout::PAGE) | rights | PRESENT | ACCESSED_DIRTY;
                table(pt, (linear >> 12 & 0x1ff) + page, entry)?;
            }
        }
        Ok(())
    }

    fn write_tables(&self) -> anyhow::Result<()> {
        for (slot, raw) in (0u64..).zip(DESCRIPTORS_BY_SLOT) {
            self.put(DESCRIPTORS + GDT + 8 * slot, &raw.to_le_bytes())?;
        }
        for (slot, raw) in (0u64..).zip(LDT_DESCRIPTORS) {
            self.put(DESCRIPTORS + LDT + 8 * slot, &raw.to_le_bytes())?;
        }
        // RSP0 and IST1; the I/O bitmap lies beyond the limit, so that ring 3 may use no port.
        self.put(DESCRIPTORS + TSS + 4, &KERNEL_STACK_TOP.to_le_bytes())?;
        self.put(DESCRIPTORS + TSS + 36, &KERNEL_STACK_TOP.to_le_bytes())?;
        self.put(DESCRIPTORS + TSS + 102, &0x68u16.to_le_bytes())?;
        for vector in 0..VECTORS {
            let handler = HANDLERS + vector * HANDLER_LEN;
            let dpl = if matches!(vector, 3 | 4) { 0xee } else { 0x8e };
            let low = handler & 0xffff | 0x10 << 16 | 1 << 32 | dpl << 40 | (handler >> 16 & 0xffff) << 48;
            self.put(DESCRIPTORS + IDT + vector * 16, &low.to_le_bytes())?;
            self.put(DESCRIPTORS + IDT + vector * 16 + 8, &(handler >> 32).to_le_bytes())?;
        }
        Ok(())
    }

    /// The vector whose handler's HLT has just run, from the instruction pointer after it.
    pub(super) fn vector(&self, rip: u64) -> Option<u32> {
        let offset = rip.checked_sub(HANDLERS + 1)?;
        (offset % HANDLER_LEN == 0 && offset / HANDLER_LEN < VECTORS).then_some((offset / HANDLER_LEN) as u32)
    }

    /// Quadwords of the exception frame from `rsp` up to the top of the ring-0 stack.
    pub(super) fn frame(&self, rsp: u64) -> anyhow::Result<Vec<u64>> {
        let bottom = KERNEL + 0x2000;
        anyhow::ensure!((bottom..=KERNEL_STACK_TOP).contains(&rsp), "ring-0 stack pointer {rsp:#x}");
        let mut bytes = vec![0; (KERNEL_STACK_TOP - rsp) as usize];
        self.memory.view().read_slice(&mut bytes, GuestAddress(KERNEL_STACK + rsp - bottom))?;
        Ok(bytes.chunks_exact(8).map(|c| c.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))).collect())
    }

    /// Places the code; the rest of the code pages is INT3.
    pub(super) fn set_code(&mut self, rip: u64, code: &[u8]) -> anyhow::Result<()> {
        let (at, len) = self.dirty_code;
        self.put(at, &vec![layout::FILL; len])?;
        let at = CODE + rip.wrapping_sub(layout::CODE);
        self.put(at, code)?;
        self.dirty_code = (at, code.len());
        Ok(())
    }

    /// Writes into the writable image.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let split = layout::DATA_LEN as usize;
        anyhow::ensure!(offset + bytes.len() <= layout::WRITABLE_LEN, "patch beyond the image");
        let at = if offset < split { DATA + offset as u64 } else { STACK + (offset - split) as u64 };
        self.put(at, bytes)
    }

    /// Reads the writable image.
    pub(super) fn read_writable(&self, image: &mut [u8]) -> anyhow::Result<()> {
        let (data, stack) = image.split_at_mut(layout::DATA_LEN as usize);
        self.memory.view().read_slice(data, GuestAddress(DATA))?;
        self.memory.view().read_slice(stack, GuestAddress(STACK))?;
        Ok(())
    }

    fn reset_writable(&self) -> anyhow::Result<()> {
        let (data, stack) = layout::base_image().split_at(layout::DATA_LEN as usize);
        self.put(DATA, data)?;
        self.put(STACK, stack)
    }
}
