//! General registers as instructions name them.

use crate::cpu::Cpu;
use crate::exec::int::Int;

impl Cpu {
    /// Reads the register at byte offset `r` of [`Cpu::gpr`].
    #[inline(always)]
    pub(crate) fn reg<T: Int>(&self, r: u8) -> T {
        debug_assert!(usize::from(r) + T::SIZE as usize <= size_of_val(&self.gpr));
        // SAFETY: the decoder makes offsets of registers only, all of which lie in `gpr`.
        unsafe { (&raw const self.gpr).cast::<u8>().add(usize::from(r)).cast::<T>().read_unaligned() }
    }

    /// Writes the register at byte offset `r` of [`Cpu::gpr`]; 32-bit values clear the upper half, smaller ones leave the
    /// rest. The register is always stored whole, so that a later wider read forwards from one store.
    #[inline(always)]
    pub(crate) fn set_reg<T: Int>(&mut self, r: u8, value: T) {
        debug_assert!(usize::from(r) < size_of_val(&self.gpr));
        // SAFETY: the decoder makes offsets of registers only, all of which lie in `gpr`.
        let whole = unsafe { &mut *(&raw mut self.gpr).cast::<u8>().add(usize::from(r & !7)).cast::<u64>() };
        *whole = match T::SIZE {
            1 => {
                let shift = u32::from(r & 7) * 8;
                (*whole & !(0xff << shift)) | (value.to_u64() << shift)
            }
            2 => (*whole & !0xffff) | value.to_u64(),
            _ => value.to_u64(),
        };
    }
}
