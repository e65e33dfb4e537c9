//! A test case and what came of running it.
//!
//! Both are plain data of fixed size: they cross to the child process in shared memory, and the assembly that enters a
//! case addresses [`Regs`] by fixed offsets.

use crate::layout;

/// Bytes of an XSAVE area with x87, SSE and AVX in standard format (SDM 1 §13.4).
pub const XSAVE_LEN: usize = 832;
/// Most bytes of code in a case.
pub const MAX_CODE: usize = 120;
/// Most memory patches in a case.
pub const MAX_PATCHES: usize = 12;
/// Bytes in one patch.
pub const PATCH_LEN: usize = 32;
/// Most changed quadwords that an outcome lists one by one; more are only counted and hashed.
pub const MAX_CHANGES: usize = 160;

/// In which mode the code runs, always at privilege level 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Mode {
    /// 64-bit mode.
    #[default]
    Long = 64,
    /// Compatibility mode with 32-bit operands and addresses.
    Compat = 32,
}

impl Mode {
    /// 64 or 32.
    pub fn bits(self) -> u32 {
        self as u32
    }
}

/// The user-visible registers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Regs {
    /// Standard-format XSAVE area.
    pub xsave: [u8; XSAVE_LEN],
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Base of FS; in compatibility mode the LDT gives it.
    pub fs_base: u64,
    /// Base of GS; in compatibility mode the LDT gives it.
    pub gs_base: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub sel: [u64; 6],
}

/// Offsets into [`Regs`] for the assembly.
pub(crate) mod offset {
    use super::Regs;
    pub(crate) const GPR: usize = std::mem::offset_of!(Regs, gpr);
    pub(crate) const RIP: usize = std::mem::offset_of!(Regs, rip);
    pub(crate) const RFLAGS: usize = std::mem::offset_of!(Regs, rflags);
    pub(crate) const FS_BASE: usize = std::mem::offset_of!(Regs, fs_base);
    pub(crate) const GS_BASE: usize = std::mem::offset_of!(Regs, gs_base);
    pub(crate) const SEL: usize = std::mem::offset_of!(Regs, sel);
}

impl Default for Regs {
    fn default() -> Self {
        let mut regs = Regs {
            xsave: [0; XSAVE_LEN],
            gpr: [0; 16],
            rip: layout::CODE,
            rflags: 0x202,
            fs_base: 0,
            gs_base: 0,
            sel: [0x2b, 0x33, 0x2b, 0x2b, 0, 0],
        };
        regs.set_u16(0, 0x37f);
        regs.set_u32(24, 0x1f80);
        regs.xsave[512] = 7;
        regs
    }
}

impl Regs {
    /// Two bytes of the XSAVE area.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.xsave[at], self.xsave[at + 1]])
    }
    /// Four bytes of the XSAVE area.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
    /// Sets two bytes of the XSAVE area.
    pub fn set_u16(&mut self, at: usize, v: u16) {
        self.xsave[at..at + 2].copy_from_slice(&v.to_le_bytes());
    }
    /// Sets four bytes of the XSAVE area.
    pub fn set_u32(&mut self, at: usize, v: u32) {
        self.xsave[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
    /// x87 control word.
    pub fn fcw(&self) -> u16 {
        self.u16(0)
    }
    /// x87 status word.
    pub fn fsw(&self) -> u16 {
        self.u16(2)
    }
    /// SSE control and status.
    pub fn mxcsr(&self) -> u32 {
        self.u32(24)
    }
    /// The ten bytes of ST(i).
    pub fn st(&self, i: usize) -> [u8; 10] {
        let mut v = [0; 10];
        v.copy_from_slice(&self.xsave[32 + 16 * i..][..10]);
        v
    }
    /// Sets ST(i).
    pub fn set_st(&mut self, i: usize, v: [u8; 10]) {
        self.xsave[32 + 16 * i..][..10].copy_from_slice(&v);
    }
    /// The 32 bytes of YMM register `i`.
    pub fn ymm(&self, i: usize) -> [u8; 32] {
        let mut v = [0; 32];
        v[..16].copy_from_slice(&self.xsave[160 + 16 * i..][..16]);
        v[16..].copy_from_slice(&self.xsave[576 + 16 * i..][..16]);
        v
    }
    /// Sets YMM register `i`.
    pub fn set_ymm(&mut self, i: usize, v: [u8; 32]) {
        self.xsave[160 + 16 * i..][..16].copy_from_slice(&v[..16]);
        self.xsave[576 + 16 * i..][..16].copy_from_slice(&v[16..]);
    }
}

/// Bytes that replace part of the base image before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Patch {
    /// Offset in the writable image.
    pub offset: u32,
    /// Valid bytes of `bytes`.
    pub len: u32,
    /// The new contents.
    pub bytes: [u8; PATCH_LEN],
}

/// One test case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Case {
    /// Registers at the start; RIP points at `code`.
    pub regs: Regs,
    /// Mode of the code.
    pub mode: Mode,
    /// Bytes of `code` in use.
    pub code_len: u32,
    /// Seed of the run, for reports.
    pub seed: u64,
    /// Index in the run, for reports.
    pub index: u64,
    /// Instruction bytes, placed at RIP; the rest of the code pages is INT3.
    pub code: [u8; MAX_CODE],
    /// Patches in use.
    pub patch_count: u32,
    /// Changes of the base image.
    pub patches: [Patch; MAX_PATCHES],
}

impl Default for Case {
    fn default() -> Self {
        Case {
            regs: Regs::default(),
            mode: Mode::Long,
            code_len: 0,
            seed: 0,
            index: 0,
            code: [layout::FILL; MAX_CODE],
            patch_count: 0,
            patches: [Patch::default(); MAX_PATCHES],
        }
    }
}

impl Case {
    /// The instruction bytes.
    pub fn code(&self) -> &[u8] {
        &self.code[..(self.code_len as usize).min(MAX_CODE)]
    }

    /// Replaces the instruction bytes; longer code than [`MAX_CODE`] or than the code pages after RIP is cut.
    pub fn set_code(&mut self, code: &[u8]) {
        let room = (layout::CODE + layout::CODE_LEN).saturating_sub(self.regs.rip) as usize;
        let len = code.len().min(MAX_CODE).min(room);
        self.code = [layout::FILL; MAX_CODE];
        self.code[..len].copy_from_slice(&code[..len]);
        self.code_len = len as u32;
    }

    /// The patches in use.
    pub fn patches(&self) -> &[Patch] {
        &self.patches[..(self.patch_count as usize).min(MAX_PATCHES)]
    }

    /// The byte at a guest address of data or stack before the run.
    pub fn byte(&self, address: u64) -> Option<u8> {
        if let Some(at) = address.checked_sub(layout::RODATA).filter(|at| *at < layout::PAGE) {
            return Some(layout::rodata_image()[at as usize]);
        }
        let at = layout::writable_offset(address)?;
        let patched = self.patches().iter().rev().find_map(|p| {
            let offset = at.checked_sub(p.offset as usize)?;
            p.bytes[..(p.len as usize).min(PATCH_LEN)].get(offset).copied()
        });
        Some(patched.unwrap_or(layout::base_image()[at]))
    }

    /// Adds a patch at a guest address; returns false if it lies outside the writable pages or there is no room.
    pub fn patch(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(offset) = layout::writable_offset(address) else { return false };
        let end = layout::writable_offset(address.wrapping_add(bytes.len() as u64).wrapping_sub(1));
        if end != Some(offset + bytes.len() - 1) || bytes.len() > PATCH_LEN || self.patch_count as usize == MAX_PATCHES
        {
            return false;
        }
        let mut patch = Patch { offset: offset as u32, len: bytes.len() as u32, bytes: [0; PATCH_LEN] };
        patch.bytes[..bytes.len()].copy_from_slice(bytes);
        self.patches[self.patch_count as usize] = patch;
        self.patch_count += 1;
        true
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Status {
    /// Not run.
    #[default]
    Skipped,
    /// An exception was raised; registers and memory are valid.
    Exception,
    /// It did not end in time.
    Timeout,
    /// It attempted a system call or ended the process that ran it.
    Escaped,
}

/// A quadword of the writable image that differs from the base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Change {
    /// Guest address, a multiple of 8.
    pub address: u64,
    /// What it holds now.
    pub value: u64,
}

/// What came of running a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Outcome {
    /// Registers when the exception was raised.
    pub regs: Regs,
    /// How the run ended.
    pub status: Status,
    /// Exception vector.
    pub vector: u32,
    /// Error code, 0 for exceptions without one.
    pub error: u64,
    /// Faulting address of a page fault, else 0.
    pub cr2: u64,
    /// Number of quadwords that differ from the base image.
    pub change_count: u32,
    /// Hash over all of them.
    pub change_hash: u64,
    /// The first of them.
    pub changes: [Change; MAX_CHANGES],
}

impl Default for Outcome {
    fn default() -> Self {
        Outcome {
            regs: Regs::default(),
            status: Status::Skipped,
            vector: 0,
            error: 0,
            cr2: 0,
            change_count: 0,
            change_hash: 0,
            changes: [Change::default(); MAX_CHANGES],
        }
    }
}

impl Outcome {
    /// The listed changes.
    pub fn changes(&self) -> &[Change] {
        &self.changes[..(self.change_count as usize).min(MAX_CHANGES)]
    }

    /// Records how the writable image, in consecutive pairs of base and present contents, differs from the base; `each` is
    /// told every offset in the image. Pairs are multiples of 64 bytes long.
    pub fn diff_memory(&mut self, pairs: [(&[u8], &[u8]); 2], mut each: impl FnMut(usize)) {
        self.change_count = 0;
        self.change_hash = 0;
        let blocks = pairs.iter().flat_map(|(old, new)| old.chunks_exact(64).zip(new.chunks_exact(64)));
        for (block, (old, new)) in blocks.enumerate() {
            if old == new {
                continue;
            }
            for (i, (old, new)) in old.chunks_exact(8).zip(new.chunks_exact(8)).enumerate() {
                if old != new {
                    let offset = block * 64 + i * 8;
                    let value = new.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
                    self.record(layout::writable_address(offset), value);
                    each(offset);
                }
            }
        }
    }

    fn record(&mut self, address: u64, value: u64) {
        if let Some(slot) = self.changes.get_mut(self.change_count as usize) {
            *slot = Change { address, value };
        }
        self.change_count += 1;
        let mixed = (self.change_hash ^ address).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ value;
        self.change_hash = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
}
