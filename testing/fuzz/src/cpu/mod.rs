//! Kernels' bytes: the loaders, and the CPU that executes them.

mod code;
mod kernels;

use crate::Target;

/// Kernels and code.
pub(crate) const TARGETS: &[Target] = &[
    Target::new("kernel", "loaders: bzImage, PVH, Multiboot, vmlinux, compressed or not", kernels::run, kernels::seeds)
        .heap(600 << 20)
        .longest(1 << 14),
    Target::new("kernel-bytes", "a kernel's bytes loaded and executed for a moment", kernels::execute, kernels::seeds)
        .inputs(300)
        .heap(600 << 20)
        .longest(1 << 14),
    Target::new(
        "code",
        "bytes as code of 16, 32 and 64 bits: decoder, interpreter, translator with its verifier",
        code::run,
        code::seeds,
    )
    .inputs(250)
    .heap(64 << 20),
];
