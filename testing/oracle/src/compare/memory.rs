//! Compares the changed memory of two outcomes.

use super::Difference;
use crate::case::{MAX_CHANGES, Outcome};
use crate::layout;
use std::collections::BTreeMap;

/// Most differing quadwords worth reporting.
const REPORTED: usize = 6;

pub(super) fn compare(found: &mut Vec<Difference>, ignored: &[(u64, u64)], native: &Outcome, subject: &Outcome) {
    if native.change_count == subject.change_count && native.change_hash == subject.change_hash {
        return;
    }
    let before = found.len();
    let mut both: BTreeMap<u64, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for c in native.changes() {
        both.entry(c.address).or_default().0 = Some(c.value);
    }
    for c in subject.changes() {
        both.entry(c.address).or_default().1 = Some(c.value);
    }
    for (address, (n, s)) in both {
        let base = base(address);
        let (n, s) = (n.unwrap_or(base), s.unwrap_or(base));
        if (n ^ s) & !mask(ignored, address) != 0 && found.len() < before + REPORTED {
            super::push(found, format!("[{address:x}]"), format!("{n:016x}"), format!("{s:016x}"));
        }
    }
    let whole = |o: &Outcome| o.change_count as usize <= MAX_CHANGES;
    if found.len() == before && !(whole(native) && whole(subject)) && ignored.is_empty() {
        super::push(
            found,
            "memory",
            format!("{} changes", native.change_count),
            format!("{} changes", subject.change_count),
        );
    }
}

fn base(address: u64) -> u64 {
    let offset = layout::writable_offset(address).unwrap_or(0);
    layout::base_image()[offset..offset + 8].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

/// Bits of the quadword at `address` that may differ.
fn mask(ignored: &[(u64, u64)], address: u64) -> u64 {
    (0..8)
        .filter(|b| ignored.iter().any(|(at, len)| (address + b).wrapping_sub(*at) < *len))
        .fold(0, |m, b| m | 0xff << (8 * b))
}
