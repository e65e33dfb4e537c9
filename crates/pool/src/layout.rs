//! Where a byte of a volume is: in a group of members, which all have it, at a place of their parts.
//!
//! Chunk n of a volume is in group n modulo the number of groups: striped over the groups, mirrored within each.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{PoolError, PoolErrorKind, Result};

/// Most groups of a volume.
const MAX_GROUPS: usize = 64;
/// Most copies.
const MAX_COPIES: usize = 8;

/// How a volume is spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes of the volume, a multiple of 512.
    pub size: u64,
    /// Bytes of a chunk, a power of two.
    pub chunk: u64,
    /// Identifiers of the members of each group.
    pub groups: Vec<Vec<String>>,
}

/// Where a piece of a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) group: usize,
    /// Position in the data of each member of the group.
    pub(crate) at: u64,
    /// Bytes up to the end of the chunk.
    pub(crate) len: u64,
    /// Number of the chunk in the volume.
    pub(crate) chunk: u64,
}

impl Layout {
    /// Whether it can be one: it comes from a member, on which anything may be.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(PoolError::new(PoolErrorKind::Corrupt, format!("a volume with {what}")));
        if self.size == 0 || !self.size.is_multiple_of(512) || self.size > 1 << 60 {
            return bad("an impossible size");
        }
        if !self.chunk.is_power_of_two() || !(4096..=64 << 20).contains(&self.chunk) {
            return bad("chunks of an impossible size");
        }
        let copies = self.groups.first().map_or(0, Vec::len);
        if self.groups.len() > MAX_GROUPS || !(1..=MAX_COPIES).contains(&copies) {
            return bad("an impossible number of members");
        }
        let members: BTreeSet<&String> = self.groups.iter().flatten().collect();
        let count: usize = self.groups.iter().map(Vec::len).sum();
        if self.groups.iter().any(|g| g.len() != copies) || members.len() != count {
            return bad("a member that is there twice, or groups that differ");
        }
        Ok(())
    }

    /// Copies of each byte.
    pub fn copies(&self) -> usize {
        self.groups.first().map_or(0, Vec::len)
    }

    /// Bytes of data on each member.
    pub(crate) fn part_len(&self) -> u64 {
        self.size.div_ceil(self.chunk).div_ceil(self.groups.len() as u64) * self.chunk
    }

    /// Where byte `at` is. It lies inside the volume.
    pub(crate) fn piece(&self, at: u64) -> Piece {
        let (chunk, inside) = (at / self.chunk, at % self.chunk);
        let groups = self.groups.len() as u64;
        Piece {
            group: (chunk % groups) as usize,
            at: chunk / groups * self.chunk + inside,
            len: (self.chunk - inside).min(self.size - at),
            chunk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_place() {
        let groups = vec![vec!["a".into(), "b".into()], vec!["c".into(), "d".into()], vec!["e".into(), "f".into()]];
        let l = Layout { size: 4096 * 10 + 512, chunk: 4096, groups };
        l.check().unwrap();
        assert_eq!((l.part_len(), l.copies()), (4 * 4096, 2));
        let mut seen = BTreeSet::new();
        let mut at = 0;
        while at < l.size {
            let p = l.piece(at);
            assert!(p.at + p.len <= l.part_len() && seen.insert((p.group, p.at)), "{p:?}");
            at += p.len;
        }
        assert_eq!(at, l.size);
        assert_eq!(l.piece(4096 * 4 + 100), Piece { group: 1, at: 4096 + 100, len: 3996, chunk: 4 });
        for bad in [
            Layout { size: 0, ..l.clone() },
            Layout { size: u64::MAX - 511, ..l.clone() },
            Layout { chunk: 5000, ..l.clone() },
            Layout { groups: vec![], ..l.clone() },
            Layout { groups: vec![vec!["a".into(), "a".into()]], ..l.clone() },
            Layout { groups: vec![vec!["a".into()], vec!["b".into(), "c".into()]], ..l.clone() },
            Layout { groups: vec![vec![]], ..l.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
