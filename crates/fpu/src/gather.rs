//! VGATHER and VPGATHER (AVX2): element by element, so that a fault leaves the progress in the
//! destination and the mask and the instruction can be restarted (Intel SDM 2C, VGATHERDPS).

use iced_x86::{EncodingKind, Instruction, OpCodeOperandKind};

use crate::op::{FpuFault, OpRegs, OperandMemory};
use crate::software::{set_vector_bytes, vector_bytes};
use crate::state::FpuState;

/// Operands of a gather.
#[derive(Debug)]
pub(crate) struct Gather {
    destination: usize,
    mask: usize,
    index: usize,
    scale: i64,
    /// Bytes per element: 4 or 8.
    size: usize,
    /// Bytes per index: 4 or 8.
    index_size: usize,
    count: usize,
}

impl Gather {
    /// `None` when `ins` is no VEX gather.
    pub(crate) fn prepare(ins: &Instruction) -> Option<Self> {
        use OpCodeOperandKind as K;
        if ins.encoding() != EncodingKind::VEX || ins.op_count() != 3 {
            return None;
        }
        let index_size = match ins.op_code().op_kind(1) {
            K::mem_vsib32x | K::mem_vsib32y => 4,
            K::mem_vsib64x | K::mem_vsib64y => 8,
            _ => return None,
        };
        let size = ins.memory_size().element_size();
        if size != 4 && size != 8 {
            return None;
        }
        let destination = ins.op0_register();
        let index = ins.memory_index();
        Some(Self {
            destination: destination.number(),
            mask: ins.op2_register().number(),
            index: index.number(),
            scale: i64::from(ins.memory_index_scale()),
            size,
            index_size,
            count: (destination.size() / size).min(index.size() / index_size),
        })
    }

    pub(crate) fn execute(
        &self,
        state: &mut FpuState,
        _regs: &OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        // The three registers must differ (#UD); the decoder rejects that, but be independent.
        let same = self.destination == self.mask || self.destination == self.index || self.mask == self.index;
        if same {
            return Err(FpuFault::Undefined);
        }
        let mut result = vector_bytes(state, self.destination);
        let mut mask = vector_bytes(state, self.mask);
        let outcome = self.elements(state, &mut result, &mut mask, mem);
        if outcome.is_ok() {
            result[self.count * self.size..].fill(0);
            mask.fill(0);
        }
        set_vector_bytes(state, self.destination, &result);
        set_vector_bytes(state, self.mask, &mask);
        outcome
    }

    fn elements(
        &self,
        state: &FpuState,
        result: &mut [u8; 32],
        mask: &mut [u8; 32],
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        let indices = vector_bytes(state, self.index);
        for i in 0..self.count {
            let element = i * self.size..(i + 1) * self.size;
            let lane = &mut mask[element.clone()];
            if lane[self.size - 1] & 0x80 != 0 {
                let offset = self.index_at(&indices, i).wrapping_mul(self.scale);
                mem.read(offset, &mut result[element])?;
            }
            lane.fill(0);
        }
        Ok(())
    }

    /// Index `i`, sign-extended.
    fn index_at(&self, indices: &[u8; 32], i: usize) -> i64 {
        let bytes = &indices[i * self.index_size..(i + 1) * self.index_size];
        let negative = bytes[self.index_size - 1] & 0x80 != 0;
        let mut value = [if negative { 0xFF } else { 0 }; 8];
        value[..self.index_size].copy_from_slice(bytes);
        i64::from_le_bytes(value)
    }
}
