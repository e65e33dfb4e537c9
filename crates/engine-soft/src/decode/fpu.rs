//! Floating-point and vector instructions: prepared by the floating-point unit.

use std::sync::Arc;

use visor_fpu::FpuOp;

use crate::cpu::Cpu;
use crate::decode::operands::Decoding;
use crate::exec::fpu;
use crate::op::Handler;

/// The handler, if the instruction belongs here.
pub(super) fn handler(cpu: &Cpu, d: &mut Decoding) -> Option<Handler> {
    let prepared = FpuOp::prepare(&cpu.fpu_unit, d.ins, d.mode.size.bits())?;
    let handler: Handler = match fpu::class_number(prepared.class()) {
        fpu::X87 => fpu::run::<{ fpu::X87 }>,
        fpu::WAIT => fpu::run::<{ fpu::WAIT }>,
        fpu::MMX => fpu::run::<{ fpu::MMX }>,
        fpu::SSE => fpu::run::<{ fpu::SSE }>,
        // VEX prefixes do not exist in real and virtual-8086 mode (SDM 2A §2.3.1).
        _ if !d.mode.protected => return None,
        _ => fpu::run::<{ fpu::AVX }>,
    };
    d.op.aux = if d.ins.is_vsib() { fpu::GATHER } else { 0 };
    d.op.fpu = Some(Arc::new(prepared));
    Some(handler)
}
