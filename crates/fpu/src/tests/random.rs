//! Seeded random values with a taste for the corners of floating-point formats.

use crate::FpuState;
use crate::state::ST_MASK;

/// xorshift64*
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn f32(&mut self) -> u32 {
        const SPECIAL: [u32; 22] = [
            0,
            0x8000_0000,
            0x3F80_0000,
            0xBF80_0000,
            0x7F80_0000,
            0xFF80_0000,
            0x7FC0_0000,
            0xFFC0_0000,
            0x7F80_0001,
            0xFF81_2345,
            1,
            0x8000_0001,
            0x007F_FFFF,
            0x0080_0000,
            0x7F7F_FFFF,
            0xFF7F_FFFF,
            0x4F00_0000,
            0xCF00_0000,
            0x3F00_0000,
            0x3FC0_0000,
            0x0040_0000,
            0x7FFF_FFFF,
        ];
        match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => (0x3F00_0000 + (self.next() as u32 & 0x03FF_FFFF)) | (self.next() as u32 & 1 << 31),
            2 => self.next() as u32 & 0x80FF_FFFF,
            _ => self.next() as u32,
        }
    }

    pub(crate) fn f64(&mut self) -> u64 {
        const SPECIAL: [u64; 16] = [
            0,
            1 << 63,
            0x3FF0 << 48,
            0xBFF0 << 48,
            0x7FF0 << 48,
            0xFFF0 << 48,
            0x7FF8 << 48,
            (0x7FF0 << 48) + 1,
            (0xFFF0 << 48) + 77,
            1,
            0x000F_FFFF_FFFF_FFFF,
            0x0010 << 48,
            0x7FEF_FFFF_FFFF_FFFF,
            0x43E0 << 48,
            0x41E0 << 48,
            0x3FE0 << 48,
        ];
        match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => ((0x3FE << 52) + (self.next() & 0x007F_FFFF_FFFF_FFFF)) | (self.next() & (1 << 63)),
            2 => self.next() & 0x801F_FFFF_FFFF_FFFF,
            _ => self.next(),
        }
    }

    /// 80-bit values, unsupported encodings included.
    pub(crate) fn f80(&mut self) -> u128 {
        const EXPONENTS: [u64; 12] =
            [0, 1, 0x7FFE, 0x7FFF, 0x3FFF, 0x3FFE, 0x3C01, 0x3C00, 0x43FE, 0x3F80, 0x403E, 0x4000];
        let exponent = match self.below(3) {
            0 => self.pick(&EXPONENTS),
            1 => 0x3FF0 + self.next() % 64,
            _ => self.next() & 0x7FFF,
        };
        let mut significand = match self.below(4) {
            0 => 1 << 63,
            1 => 3 << 62,
            2 => self.next() & (!0 << 40),
            _ => self.next(),
        };
        if exponent == 0 && self.one_in(2) {
            significand = if self.one_in(2) { 0 } else { significand >> 1 };
        } else if !self.one_in(16) {
            significand |= 1 << 63;
        }
        let sign = self.next() & 1;
        u128::from(sign << 15 | exponent) << 64 | u128::from(significand)
    }

    /// A vector half, all lanes of one kind.
    pub(crate) fn vector(&mut self) -> u128 {
        match self.below(5) {
            0 | 1 => (0..4).fold(0, |v, _| v << 32 | u128::from(self.f32())),
            2 | 3 => (0..2).fold(0, |v, _| v << 64 | u128::from(self.f64())),
            _ => u128::from(self.next()) << 64 | u128::from(self.next()),
        }
    }

    pub(crate) fn bytes(&mut self, out: &mut [u8]) {
        for (i, chunk) in out.chunks_mut(16).enumerate() {
            let value = if i % 4 == 0 { self.f80() } else { self.vector() };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
    }

    /// A consistent state. `unmasked`: SIMD and x87 exceptions may be unmasked, and x87 exceptions
    /// pending.
    pub(crate) fn state(&mut self, unmasked: bool) -> FpuState {
        let mut state = FpuState::default();
        for i in 0..16 {
            let (low, high) = (self.vector(), self.vector());
            state.set_xmm(i, low);
            state.set_ymm_hi(i, high);
        }
        for i in 0..8 {
            let value = self.f80();
            state.set_st(i, value & ST_MASK);
        }
        state.set_ftw(match self.below(4) {
            0 => self.next() as u8,
            1 => 0,
            _ => 0xFF,
        });
        let mut fcw = 0x37F;
        let mut mxcsr = 0x1F80;
        if self.one_in(2) {
            fcw = (fcw & !0xF00) | (self.next() as u16 & 0xF00);
            mxcsr |= self.next() as u32 & 0xE040;
        }
        if self.one_in(2) {
            mxcsr |= self.next() as u32 & 0x3F;
        }
        let mut fsw = self.next() as u16 & 0x7F7F;
        if unmasked {
            fcw &= !(self.next() as u16 & self.next() as u16 & 0x3F);
            mxcsr &= !(self.next() as u32 & 0x1F80);
            if !self.one_in(8) {
                fsw &= fcw | !0x3F;
            }
        }
        state.set_fcw(fcw);
        state.set_fsw(fsw);
        state.set_mxcsr(mxcsr);
        state
    }
}
