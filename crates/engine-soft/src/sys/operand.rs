//! Operands of system instructions, by size at run time.

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};

impl Cpu {
    /// The register at byte offset `r` of `gpr`, of `size` bytes.
    pub(super) fn reg_get(&self, r: u8, size: u8) -> u64 {
        let whole = self.gpr[usize::from(r >> 3) % 16] >> (8 * u32::from(r & 7));
        whole & ones(size)
    }

    /// Sets the register at byte offset `r` of `gpr`: 4 and 8 bytes replace it, 1 and 2 leave the rest.
    pub(super) fn reg_put(&mut self, r: u8, size: u8, value: u64) {
        let whole = &mut self.gpr[usize::from(r >> 3) % 16];
        *whole = match size {
            1 => {
                let shift = 8 * u32::from(r & 7);
                (*whole & !(0xff << shift)) | ((value & 0xff) << shift)
            }
            2 => (*whole & !0xffff) | (value & 0xffff),
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// The r/m operand of `size` bytes: memory if `op.r2` is 1, else register `r`.
    pub(super) fn rm_get(&mut self, op: &Op, r: u8, size: u8) -> Guest<u64> {
        if op.r2 != 1 {
            return Ok(self.reg_get(r, size));
        }
        let lin = self.linear(op, u64::from(size), false)?;
        self.read_sized(lin, op.mem.seg, size)
    }

    /// Sets the r/m operand.
    pub(super) fn rm_put(&mut self, op: &Op, r: u8, size: u8, value: u64) -> Guest<()> {
        if op.r2 != 1 {
            self.reg_put(r, size, value);
            return Ok(());
        }
        let lin = self.linear(op, u64::from(size), true)?;
        self.write_sized(lin, op.mem.seg, size, value, op)
    }

    /// Reads `size` bytes (1, 2, 4 or 8) with the rights of the running code.
    pub(super) fn read_sized(&mut self, lin: u64, seg: u8, size: u8) -> Guest<u64> {
        Ok(match size {
            1 => u64::from(self.read::<u8>(lin, seg)?),
            2 => u64::from(self.read::<u16>(lin, seg)?),
            4 => u64::from(self.read::<u32>(lin, seg)?),
            _ => self.read::<u64>(lin, seg)?,
        })
    }

    /// Selector and offset of the far pointer in memory, whose offset has `op.aux` bytes. Two operands, each of which wraps within the
    /// address size and is checked by itself.
    pub(super) fn far_pointer(&mut self, op: &Op) -> Guest<(u16, u64)> {
        let size = op.aux;
        let ea = self.ea(&op.mem);
        let lin = self.linear_at(op, ea, u64::from(size), false)?;
        let offset = self.read_sized(lin, op.mem.seg, size)?;
        let lin = self.linear_at(op, ea.wrapping_add(u64::from(size)) & op.mem.mask, 2, false)?;
        Ok((self.read::<u16>(lin, op.mem.seg)?, offset))
    }

    /// Writes `size` bytes (1, 2, 4 or 8) with the rights of the running code.
    pub(super) fn write_sized(&mut self, lin: u64, seg: u8, size: u8, value: u64, op: &Op) -> Guest<()> {
        match size {
            1 => self.write(lin, seg, value as u8, Some(op)),
            2 => self.write(lin, seg, value as u16, Some(op)),
            4 => self.write(lin, seg, value as u32, Some(op)),
            _ => self.write(lin, seg, value, Some(op)),
        }
    }
}

/// Ends the block after `op`: the instruction changed something that decoding or the run loop depends on.
pub(super) fn end(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    cpu.rip = op.next_rip(cpu);
    Ok(Flow::End)
}

/// As many low bits as `size` bytes have.
pub(super) fn ones(size: u8) -> u64 {
    if size >= 8 { !0 } else { (1 << (8 * u32::from(size))) - 1 }
}
