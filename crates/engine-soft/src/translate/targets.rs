//! Where indirect branches go: a direct-mapped cache from linear addresses to translated code, which generated code searches by
//! itself. There is one for the kernel's code, and one in each user address space.

/// `N` entries, a power of two.
#[repr(C)]
pub(crate) struct Targets<const N: usize> {
    /// Minus the linear address; in an empty entry that of an address which maps to another entry.
    pub(crate) neg_lin: [u64; N],
    /// Host address of the code.
    pub(crate) code: [u64; N],
}

/// The lowest bit of a linear address that selects an entry. Return addresses differ in all bits, entries of functions only from
/// bit 4 on.
pub(super) const LOW: u32 = 1;

impl<const N: usize> Targets<N> {
    /// The bits of a linear address that select the entry, for PEXT.
    pub(crate) const MASK: u64 = ((N as u64) - 1) << LOW;

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.neg_lin.fill(0);
        // Address 0 maps to entry 0.
        self.neg_lin[0] = (1u64 << LOW).wrapping_neg();
    }

    /// Says that the code at `lin` is translated at host address `code`.
    pub(crate) fn put(&mut self, lin: u64, code: u64) {
        let i = Self::index(lin);
        self.neg_lin[i] = lin.wrapping_neg();
        self.code[i] = code;
    }

    fn index(lin: u64) -> usize {
        ((lin & Self::MASK) >> LOW) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(t: &Targets<16>, lin: u64) -> Option<u64> {
        let i = Targets::<16>::index(lin);
        (lin.wrapping_add(t.neg_lin[i]) == 0).then_some(t.code[i])
    }

    #[test]
    fn an_empty_cache_never_hits() {
        let mut t = Box::new(Targets::<16> { neg_lin: [0; 16], code: [0; 16] });
        t.clear();
        assert!((0..64).chain([!0, 1 << 63]).all(|lin| find(&t, lin).is_none()));
        t.put(0, 5);
        t.put(0x22, 7);
        assert_eq!((find(&t, 0), find(&t, 0x22), find(&t, 2)), (Some(5), Some(7), None));
    }
}
