//! Hostile input for everything that a guest, an image, a network or another process can reach.
//!
//! A [`Target`] is a plain function of bytes: it makes the real device or parser, feeds it through its real interface - buses, queues in guest
//! memory, files, sockets, frames - and returns. It fails by a panic, by more memory or time than [`run`] grants, or by not ending.
//! `input` turns bytes into operations, `script` makes seeds of the same form, and `pc` is the mainboard on which devices stand.
//!
//! The same table is run in three ways: by the tests of this crate, by `visor-fuzz` (a seeded mutator, [`mutate`]; every input has a number by
//! which it is made again), and by the coverage-guided fuzzer in `fuzz/`. `cargo xtask fuzz NAME` picks the best of them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cpu;
mod devices;
mod disk;
mod formats;
mod host;
mod input;
pub mod mutate;
mod net;
mod pc;
pub mod run;
pub mod scratch;
mod script;
mod virtqueue;

pub use input::Input;
pub use script::Script;

/// One thing that is fed with hostile input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is fed, and how.
    pub about: &'static str,
    /// Feeds it once.
    pub run: fn(&[u8]),
    /// Inputs that reach something, from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs the tests make.
    pub inputs: u64,
    /// Most bytes of heap that one input may make live at once.
    pub heap: usize,
    /// Longest input that the mutator makes.
    pub longest: usize,
}

impl Target {
    const fn new(name: &'static str, about: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Target { name, about, run, seeds, inputs: 1500, heap: 32 << 20, longest: 4096 }
    }

    /// The same with fewer or more inputs in the tests, for what is slow or deep.
    const fn inputs(self, inputs: u64) -> Self {
        Target { inputs, ..self }
    }

    /// The same with room for `heap` bytes.
    const fn heap(self, heap: usize) -> Self {
        Target { heap, ..self }
    }

    /// The same with inputs of up to `longest` bytes.
    const fn longest(self, longest: usize) -> Self {
        Target { longest, ..self }
    }
}

/// All targets, by group.
pub const GROUPS: &[(&str, &[Target])] = &[
    ("devices", devices::TARGETS),
    ("formats", formats::TARGETS),
    ("networks", net::TARGETS),
    ("other programs", host::TARGETS),
    ("kernels and code", cpu::TARGETS),
];

/// All targets.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    GROUPS.iter().flat_map(|(_, targets)| *targets)
}

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    targets().find(|t| t.name == name)
}
