//! Fonts of 256 glyphs, 8 dots wide and 16 high, in the order of code page 437.

/// Sixteen rows for each glyph; bit 7 is the leftmost dot.
pub(crate) type Font = [u8; 4096];

/// Rows of the letter A that all such fonts of PCs share: from row 2, two legs and a bar.
const A: [u8; 14] = [0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0];

/// Finds the font in a video BIOS: where there is an A with the blank glyphs of space and NUL where they belong.
pub(crate) fn find(rom: &[u8]) -> Option<Box<Font>> {
    let a_at = usize::from(b'A') * 16 + 2;
    (0..rom.len().checked_sub(4095)?).find_map(|base| {
        let font = &rom[base..base + 4096];
        let blank = |c: usize| font[c * 16..c * 16 + 16].iter().all(|row| *row == 0);
        let found = font[a_at..a_at + 14] == A && blank(0) && blank(32);
        found.then(|| <Box<Font>>::try_from(font.to_vec().into_boxed_slice()).ok()).flatten()
    })
}

/// The rows of glyph `c`.
pub(super) fn glyph(font: &Font, c: u8) -> u128 {
    let mut rows = [0; 16];
    rows.copy_from_slice(&font[usize::from(c) * 16..][..16]);
    u128::from_be_bytes(rows)
}
