//! Rows of the linear frame buffer.

use std::ops::Range;

use visor_memory::DeviceMemory;

use crate::vga::Frame;

/// The bytes of memory that row `y` of the picture occupies.
pub(crate) fn byte_range(frame: &Frame, y: u32) -> Range<u64> {
    let start = u64::from(frame.y + y) * frame.bytes(frame.stride) + frame.bytes(frame.x);
    start..start + frame.bytes(frame.width)
}

/// Row `y` as 00RRGGBBh. `bytes` is room to work in.
pub(crate) fn row(
    frame: &Frame,
    colours: &[u32; 256],
    memory: &DeviceMemory,
    y: u32,
    bytes: &mut Vec<u8>,
    out: &mut Vec<u32>,
) {
    let range = byte_range(frame, y);
    bytes.resize((range.end - range.start) as usize, 0);
    memory.read(range.start, bytes);
    out.clear();
    match frame.bpp {
        8 => out.extend(bytes.iter().map(|b| colours[usize::from(*b)])),
        15 => out.extend(bytes.chunks_exact(2).map(|p| {
            let p = u32::from(u16::from_le_bytes([p[0], p[1]]));
            five(p >> 10) << 16 | five(p >> 5) << 8 | five(p)
        })),
        16 => out.extend(bytes.chunks_exact(2).map(|p| {
            let p = u32::from(u16::from_le_bytes([p[0], p[1]]));
            let green = p >> 5 & 0x3f;
            five(p >> 11) << 16 | (green << 2 | green >> 4) << 8 | five(p)
        })),
        24 => out.extend(bytes.chunks_exact(3).map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0]))),
        _ => out.extend(bytes.chunks_exact(4).map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0]))),
    }
}

/// Eight bits of the low five.
fn five(c: u32) -> u32 {
    (c & 0x1f) << 3 | c >> 2 & 7
}
