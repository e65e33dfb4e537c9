//! The CRT controller's counters.

use crate::vga::{Frame, Regs};

/// Where the parts of a picture come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Pixels as shown.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// A text mode.
    pub(crate) text: bool,
    /// Characters, or groups of eight dots, in a row.
    pub(crate) columns: u32,
    /// Dots in a character, before doubling.
    pub(crate) char_width: u32,
    /// Pixels for each dot.
    pub(crate) dot: u32,
    /// Scan lines of a row.
    pub(crate) row_lines: u32,
    /// Each scan line is shown twice.
    doubled: bool,
    start: u32,
    offset: u32,
    preset: u32,
    line_compare: u32,
}

/// A place in the picture, vertically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Memory counter at its left end.
    pub(crate) counter: u32,
    /// Scan line within the row.
    pub(crate) scan: u32,
}

impl Geometry {
    pub(crate) fn new(regs: &Regs, frame: Option<Frame>) -> Self {
        let c = |i: usize| u32::from(regs.crtc[i]);
        let text = regs.gfx[6] & 1 == 0 && frame.is_none();
        let char_width = if text { regs.char_width() } else { 8 };
        let columns = c(1) + 1;
        let dot = if regs.seq[1] & 8 != 0 { 2 } else { 1 };
        let g = Geometry {
            width: columns * char_width * dot,
            height: regs.lines(),
            text,
            columns,
            char_width,
            dot,
            row_lines: c(9) % 32 + 1,
            doubled: c(9) & 0x80 != 0,
            start: (c(0x0c) << 8 | c(0x0d)) + (c(8) >> 5 & 3),
            offset: c(0x13) * 2,
            preset: c(8) & 0x1f,
            line_compare: regs.line_compare(),
        };
        match frame {
            // Four bits a pixel set by the extensions: their numbers instead of the CRT controller's.
            Some(f) => Geometry {
                width: f.width,
                height: f.height,
                columns: f.width / 8,
                dot: 1,
                row_lines: 1,
                doubled: false,
                start: (f.y * f.stride + f.x) / 8,
                offset: f.stride / 8,
                preset: 0,
                line_compare: u32::MAX,
                ..g
            },
            None => g,
        }
    }

    /// Where picture row `y` comes from.
    pub(crate) fn line(&self, y: u32) -> Line {
        let (start, y, preset) = match y.checked_sub(self.line_compare.saturating_add(1)) {
            Some(below) => (0, below, 0),
            None => (self.start, y, self.preset),
        };
        let lines = (y >> u32::from(self.doubled)) + preset;
        Line { counter: start + lines / self.row_lines * self.offset, scan: lines % self.row_lines }
    }
}

/// The offset in the planes that memory counter `counter` stands for in scan line `scan` of a row (registers 14h and 17h).
pub(crate) fn address(regs: &Regs, counter: u32, scan: u32) -> u32 {
    let mode = regs.crtc[0x17];
    let mut a = if regs.crtc[0x14] & 0x40 != 0 {
        counter << 2 | counter >> 14 & 3
    } else if mode & 0x40 == 0 {
        counter << 1 | if mode & 0x20 != 0 { counter >> 15 & 1 } else { counter >> 13 & 1 }
    } else {
        counter
    };
    if mode & 1 == 0 {
        a = a & !0x2000 | (scan & 1) << 13;
    }
    if mode & 2 == 0 {
        a = a & !0x4000 | (scan >> 1 & 1) << 14;
    }
    a & 0xffff
}
