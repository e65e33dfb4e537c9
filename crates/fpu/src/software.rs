//! Instructions executed here rather than by a thunk: MXCSR and register-clearing instructions,
//! conditional moves to and from memory, and the FXSAVE pair.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::gather::Gather;
use crate::image::{self, FxLayout};
use crate::op::{FpuClass, FpuFault, OpRegs, OperandMemory};
use crate::state::{FpuState, MXCSR_MASK};

/// A prepared instruction of this module.
#[derive(Debug)]
pub(crate) struct SoftwareOp {
    class: FpuClass,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Emms,
    LoadMxcsr,
    StoreMxcsr,
    /// `all`: whole registers, else the upper halves; `count` registers (8 outside 64-bit mode).
    VectorZero {
        all: bool,
        count: usize,
    },
    FxSave(FxLayout),
    FxRestore(FxLayout),
    Gather(Gather),
    /// Conditional load of vector elements.
    MaskLoad(Elements),
    /// Conditional store of vector elements.
    MaskStore(Elements),
    /// MASKMOVDQU and MASKMOVQ: (data register, mask register).
    ByteMask {
        data: usize,
        mask: usize,
        mmx: bool,
    },
}

/// Operands of VMASKMOV and VPMASKMOV.
#[derive(Debug)]
struct Elements {
    /// Bytes per element: 4 or 8.
    size: usize,
    /// Bytes of the vector: 16 or 32.
    length: usize,
    mask: usize,
    /// Destination of a load, source of a store.
    data: usize,
}

impl SoftwareOp {
    pub(crate) fn prepare(ins: &Instruction, bitness: u32) -> Option<Self> {
        use Mnemonic as M;
        let wide = ins.code_size() == iced_x86::CodeSize::Code64 || bitness == 64;
        let count = if wide { 16 } else { 8 };
        let layout = |rex_w| match (wide, rex_w) {
            (false, _) => FxLayout::Legacy,
            (true, false) => FxLayout::Long,
            (true, true) => FxLayout::LongRexW,
        };
        let kind = match ins.mnemonic() {
            M::Emms => Kind::Emms,
            M::Ldmxcsr | M::Vldmxcsr => Kind::LoadMxcsr,
            M::Stmxcsr | M::Vstmxcsr => Kind::StoreMxcsr,
            M::Vzeroall => Kind::VectorZero { all: true, count },
            M::Vzeroupper => Kind::VectorZero { all: false, count },
            M::Fxsave => Kind::FxSave(layout(false)),
            M::Fxsave64 => Kind::FxSave(layout(true)),
            M::Fxrstor => Kind::FxRestore(layout(false)),
            M::Fxrstor64 => Kind::FxRestore(layout(true)),
            M::Vmaskmovps | M::Vpmaskmovd => Self::mask_move(ins, 4),
            M::Vmaskmovpd | M::Vpmaskmovq => Self::mask_move(ins, 8),
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => Kind::ByteMask {
                data: ins.op1_register().number(),
                mask: ins.op2_register().number(),
                mmx: ins.mnemonic() == M::Maskmovq,
            },
            _ => Kind::Gather(Gather::prepare(ins)?),
        };
        Some(Self { class: class_of(ins, &kind), kind })
    }

    fn mask_move(ins: &Instruction, size: usize) -> Kind {
        let load = ins.op0_kind() == OpKind::Register;
        let data = if load { ins.op0_register() } else { ins.op2_register() };
        let elements = Elements { size, length: data.size(), mask: ins.op1_register().number(), data: data.number() };
        if load { Kind::MaskLoad(elements) } else { Kind::MaskStore(elements) }
    }

    pub(crate) fn class(&self) -> FpuClass {
        self.class
    }

    pub(crate) fn execute(
        &self,
        state: &mut FpuState,
        regs: &OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        match &self.kind {
            Kind::Emms => emms(state),
            Kind::LoadMxcsr => load_mxcsr(state, mem),
            Kind::StoreMxcsr => Ok(mem.write(0, &state.x87.mxcsr.to_le_bytes())?),
            Kind::VectorZero { all, count } => {
                if *all {
                    state.xmm[..*count].fill(0);
                }
                state.ymm_hi[..*count].fill(0);
                Ok(())
            }
            Kind::FxSave(layout) => fx_save(state, *layout, mem),
            Kind::FxRestore(layout) => fx_restore(state, *layout, mem),
            Kind::Gather(gather) => gather.execute(state, regs, mem),
            Kind::MaskLoad(elements) => elements.load(state, mem),
            Kind::MaskStore(elements) => elements.store(state, mem),
            Kind::ByteMask { data, mask, mmx } => byte_mask(state, *data, *mask, *mmx, mem),
        }
    }
}

fn class_of(ins: &Instruction, kind: &Kind) -> FpuClass {
    match kind {
        _ if ins.encoding() == iced_x86::EncodingKind::VEX => FpuClass::Avx,
        Kind::Emms => FpuClass::Mmx,
        Kind::ByteMask { .. } if ins.code() == Code::Maskmovq_rDI_mm_mm => FpuClass::Mmx,
        Kind::FxSave(_) | Kind::FxRestore(_) => FpuClass::X87,
        _ => FpuClass::Sse,
    }
}

fn emms(state: &mut FpuState) -> Result<(), FpuFault> {
    if state.math_fault_pending() {
        return Err(FpuFault::MathFault);
    }
    state.x87.rotate_top_to_zero();
    state.x87.ftw = 0;
    Ok(())
}

fn load_mxcsr(state: &mut FpuState, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
    let mut data = [0; 4];
    mem.read(0, &mut data)?;
    let value = u32::from_le_bytes(data);
    if value & !MXCSR_MASK != 0 {
        return Err(FpuFault::GeneralProtection);
    }
    state.x87.mxcsr = value;
    Ok(())
}

fn fx_save(state: &FpuState, layout: FxLayout, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
    mem.check_alignment(16)?;
    mem.probe_write(0, 512)?;
    let mut image = [0; 512];
    let written = image::fxsave(state, layout, &mut image);
    Ok(mem.write(0, &image[..written])?)
}

fn fx_restore(state: &mut FpuState, layout: FxLayout, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
    mem.check_alignment(16)?;
    let mut image = [0; 512];
    mem.read(0, &mut image)?;
    image::fxrstor(state, layout, &image)
}

/// Register `number` as 32 bytes.
pub(crate) fn vector_bytes(state: &FpuState, number: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&state.xmm(number).to_le_bytes());
    bytes[16..].copy_from_slice(&state.ymm_hi(number).to_le_bytes());
    bytes
}

/// Stores 32 bytes to register `number`.
pub(crate) fn set_vector_bytes(state: &mut FpuState, number: usize, bytes: &[u8; 32]) {
    let half = |at: usize| {
        let mut value = [0; 16];
        value.copy_from_slice(&bytes[at..at + 16]);
        u128::from_le_bytes(value)
    };
    state.set_xmm(number, half(0));
    state.set_ymm_hi(number, half(16));
}

impl Elements {
    /// Runs of consecutive selected bytes: (offset, length).
    fn runs(&self, state: &FpuState) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mask = vector_bytes(state, self.mask);
        let (size, length) = (self.size, self.length);
        runs(length / size, move |i| mask[i * size + size - 1] & 0x80 != 0)
            .map(move |(first, count)| (first * size, count * size))
    }

    fn load(&self, state: &mut FpuState, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
        let mut result = [0; 32];
        for (offset, length) in self.runs(state) {
            mem.read(offset as i64, &mut result[offset..offset + length])?;
        }
        set_vector_bytes(state, self.data, &result);
        Ok(())
    }

    fn store(&self, state: &FpuState, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
        let data = vector_bytes(state, self.data);
        for (offset, length) in self.runs(state) {
            mem.probe_write(offset as i64, length)?;
        }
        for (offset, length) in self.runs(state) {
            mem.write(offset as i64, &data[offset..offset + length])?;
        }
        Ok(())
    }
}

fn byte_mask(
    state: &mut FpuState,
    data: usize,
    mask: usize,
    mmx: bool,
    mem: &mut dyn OperandMemory,
) -> Result<(), FpuFault> {
    let (data, mask, count) = if mmx {
        if state.math_fault_pending() {
            return Err(FpuFault::MathFault);
        }
        let (data, mask) = (state.mm(data), state.mm(mask));
        (u128::from(data), u128::from(mask), 8)
    } else {
        (state.xmm(data), state.xmm(mask), 16)
    };
    let (data, mask) = (data.to_le_bytes(), mask.to_le_bytes());
    if mmx {
        // Processors make the transition even if the store then faults.
        state.x87.rotate_top_to_zero();
        state.x87.ftw = 0xFF;
    }
    let selected = || runs(count, |i| mask[i] & 0x80 != 0);
    for (offset, length) in selected() {
        mem.probe_write(offset as i64, length)?;
    }
    for (offset, length) in selected() {
        mem.write(offset as i64, &data[offset..offset + length])?;
    }
    Ok(())
}

/// Maximal runs of consecutive indices below `count` for which `selected` holds.
fn runs(count: usize, selected: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < count && !selected(next) {
            next += 1;
        }
        let first = next;
        while next < count && selected(next) {
            next += 1;
        }
        (next > first).then_some((first, next - first))
    })
}
