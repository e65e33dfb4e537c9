//! Segment limits and rights of memory accesses (SDM 3A §5.3 to §5.6), canonical addresses (SDM 1 §3.3.7.1).

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::segment::Segment;

use crate::cpu::Cpu;
use crate::op::Guest;

/// Index of SS in [`Cpu::seg`].
const SS: u8 = 2;

impl Cpu {
    /// Linear address of `size` bytes at `offset` of segment `seg` after limit and rights checks, outside 64-bit mode.
    ///
    /// # Errors
    /// #SS for the stack segment, #GP for others.
    #[inline]
    pub(crate) fn checked_linear(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Guest<u64> {
        let s = &self.seg[usize::from(seg)];
        if !within(s, offset, size) || !permits(s, write, self.mode.protected) {
            return self.segment_fault(seg, 0);
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// In 64-bit mode, #GP (#SS for the stack segment) unless all `size` bytes at `lin` are canonical.
    #[inline]
    pub(crate) fn check_canonical(&mut self, lin: u64, size: u64, seg: u8) -> Guest<()> {
        let last = lin.wrapping_add(size - 1);
        if self.is_64() && !(is_canonical(lin) && is_canonical(last)) {
            return self.segment_fault(seg, 0);
        }
        Ok(())
    }

    /// #SS for the stack segment, #GP for others.
    #[cold]
    pub(crate) fn segment_fault<T>(&mut self, seg: u8, error: u32) -> Guest<T> {
        self.fail(if seg == SS { Exception::ss(error) } else { Exception::gp(error) })
    }
}

/// `size` bytes at `offset` are within the limit of `s`.
#[inline]
pub(super) fn within(s: &Segment, offset: u64, size: u64) -> bool {
    let last = offset.wrapping_add(size - 1);
    let limit = u64::from(s.limit);
    if !s.attr.is_code() && s.attr.is_down_or_conforming() && s.attr.is_code_or_data() {
        let top = if s.attr.db() { 0xffff_ffff } else { 0xffff };
        return offset > limit && last <= top;
    }
    // A 4 GiB segment ends as well: an access beyond FFFFFFFFh faults rather than wraps (SDM 3A §5.3).
    last <= limit
}

/// The rights of `s` permit reading or writing.
#[inline]
fn permits(s: &Segment, write: bool, protected: bool) -> bool {
    if s.attr.unusable() {
        return false;
    }
    // Real-mode and virtual-8086 segments are readable and writable, whatever the descriptor cache says of CS.
    if !protected {
        return true;
    }
    match (s.attr.is_code(), write) {
        (true, true) => false,
        (false, false) => true,
        (_, _) => s.attr.is_rw(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use visor_x86::segment::SegAttr;

    fn seg(limit: u32, attr: u32) -> Segment {
        Segment { selector: 8, base: 0, limit, attr: SegAttr(attr) }
    }

    #[test]
    fn limits() {
        let s = seg(0xfff, 0x93);
        assert!(within(&s, 0xffc, 4) && !within(&s, 0xffd, 4) && !within(&s, 0x1000, 1));
        let down = seg(0xfff, 0x97);
        assert!(!within(&down, 0xfff, 1) && within(&down, 0x1000, 4));
        assert!(within(&down, 0xfffc, 4) && !within(&down, 0xfffd, 4));
        assert!(within(&seg(0xfff, 0x4097), 0xfffd, 4), "big expand-down");
        let flat = seg(0xffff_ffff, 0xc093);
        assert!(within(&flat, 0xffff_fffc, 4) && !within(&flat, 0xffff_fffd, 4), "does not wrap");
    }

    #[test]
    fn rights() {
        for (attr, read, write) in [
            (0x93, true, true),
            (0x91, true, false),
            (0x9b, true, false),
            (0x99, false, false),
            (0x10000, false, false),
        ] {
            let s = seg(0xffff, attr);
            assert_eq!((permits(&s, false, true), permits(&s, true, true)), (read, write), "{attr:#x}");
        }
        assert!(permits(&seg(0xffff, 0x9b), true, false), "CS is writable in real mode");
    }
}
