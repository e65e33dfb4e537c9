//! Hextile (RFC 6143 §7.7.4): tiles of 16 by 16 pixels, each a background with rectangles of other colours on it.

use super::tiles;
use crate::canvas::{Canvas, Rect};
use crate::format::Format;

const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const SUBRECTS: u8 = 8;
const COLOURED: u8 = 16;

/// A rectangle of one colour in a tile.
struct Spot {
    colour: u32,
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

pub(super) fn encode(canvas: &Canvas, rect: &Rect, format: &Format, out: &mut Vec<u8>) {
    let (mut background, mut foreground) = (None, None);
    tiles(canvas, rect, 16, format, |tile, pixels| {
        let back = commonest(pixels);
        let spots = spots(pixels, tile.width, back);
        let one = spots.first().map(|s| s.colour).filter(|c| spots.iter().all(|s| s.colour == *c));
        let each = if one.is_some() { 2 } else { 2 + format.bytes };
        if spots.len() > 255 || spots.len() * each >= pixels.len() * format.bytes {
            out.push(RAW);
            pixels.iter().for_each(|p| format.put(*p, out));
            // The colours of the tile before no longer hold.
            (background, foreground) = (None, None);
            return;
        }
        let mut flags = if spots.is_empty() { 0 } else { SUBRECTS };
        flags |= if background.replace(back) == Some(back) { 0 } else { BACKGROUND };
        match one {
            Some(c) => flags |= if foreground.replace(c) == Some(c) { 0 } else { FOREGROUND },
            None if !spots.is_empty() => {
                flags |= COLOURED;
                foreground = None;
            }
            None => {}
        }
        out.push(flags);
        if flags & BACKGROUND != 0 {
            format.put(back, out);
        }
        if let Some(c) = one.filter(|_| flags & FOREGROUND != 0) {
            format.put(c, out);
        }
        if !spots.is_empty() {
            out.push(spots.len() as u8);
        }
        for s in spots {
            if flags & COLOURED != 0 {
                format.put(s.colour, out);
            }
            out.push((s.x << 4 | s.y) as u8);
            out.push(((s.width - 1) << 4 | (s.height - 1)) as u8);
        }
    });
}

/// The colour of most pixels, as far as a few samples tell.
fn commonest(pixels: &[u32]) -> u32 {
    let mut seen: [(u32, u32); 4] = [(0, 0); 4];
    for p in pixels {
        match seen.iter_mut().find(|(c, n)| *n > 0 && c == p) {
            Some((_, n)) => *n += 1,
            None => {
                if let Some(free) = seen.iter_mut().find(|(_, n)| *n == 0) {
                    *free = (*p, 1);
                }
            }
        }
    }
    seen.iter().max_by_key(|(_, n)| *n).map_or(0, |(c, _)| *c)
}

/// Rectangles that cover what is not background.
fn spots(pixels: &[u32], width: u32, back: u32) -> Vec<Spot> {
    let mut covered = [false; 256];
    let mut spots = Vec::new();
    for i in 0..pixels.len() {
        if pixels[i] == back || covered[i] {
            continue;
        }
        let (x, y, w) = (i as u32 % width, i as u32 / width, width as usize);
        let colour = pixels[i];
        let across = (i..(y as usize + 1) * w).take_while(|j| pixels[*j] == colour && !covered[*j]).count();
        let same = |row: usize| (0..across).all(|k| pixels.get(row * w + x as usize + k) == Some(&colour));
        let down = (y as usize..pixels.len() / w).take_while(|row| same(*row)).count();
        for row in y as usize..y as usize + down {
            covered[row * w + x as usize..][..across].fill(true);
        }
        spots.push(Spot { colour, x, y, width: across as u32, height: down as u32 });
        if spots.len() > 255 {
            break;
        }
    }
    spots
}
