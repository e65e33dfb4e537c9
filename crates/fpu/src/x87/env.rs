//! The x87 environment in memory: four layouts (Intel SDM 1 §8.1.10, figures 8-9 to 8-12).
//!
//! ```text
//!        16-bit  32-bit   protected mode           real and virtual-8086 mode
//!        0       0        control word             control word
//!        2       4        status word              status word
//!        4       8        tag word                 tag word
//!        6       12       FIP                      linear IP, low 16 bits
//!        8       16       FCS (32-bit: + opcode)   linear IP, upper bits, and opcode
//!        10      20       FDP                      linear operand pointer, low 16 bits
//!        12      24       FDS                      linear operand pointer, upper bits
//! ```

use crate::state::FpuState;

/// Bytes of the larger environment.
pub(super) const MAX: usize = 28;

/// Operand size of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits16,
    Bits32,
}

impl Width {
    /// Bytes of the environment.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Bits16 => 14,
            Self::Bits32 => 28,
        }
    }
}

/// The environment image and its length.
pub(super) fn store(state: &FpuState, width: Width, real_mode: bool) -> ([u8; MAX], usize) {
    let x = &state.x87;
    let fop = u32::from(x.fop & 0x7FF);
    let (ip, dp) = (x.fip as u32, x.fdp as u32);
    let pointers: [u32; 4] = match (width, real_mode) {
        (Width::Bits16, false) => [ip, state.fcs.into(), dp, state.fds.into()],
        (Width::Bits32, false) => [ip, u32::from(state.fcs) | fop << 16, dp, 0xFFFF_0000 | u32::from(state.fds)],
        (Width::Bits16, true) => [ip, (ip >> 4 & 0xF000) | fop, dp, dp >> 4 & 0xF000],
        (Width::Bits32, true) => {
            [0xFFFF_0000 | ip, (ip >> 4 & 0x0FFF_F000) | fop, 0xFFFF_0000 | dp, dp >> 4 & 0x0FFF_F000]
        }
    };
    let words = [x.fcw, x.fsw, x.full_tag_word()].map(|w| 0xFFFF_0000 | u32::from(w));
    let mut bytes = [0; MAX];
    let step = width.bytes() / 7;
    for (i, value) in words.iter().chain(&pointers).enumerate() {
        bytes[i * step..(i + 1) * step].copy_from_slice(&value.to_le_bytes()[..step]);
    }
    (bytes, width.bytes())
}

/// Loads an environment. `keep_registers`: the physical registers keep their contents while the
/// top of stack moves (FLDENV); otherwise the caller loads them in stack order (FRSTOR).
pub(super) fn load(state: &mut FpuState, width: Width, real_mode: bool, bytes: &[u8; MAX], keep_registers: bool) {
    let step = width.bytes() / 7;
    let word = |i: usize| {
        let mut value = [0; 4];
        value[..step].copy_from_slice(&bytes[i * step..(i + 1) * step]);
        u32::from_le_bytes(value)
    };
    let x = &mut state.x87;
    let old_top = x.top();
    x.fcw = word(0) as u16;
    x.fsw = word(1) as u16;
    let new_top = x.top();
    if keep_registers {
        x.st.rotate_left(new_top.wrapping_sub(old_top) & 7);
    }
    let tags = word(2);
    x.ftw = (0..8).fold(0, |ftw, i| ftw | (u8::from(tags >> (2 * i) & 3 != 3) << i));
    if real_mode {
        let upper = |i: usize| (word(i) & 0x0FFF_F000) << 4;
        x.fip = u64::from((word(3) & 0xFFFF) | upper(4));
        x.fdp = u64::from((word(5) & 0xFFFF) | upper(6));
        x.fop = word(4) as u16 & 0x7FF;
        (state.fcs, state.fds) = (0, 0);
    } else {
        x.fip = u64::from(word(3));
        x.fdp = u64::from(word(5));
        // The 16-bit protected-mode layout has no opcode.
        x.fop = (word(4) >> 16) as u16 & 0x7FF;
        (state.fcs, state.fds) = (word(4) as u16, word(6) as u16);
    }
    state.x87.normalize();
}
