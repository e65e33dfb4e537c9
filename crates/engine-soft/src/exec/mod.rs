//! The handlers: what each instruction does, one function per operation, operand size and operand kind.
//!
//! A handler that faults leaves registers, flags and memory as they were: it computes the address, makes the access that can
//! fault, and changes registers and flags last. [`fast`] has the two paths of those that access memory. Flags come from executing the same operation on the host (see [`int`]).

pub(crate) mod alu;
pub(crate) mod atomic;
pub(crate) mod bits;
pub(crate) mod bmi;
pub(crate) mod branch;
mod fast;
pub(crate) mod fpu;
pub(crate) mod int;
pub(crate) mod misc;
mod modify;
pub(crate) mod mov;
pub(crate) mod muldiv;
mod regs;
pub(crate) mod shift;
pub(crate) mod sse;
pub(crate) mod stack;
pub(crate) mod string;
