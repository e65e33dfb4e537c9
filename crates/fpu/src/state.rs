//! The user-visible floating-point and vector state of one vCPU.
//!
//! The layout is that of a standard-form XSAVE area (Intel SDM 1 §13.4): the 512-byte legacy
//! region, 64 bytes where the header would be, and the upper halves of the YMM registers.
//! Thunks address it by fixed offsets.

use std::fmt;

/// MXCSR after reset: all exceptions masked, round to nearest (Intel SDM 1 §10.2.3).
pub const MXCSR_DEFAULT: u32 = 0x1F80;
/// MXCSR bits that may be set (`MXCSR_MASK` of the FXSAVE image); all others are reserved.
pub const MXCSR_MASK: u32 = 0xFFFF;
/// x87 control word after FNINIT.
pub(crate) const FCW_INIT: u16 = 0x37F;
/// x87 control word after a processor reset (Intel SDM 3A table 10-1).
const FCW_RESET: u16 = 0x40;

/// Offset of ST(0) in [`FpuState`].
pub(crate) const OFFSET_ST: usize = 32;
/// Offset of XMM0 in [`FpuState`].
pub const OFFSET_XMM: usize = 160;
/// Offset of the upper half of YMM0 in [`FpuState`].
pub const OFFSET_YMM_HI: usize = 576;
/// Offset of the last x87 opcode in [`FpuState`]; the pointers to its instruction and operand follow (2 + 8 + 8 bytes).
pub const OFFSET_FOP: usize = 6;
/// Offset of MXCSR in [`FpuState`].
pub const OFFSET_MXCSR: usize = 24;

/// The x87, MMX, SSE and AVX registers of one vCPU.
///
/// `ST(i)` are stored relative to the top of stack, as FXSAVE does; `MMi` is physical register `i`.
/// The default is the state after FNINIT with MXCSR = 0x1F80 and all registers zero.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FpuState {
    pub(crate) x87: X87State,
    pub(crate) xmm: [u128; 16],
    pub(crate) available: [u8; 96],
    pub(crate) fcs: u16,
    pub(crate) fds: u16,
    pub(crate) header: [u32; 15],
    pub(crate) ymm_hi: [u128; 16],
}

/// The first 160 bytes of the FXSAVE image, in the 64-bit (REX.W) layout.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct X87State {
    pub(crate) fcw: u16,
    pub(crate) fsw: u16,
    /// Abridged tags: bit set = physical register not empty.
    pub(crate) ftw: u8,
    pub(crate) reserved: u8,
    pub(crate) fop: u16,
    pub(crate) fip: u64,
    pub(crate) fdp: u64,
    pub(crate) mxcsr: u32,
    pub(crate) mxcsr_mask: u32,
    /// 80-bit values in the low bits; the upper 48 are zero.
    pub(crate) st: [u128; 8],
}

const _: () = {
    assert!(std::mem::size_of::<FpuState>() == 832);
    assert!(std::mem::offset_of!(FpuState, xmm) == OFFSET_XMM);
    assert!(std::mem::offset_of!(FpuState, ymm_hi) == OFFSET_YMM_HI);
    assert!(std::mem::offset_of!(X87State, st) == OFFSET_ST);
    assert!(std::mem::offset_of!(X87State, mxcsr) == OFFSET_MXCSR);
    assert!(std::mem::offset_of!(X87State, fop) == OFFSET_FOP);
};

/// Mask of the 80 bits a stack register holds.
pub(crate) const ST_MASK: u128 = (1 << 80) - 1;

impl Default for FpuState {
    fn default() -> Self {
        Self {
            x87: X87State {
                fcw: FCW_INIT,
                fsw: 0,
                ftw: 0,
                reserved: 0,
                fop: 0,
                fip: 0,
                fdp: 0,
                mxcsr: MXCSR_DEFAULT,
                mxcsr_mask: MXCSR_MASK,
                st: [0; 8],
            },
            xmm: [0; 16],
            available: [0; 96],
            fcs: 0,
            fds: 0,
            header: [0; 15],
            ymm_hi: [0; 16],
        }
    }
}

impl FpuState {
    /// The state after a processor reset, before any FNINIT: control word 0x40, tags zero = valid
    /// +0.0 in every register (Intel SDM 3A table 10-1).
    pub fn power_on() -> Self {
        let mut state = Self::default();
        state.x87.fcw = FCW_RESET;
        state.x87.ftw = 0xFF;
        state
    }

    /// The low 128 bits of vector register `i` (taken modulo 16).
    #[inline]
    pub fn xmm(&self, i: usize) -> u128 {
        self.xmm[i & 15]
    }

    /// Sets the low 128 bits of vector register `i` (modulo 16); the upper half stays.
    #[inline]
    pub fn set_xmm(&mut self, i: usize, value: u128) {
        self.xmm[i & 15] = value;
    }

    /// The upper 128 bits of YMM register `i` (modulo 16).
    #[inline]
    pub fn ymm_hi(&self, i: usize) -> u128 {
        self.ymm_hi[i & 15]
    }

    /// Sets the upper 128 bits of YMM register `i` (modulo 16).
    #[inline]
    pub fn set_ymm_hi(&mut self, i: usize, value: u128) {
        self.ymm_hi[i & 15] = value;
    }

    /// All XMM registers, for engines that do plain moves themselves.
    #[inline]
    pub fn xmm_ptr(&mut self) -> *mut [u128; 16] {
        &mut self.xmm
    }

    /// The upper halves of all YMM registers.
    #[inline]
    pub fn ymm_hi_ptr(&mut self) -> *mut [u128; 16] {
        &mut self.ymm_hi
    }

    /// `ST(i)` (modulo 8, relative to the top of stack) as a raw 80-bit value in the low bits.
    pub fn st(&self, i: usize) -> u128 {
        self.x87.st[i & 7] & ST_MASK
    }

    /// Sets `ST(i)` to a raw 80-bit value; tags are not changed.
    pub fn set_st(&mut self, i: usize, value: u128) {
        self.x87.st[i & 7] = value & ST_MASK;
    }

    /// MMX register `i` (modulo 8): the significand of physical x87 register `i`.
    pub fn mm(&self, i: usize) -> u64 {
        self.x87.st[self.x87.slot_of_physical(i)] as u64
    }

    /// x87 control word.
    pub fn fcw(&self) -> u16 {
        self.x87.fcw
    }

    /// Sets the x87 control word; the exception summary in the status word follows the new masks.
    pub fn set_fcw(&mut self, value: u16) {
        self.x87.fcw = value;
        self.x87.normalize();
    }

    /// x87 status word, with the top of stack in bits 11 to 13.
    pub fn fsw(&self) -> u16 {
        self.x87.fsw
    }

    /// Sets the x87 status word; ES and B are computed from the flags and masks. The stack
    /// registers keep their positions relative to the top.
    pub fn set_fsw(&mut self, value: u16) {
        self.x87.fsw = value;
        self.x87.normalize();
    }

    /// Abridged tag byte of the FXSAVE image: bit n set = physical register n is not empty.
    pub fn ftw(&self) -> u8 {
        self.x87.ftw
    }

    /// Sets the abridged tag byte.
    pub fn set_ftw(&mut self, value: u8) {
        self.x87.ftw = value;
    }

    /// Full tag word as FNSTENV stores it (two bits per physical register).
    pub fn full_tag_word(&self) -> u16 {
        self.x87.full_tag_word()
    }

    /// Last x87 opcode (11 bits).
    pub fn fop(&self) -> u16 {
        self.x87.fop
    }

    /// Sets the last x87 opcode (11 bits).
    pub fn set_fop(&mut self, value: u16) {
        self.x87.fop = value & 0x7FF;
    }

    /// Offset of the last x87 instruction.
    pub fn fip(&self) -> u64 {
        self.x87.fip
    }

    /// Sets the offset of the last x87 instruction.
    pub fn set_fip(&mut self, value: u64) {
        self.x87.fip = value;
    }

    /// Offset of the last x87 memory operand.
    pub fn fdp(&self) -> u64 {
        self.x87.fdp
    }

    /// Sets the offset of the last x87 memory operand.
    pub fn set_fdp(&mut self, value: u64) {
        self.x87.fdp = value;
    }

    /// Selectors of the last x87 instruction and operand: (FCS, FDS).
    pub fn selectors(&self) -> (u16, u16) {
        (self.fcs, self.fds)
    }

    /// Sets the selectors of the last x87 instruction and operand.
    pub fn set_selectors(&mut self, fcs: u16, fds: u16) {
        self.fcs = fcs;
        self.fds = fds;
    }

    /// SSE control and status register.
    #[inline]
    pub fn mxcsr(&self) -> u32 {
        self.x87.mxcsr
    }

    /// Sets MXCSR; reserved bits are dropped. (LDMXCSR and the image functions check them.)
    pub fn set_mxcsr(&mut self, value: u32) {
        self.x87.mxcsr = value & MXCSR_MASK;
    }

    /// No x87 exception is pending, and all are masked.
    #[inline]
    pub fn x87_is_quiet(&self) -> bool {
        self.x87.fcw & 0x3F == 0x3F && !self.x87.pending()
    }

    /// An x87 exception is pending: the next waiting x87 or MMX instruction takes #MF.
    #[inline]
    pub fn math_fault_pending(&self) -> bool {
        self.x87.pending()
    }
}

impl X87State {
    #[inline]
    pub(crate) fn top(&self) -> usize {
        usize::from(self.fsw >> 11) & 7
    }

    /// Index into `st` of physical register `i`.
    #[inline]
    pub(crate) fn slot_of_physical(&self, i: usize) -> usize {
        i.wrapping_sub(self.top()) & 7
    }

    /// Tags relative to the top of stack: bit i set = ST(i) is not empty.
    #[inline]
    pub(crate) fn relative_tags(&self) -> u8 {
        self.ftw.rotate_right(self.top() as u32)
    }

    /// Pushes `value`; the register it goes to must be empty.
    #[inline]
    pub(crate) fn push(&mut self, value: u128) {
        self.st[7] = value;
        self.push_slot();
    }

    /// Makes slot 7, which has been written, the new top of stack.
    #[inline]
    pub(crate) fn push_slot(&mut self) {
        self.st.rotate_right(1);
        self.fsw = (self.fsw & !0x3800) | (self.fsw.wrapping_sub(0x800) & 0x3800);
        self.ftw |= 1 << self.top();
    }

    /// Empties ST(0) and makes ST(1) the top of stack.
    #[inline]
    pub(crate) fn pop(&mut self) {
        self.ftw &= !(1 << self.top());
        self.st.rotate_left(1);
        self.fsw = (self.fsw & !0x3800) | (self.fsw.wrapping_add(0x800) & 0x3800);
    }

    /// Unmasked exception flags are set (Intel SDM 1 §8.1.3.3).
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        self.fsw & !self.fcw & 0x3F != 0
    }

    /// Makes reserved bits and the derived bits ES (7) and B (15) of the status word consistent.
    pub(crate) fn normalize(&mut self) {
        self.fcw = (self.fcw & 0x1F7F) | 0x40;
        self.fsw &= !0x8080;
        if self.pending() {
            self.fsw |= 0x8080;
        }
    }

    /// Rotates the stack so that `st[i]` is physical register `i`, as MMX instructions see it.
    #[inline]
    pub(crate) fn rotate_top_to_zero(&mut self) {
        let top = self.top();
        if top != 0 {
            self.st.rotate_right(top);
            self.fsw &= !0x3800;
        }
    }

    pub(crate) fn full_tag_word(&self) -> u16 {
        let mut word = 0;
        for physical in 0..8 {
            let tag =
                if self.ftw & (1 << physical) == 0 { 3 } else { classify(self.st[self.slot_of_physical(physical)]) };
            word |= tag << (2 * physical);
        }
        word
    }

    /// FNINIT: registers keep their contents, everything else returns to its initial value.
    pub(crate) fn init(&mut self) {
        // The physical registers do not move: rotate the slots as the top goes to zero.
        self.rotate_top_to_zero();
        self.fcw = FCW_INIT;
        self.fsw = 0;
        self.ftw = 0;
        self.fop = 0;
        self.fip = 0;
        self.fdp = 0;
    }
}

/// Tag of a register that is not empty: 0 valid, 1 zero, 2 special (Intel SDM 1 §8.1.7).
fn classify(value: u128) -> u16 {
    let exponent = (value >> 64) as u16 & 0x7FFF;
    let significand = value as u64;
    match exponent {
        0 if significand == 0 => 1,
        0 | 0x7FFF => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

impl fmt::Debug for FpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = &self.x87;
        writeln!(
            f,
            "fcw {:04x} fsw {:04x} ftw {:02x} fop {:03x} fip {:x} fdp {:x} cs {:x} ds {:x} mxcsr {:04x}",
            x.fcw, x.fsw, x.ftw, x.fop, x.fip, x.fdp, self.fcs, self.fds, x.mxcsr
        )?;
        for (i, st) in x.st.iter().enumerate() {
            writeln!(f, "st{i} {st:020x}")?;
        }
        for (i, (hi, lo)) in self.ymm_hi.iter().zip(&self.xmm).enumerate() {
            writeln!(f, "ymm{i} {hi:032x}_{lo:032x}")?;
        }
        Ok(())
    }
}
