//! What translated code and the engine share besides the CPU's state: the fields that only generated code and its stubs use.

use std::sync::atomic::AtomicU32;

use visor_fpu::{FpuState, MXCSR_DEFAULT};
use visor_x86::regs::{Cr4, Rflags};
use visor_x86::segment::Segment;

use super::hoist::GROUPS;
use super::turns::WALKS;
use crate::cpu::Cpu;
use crate::mmu::ENTRIES;
use crate::translate::Translator;

/// Why translated code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Exit {
    /// To the target of exit `id`, which may be linked.
    Link = 0,
    /// To the target of exit `id`, since something wants attention.
    Poll = 1,
    /// The instruction of site `id` is to be interpreted.
    Interpret = 2,
    /// RIP is exact.
    Done = 3,
    /// RIP is exact, and belongs into the table of branch targets.
    Arrive = 4,
}

impl Exit {
    pub(super) fn from_bits(bits: u32) -> Exit {
        match bits {
            0 => Exit::Link,
            1 => Exit::Poll,
            2 => Exit::Interpret,
            4 => Exit::Arrive,
            _ => Exit::Done,
        }
    }
}

/// PAUSEs between two times that a CPU which spins offers its host CPU to others: some tens of microseconds. Two CPUs that run at the
/// same time hand over to each other within that, even if new code has to be translated for it.
pub(crate) const PAUSES: u64 = 1 << 14;

/// Bytes of the widest load.
pub(super) const LOAD: usize = 32;

/// Bytes for an instruction to load, aligned as any may want them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Load(pub(super) [u8; LOAD]);

/// Part of the CPU, so that generated code reaches it through GS.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Frame {
    /// The translator that runs, for helpers.
    pub(super) translator: *mut Translator,
    /// The CPU's attention word.
    pub(super) attention: *const AtomicU32,
    pub(super) fpu: *mut FpuState,
    /// The CPU itself, for helpers.
    pub(super) cpu: *mut Cpu,
    /// 0 while the vector registers and MXCSR are those of the guest.
    pub(super) vectors_away: u8,
    /// 0 while the x87 registers are those of the guest; then the vectors are, too.
    pub(super) x87_away: u8,
    /// MXCSR of the engine itself.
    mxcsr: u32,
    /// An [`Exit`], and its id.
    pub(super) exit: u32,
    pub(super) exit_id: u32,
    /// Where an indirect branch goes: host code.
    pub(super) jump_to: u64,
    /// Where it goes in the guest.
    pub(super) jump_lin: u64,
    /// Bytes of a load from two pages.
    pub(super) load: Load,
    /// Host addresses of the ranges that are checked as a whole, and their frames' code marks.
    pub(super) ranges: [u64; GROUPS],
    pub(super) marks: [u64; GROUPS],
    /// What leads from linear to host addresses in the ranges of a loop, and their frames' code marks.
    pub(super) walks: [u64; WALKS],
    pub(super) walk_marks: [u64; WALKS],
    /// The same plus the part of the address that stays (`anchors`).
    pub(super) anchors: [u64; WALKS],
    /// Turns that all of them stay in their pages, and the value of the register that counts them after as many.
    pub(super) turns_left: u32,
    pub(super) turns_end: u64,
    /// PAUSEs until the CPU offers its host CPU to others.
    pub(crate) pauses: u64,
    /// Guest instructions, where they are counted.
    pub(super) instructions: u64,
    /// What a scratch register held.
    pub(super) spill: u64,
    /// Flags of the guest, as LAHF and SETO AL give them, and its RAX meanwhile.
    pub(super) flags: u32,
    pub(super) kept_rax: u64,
    /// Bits of an address that select a TLB entry.
    pub(super) index_mask: u64,
    /// Bits of an offset that must be clear for it to lie in a page.
    pub(super) page_mask: u64,
    /// Likewise, if it must be aligned to 16 or 32 bytes.
    pub(super) page_mask_16: u64,
    pub(super) page_mask_32: u64,
    /// Bits of an address that must be clear for it to be aligned to 16 bytes.
    pub(super) low_mask_16: u64,
    /// Bits of an address that select an entry of the branch targets of the kernel and of user code.
    pub(super) kernel_targets_mask: u64,
    pub(super) user_targets_mask: u64,
    /// All bits but RFLAGS.IF, DF, AC.
    pub(super) all_but_if: u64,
    pub(super) all_but_df: u64,
    pub(super) all_but_ac: u64,
    /// CR4.TSD and CR4.FSGSBASE.
    pub(super) cr4_tsd: u64,
    pub(super) cr4_fsgsbase: u64,
    /// Where the code marks of device memory begin.
    pub(super) device_marks: u64,
    /// The host lets programs set the GS base themselves; for helpers.
    pub(super) sets_gs: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Frame {
            translator: std::ptr::null_mut(),
            attention: std::ptr::null(),
            fpu: std::ptr::null_mut(),
            cpu: std::ptr::null_mut(),
            vectors_away: 1,
            x87_away: 1,
            mxcsr: MXCSR_DEFAULT,
            exit: 0,
            exit_id: 0,
            jump_to: 0,
            jump_lin: 0,
            load: Load([0; LOAD]),
            ranges: [0; GROUPS],
            marks: [0; GROUPS],
            walks: [0; WALKS],
            walk_marks: [0; WALKS],
            anchors: [0; WALKS],
            turns_left: 0,
            turns_end: 0,
            pauses: PAUSES,
            instructions: 0,
            spill: 0,
            flags: 0,
            kept_rax: 0,
            index_mask: (ENTRIES as u64 - 1) << 12,
            page_mask: !0xfff,
            page_mask_16: !0xff0,
            page_mask_32: !0xfe0,
            low_mask_16: 15,
            kernel_targets_mask: crate::mmu::KERNEL_TARGETS_MASK,
            user_targets_mask: crate::mmu::USER_TARGETS_MASK,
            all_but_if: !Rflags::IF.bits(),
            all_but_df: !Rflags::DF.bits(),
            all_but_ac: !Rflags::AC.bits(),
            cr4_tsd: Cr4::TSD.bits(),
            cr4_fsgsbase: Cr4::FSGSBASE.bits(),
            device_marks: 0,
            sets_gs: false,
        }
    }
}

/// Offset of a field of [`Frame`] from the GS base.
macro_rules! field {
    ($name:ident) => {
        (std::mem::offset_of!(crate::cpu::Cpu, frame) + std::mem::offset_of!(crate::translate::frame::Frame, $name))
            as i32
    };
}
pub(super) use field;

/// Offset of [`Frame::mxcsr`].
pub(super) const MXCSR: i32 = field!(mxcsr);

/// Offset of the status flags of the CPU.
pub(super) const STATUS: i32 = std::mem::offset_of!(Cpu, status) as i32;

/// Offset of the base of segment `seg`.
pub(super) fn segment_base(seg: usize) -> i32 {
    (std::mem::offset_of!(Cpu, seg_base) + 8 * seg) as i32
}

/// Offsets of IA32_KERNEL_GS_BASE and IA32_TSC_AUX.
pub(super) const KERNEL_GS_BASE: i32 = std::mem::offset_of!(Cpu, msr.kernel_gs_base) as i32;
pub(super) const TSC_AUX: i32 = std::mem::offset_of!(Cpu, msr.tsc_aux) as i32;

/// Offsets of the parts of a segment register.
pub(super) struct SegmentAt {
    pub(super) selector: i32,
    pub(super) base: i32,
    pub(super) limit: i32,
    pub(super) attr: i32,
}

/// Where segment register `seg` is.
pub(super) fn segment(seg: usize) -> SegmentAt {
    use std::mem::offset_of;
    let at = offset_of!(Cpu, seg) + seg * size_of::<Segment>();
    let part = |offset: usize| (at + offset) as i32;
    SegmentAt {
        selector: part(offset_of!(Segment, selector)),
        base: part(offset_of!(Segment, base)),
        limit: part(offset_of!(Segment, limit)),
        attr: part(offset_of!(Segment, attr)),
    }
}

/// Offset of the base in segment register `seg` itself.
pub(super) fn hidden_base(seg: usize) -> i32 {
    segment(seg).base
}
