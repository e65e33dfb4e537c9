//! Fonts of 256 glyphs, 8 dots wide and 16 high, in the order of code page 437.

/// Sixteen rows for each glyph; bit 7 is the leftmost dot.
pub(crate) type Font = [u8; 4096];

/// Rows of the letter A that all such fonts of PCs share: from row 2, two legs and a bar.
const A: [u8; 14] = [0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0];

/// Shapes of characters eight dots wide where video BIOSes have shapes meant for nine, as consoles in graphics modes draw them:
/// sixteen rows from the top, eight bits each.
pub(super) const EIGHT_WIDE: &[(u8, u128)] = &[
    (b'0', 0x0000386c_c6c6d6d6_c6c66c38_00000000),
    (b'M', 0x0000c6ee_fefed6c6_c6c6c6c6_00000000),
    (b'T', 0x00007e7e_5a181818_1818183c_00000000),
    (b'V', 0x0000c6c6_c6c6c6c6_c66c3810_00000000),
    (b'W', 0x0000c6c6_c6c6d6d6_d6feee6c_00000000),
    (b'X', 0x0000c6c6_6c7c3838_7c6cc6c6_00000000),
    (b'Y', 0x00006666_66663c18_1818183c_00000000),
    (b'Z', 0x0000fec6_860c1830_60c2c6fe_00000000),
    (b'f', 0x00001c36_32307830_30303078_00000000),
    (b'm', 0x00000000_00ecfed6_d6d6d6c6_00000000),
    (b'v', 0x00000000_00c6c6c6_c6c66c38_00000000),
    (b'w', 0x00000000_00c6c6d6_d6d6fe6c_00000000),
    (b'x', 0x00000000_00c66c38_38386cc6_00000000),
];

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
