//! Data movement: MOV in all forms, extensions, LEA, XCHG, XLAT, BSWAP, MOVBE, CMOVcc, SETcc, and the CBW family.

use crate::cpu::Cpu;
use crate::exec::branch::holds;
use crate::exec::fast::two_paths;
use crate::exec::int::{Int, WideInt};
use crate::op::{Faulted, Flow, Op, flow};

/// `mov reg, reg`.
pub(crate) fn rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = cpu.reg::<T>(op.r1);
    cpu.set_reg(op.r0, v);
    Flow::Next
}

/// `mov reg, imm`.
pub(crate) fn ri<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.r0, T::from_u64(op.imm));
    Flow::Next
}

two_paths! {
    /// `mov reg, [mem]`.
    rm [T: Int] [T] |cpu, op| {
        let v = cpu.operand::<T, FAST>(op)?;
        cpu.set_reg(op.r0, v);
        Some(Flow::Next)
    }

    /// `mov [mem], reg`; also MOVNTI.
    mr [T: Int] [T] |cpu, op| {
        let v = cpu.reg::<T>(op.r0);
        cpu.put_operand::<T, FAST>(op, v)
    }

    /// `mov [mem], imm`.
    mi [T: Int] [T] |cpu, op| {
        cpu.put_operand::<T, FAST>(op, T::from_u64(op.imm))
    }

    /// MOVZX from `S` to `D`, memory source.
    zx_rm [D: Int, S: Int] [D, S] |cpu, op| {
        let v = cpu.operand::<S, FAST>(op)?;
        cpu.set_reg(op.r0, D::from_u64(v.to_u64()));
        Some(Flow::Next)
    }

    /// MOVSX and MOVSXD from `S` to `D`, memory source.
    sx_rm [D: Int, S: Int] [D, S] |cpu, op| {
        let v = cpu.operand::<S, FAST>(op)?;
        cpu.set_reg(op.r0, D::from_u64(v.to_i64() as u64));
        Some(Flow::Next)
    }

    /// `cmovcc reg, [mem]`: loads, and may fault, even if the condition is false.
    cmov_rm [T: WideInt, const CC: u8] [T, CC] |cpu, op| {
        let b = cpu.operand::<T, FAST>(op)?;
        let a = cpu.reg::<T>(op.r0);
        cpu.set_reg(op.r0, if holds::<CC>(cpu.status) { b } else { a });
        Some(Flow::Next)
    }

    /// `setcc [mem]`.
    set_m [const CC: u8] [CC] |cpu, op| {
        let v = u8::from(holds::<CC>(cpu.status));
        cpu.put_operand::<u8, FAST>(op, v)
    }
}

/// MOVZX from `S` to `D`, register source.
pub(crate) fn zx_rr<D: Int, S: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = cpu.reg::<S>(op.r1);
    cpu.set_reg(op.r0, D::from_u64(v.to_u64()));
    Flow::Next
}

/// MOVSX and MOVSXD from `S` to `D`, register source.
pub(crate) fn sx_rr<D: Int, S: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = cpu.reg::<S>(op.r1);
    cpu.set_reg(op.r0, D::from_u64(v.to_i64() as u64));
    Flow::Next
}

/// LEA.
pub(crate) fn lea<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let ea = cpu.ea(&op.mem);
    cpu.set_reg(op.r0, T::from_u64(ea));
    Flow::Next
}

/// `xchg reg, reg`.
pub(crate) fn xchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.reg::<T>(op.r0);
    let b = cpu.reg::<T>(op.r1);
    cpu.set_reg(op.r0, b);
    cpu.set_reg(op.r1, a);
    Flow::Next
}

/// `xchg [mem], reg`: locked with or without the prefix.
pub(crate) fn xchg_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.reg::<T>(op.r0);
    match cpu.modify::<T, true>(op, |_, s| (b, s)) {
        Ok(old) => {
            cpu.set_reg(op.r0, old);
            Flow::Next
        }
        Err(Faulted) => Flow::Fault,
    }
}

/// XLAT: AL from `[rBX + AL]`; the decoder makes no index register of AL, so the address is made here.
pub(crate) fn xlat(cpu: &mut Cpu, op: &Op) -> Flow {
    let ea = cpu.ea(&op.mem).wrapping_add(cpu.gpr[0] & 0xff) & op.mem.mask;
    let value = cpu.linear_at(op, ea, 1, false).and_then(|lin| cpu.read::<u8>(lin, op.mem.seg));
    let Ok(v) = value else { return Flow::Fault };
    cpu.set_reg(0, v);
    Flow::Next
}

/// BSWAP. With a 16-bit operand the result is undefined; processors clear the register's low half.
pub(crate) fn bswap<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = cpu.reg::<T>(op.r0);
    let v = if T::SIZE == 2 { 0 } else { swapped(v) };
    cpu.set_reg(op.r0, T::from_u64(v));
    Flow::Next
}

/// MOVBE load.
pub(crate) fn movbe_rm<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(v) = cpu.load::<T>(op) else { return Flow::Fault };
    cpu.set_reg(op.r0, T::from_u64(swapped(v)));
    Flow::Next
}

/// MOVBE store.
pub(crate) fn movbe_mr<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = T::from_u64(swapped(cpu.reg::<T>(op.r0)));
    flow(cpu.store(op, v))
}

#[inline(always)]
fn swapped<T: Int>(v: T) -> u64 {
    v.to_u64().swap_bytes() >> (64 - T::BITS)
}

/// `cmovcc reg, reg`: a 32-bit destination loses its upper half even if the condition is false.
pub(crate) fn cmov_rr<T: WideInt, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.reg::<T>(op.r0), cpu.reg::<T>(op.r1));
    cpu.set_reg(op.r0, if holds::<CC>(cpu.status) { b } else { a });
    Flow::Next
}

/// `setcc reg`.
pub(crate) fn set_r<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let v = u8::from(holds::<CC>(cpu.status));
    cpu.set_reg(op.r0, v);
    Flow::Next
}

/// CBW, CWDE, CDQE: the accumulator's lower half `S` sign-extended to `D`.
pub(crate) fn extend_acc<D: Int, S: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let v = cpu.reg::<S>(0).to_i64() as u64;
    cpu.set_reg(0, D::from_u64(v));
    Flow::Next
}

/// CWD, CDQ, CQO: rDX filled with the sign of the accumulator.
pub(crate) fn sign_to_dx<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let sign = cpu.reg::<T>(0).to_i64() >> 63;
    cpu.set_reg(2 * 8, T::from_u64(sign as u64));
    Flow::Next
}
