//! The anti-forensic splitter: a key is blown up to thousands of stripes, all of which are needed to get it back, so that a
//! slot is gone once any part of it is overwritten (LUKS1 specification §2.4).

use zeroize::{Zeroize, Zeroizing};

use crate::Result;
use crate::error::random;
use crate::hash::Hash;

/// Blows `key` up to `stripes` times its length. `stripes` is at least 1.
pub(crate) fn split(key: &[u8], stripes: usize, hash: Hash) -> Result<Zeroizing<Vec<u8>>> {
    let len = key.len();
    let mut out = Zeroizing::new(vec![0; len * stripes]);
    let last = len * (stripes - 1);
    random(&mut out[..last])?;
    let mut mix = Zeroizing::new(vec![0; len]);
    for stripe in out[..last].chunks_exact(len) {
        xor(&mut mix, stripe);
        diffuse(&mut mix, hash);
    }
    xor(&mut mix, key);
    out[last..].copy_from_slice(&mix);
    Ok(out)
}

/// Undoes [`split`]: `material` is `stripes` times `len` bytes.
pub(crate) fn merge(material: &[u8], len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut mix = Zeroizing::new(vec![0; len]);
    let count = material.len() / len;
    for (i, stripe) in material.chunks_exact(len).enumerate() {
        xor(&mut mix, stripe);
        if i + 1 < count {
            diffuse(&mut mix, hash);
        }
    }
    mix
}

fn xor(into: &mut [u8], other: &[u8]) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
}

/// Each block of the digest's length becomes the hash of its number and itself.
fn diffuse(block: &mut [u8], hash: Hash) {
    for (i, part) in block.chunks_mut(hash.len()).enumerate() {
        let mut digest = hash.digest(&[&(i as u32).to_be_bytes(), part]);
        part.copy_from_slice(&digest[..part.len()]);
        digest.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_and_merged_is_the_same() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            for (len, stripes) in [(32, 4000), (64, 3), (64, 1), (33, 7)] {
                let key: Vec<u8> = (0..len as u8).map(|i| i ^ 0x5a).collect();
                let material = split(&key, stripes, hash).unwrap();
                assert_eq!(*merge(&material, len, hash), key);
                let mut torn = material.clone();
                torn[0] ^= 1;
                assert_ne!(*merge(&torn, len, hash), key, "every bit counts");
            }
        }
    }
}
