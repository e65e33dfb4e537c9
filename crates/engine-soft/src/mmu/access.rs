//! The fast path of loads and stores, and the address arithmetic of memory operands.

use std::sync::atomic::Ordering;

use visor_memory::Frame;

use crate::cpu::Cpu;
use crate::mmu::Privilege;
use crate::op::{Guest, Mem, Op};

/// An integer as instructions move it through memory.
pub(crate) trait Word: Copy + Default + PartialEq + 'static {
    /// Bytes.
    const SIZE: u64;
    /// From the low bits.
    fn from_u64(v: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// From little-endian bytes, exactly `SIZE` of them.
    fn from_le(bytes: &[u8]) -> Self;
    /// To little-endian bytes.
    fn put_le(self, bytes: &mut [u8]);
}

macro_rules! word {
    ($($t:ty),*) => {$(
        impl Word for $t {
            const SIZE: u64 = size_of::<$t>() as u64;
            #[inline(always)]
            fn from_u64(v: u64) -> Self { v as $t }
            #[inline(always)]
            fn to_u64(self) -> u64 { self as u64 }
            fn from_le(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
            fn put_le(self, bytes: &mut [u8]) { bytes.copy_from_slice(&self.to_le_bytes()); }
        }
    )*};
}
word!(u8, u16, u32, u64, u128);

impl Cpu {
    /// Offset of a memory operand within its segment.
    #[inline(always)]
    pub(crate) fn ea(&self, m: &Mem) -> u64 {
        let base = self.gpr[usize::from(m.base)];
        let index = self.gpr[usize::from(m.index)] << m.scale;
        base.wrapping_add(index).wrapping_add(m.disp as u64) & m.mask
    }

    /// Linear address of `size` bytes at the operand of `op`, after the segment checks of its mode.
    #[inline(always)]
    pub(crate) fn linear(&mut self, op: &Op, size: u64, write: bool) -> Guest<u64> {
        let ea = self.ea(&op.mem);
        self.linear_at(op, ea, size, write)
    }

    /// As [`Cpu::linear`], for offset `ea` of the operand's segment.
    #[inline(always)]
    pub(crate) fn linear_at(&mut self, op: &Op, ea: u64, size: u64, write: bool) -> Guest<u64> {
        if op.mem.checked {
            return self.segment_linear(op.mem.seg, ea, size, write);
        }
        Ok(ea.wrapping_add(self.seg_base[usize::from(op.mem.seg_base)]))
    }

    /// [`Cpu::checked_linear`] out of line: the handlers are tuned for 64-bit code.
    #[inline(never)]
    fn segment_linear(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Guest<u64> {
        self.checked_linear(seg, offset, size, write)
    }

    /// Loads the memory operand of `op`.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&mut self, op: &Op) -> Guest<T> {
        let lin = self.linear(op, T::SIZE, false)?;
        self.read(lin, op.mem.seg)
    }

    /// Stores to the memory operand of `op`.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&mut self, op: &Op, value: T) -> Guest<()> {
        let lin = self.linear(op, T::SIZE, true)?;
        self.write(lin, op.mem.seg, value, Some(op))
    }

    /// Loads from linear address `lin` with the rights of the running code. `seg` decides between #GP and #SS for a
    /// non-canonical address.
    #[inline(always)]
    pub(crate) fn read<T: Word>(&mut self, lin: u64, seg: u8) -> Guest<T> {
        match self.mmu.load(self.mmu.privilege).lookup(lin, T::SIZE) {
            // SAFETY: a TLB hit is `SIZE` bytes of guest RAM, which may change under us: volatile, unaligned.
            Some(host) => Ok(unsafe { peek(host) }),
            None => self.read_slow(lin, seg, self.mmu.privilege),
        }
    }

    /// Stores to linear address `lin` with the rights of the running code; `op` is the instruction that does it.
    #[inline(always)]
    pub(crate) fn write<T: Word>(&mut self, lin: u64, seg: u8, value: T, op: Option<&Op>) -> Guest<()> {
        match self.mmu.store(self.mmu.privilege).lookup(lin, T::SIZE) {
            Some(host) => {
                // SAFETY: a TLB hit is `SIZE` bytes of writable guest RAM.
                unsafe { poke(host, value) };
                self.after_store(host, T::SIZE, op);
                Ok(())
            }
            None => self.write_slow(lin, seg, value, self.mmu.privilege, op),
        }
    }

    /// The frame of `host`, which is in RAM, holds code.
    pub(crate) fn is_code(&self, host: *mut u8) -> bool {
        let frame = ((host as u64).wrapping_sub(self.mmu.ram_base) >> 12) as usize;
        // SAFETY: `host` is in guest RAM, so `frame` is one of its frames, each of which has a mark.
        unsafe { (*self.mmu.code_marks.add(frame)).load(Ordering::Relaxed) != 0 }
    }

    /// To be called after `size` bytes at `host` were written: invalidates code that was hit.
    #[inline(always)]
    pub(crate) fn after_store(&mut self, host: *mut u8, size: u64, op: Option<&Op>) {
        let at = (host as u64).wrapping_sub(self.mmu.ram_base);
        let frame = (at >> 12) as usize;
        // SAFETY: `host` is in guest RAM, so `frame` is one of its frames, each of which has a mark.
        if unsafe { (*self.mmu.code_marks.add(frame)).load(Ordering::Relaxed) } != 0 {
            self.wrote_code(Frame(frame as u32), at & 0xfff, size, op);
        }
    }

    /// Loads as the processor itself does for descriptor tables and TSSs: supervisor rights, whatever the CPL.
    pub(crate) fn read_sys<T: Word>(&mut self, lin: u64) -> Guest<T> {
        self.read_slow(lin, 0, Privilege::Supervisor)
    }

    /// Stores as the processor itself does.
    pub(crate) fn write_sys<T: Word>(&mut self, lin: u64, value: T) -> Guest<()> {
        self.write_slow(lin, 0, value, Privilege::Supervisor, None)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(&mut self, lin: u64, seg: u8, who: Privilege) -> Guest<T> {
        let mut raw = [0; 16];
        let raw = &mut raw[..T::SIZE as usize];
        self.check_canonical(lin, T::SIZE, seg)?;
        self.load_slow(lin, raw, who)?;
        Ok(T::from_le(raw))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(&mut self, lin: u64, seg: u8, value: T, who: Privilege, op: Option<&Op>) -> Guest<()> {
        let mut raw = [0; 16];
        let raw = &mut raw[..T::SIZE as usize];
        value.put_le(raw);
        self.check_canonical(lin, T::SIZE, seg)?;
        self.store_slow(lin, raw, who, op)
    }
}

/// Reads guest RAM.
///
/// # Safety
/// `host` is `T::SIZE` bytes of mapped guest RAM.
#[inline(always)]
pub(crate) unsafe fn peek<T: Word>(host: *mut u8) -> T {
    // SAFETY: as promised; `Unaligned` has alignment one.
    unsafe { host.cast::<Unaligned<T>>().read_volatile().0 }
}

/// Writes guest RAM.
///
/// # Safety
/// `host` is `T::SIZE` bytes of mapped, writable guest RAM.
#[inline(always)]
pub(crate) unsafe fn poke<T: Word>(host: *mut u8, value: T) {
    // SAFETY: as promised; `Unaligned` has alignment one.
    unsafe { host.cast::<Unaligned<T>>().write_volatile(Unaligned(value)) }
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned<T>(T);
