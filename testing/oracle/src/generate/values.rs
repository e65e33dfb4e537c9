//! Operand values: the corners of each number format, and random bits.

use crate::rng::Rng;

const F32: [u32; 16] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000, // quiet NaN
    0x7f80_0001, // signalling NaN
    0xffff_ffff,
    1, // denormals
    0x807f_ffff,
    0x0080_0000, // least and greatest normal
    0x7f7f_ffff,
    0x4f00_0000, // 2^31
    0xcf00_0001,
    0x3f00_0000,
];

const F64: [u64; 16] = [
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    u64::MAX,
    1,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x41e0_0000_0000_0000, // 2^31
    0xc3e0_0000_0000_0000, // -2^63
    0x3fe0_0000_0000_0000,
];

/// Sign and exponent, and significand, of 80-bit numbers of every class (SDM 1 table 8-3).
const F80: [(u16, u64); 20] = [
    (0, 0),
    (0x8000, 0),
    (0x3fff, 1 << 63),
    (0xbfff, 1 << 63),
    (0x4000, 0xc90f_daa2_2168_c235), // pi
    (0x7fff, 1 << 63),               // infinities
    (0xffff, 1 << 63),
    (0x7fff, 0xc000_0000_0000_0000), // quiet NaN
    (0xffff, 0xc000_0000_0000_0000), // indefinite
    (0x7fff, 0x8000_0000_0000_0001), // signalling NaN
    (0x0000, 1),                     // denormal
    (0x8000, 0x7fff_ffff_ffff_ffff),
    (0x0000, 1 << 63), // pseudo-denormal
    (0x0001, 1 << 63), // least and greatest normal
    (0x7ffe, u64::MAX),
    (0x4000, 0x4000_0000_0000_0000), // unnormal
    (0x7fff, 0),                     // pseudo-infinity
    (0x7fff, 0x4000_0000_0000_0000), // pseudo-NaN
    (0x403e, 1 << 63),               // 2^63
    (0x3ffe, u64::MAX),
];

/// An integer of `bits` bits (1 to 64), often one where carries, signs or sizes change.
pub(super) fn integer(rng: &mut Rng, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits.clamp(1, 64));
    let v = match rng.below(10) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => mask >> 1,
        4 => (mask >> 1) + 1,
        5 => 1 << rng.below(64),
        6 => rng.below(256),
        7 => (rng.below(256) as i64 - 128) as u64,
        8 => rng.pick(&[0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        _ => rng.u64(),
    };
    v & mask
}

/// A single-precision pattern.
pub(super) fn float32(rng: &mut Rng) -> u32 {
    match rng.below(4) {
        0 => rng.u32(),
        // Near one, so that sums and products round and cancel.
        1 => (0x3f00_0000 + (rng.u32() & 0x01ff_ffff)) | ((rng.u32() & 1) << 31),
        _ => rng.pick(&F32),
    }
}

/// A double-precision pattern.
pub(super) fn float64(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.u64(),
        1 => (0x3fe0_0000_0000_0000 + (rng.u64() >> 11)) | ((rng.u64() & 1) << 63),
        _ => rng.pick(&F64),
    }
}

/// An 80-bit pattern.
pub(super) fn float80(rng: &mut Rng) -> [u8; 10] {
    let (sign_exponent, significand) = match rng.below(4) {
        0 => (rng.u32() as u16, rng.u64()),
        1 => ((0x3fe0 + rng.below(0x40)) as u16 | (rng.u32() as u16 & 0x8000), rng.u64() | 1 << 63),
        2 => ((0x3f00 + rng.below(0x200)) as u16 | (rng.u32() as u16 & 0x8000), rng.u64() | 1 << 63),
        _ => rng.pick(&F80),
    };
    let mut v = [0; 10];
    v[..8].copy_from_slice(&significand.to_le_bytes());
    v[8..].copy_from_slice(&sign_exponent.to_le_bytes());
    v
}

/// A packed BCD number, mostly valid.
pub(super) fn bcd80(rng: &mut Rng) -> [u8; 10] {
    let mut v = [0; 10];
    for b in &mut v {
        *b = (rng.below(10) | rng.below(10) << 4) as u8;
    }
    v[9] = rng.pick(&[0, 0x80, 0x80, 0x7f]);
    if rng.chance(10) {
        v[rng.below(10) as usize] = rng.u32() as u8;
    }
    v
}

/// Fills `out` with lanes of one number format.
pub(super) fn vector(rng: &mut Rng, out: &mut [u8]) {
    match rng.below(8) {
        0 => out.fill(rng.pick(&[0, 0, 0xff, 0x80, 0x7f])),
        1 => rng.fill(out),
        2 | 3 => lanes(out, 4, || u64::from(float32(rng))),
        4 | 5 => lanes(out, 8, || float64(rng)),
        6 => {
            let size = rng.pick(&[1, 2, 4, 8]);
            lanes(out, size, || integer(rng, 8 * size as u32));
        }
        // Few letters and a terminator, for the string comparisons.
        _ => lanes(out, 1, || rng.pick(&[0, 0x61, 0x62, 0x62, 0x63, 0xff])),
    }
}

fn lanes(out: &mut [u8], size: usize, mut next: impl FnMut() -> u64) {
    for lane in out.chunks_mut(size) {
        let bytes = next().to_le_bytes();
        lane.copy_from_slice(&bytes[..lane.len()]);
    }
}
