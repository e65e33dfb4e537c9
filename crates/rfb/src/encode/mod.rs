//! From rectangles of the picture to bytes.

mod hextile;
mod zrle;

use crate::canvas::{Canvas, Rect};
use crate::format::Format;

pub(crate) use zrle::Zrle;

/// Encodings of pixels, by number (RFC 6143 §7.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Hextile,
    Zrle,
}

impl Encoding {
    pub(crate) fn from_number(n: i32) -> Option<Self> {
        match n {
            0 => Some(Encoding::Raw),
            5 => Some(Encoding::Hextile),
            16 => Some(Encoding::Zrle),
            _ => None,
        }
    }

    fn number(self) -> i32 {
        match self {
            Encoding::Raw => 0,
            Encoding::Hextile => 5,
            Encoding::Zrle => 16,
        }
    }
}

/// The header of a rectangle.
pub(crate) fn header(rect: &Rect, encoding: i32, out: &mut Vec<u8>) {
    for v in [rect.x, rect.y, rect.width, rect.height] {
        out.extend_from_slice(&(v as u16).to_be_bytes());
    }
    out.extend_from_slice(&encoding.to_be_bytes());
}

/// Appends `rect` with its header.
pub(crate) fn rect(
    canvas: &Canvas,
    rect: &Rect,
    encoding: Encoding,
    format: &Format,
    zrle: &mut Zrle,
    out: &mut Vec<u8>,
) {
    header(rect, encoding.number(), out);
    match encoding {
        Encoding::Raw => raw(canvas, rect, format, out),
        Encoding::Hextile => hextile::encode(canvas, rect, format, out),
        Encoding::Zrle => zrle.encode(canvas, rect, format, out),
    }
}

fn raw(canvas: &Canvas, rect: &Rect, format: &Format, out: &mut Vec<u8>) {
    out.reserve(rect.width as usize * rect.height as usize * format.bytes);
    for y in 0..rect.height {
        canvas.pixels(rect, y).iter().for_each(|p| format.put(format.convert(*p), out));
    }
}

/// Calls `f` with each tile of `rect`, row by row, and its converted pixels.
fn tiles(canvas: &Canvas, rect: &Rect, size: u32, format: &Format, mut f: impl FnMut(&Rect, &[u32])) {
    let mut pixels = Vec::new();
    for y in (0..rect.height).step_by(size as usize) {
        for x in (0..rect.width).step_by(size as usize) {
            let (width, height) = (size.min(rect.width - x), size.min(rect.height - y));
            let tile = Rect { x: rect.x + x, y: rect.y + y, width, height };
            pixels.clear();
            for row in 0..height {
                pixels.extend(canvas.pixels(&tile, row).iter().map(|p| format.convert(*p)));
            }
            f(&tile, &pixels);
        }
    }
}
