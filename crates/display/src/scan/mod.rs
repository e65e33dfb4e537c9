//! From display memory to pixels, as the CRT controller, the attribute controller and the DAC do it.
//!
//! - `crtc`: which address is fetched where in the picture;
//! - `text`, `graphics`: pictures of the VGA's own modes, rendered as a whole from a copy of its 256 KiB;
//! - `linear`: rows of the extensions' frame buffer.

mod crtc;
mod graphics;
mod linear;
mod text;

use visor_memory::DeviceMemory;

use crate::text::Font;
use crate::vga::{Frame, Regs};

pub(crate) use self::crtc::Geometry;
pub(crate) use self::linear::{byte_range, row as linear_row};
pub(crate) use self::text::cells;

/// Bytes of the VGA's own memory.
pub(crate) const PLANES: u64 = 0x4_0000;

/// What blinks, and whether it is shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phases {
    pub(crate) cursor: bool,
    pub(crate) text: bool,
}

/// A copy of the VGA's own memory: a word for each offset, plane 0 in its low byte.
pub(crate) fn planes(memory: &DeviceMemory) -> Vec<u32> {
    let mut bytes = vec![0; PLANES as usize];
    memory.read(0, &mut bytes);
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
}

/// The picture of a mode of the VGA itself, and its geometry. `frame` overrides the size.
pub(crate) fn picture(
    regs: &Regs,
    colours: &[u32; 256],
    frame: Option<Frame>,
    planes: &[u32],
    phases: Phases,
) -> (Geometry, Vec<u32>) {
    let g = Geometry::new(regs, frame);
    let mut out = vec![0; g.width as usize * g.height as usize];
    if !regs.blank() {
        if g.text {
            let text = text::Text::new(regs, colours, planes, &g, phases);
            out.chunks_exact_mut(g.width as usize).zip(0..).for_each(|(row, y)| text.row(y, row));
        } else {
            graphics::render(regs, colours, planes, &g, &mut out);
        }
    }
    (g, out)
}

/// Renders again what blinks in `pixels`, the picture of a mode that has not changed; calls `differs` with each row that is another.
pub(crate) fn blink(
    (regs, colours, frame): (&Regs, &[u32; 256], Option<Frame>),
    planes: &[u32],
    phases: Phases,
    pixels: &mut [u32],
    mut differs: impl FnMut(usize),
) {
    let g = Geometry::new(regs, frame);
    if !g.text || regs.blank() {
        return;
    }
    let text = text::Text::new(regs, colours, planes, &g, phases);
    let mut row = vec![0; g.width as usize];
    for (y, pixels) in pixels.chunks_exact_mut(g.width as usize).enumerate() {
        if text.blinks(y as u32) {
            text.row(y as u32, &mut row);
            if *pixels != row {
                pixels.copy_from_slice(&row);
                differs(y);
            }
        }
    }
}

/// The glyphs that the text mode in `regs` uses, in rows of 16.
pub(crate) fn font(regs: &Regs, memory: &DeviceMemory) -> Box<Font> {
    let mut font = Box::new([0; 4096]);
    let base = text::font_base(regs, true);
    for (i, row) in font.iter_mut().enumerate() {
        // 32 bytes are kept for each glyph.
        let offset = base + (i / 16) as u32 * 32 + i as u32 % 16;
        *row = memory.load(u64::from(offset & 0xffff) * 4).to_le_bytes()[2];
    }
    font
}

/// The DAC index of attribute-controller input `pixel`.
fn colour_index(regs: &Regs, pixel: u8) -> u8 {
    let entry = regs.attr[usize::from(pixel & 0xf & regs.attr[0x12])];
    let select = regs.attr[0x14];
    if regs.attr[0x10] & 0x80 != 0 { entry & 0xf | select << 4 } else { entry & 0x3f | select << 4 & 0xc0 }
}
