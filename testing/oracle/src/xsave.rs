//! Bringing XSAVE images of different origins to one form.

use crate::case::Regs;

const HEADER: usize = 512;

/// Gives components that the header marks as initial their initial values, and clears what is not part of the
/// architectural user state: instruction and data pointers (some processors keep them only after an exception), reserved bytes,
/// `MXCSR_MASK` and the header.
pub(crate) fn normalise(regs: &mut Regs) {
    let present = regs.xsave[HEADER];
    if present & 1 == 0 {
        regs.xsave[..24].fill(0);
        regs.xsave[32..160].fill(0);
        regs.set_u16(0, 0x37f);
    }
    if present & 2 == 0 {
        regs.xsave[160..416].fill(0);
    }
    if present & 4 == 0 {
        regs.xsave[HEADER + 64..].fill(0);
    }
    regs.xsave[5] = 0;
    regs.xsave[6..24].fill(0);
    regs.xsave[28..32].fill(0);
    for i in 0..8 {
        regs.xsave[32 + 16 * i + 10..32 + 16 * (i + 1)].fill(0);
    }
    regs.xsave[416..HEADER + 64].fill(0);
    regs.xsave[HEADER] = 7;
}
