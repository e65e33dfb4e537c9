//! The teaching device of QEMU, as its documentation ("EDU device", docs/specs/edu) describes it: a PCI function that computes
//! factorials, moves bytes by DMA, and interrupts by MSI or its pin. Test kernels use it because it is small.
//!
//! ```text
//! BAR 0, 1 MiB   00 identification 010000EDh     04 liveness check (reads inverted)     08 factorial
//!                20 status: 01 computing, 80 interrupt after the factorial
//!                24 interrupt status    60 interrupt raise    64 interrupt acknowledge
//!                80 DMA source    88 DMA destination    90 DMA count
//!                98 DMA command: 01 start, 02 from device to RAM, 04 interrupt 100h at the end
//!                40000 (as a DMA address, not a register) the device's buffer of 4096 bytes
//! ```
//! Registers below 80h are accessed by four bytes, those from 80h on by four or eight. Work is done within the write that starts
//! it, so the busy bits always read as zero. DMA addresses have 28 bits.

mod device;
#[cfg(test)]
mod tests;

pub use device::Edu;
