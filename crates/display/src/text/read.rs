//! Reads the text of a graphical console, whose characters are drawn in cells of 8 by 16 pixels from the left upper corner.

use std::collections::HashMap;

use visor_console::Picture;

use super::cp437;
use super::font::{EIGHT_WIDE, Font, glyph};

/// Dots of 128 by which a drawn character may differ from the font: systems bring fonts that are cousins of the BIOS's.
const TOLERANCE: u32 = 10;
/// One in so many cells may be something else than a character before the picture no longer counts as a console.
const STRANGE: usize = 8;

/// The text of `picture` if it is a console drawn with one of `fonts`, row by row without trailing blanks.
pub fn console_text(picture: &Picture, fonts: &[Box<[u8; 4096]>]) -> Option<Vec<String>> {
    if fonts.is_empty() {
        return None;
    }
    let (columns, rows) = (picture.width() / 8, picture.height() / 16);
    let mut reader = Reader { fonts, known: HashMap::new() };
    let (mut drawn, mut strange) = (0, 0);
    let mut text = Vec::new();
    for row in 0..rows {
        let mut line = String::new();
        for column in 0..columns {
            let c = match cell(picture, column * 8, row * 16) {
                Some(0) => ' ',
                Some(dots) if without_cursor(dots) == 0 => ' ',
                Some(dots) => {
                    drawn += 1;
                    reader.read(dots).or_else(|| reader.read(without_cursor(dots))).unwrap_or('\u{fffd}')
                }
                None => {
                    drawn += 1;
                    '\u{fffd}'
                }
            };
            strange += usize::from(c == '\u{fffd}');
            line.push(c);
        }
        text.push(line.trim_end().to_owned());
    }
    (strange * STRANGE <= drawn).then_some(text)
}

struct Reader<'a> {
    fonts: &'a [Box<Font>],
    known: HashMap<u128, Option<char>>,
}

impl Reader<'_> {
    /// The character whose glyph is most like `dots`, or the inverse of one.
    fn read(&mut self, dots: u128) -> Option<char> {
        let fonts = self.fonts;
        *self.known.entry(dots).or_insert_with(|| {
            // Printable characters first: of two that look the same the ordinary one is meant.
            let order = (0x20..=0x7e).chain(0x80..=0xff).chain(1..0x20).chain([0x7f]);
            let known = order.flat_map(|c| fonts.iter().map(move |f| (c, glyph(f, c))));
            let candidates = EIGHT_WIDE.iter().copied().chain(known);
            let scored = candidates.map(|(c, g)| ((g ^ dots).count_ones().min((g ^ !dots).count_ones()), c));
            let best = scored.min_by_key(|(distance, _)| *distance)?;
            (best.0 <= TOLERANCE).then(|| cp437::unicode(best.1))
        })
    }
}

/// The dots without a cursor in the lowest two rows.
fn without_cursor(dots: u128) -> u128 {
    if dots as u16 == !0 { dots & !0xffff } else { dots }
}

/// The dots of the cell at (`x`, `y`) that differ from its first pixel's colour; `None` if there are more than two colours.
fn cell(picture: &Picture, x: u32, y: u32) -> Option<u128> {
    let background = picture.pixel(x, y);
    let mut foreground = None;
    let mut dots = 0;
    for i in 0..128 {
        let p = picture.pixel(x + i % 8, y + i / 8);
        if p != background {
            if *foreground.get_or_insert(p) != p {
                return None;
            }
            dots |= 1 << (127 - i);
        }
    }
    Some(dots)
}
