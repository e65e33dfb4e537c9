//! x87, MMX, SSE and AVX: the checks that system software controls, guest memory as the floating-point unit sees it, and
//! the exceptions it reports. The instructions themselves are [`visor_fpu`]'s; the commonest moves are in [`super::sse`].

use visor_fpu::{FpuClass, FpuFault, MemFault, OpRegs, OperandMemory};
use visor_memory::PAGE;
use visor_x86::exception::{Exception, Vector};
use visor_x86::regs::{Cr0, Cr4};

use crate::cpu::Cpu;
use crate::mmu::Word;
use crate::op::{Faulted, Flow, Guest, Op};

/// [`FpuClass`] as a constant parameter: x87.
pub(crate) const X87: u8 = 0;
/// WAIT.
pub(crate) const WAIT: u8 = 1;
/// MMX.
pub(crate) const MMX: u8 = 2;
/// SSE.
pub(crate) const SSE: u8 = 3;
/// AVX.
pub(crate) const AVX: u8 = 4;

/// The constant for a class.
pub(crate) fn class_number(class: FpuClass) -> u8 {
    match class {
        FpuClass::X87 => X87,
        FpuClass::Wait => WAIT,
        FpuClass::Mmx => MMX,
        FpuClass::Sse => SSE,
        FpuClass::Avx => AVX,
    }
}

/// `op.aux` of an instruction whose operands each have an index of their own.
pub(crate) const GATHER: u8 = 1;

const EM_TS: u64 = Cr0::EM.bits() | Cr0::TS.bits();
/// XCR0: SSE and AVX state.
const XCR0_VECTORS: u64 = 6;

/// The checks before an instruction of `CLASS` (SDM 3A §2.5 and §14.1). AVX in real and virtual-8086 mode is the decoder's
/// business.
#[inline(always)]
pub(crate) fn ready<const CLASS: u8>(cpu: &mut Cpu) -> Guest<()> {
    let ok = match CLASS {
        X87 | MMX => cpu.cr0 & EM_TS == 0,
        WAIT => cpu.cr0 & (Cr0::MP | Cr0::TS).bits() != (Cr0::MP | Cr0::TS).bits(),
        SSE => cpu.cr0 & EM_TS == 0 && cpu.cr4 & Cr4::OSFXSR.bits() != 0,
        _ => {
            cpu.cr0 & Cr0::TS.bits() == 0
                && cpu.cr4 & Cr4::OSXSAVE.bits() != 0
                && cpu.xcr0 & XCR0_VECTORS == XCR0_VECTORS
        }
    };
    if ok { Ok(()) } else { Err(not_ready(cpu, CLASS)) }
}

#[cold]
fn not_ready(cpu: &mut Cpu, class: u8) -> Faulted {
    let em = cpu.cr0 & Cr0::EM.bits() != 0;
    let undefined = match class {
        MMX => em,
        SSE => em || cpu.cr4 & Cr4::OSFXSR.bits() == 0,
        AVX => cpu.cr4 & Cr4::OSXSAVE.bits() == 0 || cpu.xcr0 & XCR0_VECTORS != XCR0_VECTORS,
        _ => false,
    };
    cpu.raise(if undefined { Exception::UD } else { Exception::NM })
}

/// Executes the prepared instruction of `op`.
pub(crate) fn run<const CLASS: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    if ready::<CLASS>(cpu).is_err() {
        return Flow::Fault;
    }
    let Some(prepared) = &op.fpu else { return Flow::Fault };
    let ea = cpu.ea(&op.mem);
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&cpu.gpr[..16]);
    let mut rflags = cpu.status;
    let real_mode = !cpu.mode.protected;
    let legacy_base = |seg: u8| if real_mode { cpu.seg_base[usize::from(seg)] } else { 0 };
    let mut regs = OpRegs {
        gpr: &mut gpr,
        rflags: &mut rflags,
        fip: op.rip(cpu).wrapping_add(legacy_base(1)),
        fcs: cpu.seg[1].selector,
        fdp: ea.wrapping_add(legacy_base(op.mem.seg)),
        fds: cpu.seg[usize::from(op.mem.seg)].selector,
        real_mode,
        osxmmexcpt: cpu.cr4 & Cr4::OSXMMEXCPT.bits() != 0,
        ne: cpu.cr0 & Cr0::NE.bits() != 0,
    };
    let state = &raw mut *cpu.fpu;
    let mut mem = Operand { cpu, op, ea };
    // SAFETY: the state is in its own allocation, and memory accesses do not touch it.
    let result = prepared.execute(unsafe { &mut *state }, &mut regs, &mut mem);
    cpu.gpr[..16].copy_from_slice(&gpr);
    cpu.status = rflags;
    match result {
        Ok(()) => Flow::Next,
        Err(fault) => report(cpu, fault),
    }
}

#[cold]
fn report(cpu: &mut Cpu, fault: FpuFault) -> Flow {
    let simple = |vector| Exception { vector, error: 0, info: 0 };
    match fault {
        // The access has recorded its exception.
        FpuFault::Memory => {}
        // With CR0.NE clear a PC turns this into IRQ 13; that wire does not exist here, so it is #MF as well.
        FpuFault::MathFault => drop(cpu.raise(simple(Vector::MathFault))),
        FpuFault::SimdFault => drop(cpu.raise(simple(Vector::SimdFault))),
        FpuFault::Undefined => drop(cpu.raise(Exception::UD)),
        FpuFault::GeneralProtection => drop(cpu.raise(Exception::gp(0))),
    }
    Flow::Fault
}

/// Guest memory around the effective address of one instruction.
struct Operand<'a> {
    cpu: &'a mut Cpu,
    op: &'a Op,
    ea: u64,
}

impl Operand<'_> {
    fn linear(&mut self, offset: i64, len: usize, write: bool) -> Guest<u64> {
        let ea = self.ea.wrapping_add(offset as u64);
        // Addresses wrap between operands, not within one; each element of a gather is one.
        let ea = if self.op.aux == GATHER { ea & self.op.mem.mask } else { ea };
        self.cpu.linear_at(self.op, ea, len as u64, write)
    }

    fn load<T: Word>(&mut self, lin: u64, data: &mut [u8]) -> Guest<()> {
        self.cpu.read::<T>(lin, self.op.mem.seg)?.put_le(data);
        Ok(())
    }

    fn store<T: Word>(&mut self, lin: u64, data: &[u8]) -> Guest<()> {
        self.cpu.write(lin, self.op.mem.seg, T::from_le(data), Some(self.op))
    }
}

fn fault(_: Faulted) -> MemFault {
    MemFault
}

impl OperandMemory for Operand<'_> {
    fn read(&mut self, offset: i64, data: &mut [u8]) -> Result<(), MemFault> {
        let lin = self.linear(offset, data.len(), false).map_err(fault)?;
        match data.len() {
            16 => self.load::<u128>(lin, data),
            8 => self.load::<u64>(lin, data),
            4 => self.load::<u32>(lin, data),
            2 => self.load::<u16>(lin, data),
            1 => self.load::<u8>(lin, data),
            _ => self.cpu.load_bytes(lin, self.op.mem.seg, data),
        }
        .map_err(fault)
    }

    fn write(&mut self, offset: i64, data: &[u8]) -> Result<(), MemFault> {
        let lin = self.linear(offset, data.len(), true).map_err(fault)?;
        match data.len() {
            16 => self.store::<u128>(lin, data),
            8 => self.store::<u64>(lin, data),
            4 => self.store::<u32>(lin, data),
            2 => self.store::<u16>(lin, data),
            1 => self.store::<u8>(lin, data),
            _ => self.cpu.store_bytes(lin, self.op.mem.seg, data, Some(self.op)),
        }
        .map_err(fault)
    }

    fn check_alignment(&mut self, align: u32) -> Result<(), MemFault> {
        // Limit and rights faults come with the access itself; here only the linear address counts.
        let lin = self.linear(0, 1, false).map_err(fault)?;
        if lin % u64::from(align) == 0 {
            return Ok(());
        }
        self.cpu.check_canonical(lin, 1, self.op.mem.seg).map_err(fault)?;
        Err(fault(self.cpu.raise(Exception::gp(0))))
    }

    fn probe_write(&mut self, offset: i64, len: usize) -> Result<(), MemFault> {
        let lin = self.linear(offset, len, true).map_err(fault)?;
        self.cpu.probe_store(lin, len as u64, self.op.mem.seg).map_err(fault)
    }
}

impl Cpu {
    /// Loads up to a page of bytes with the rights of the running code; they may cross one page boundary.
    pub(crate) fn load_bytes(&mut self, lin: u64, seg: u8, data: &mut [u8]) -> Guest<()> {
        let who = self.mmu.privilege;
        if let Some(host) = self.mmu.load(who).lookup(lin, (data.len() as u64).min(PAGE)) {
            // SAFETY: a TLB hit for the whole range, which may change under us.
            unsafe { copy_out(host, data) };
            return Ok(());
        }
        self.check_canonical(lin, data.len() as u64, seg)?;
        self.load_slow(lin, data, who)
    }

    /// Stores up to a page of bytes with the rights of the running code, all or nothing.
    pub(crate) fn store_bytes(&mut self, lin: u64, seg: u8, data: &[u8], op: Option<&Op>) -> Guest<()> {
        let who = self.mmu.privilege;
        let len = data.len() as u64;
        if let Some(host) = self.mmu.store(who).lookup(lin, len.min(PAGE)) {
            // SAFETY: a TLB hit for the whole range.
            unsafe { copy_in(host, data) };
            self.after_store(host, len, op);
            return Ok(());
        }
        self.check_canonical(lin, len, seg)?;
        self.store_slow(lin, data, who, op)
    }
}

/// Copies out of guest RAM with volatile loads, eight bytes at a time.
///
/// # Safety
/// `host` is `data.len()` bytes of mapped guest RAM.
unsafe fn copy_out(host: *mut u8, data: &mut [u8]) {
    let mut at = host;
    let (words, rest) = data.as_chunks_mut::<8>();
    for w in words {
        // SAFETY: within the range the caller promises.
        (*w, at) = unsafe { (crate::mmu::peek::<u64>(at).to_le_bytes(), at.add(8)) };
    }
    for b in rest {
        // SAFETY: as above.
        (*b, at) = unsafe { (at.read_volatile(), at.add(1)) };
    }
}

/// Copies into guest RAM with volatile stores, eight bytes at a time.
///
/// # Safety
/// `host` is `data.len()` bytes of mapped, writable guest RAM.
unsafe fn copy_in(host: *mut u8, data: &[u8]) {
    let mut at = host;
    let (words, rest) = data.as_chunks::<8>();
    for w in words {
        // SAFETY: within the range the caller promises.
        unsafe {
            crate::mmu::poke(at, u64::from_le_bytes(*w));
            at = at.add(8);
        }
    }
    for b in rest {
        // SAFETY: as above.
        unsafe {
            at.write_volatile(*b);
            at = at.add(1);
        }
    }
}
