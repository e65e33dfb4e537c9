//! ZRLE (RFC 6143 §7.7.6): tiles of 64 by 64 pixels as palettes and runs, all through one zlib stream.

use flate2::{Compress, Compression, FlushCompress};

use super::tiles;
use crate::canvas::{Canvas, Rect};
use crate::format::Format;

const RLE: u8 = 128;
/// Most colours of a palette.
const PALETTE: usize = 127;
/// Most colours of a palette whose indices are packed.
const PACKED: usize = 16;

/// The zlib stream of a connection.
pub(crate) struct Zrle {
    stream: Compress,
    plain: Vec<u8>,
}

/// What is in a tile.
struct Survey {
    /// Colours in the order in which they appear; more than [`PALETTE`] means too many.
    palette: Vec<u32>,
    /// Colour and length.
    runs: Vec<(u32, usize)>,
}

impl Default for Zrle {
    fn default() -> Self {
        Zrle { stream: Compress::new(Compression::fast(), true), plain: Vec::new() }
    }
}

impl Zrle {
    pub(super) fn encode(&mut self, canvas: &Canvas, rect: &Rect, format: &Format, out: &mut Vec<u8>) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        tiles(canvas, rect, 64, format, |tile, pixels| encode_tile(pixels, tile.width as usize, format, &mut plain));
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        self.deflate(&plain, out);
        let len = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
        self.plain = plain;
    }

    /// Appends `plain` compressed, so that the client can unpack all of it.
    fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let start = self.stream.total_in();
        loop {
            let done = (self.stream.total_in() - start) as usize;
            out.reserve(plain.len().saturating_sub(done) / 2 + 1024);
            let room = out.capacity() - out.len();
            // A compressor that works in memory does not fail.
            let _ = self.stream.compress_vec(&plain[done..], out, FlushCompress::Sync);
            let all = (self.stream.total_in() - start) as usize >= plain.len();
            if all && room > 0 && out.len() < out.capacity() {
                return;
            }
        }
    }
}

fn encode_tile(pixels: &[u32], width: usize, format: &Format, out: &mut Vec<u8>) {
    let survey = survey(pixels);
    let (pixel, _) = format.compressed();
    let colours = survey.palette.len();
    if colours == 1 {
        out.push(1);
        return format.put_compressed(pixels[0], out);
    }
    let run_bytes = |per: usize| survey.runs.iter().map(|(_, len)| per + (len - 1) / 255 + 1).sum::<usize>();
    let raw = pixels.len() * pixel;
    let plain_rle = run_bytes(pixel);
    let short = survey.runs.iter().map(|(_, len)| if *len == 1 { 1 } else { 2 + (len - 1) / 255 }).sum::<usize>();
    let palette_rle = if colours <= PALETTE { colours * pixel + short } else { usize::MAX };
    let bits = index_bits(colours);
    let rows = pixels.len() / width;
    let packed = if colours <= PACKED { colours * pixel + (width * bits).div_ceil(8) * rows } else { usize::MAX };
    let best = raw.min(plain_rle).min(palette_rle).min(packed);
    if best == packed {
        pack(pixels, width, bits, &survey, format, out);
    } else if best == palette_rle {
        palette_runs(&survey, format, out);
    } else if best == plain_rle {
        out.push(RLE);
        for (colour, len) in &survey.runs {
            format.put_compressed(*colour, out);
            put_length(*len, out);
        }
    } else {
        out.push(0);
        pixels.iter().for_each(|p| format.put_compressed(*p, out));
    }
}

fn survey(pixels: &[u32]) -> Survey {
    let mut palette = Vec::new();
    let mut runs: Vec<(u32, usize)> = Vec::new();
    for p in pixels {
        match runs.last_mut() {
            Some((colour, len)) if colour == p => *len += 1,
            _ => {
                if palette.len() <= PALETTE && !palette.contains(p) {
                    palette.push(*p);
                }
                runs.push((*p, 1));
            }
        }
    }
    Survey { palette, runs }
}

fn index_bits(colours: usize) -> usize {
    match colours {
        0..=2 => 1,
        3..=4 => 2,
        _ => 4,
    }
}

fn pack(pixels: &[u32], width: usize, bits: usize, survey: &Survey, format: &Format, out: &mut Vec<u8>) {
    out.push(survey.palette.len() as u8);
    survey.palette.iter().for_each(|c| format.put_compressed(*c, out));
    for row in pixels.chunks(width) {
        for group in row.chunks(8 / bits) {
            let byte = group.iter().fold(0, |byte, p| byte << bits | index(survey, *p));
            out.push(byte << (bits * (8 / bits - group.len())));
        }
    }
}

fn palette_runs(survey: &Survey, format: &Format, out: &mut Vec<u8>) {
    out.push(RLE | survey.palette.len() as u8);
    survey.palette.iter().for_each(|c| format.put_compressed(*c, out));
    for (colour, len) in &survey.runs {
        let i = index(survey, *colour);
        if *len == 1 {
            out.push(i);
        } else {
            out.push(i | 128);
            put_length(*len, out);
        }
    }
}

fn index(survey: &Survey, colour: u32) -> u8 {
    survey.palette.iter().position(|c| *c == colour).unwrap_or(0) as u8
}

/// One less than the length, in bytes of 255 and a last one.
fn put_length(len: usize, out: &mut Vec<u8>) {
    let mut rest = len - 1;
    while rest >= 255 {
        out.push(255);
        rest -= 255;
    }
    out.push(rest as u8);
}
