//! AES-XTS with the number of the sector as tweak: `aes-xts-plain64` of dm-crypt.

use aes::cipher::{Array, KeyInit};
use aes::{Aes128, Aes256};
use xts_mode::Xts128;

use crate::{LuksError, Result};

/// The unit in which sectors are numbered, whatever the size of the cipher's sectors.
pub(crate) const UNIT: u64 = 512;

/// A key ready for use. The library wipes it when it is dropped.
pub(crate) enum Xts {
    Aes128(Box<Xts128<Aes128>>),
    Aes256(Box<Xts128<Aes256>>),
}

impl Xts {
    /// The cipher with a key of 32 (AES-128) or 64 bytes (AES-256).
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let (one, two) = key.split_at(key.len() / 2);
        let bad = || LuksError::unsupported(format!("keys of {} bytes are not known here", key.len()));
        if key.len() == 32 {
            let cipher = |k| Aes128::new_from_slice(k).map_err(|_| bad());
            return Ok(Xts::Aes128(Box::new(Xts128::new(cipher(one)?, cipher(two)?))));
        }
        let cipher = |k| Aes256::new_from_slice(k).map_err(|_| bad());
        Ok(Xts::Aes256(Box::new(Xts128::new(cipher(one)?, cipher(two)?))))
    }

    /// Encrypts whole sectors of `size` bytes; the first one has the number `first`, in units of 512 bytes.
    pub(crate) fn encrypt(&self, data: &mut [u8], size: usize, first: u64) {
        debug_assert!(data.len().is_multiple_of(size));
        match self {
            Xts::Aes128(x) => x.encrypt_area(data, size, 0, tweak(size, first)),
            Xts::Aes256(x) => x.encrypt_area(data, size, 0, tweak(size, first)),
        }
    }

    /// Undoes [`Xts::encrypt`].
    pub(crate) fn decrypt(&self, data: &mut [u8], size: usize, first: u64) {
        debug_assert!(data.len().is_multiple_of(size));
        match self {
            Xts::Aes128(x) => x.decrypt_area(data, size, 0, tweak(size, first)),
            Xts::Aes256(x) => x.decrypt_area(data, size, 0, tweak(size, first)),
        }
    }
}

/// 64 bits of the sector's number, little-endian. Larger sectors count by their first unit.
fn tweak(size: usize, first: u64) -> impl Fn(u128) -> Array<u8, aes::cipher::consts::U16> {
    let step = size as u64 / UNIT;
    move |i| {
        let number = first.wrapping_add((i as u64).wrapping_mul(step));
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&number.to_le_bytes());
        Array(tweak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IEEE 1619-2007, vectors 2 and 4 (first bytes).
    #[test]
    fn known_answers() {
        let key: Vec<u8> = [[0x11; 16], [0x22; 16]].concat();
        let mut data = [0x44; 32];
        Xts::new(&key).unwrap().encrypt(&mut data, 32, 0x33_3333_3333);
        assert_eq!(data[..8], [0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e]);
        let key: Vec<u8> = [
            [0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26],
            [0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95],
        ]
        .concat();
        let mut data: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
        let xts = Xts::new(&key).unwrap();
        xts.encrypt(&mut data, 512, 0);
        assert_eq!(data[..8], [0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4, 0x76]);
        xts.decrypt(&mut data, 512, 0);
        assert!(data.iter().enumerate().all(|(i, b)| *b == i as u8));
    }

    #[test]
    fn large_sectors_count_in_units() {
        let xts = Xts::new(&[7; 64]).unwrap();
        let mut whole = vec![0; 8192];
        xts.encrypt(&mut whole, 4096, 80);
        let mut second = vec![0; 4096];
        xts.encrypt(&mut second, 4096, 88);
        assert_eq!(whole[4096..], second);
        assert!(Xts::new(&[7; 48]).is_err() && Xts::new(&[]).is_err());
    }
}
