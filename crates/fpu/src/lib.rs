//! The x87, MMX, SSE and AVX unit: state, XSAVE image, and execution of one instruction on the host.
//!
//! The software CPU of an x86-64 guest runs on an x86-64 host, so the exact meaning of `sqrtps` or
//! `fyl2x` is best obtained from the host itself. [`FpuOp::prepare`] turns one decoded instruction
//! into a small piece of host code (a *thunk*) that loads the registers the instruction uses from
//! [`FpuState`], executes that very instruction with its memory operand redirected to a private
//! buffer, and stores what it changed. [`FpuOp::execute`] reads guest memory through
//! [`OperandMemory`], calls the thunk and commits results, or reports the exception the guest must
//! take. Everything about exceptions, x87 environments, MMX aliasing and the images of
//! FXSAVE/XSAVE follows Intel SDM volume 1, chapters 8 to 13.
//!
//! The guest controls nothing of the host code but register numbers, the opcode (one of the
//! instruction sets in [`FpuFeatures`]) and immediates; debug builds decode every thunk again and
//! check its memory operands.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod arena;
mod emit;
mod features;
mod gather;
mod image;
mod observe;
mod op;
mod plan;
mod software;
mod state;
mod unit;
mod vector;
mod x87;

#[cfg(test)]
mod tests;

pub use features::{FpuFeatures, host_executes, host_features};
pub use image::{
    FxLayout, XCR0_AVX, XCR0_SSE, XCR0_SUPPORTED, XCR0_X87, XSAVE_AREA_SIZE, fxrstor, fxsave, xrstor, xsave, xsavec,
    xsavec_size,
};
pub use op::{FpuClass, FpuFault, FpuOp, MemFault, OpRegs, OperandMemory};
pub use state::{FpuState, MXCSR_DEFAULT, MXCSR_MASK, OFFSET_FOP, OFFSET_MXCSR, OFFSET_XMM, OFFSET_YMM_HI};
pub use unit::FpuUnit;
pub use vector::operand_alignment;
