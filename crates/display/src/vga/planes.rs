//! Display memory as the CPU sees it through the window at A0000h: four planes of 64 KiB behind the graphics controller's latches.
//!
//! A word of the device's memory holds one byte of each plane: plane *p* of offset *o* is byte 4 × *o* + *p*. The linear frame
//! buffer of the extensions is the same memory in order.

use visor_memory::DeviceMemory;

use super::regs::Regs;

/// One bit per plane to all bits of the plane's byte.
const fn spread(planes: u8) -> u32 {
    let mut mask = 0;
    let mut p = 0;
    while p < 4 {
        if planes & 1 << p != 0 {
            mask |= 0xff << (8 * p);
        }
        p += 1;
    }
    mask
}

/// A byte in all planes.
fn everywhere(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

/// The offset that `at`, counted from A0000h, has within the chosen window.
pub(crate) fn window(regs: &Regs, at: u32) -> Option<u32> {
    let (start, len) = match regs.gfx[6] >> 2 & 3 {
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    };
    let enabled = regs.misc & 2 != 0;
    at.checked_sub(start).filter(|o| enabled && *o < len)
}

/// Reads the byte at offset `at` of the window, filling the latches.
pub(crate) fn read(regs: &Regs, memory: &DeviceMemory, latch: &mut u32, at: u32) -> u8 {
    let (offset, plane) = if regs.seq[4] & 8 != 0 {
        (at & !3, at & 3) // chain 4
    } else if regs.gfx[5] & 0x10 != 0 {
        (at & !1, u32::from(regs.gfx[4]) & 2 | at & 1) // odd/even
    } else {
        (at, u32::from(regs.gfx[4]))
    };
    *latch = memory.load(u64::from(offset & 0xffff) * 4);
    if regs.gfx[5] & 8 == 0 {
        return latch.to_le_bytes()[plane as usize];
    }
    // Read mode 1: bits whose colour matches in the planes that matter.
    let differs = (*latch ^ spread(regs.gfx[2])) & spread(regs.gfx[7]);
    !differs.to_le_bytes().into_iter().fold(0, |a, b| a | b)
}

/// Writes the byte at offset `at` of the window.
pub(crate) fn write(regs: &Regs, memory: &DeviceMemory, latch: u32, at: u32, value: u8) {
    let (offset, planes) = if regs.seq[4] & 8 != 0 {
        (at & !3, 1 << (at & 3))
    } else if regs.seq[4] & 4 == 0 {
        (at & !1, if at & 1 == 0 { 0b0101 } else { 0b1010 })
    } else {
        (at, 0b1111)
    };
    let planes = spread(planes & regs.seq[2]);
    if planes == 0 {
        return;
    }
    let new = combine(regs, latch, value);
    let place = u64::from(offset & 0xffff) * 4;
    let old = if planes == !0 { 0 } else { memory.load(place) };
    memory.store(place, old & !planes | new & planes);
}

/// What the graphics controller makes of `value` and the latches (write modes 0 to 3).
fn combine(regs: &Regs, latch: u32, value: u8) -> u32 {
    let rotated = value.rotate_right(u32::from(regs.gfx[3] & 7));
    let set_reset = spread(regs.gfx[0]);
    let mask = everywhere(regs.gfx[8]);
    let (data, mask) = match regs.gfx[5] & 3 {
        0 => {
            let enabled = spread(regs.gfx[1]);
            (everywhere(rotated) & !enabled | set_reset & enabled, mask)
        }
        1 => return latch,
        2 => (spread(value & 0xf), mask),
        _ => (set_reset, mask & everywhere(rotated)),
    };
    let data = match regs.gfx[3] >> 3 & 3 {
        0 => data,
        1 => data & latch,
        2 => data | latch,
        _ => data ^ latch,
    };
    data & mask | latch & !mask
}
