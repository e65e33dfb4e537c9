//! Inputs made of seeds: numbered, so that any one can be made again.

use crate::Target;

/// A generator of the same numbers on every run (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.number() >> 16) % n.max(1) as u64) as usize
    }
}

/// Numbers that lie on edges.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0x0f,
    0x10,
    0x1f,
    0x20,
    0x3f,
    0x40,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x1ff,
    0x200,
    0xfff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fe00,
    0xffff_ffff_ffff_ffff,
];

/// Input number `n` of `target` for `seed`; `seeds` are the target's. The first ones are the seeds themselves.
pub fn input(target: &Target, seeds: &[Vec<u8>], seed: u64, n: u64) -> Vec<u8> {
    if let Some(whole) = usize::try_from(n).ok().and_then(|n| seeds.get(n)) {
        return whole.clone();
    }
    let name = target.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let mut r = Random::new(seed ^ name.rotate_left(32) ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if seeds.is_empty() || r.below(16) == 0 {
        let len = r.below(target.longest.min(512));
        return (0..len).map(|_| r.number() as u8).collect();
    }
    let mut data = seeds[r.below(seeds.len())].clone();
    for _ in 0..=r.below(8) {
        change(&mut data, seeds, &mut r);
    }
    data.truncate(target.longest);
    data
}

fn change(data: &mut Vec<u8>, seeds: &[Vec<u8>], r: &mut Random) {
    let at = r.below(data.len() + 1);
    let len = r.below(1 + (data.len() - at).min(64));
    match r.below(11) {
        0 => data.get_mut(at).into_iter().for_each(|b| *b ^= 1 << r.below(8)),
        1 => data.get_mut(at).into_iter().for_each(|b| *b = r.number() as u8),
        2 | 3 => {
            let width = 1 << r.below(4);
            let value = EDGES[r.below(EDGES.len())];
            let bytes = if r.below(2) == 0 { value.to_le_bytes() } else { (value << (64 - 8 * width)).to_be_bytes() };
            data.iter_mut().skip(at).zip(&bytes[..width]).for_each(|(to, from)| *to = *from);
        }
        4 => data.iter_mut().skip(at).take(len).for_each(|b| *b = r.number() as u8),
        5 => _ = data.drain(at..at + len),
        6 => {
            let again = data[at..at + len].to_vec();
            let to = r.below(data.len() + 1);
            data.splice(to..to, again);
        }
        7 => {
            let from = data[at..at + len].to_vec();
            let to = r.below(data.len() + 1);
            data.iter_mut().skip(to).zip(from).for_each(|(to, from)| *to = from);
        }
        8 => {
            let other = &seeds[r.below(seeds.len())];
            let from = r.below(other.len() + 1);
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        9 => {
            let new: Vec<u8> = (0..r.below(32)).map(|_| r.number() as u8).collect();
            data.splice(at..at, new);
        }
        _ => {
            // A number a little larger or smaller than it was.
            let by = (r.below(9) as u8).wrapping_sub(4);
            data.get_mut(at).into_iter().for_each(|b| *b = b.wrapping_add(by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_made_again_by_its_number() {
        let target = crate::targets().next().unwrap();
        let seeds = vec![b"some seed".to_vec(), vec![0; 64]];
        assert_eq!(input(target, &seeds, 1, 0), seeds[0]);
        let many: Vec<_> = (2..200).map(|n| input(target, &seeds, 1, n)).collect();
        assert_eq!(many[70], input(target, &seeds, 1, 72));
        assert_ne!(many[70], input(target, &seeds, 2, 72));
        let different: std::collections::BTreeSet<_> = many.iter().collect();
        assert!(different.len() > 180, "{} of 198", different.len());
    }
}
