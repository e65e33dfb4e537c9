//! Text modes: characters in plane 0, attributes in plane 1, glyphs in plane 2.

use super::crtc::{Geometry, address};
use super::{Phases, colour_index};
use crate::vga::Regs;

/// Characters for which the ninth dot repeats the eighth: the box drawing set.
const LINE_GRAPHICS: std::ops::RangeInclusive<u8> = 0xc0..=0xdf;

/// A character cell.
#[derive(Clone, Copy, Debug)]
struct Cell {
    counter: u32,
    character: u8,
    attribute: u8,
}

/// The colours of a cell, and the font of its glyph.
struct Look {
    foreground: u32,
    background: u32,
    glyph: u32,
}

/// First offset of the glyphs in plane 2 for characters whose attribute bit 3 is set (`bright`) or not (sequencer register 3).
pub(super) fn font_base(regs: &Regs, bright: bool) -> u32 {
    let r = u32::from(regs.seq[3]);
    let block = if bright { r >> 5 & 1 | r >> 1 & 6 } else { r >> 4 & 1 | r << 1 & 6 };
    block * 0x2000
}

/// The characters shown, row by row.
pub(crate) fn cells(regs: &Regs, planes: &[u32], g: &Geometry) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let mut y = 0;
    while y < g.height {
        let line = g.line(y);
        // A row that is cut at the top still counts.
        if y == 0 || line.scan == 0 {
            let row = (0..g.columns).map(|x| cell(regs, planes, line.counter + x, 0).character).collect();
            rows.push(row);
        }
        y += 1;
        while y < g.height && g.line(y).scan != 0 {
            y += 1;
        }
    }
    rows
}

/// A picture in a text mode.
pub(super) struct Text<'a> {
    regs: &'a Regs,
    planes: &'a [u32],
    g: &'a Geometry,
    phases: Phases,
    palette: [u32; 16],
    fonts: [u32; 2],
}

impl<'a> Text<'a> {
    pub(super) fn new(
        regs: &'a Regs,
        colours: &[u32; 256],
        planes: &'a [u32],
        g: &'a Geometry,
        phases: Phases,
    ) -> Self {
        let palette = std::array::from_fn(|i| colours[usize::from(colour_index(regs, i as u8))]);
        Text { regs, planes, g, phases, palette, fonts: [font_base(regs, false), font_base(regs, true)] }
    }

    /// Renders row `y` of the picture.
    pub(super) fn row(&self, y: u32, pixels: &mut [u32]) {
        let (regs, g) = (self.regs, self.g);
        let line = g.line(y);
        let cursor = cursor_at(regs, line.scan).filter(|_| self.phases.cursor);
        for (x, dots) in pixels.chunks_exact_mut((g.char_width * g.dot) as usize).enumerate() {
            let cell = cell(regs, self.planes, line.counter + x as u32, line.scan);
            let look = look(regs, &self.palette, &self.fonts, &cell, self.phases);
            let row = self.planes[(look.glyph + line.scan) as usize & 0xffff].to_le_bytes()[2];
            let bits = if cursor == Some(cell.counter) || underlined(regs, &cell, line.scan) {
                0x1ff
            } else {
                nine(regs, cell.character, row)
            };
            for (i, dot) in dots.iter_mut().enumerate() {
                let lit = bits << (i as u32 / g.dot) & 0x100 != 0;
                *dot = if lit { look.foreground } else { look.background };
            }
        }
    }

    /// Whether something blinks in row `y`.
    pub(super) fn blinks(&self, y: u32) -> bool {
        let line = self.g.line(y);
        let cursor = cursor_at(self.regs, line.scan);
        let characters = self.regs.attr[0x10] & 8 != 0;
        (0..self.g.columns)
            .map(|x| cell(self.regs, self.planes, line.counter + x, line.scan))
            .any(|c| cursor == Some(c.counter) || characters && c.attribute & 0x80 != 0)
    }
}

fn cell(regs: &Regs, planes: &[u32], counter: u32, scan: u32) -> Cell {
    let [character, attribute, ..] = planes[address(regs, counter, scan) as usize & 0xffff].to_le_bytes();
    Cell { counter: counter & 0xffff, character, attribute }
}

/// The memory counter of the cursor, if it covers scan line `scan` when it is shown.
fn cursor_at(regs: &Regs, scan: u32) -> Option<u32> {
    let (start, end) = (regs.crtc[0x0a], regs.crtc[0x0b]);
    let lines = u32::from(start & 0x1f)..=u32::from(end & 0x1f);
    let shown = start & 0x20 == 0 && lines.contains(&scan);
    shown.then(|| u32::from(regs.crtc[0x0e]) << 8 | u32::from(regs.crtc[0x0f]))
}

fn underlined(regs: &Regs, cell: &Cell, scan: u32) -> bool {
    let monochrome = regs.attr[0x10] & 2 != 0;
    monochrome && cell.attribute & 7 == 1 && scan == u32::from(regs.crtc[0x14] & 0x1f)
}

fn look(regs: &Regs, palette: &[u32; 16], fonts: &[u32; 2], cell: &Cell, phases: Phases) -> Look {
    let a = usize::from(cell.attribute);
    let blinks = regs.attr[0x10] & 8 != 0;
    let background = palette[a >> 4 & if blinks { 7 } else { 15 }];
    let hidden = blinks && a & 0x80 != 0 && !phases.text;
    let foreground = if hidden { background } else { palette[a & 15] };
    Look { foreground, background, glyph: fonts[a >> 3 & 1] + u32::from(cell.character) * 32 }
}

/// Nine dots of a row of a glyph, the first in bit 8.
fn nine(regs: &Regs, character: u8, row: u8) -> u32 {
    let repeated = regs.attr[0x10] & 4 != 0 && LINE_GRAPHICS.contains(&character);
    u32::from(row) << 1 | if repeated { u32::from(row & 1) } else { 0 }
}
