//! The software x86-64 CPU.
//!
//! Tier 1 is an interpreter of pre-decoded instructions. Where to look:
//!
//! - [`cpu`]: the state of one virtual CPU that everything else works on;
//! - `decode`: guest bytes to [`op::Op`]s (one handler and its operands per instruction);
//! - `exec`: the handlers, by instruction group;
//! - `mmu`: linear addresses to RAM: page walk, soft TLB, loads and stores;
//! - `sys`: what happens below the instructions: exceptions, interrupts, segments, tasks, control registers, MSRs, CPUID;
//! - `blocks`: the cache of decoded basic blocks and its coherence with guest memory;
//! - `run`: the loop that ties them together;
//! - `fabric`: how interrupts, IPIs and kicks reach a CPU on another thread;
//! - `changed`: which code was written, and by whom;
//! - `account`: where a CPU's time goes; `options`: what a user may ask for; `perf_map`: names of code for `perf`;
//! - `host`: what of the host's CPU translated code uses;
//! - `vm`: the [`visor_engine`] contract over all of it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cpu;
pub mod op;

mod account;
mod blocks;
mod changed;
mod clock;
mod decode;
mod exec;
mod fabric;
mod host;
mod mmu;
mod options;
mod perf_map;
mod run;
mod sys;
mod translate;
mod vm;

pub use host::HostFeatures;
pub use options::{CODE_CACHE_DEFAULT, CODE_CACHE_MAX, CODE_CACHE_MIN, SoftOptions, Tier};
pub use perf_map::PerfMap;
pub use vm::SoftEngine;
