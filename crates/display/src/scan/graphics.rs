//! Graphics modes of the VGA itself: 16 colours in planes, four colours as on a CGA, 256 colours.

use super::colour_index;
use super::crtc::{Geometry, address};
use crate::vga::Regs;

/// How the graphics controller shifts out a word of four planes (register 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    /// A bit of each plane for each pixel.
    Planes,
    /// Two bits a pixel: planes 0 and 2 give the first four pixels, planes 1 and 3 the others.
    Interleaved,
    /// A byte a pixel, each two dots wide.
    Bytes,
}

pub(super) fn render(regs: &Regs, colours: &[u32; 256], planes: &[u32], g: &Geometry, out: &mut [u32]) {
    let shift = match regs.gfx[5] >> 5 & 3 {
        0 => Shift::Planes,
        1 => Shift::Interleaved,
        _ => Shift::Bytes,
    };
    let palette: [u32; 16] = std::array::from_fn(|i| colours[usize::from(colour_index(regs, i as u8))]);
    // Horizontal panning is half as fine where a pixel is two dots.
    let pan = u32::from(regs.attr[0x13] & 7);
    let mut dots = vec![0; (g.columns as usize + 1) * 8];
    for (y, pixels) in out.chunks_exact_mut(g.width as usize).enumerate() {
        let line = g.line(y as u32);
        for (i, group) in dots.chunks_exact_mut(8).enumerate() {
            let word = planes[address(regs, line.counter + i as u32, line.scan) as usize & 0xffff];
            match shift {
                Shift::Bytes => {
                    let bytes = word.to_le_bytes();
                    group.iter_mut().enumerate().for_each(|(i, dot)| *dot = colours[usize::from(bytes[i / 2])]);
                }
                _ => group.iter_mut().enumerate().for_each(|(i, dot)| *dot = palette[pixel(shift, word, i)]),
            }
        }
        for (x, out) in pixels.iter_mut().enumerate() {
            *out = dots.get(x / g.dot as usize + pan as usize).copied().unwrap_or(0);
        }
    }
}

/// Pixel `i` of the eight in `word`.
fn pixel(shift: Shift, word: u32, i: usize) -> usize {
    let [a, b, c, d] = word.to_le_bytes().map(usize::from);
    if shift == Shift::Planes {
        let bit = 7 - i;
        return a >> bit & 1 | (b >> bit & 1) << 1 | (c >> bit & 1) << 2 | (d >> bit & 1) << 3;
    }
    let (low, high) = if i < 4 { (a, c) } else { (b, d) };
    let bits = 6 - 2 * (i % 4);
    low >> bits & 3 | (high >> bits & 3) << 2
}
