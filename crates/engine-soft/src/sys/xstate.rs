//! FXSAVE, XSAVE and their relatives: guest memory around the images of `visor_fpu` (SDM 1 §10.5, §13).

use visor_fpu::{FpuFault, FpuState, FxLayout, XCR0_AVX, XCR0_SSE, XCR0_X87, XSAVE_AREA_SIZE};
use visor_x86::cpuid::{Feature, feature};
use visor_x86::exception::Exception;
use visor_x86::regs::{Cr0, Cr4};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::keys::XCR0_PKRU;
use crate::sys::operand::end;

/// Bytes of the legacy region.
const LEGACY: usize = 512;
/// Legacy region and header.
const HEADER_END: usize = LEGACY + 64;
/// Bytes of the component with PKRU, the upper half of which is unused (SDM 1 §13.5.7).
const PKRU_LEN: usize = 8;

fn layout(cpu: &Cpu, op: &Op) -> FxLayout {
    match (cpu.is_64(), op.imm & 1 == 1) {
        (true, true) => FxLayout::LongRexW,
        (true, false) => FxLayout::Long,
        (false, _) => FxLayout::Legacy,
    }
}

/// Linear address of the operand, which must be aligned.
fn area(cpu: &mut Cpu, op: &Op, len: usize, align: u64, write: bool) -> Guest<u64> {
    let lin = cpu.linear(op, len as u64, write)?;
    if lin % align != 0 {
        return cpu.fail(Exception::gp(0));
    }
    cpu.check_canonical(lin, len as u64, op.mem.seg)?;
    Ok(lin)
}

impl Cpu {
    /// State components that are not in their initial configuration.
    pub(super) fn xinuse(&self) -> u64 {
        let initial = FpuState::default();
        let f = &self.fpu;
        let mut in_use = 0;
        let x87 = (f.fcw(), f.fsw(), f.ftw(), f.fop(), f.fip(), f.fdp(), f.selectors());
        if x87 != (initial.fcw(), 0, 0, 0, 0, 0, (0, 0)) || (0..8).any(|i| f.st(i) != 0) {
            in_use |= XCR0_X87;
        }
        if (0..16).any(|i| f.xmm(i) != 0) {
            in_use |= XCR0_SSE;
        }
        if (0..16).any(|i| f.ymm_hi(i) != 0) {
            in_use |= XCR0_AVX;
        }
        if self.msr.keys.pkru != 0 {
            in_use |= XCR0_PKRU;
        }
        in_use
    }

    fn fx_allowed(&mut self) -> Guest<()> {
        if !self.cpuid.has(feature::FXSR) {
            return self.fail(Exception::UD);
        }
        if self.cr0 & (Cr0::EM | Cr0::TS).bits() != 0 { self.fail(Exception::NM) } else { Ok(()) }
    }

    fn xsave_allowed(&mut self, feature: Feature) -> Guest<()> {
        if self.cr4 & Cr4::OSXSAVE.bits() == 0 || !self.cpuid.has(feature) {
            return self.fail(Exception::UD);
        }
        if self.cr0 & Cr0::TS.bits() != 0 { self.fail(Exception::NM) } else { Ok(()) }
    }

    fn requested(&self) -> u64 {
        (self.gpr[2] << 32) | (self.gpr[0] & 0xffff_ffff)
    }
}

/// FXSAVE.
pub(super) fn fxsave(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.fx_allowed()?;
    let lin = area(cpu, op, LEGACY, 16, true)?;
    cpu.probe_store(lin, LEGACY as u64, op.mem.seg)?;
    let mut image = [0; LEGACY];
    let len = visor_fpu::fxsave(&cpu.fpu, layout(cpu, op), &mut image);
    cpu.store_bytes(lin, op.mem.seg, &image[..len], Some(op))?;
    Ok(Flow::Next)
}

/// FXRSTOR.
pub(super) fn fxrstor(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.fx_allowed()?;
    let lin = area(cpu, op, LEGACY, 16, false)?;
    let mut image = [0; LEGACY];
    cpu.load_bytes(lin, op.mem.seg, &mut image)?;
    let layout = layout(cpu, op);
    let restored = visor_fpu::fxrstor(&mut cpu.fpu, layout, &image);
    finish(cpu, restored)
}

fn finish(cpu: &mut Cpu, result: Result<(), FpuFault>) -> Guest<Flow> {
    match result {
        Ok(()) => Ok(Flow::Next),
        Err(_) => cpu.fail(Exception::gp(0)),
    }
}

/// Bytes of a standard-form area with `components`.
pub(super) fn standard_len(components: u64) -> usize {
    match components {
        c if c & XCR0_PKRU != 0 => XSAVE_AREA_SIZE + PKRU_LEN,
        c if c & XCR0_AVX != 0 => XSAVE_AREA_SIZE,
        _ => HEADER_END,
    }
}

/// Where a compacted area with `components` has PKRU.
fn compact_pkru(components: u64) -> usize {
    if components & XCR0_AVX != 0 { XSAVE_AREA_SIZE } else { HEADER_END }
}

/// Bytes of a compacted area with `components`.
pub(super) fn compact_len(components: u64) -> usize {
    compact_pkru(components) + if components & XCR0_PKRU != 0 { PKRU_LEN } else { 0 }
}

/// XSAVE.
pub(super) fn xsave(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.xsave_allowed(feature::XSAVE)?;
    save_standard(cpu, op)
}

/// XSAVEOPT: without the optimisation, as the SDM leaves open.
pub(super) fn xsaveopt(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.xsave_allowed(feature::XSAVEOPT)?;
    save_standard(cpu, op)
}

fn save_standard(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    let requested = cpu.requested();
    let components = requested & cpu.xcr0;
    let len = standard_len(components);
    let lin = area(cpu, op, len, 64, true)?;
    cpu.probe_store(lin, len as u64, op.mem.seg)?;
    let mut image = [0; XSAVE_AREA_SIZE];
    cpu.load_bytes(lin, op.mem.seg, &mut image[..len.min(XSAVE_AREA_SIZE)])?;
    visor_fpu::xsave(&cpu.fpu, layout(cpu, op), cpu.xcr0, requested, &mut image);
    if components & XCR0_PKRU != 0 {
        set_header(&mut image, LEGACY, XCR0_PKRU, cpu.msr.keys.pkru != 0);
        save_pkru(cpu, op, lin, XSAVE_AREA_SIZE)?;
    }
    write_saved(cpu, op, lin, components, &image)
}

/// Sets or clears a bit of one of the header's words.
fn set_header(image: &mut [u8; XSAVE_AREA_SIZE], at: usize, bit: u64, on: bool) {
    let mut word = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| image[at + i]));
    word = if on { word | bit } else { word & !bit };
    image[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn save_pkru(cpu: &mut Cpu, op: &Op, lin: u64, offset: usize) -> Guest<()> {
    let at = cpu.wrap(lin.wrapping_add(offset as u64));
    let value = u64::from(cpu.msr.keys.pkru).to_le_bytes();
    cpu.store_bytes(at, op.mem.seg, &value, Some(op))
}

/// Writes those parts of the area that a save of `components` changes.
fn write_saved(cpu: &mut Cpu, op: &Op, lin: u64, components: u64, image: &[u8; XSAVE_AREA_SIZE]) -> Guest<Flow> {
    if components & XCR0_X87 != 0 {
        cpu.store_bytes(lin, op.mem.seg, &image[..24], Some(op))?;
        let at = cpu.wrap(lin.wrapping_add(32));
        cpu.store_bytes(at, op.mem.seg, &image[32..160], Some(op))?;
    }
    if components & (XCR0_SSE | XCR0_AVX) != 0 {
        let at = cpu.wrap(lin.wrapping_add(24));
        cpu.store_bytes(at, op.mem.seg, &image[24..32], Some(op))?;
    }
    if components & XCR0_SSE != 0 {
        let at = cpu.wrap(lin.wrapping_add(160));
        cpu.store_bytes(at, op.mem.seg, &image[160..416], Some(op))?;
    }
    if components & XCR0_AVX != 0 {
        let at = cpu.wrap(lin.wrapping_add(HEADER_END as u64));
        cpu.store_bytes(at, op.mem.seg, &image[HEADER_END..], Some(op))?;
    }
    let at = cpu.wrap(lin.wrapping_add(LEGACY as u64));
    cpu.store_bytes(at, op.mem.seg, &image[LEGACY..LEGACY + 8], Some(op))?;
    Ok(Flow::Next)
}

/// XSAVEC.
pub(super) fn xsavec(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.xsave_allowed(feature::XSAVEC)?;
    let requested = cpu.requested();
    let components = requested & cpu.xcr0;
    let len = compact_len(components);
    let lin = area(cpu, op, len, 64, true)?;
    cpu.probe_store(lin, len as u64, op.mem.seg)?;
    let mut image = [0; XSAVE_AREA_SIZE];
    let rest = compact_pkru(components);
    cpu.load_bytes(lin, op.mem.seg, &mut image[..rest])?;
    visor_fpu::xsavec(&cpu.fpu, layout(cpu, op), cpu.xcr0, requested, &mut image);
    if components & XCR0_PKRU != 0 {
        set_header(&mut image, LEGACY + 8, XCR0_PKRU, true);
        // As other components, it is not written in its initial state.
        if cpu.msr.keys.pkru != 0 {
            set_header(&mut image, LEGACY, XCR0_PKRU, true);
            save_pkru(cpu, op, lin, rest)?;
        }
    }
    cpu.store_bytes(lin, op.mem.seg, &image[..rest], Some(op))?;
    Ok(Flow::Next)
}

/// XRSTOR.
pub(super) fn xrstor(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.xsave_allowed(feature::XSAVE)?;
    let requested = cpu.requested();
    // The operand is all that is asked for, whatever of it is read.
    cpu.linear(op, standard_len(requested & cpu.xcr0) as u64, false)?;
    let lin = area(cpu, op, HEADER_END, 64, false)?;
    let mut image = [0; XSAVE_AREA_SIZE];
    cpu.load_bytes(lin, op.mem.seg, &mut image[..HEADER_END])?;
    // The AVX part is read only if it is to be restored from memory.
    let present = u64::from(u16::from_le_bytes([image[LEGACY], image[LEGACY + 1]]));
    if requested & cpu.xcr0 & present & XCR0_AVX != 0 {
        let high = cpu.wrap(lin.wrapping_add(HEADER_END as u64));
        cpu.check_canonical(high, (XSAVE_AREA_SIZE - HEADER_END) as u64, op.mem.seg)?;
        cpu.load_bytes(high, op.mem.seg, &mut image[HEADER_END..])?;
    }
    let pkru = load_pkru(cpu, op, lin, present, &image)?;
    let layout = layout(cpu, op);
    let restored = visor_fpu::xrstor(&mut cpu.fpu, layout, cpu.xcr0, requested, &image);
    let flow = finish(cpu, restored)?;
    match pkru {
        Some(value) if cpu.set_pkru(value) => end(cpu, op),
        _ => Ok(flow),
    }
}

/// The value that XRSTOR gives to PKRU, if it changes it.
fn load_pkru(cpu: &mut Cpu, op: &Op, lin: u64, present: u64, image: &[u8; XSAVE_AREA_SIZE]) -> Guest<Option<u32>> {
    if cpu.requested() & cpu.xcr0 & XCR0_PKRU == 0 {
        return Ok(None);
    }
    if present & XCR0_PKRU == 0 {
        return Ok(Some(0));
    }
    // Bit 63 of XCOMP_BV says that the area is compacted; bit 2, that it has AVX.
    let compacted = image[LEGACY + 15] & 0x80 != 0;
    let offset = if compacted { compact_pkru(image[LEGACY + 8].into()) } else { XSAVE_AREA_SIZE };
    let at = cpu.wrap(lin.wrapping_add(offset as u64));
    let mut raw = [0; 4];
    cpu.check_canonical(at, 4, op.mem.seg)?;
    cpu.load_bytes(at, op.mem.seg, &mut raw)?;
    Ok(Some(u32::from_le_bytes(raw)))
}
