//! FXSAVE and XSAVE images as pure functions over [`FpuState`] (Intel SDM 1 §10.5 and §13).
//!
//! The XSAVE functions work on a copy of the guest's save area, read before and written back
//! after, because XSAVE leaves parts of it alone. XSAVEOPT may be executed as XSAVE.

use crate::op::FpuFault;
use crate::state::{FpuState, MXCSR_DEFAULT, MXCSR_MASK, OFFSET_XMM, OFFSET_YMM_HI, ST_MASK};

/// XCR0 and XSTATE_BV bit of the x87 state.
pub const XCR0_X87: u64 = 1;
/// XCR0 and XSTATE_BV bit of the XMM registers.
pub const XCR0_SSE: u64 = 2;
/// XCR0 and XSTATE_BV bit of the upper halves of the YMM registers.
pub const XCR0_AVX: u64 = 4;
/// All state components of this unit.
pub const XCR0_SUPPORTED: u64 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
/// Bytes of a standard-form area with all components (CPUID.0DH.0:ECX).
pub const XSAVE_AREA_SIZE: usize = 832;

const HEADER: usize = 512;
const XCOMP_COMPACTED: u64 = 1 << 63;

/// Layout of the 512-byte legacy region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FxLayout {
    /// 16- and 32-bit code: 32-bit pointers with selectors, eight XMM registers.
    Legacy,
    /// 64-bit code without REX.W: 32-bit pointers with selectors, sixteen XMM registers.
    Long,
    /// 64-bit code with REX.W: 64-bit pointers, sixteen XMM registers.
    LongRexW,
}

impl FxLayout {
    fn vectors(self) -> usize {
        if self == Self::Legacy { 8 } else { 16 }
    }
}

/// FXSAVE. Returns the number of bytes to write to guest memory (288 or 416): the rest of the
/// image is not touched by the instruction. The area must be 16-byte aligned (#GP).
pub fn fxsave(state: &FpuState, layout: FxLayout, image: &mut [u8; 512]) -> usize {
    save_x87(state, layout, image);
    save_mxcsr(state, image);
    save_xmm(state, layout, image);
    OFFSET_XMM + 16 * layout.vectors()
}

/// FXRSTOR. The area must be 16-byte aligned (#GP).
///
/// # Errors
/// `GeneralProtection` when MXCSR has reserved bits set; nothing is changed then.
pub fn fxrstor(state: &mut FpuState, layout: FxLayout, image: &[u8; 512]) -> Result<(), FpuFault> {
    let mxcsr = checked_mxcsr(image)?;
    load_x87(state, layout, image);
    state.x87.mxcsr = mxcsr;
    load_xmm(state, layout, image);
    Ok(())
}

/// XSAVE (and XSAVEOPT): updates `area`, the present contents of guest memory. `requested` is
/// EDX:EAX. The area must be 64-byte aligned (#GP).
pub fn xsave(state: &FpuState, layout: FxLayout, xcr0: u64, requested: u64, area: &mut [u8; XSAVE_AREA_SIZE]) {
    let components = requested & xcr0 & XCR0_SUPPORTED;
    let present = read_u64(area, HEADER);
    let in_use = in_use(state);
    save_components(state, layout, components, area);
    if components & (XCR0_SSE | XCR0_AVX) != 0 {
        save_mxcsr(state, area);
    }
    // Requested bits outside our components do not exist in XCR0.
    let header = (present & !components) | (components & in_use);
    write_u64(area, HEADER, header);
}

/// XSAVEC: compacted form with the init optimization. Components not in use are not written.
pub fn xsavec(state: &FpuState, layout: FxLayout, xcr0: u64, requested: u64, area: &mut [u8; XSAVE_AREA_SIZE]) {
    let components = requested & xcr0 & XCR0_SUPPORTED;
    let mut in_use = in_use(state);
    if state.x87.mxcsr != MXCSR_DEFAULT {
        in_use |= XCR0_SSE;
    }
    let saved = components & in_use;
    save_components(state, layout, saved, area);
    if saved & XCR0_SSE != 0 {
        save_mxcsr(state, area);
    }
    // The rest of the header stays as it is (SDM 1 §13.10).
    write_u64(area, HEADER, saved);
    write_u64(area, HEADER + 8, components | XCOMP_COMPACTED);
}

/// Bytes of the compacted area for `components` (CPUID.0DH.1:EBX).
pub fn xsavec_size(components: u64) -> usize {
    if components & XCR0_AVX != 0 { XSAVE_AREA_SIZE } else { OFFSET_YMM_HI }
}

/// XRSTOR of the standard or compacted form. The area must be 64-byte aligned (#GP). A compacted
/// area without AVX may end after 576 bytes; the rest of `area` is then not looked at.
///
/// # Errors
/// `GeneralProtection` for a malformed header or reserved MXCSR bits; nothing is changed then.
pub fn xrstor(
    state: &mut FpuState,
    layout: FxLayout,
    xcr0: u64,
    requested: u64,
    area: &[u8; XSAVE_AREA_SIZE],
) -> Result<(), FpuFault> {
    let components = requested & xcr0 & XCR0_SUPPORTED;
    let present = read_u64(area, HEADER);
    let compaction = read_u64(area, HEADER + 8);
    let compacted = compaction & XCOMP_COMPACTED != 0;
    check_header(area, xcr0, present, compaction)?;
    let mxcsr = match compacted {
        false if components & (XCR0_SSE | XCR0_AVX) != 0 => Some(checked_mxcsr(area)?),
        true if components & present & XCR0_SSE != 0 => Some(checked_mxcsr(area)?),
        true if components & XCR0_SSE != 0 => Some(MXCSR_DEFAULT),
        _ => None,
    };
    let initial = FpuState::default();
    if components & XCR0_X87 != 0 {
        if present & XCR0_X87 != 0 {
            load_x87(state, layout, area);
        } else {
            let kept = (state.x87.mxcsr, state.x87.mxcsr_mask);
            state.x87 = initial.x87;
            (state.x87.mxcsr, state.x87.mxcsr_mask) = kept;
            (state.fcs, state.fds) = (0, 0);
        }
    }
    if components & XCR0_SSE != 0 {
        if present & XCR0_SSE != 0 {
            load_xmm(state, layout, area);
        } else {
            state.xmm[..layout.vectors()].fill(0);
        }
    }
    if components & XCR0_AVX != 0 {
        let upper = &mut state.ymm_hi[..layout.vectors()];
        if present & XCR0_AVX != 0 {
            load_vectors(upper, area, OFFSET_YMM_HI);
        } else {
            upper.fill(0);
        }
    }
    if let Some(value) = mxcsr {
        state.x87.mxcsr = value;
    }
    Ok(())
}

/// Header rules of Intel SDM 1 §13.8.1 and §13.8.2.
fn check_header(area: &[u8], xcr0: u64, present: u64, compaction: u64) -> Result<(), FpuFault> {
    let valid = if compaction & XCOMP_COMPACTED != 0 {
        let format = compaction & !XCOMP_COMPACTED;
        format & !xcr0 == 0 && present & !format == 0 && area[HEADER + 16..HEADER + 64].iter().all(|&b| b == 0)
    } else {
        present & !xcr0 == 0 && area[HEADER + 8..HEADER + 24].iter().all(|&b| b == 0)
    };
    if valid { Ok(()) } else { Err(FpuFault::GeneralProtection) }
}

/// Components that are not in their initial configuration (XINUSE).
fn in_use(state: &FpuState) -> u64 {
    let x = &state.x87;
    let x87_initial = x.fcw == crate::state::FCW_INIT
        && x.fsw == 0
        && x.ftw == 0
        && x.fop == 0
        && x.fip == 0
        && x.fdp == 0
        && (state.fcs, state.fds) == (0, 0)
        && x.st.iter().all(|&st| st & ST_MASK == 0);
    let mut components = 0;
    if !x87_initial {
        components |= XCR0_X87;
    }
    if state.xmm.iter().any(|&v| v != 0) {
        components |= XCR0_SSE;
    }
    if state.ymm_hi.iter().any(|&v| v != 0) {
        components |= XCR0_AVX;
    }
    components
}

fn save_components(state: &FpuState, layout: FxLayout, components: u64, area: &mut [u8]) {
    if components & XCR0_X87 != 0 {
        save_x87(state, layout, area);
    }
    if components & XCR0_SSE != 0 {
        save_xmm(state, layout, area);
    }
    if components & XCR0_AVX != 0 {
        save_vectors(&state.ymm_hi[..layout.vectors()], area, OFFSET_YMM_HI);
    }
}

fn save_x87(state: &FpuState, layout: FxLayout, image: &mut [u8]) {
    let x = &state.x87;
    image[0..2].copy_from_slice(&x.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&x.fsw.to_le_bytes());
    image[4..6].copy_from_slice(&[x.ftw, 0]);
    image[6..8].copy_from_slice(&(x.fop & 0x7FF).to_le_bytes());
    if layout == FxLayout::LongRexW {
        write_u64(image, 8, x.fip);
        write_u64(image, 16, x.fdp);
    } else {
        write_u64(image, 8, (x.fip & 0xFFFF_FFFF) | u64::from(state.fcs) << 32);
        write_u64(image, 16, (x.fdp & 0xFFFF_FFFF) | u64::from(state.fds) << 32);
    }
    for (slot, st) in image[32..160].chunks_exact_mut(16).zip(&x.st) {
        slot.copy_from_slice(&(st & ST_MASK).to_le_bytes());
    }
}

fn load_x87(state: &mut FpuState, layout: FxLayout, image: &[u8]) {
    let x = &mut state.x87;
    x.fcw = read_u64(image, 0) as u16;
    x.fsw = (read_u64(image, 0) >> 16) as u16;
    x.ftw = image[4];
    x.fop = (read_u64(image, 0) >> 48) as u16 & 0x7FF;
    let (fip, fdp) = (read_u64(image, 8), read_u64(image, 16));
    if layout == FxLayout::LongRexW {
        (x.fip, x.fdp) = (fip, fdp);
        (state.fcs, state.fds) = (0, 0);
    } else {
        (x.fip, x.fdp) = (fip & 0xFFFF_FFFF, fdp & 0xFFFF_FFFF);
        (state.fcs, state.fds) = ((fip >> 32) as u16, (fdp >> 32) as u16);
    }
    for (st, slot) in x.st.iter_mut().zip(image[32..160].chunks_exact(16)) {
        *st = read_u128(slot) & ST_MASK;
    }
    x.normalize();
}

fn save_mxcsr(state: &FpuState, image: &mut [u8]) {
    image[24..28].copy_from_slice(&state.x87.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
}

fn checked_mxcsr(image: &[u8]) -> Result<u32, FpuFault> {
    let value = read_u64(image, 24) as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(FpuFault::GeneralProtection);
    }
    Ok(value)
}

fn save_xmm(state: &FpuState, layout: FxLayout, image: &mut [u8]) {
    save_vectors(&state.xmm[..layout.vectors()], image, OFFSET_XMM);
}

fn load_xmm(state: &mut FpuState, layout: FxLayout, image: &[u8]) {
    load_vectors(&mut state.xmm[..layout.vectors()], image, OFFSET_XMM);
}

fn save_vectors(values: &[u128], image: &mut [u8], offset: usize) {
    for (slot, value) in image[offset..].chunks_exact_mut(16).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
}

fn load_vectors(values: &mut [u128], image: &[u8], offset: usize) {
    for (slot, value) in image[offset..].chunks_exact(16).zip(values) {
        *value = read_u128(slot);
    }
}

fn read_u128(slot: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&slot[..16]);
    u128::from_le_bytes(bytes)
}

fn read_u64(image: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&image[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

fn write_u64(image: &mut [u8], offset: usize, value: u64) {
    image[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}
