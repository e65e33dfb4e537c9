//! Pictures: what the screen shows of memory and registers, and what viewers are told.

use visor_console::{Display, Generation};

use crate::testing::{bench, colour};

#[test]
fn nothing_is_shown_after_power_on() {
    let b = bench();
    let picture = b.screen.picture();
    assert!(picture.pixels().iter().all(|p| *p == 0));
    let (g, log) = b.changes(Generation::default());
    assert_eq!(log.size, Some((picture.width(), picture.height())));
    assert_eq!(b.changes(g).1.rows, [0u32; 0], "nobody is told twice");
}

#[test]
fn characters_have_glyphs_attributes_and_a_ninth_dot() {
    let b = bench();
    b.text_mode();
    b.set(0x3d4, 0x0a, 0x20);
    b.store(0xb8000, &[0xf0, 0x1e, 0xc1, 0x47, 0x81, 0x47]);
    let p = b.screen.picture();
    assert_eq!((p.width(), p.height()), (720, 400));
    let cell = |x: u32, y: u32| (0..9).map(|i| p.pixel(x * 9 + i, y)).collect::<Vec<_>>();
    let (f, k) = (colour(14), colour(1));
    assert_eq!(cell(0, 3), [f, f, f, f, k, k, k, k, k], "F0h in yellow on blue");
    let (f, k) = (colour(7), colour(4));
    assert_eq!(cell(1, 15), [f, f, k, k, k, k, k, f, f], "line graphics repeat the eighth dot");
    assert_eq!(cell(2, 0), [f, k, k, k, k, k, k, f, k], "others do not");
    assert_eq!(cell(0, 16), [colour(0); 9]);
    b.set_attr(0x10, 0x08);
    b.outb(0x3c0, 0x20);
    assert_eq!(b.screen.picture().pixel(17, 15), k, "line graphics disabled");
}

#[test]
fn text_is_read_from_memory() {
    let b = bench();
    b.text_mode();
    for (y, text) in ["GNU GRUB  version 2.06", "", "\u{c9}\u{cd}\u{bb} x"].iter().enumerate() {
        let bytes: Vec<u8> = text.chars().flat_map(|c| [c as u8, 7]).collect();
        b.store(0xb8000 + 160 * y as u64, &bytes);
    }
    let text = b.screen.text().unwrap();
    assert_eq!(text.len(), 25);
    assert_eq!(text[..3], ["GNU GRUB  version 2.06", "", "╔═╗ x"]);
    // One row up, as when a driver scrolls by the start address.
    b.set(0x3d4, 0x0d, 80);
    assert_eq!(b.screen.text().unwrap()[1], "╔═╗ x");
    b.outb(0x3c0, 0);
    b.inb(0x3da);
    b.outb(0x3c0, 0);
    assert_eq!(b.screen.text(), Some(vec![]), "the screen is off");
}

#[test]
fn the_cursor_blinks_and_so_do_characters() {
    let b = bench();
    b.text_mode();
    b.store(0xb8000, &[0xff, 0x87, 0x00, 0x07]);
    b.set(0x3d4, 0x0f, 1);
    let (mut seen, _) = b.changes(Generation::default());
    let mut picture = visor_console::Picture::default();
    b.screen.changes(Generation::default(), &mut picture);
    assert_eq!((picture.pixel(9, 13), picture.pixel(9, 12)), (colour(7), colour(0)), "scan lines 13 and 14");
    assert_eq!(picture.pixel(0, 0), colour(7));
    let mut shown = Vec::new();
    for _ in 0..4 {
        let (g, log) = b.changes(seen);
        seen = g;
        b.screen.changes(Generation::default(), &mut picture);
        shown.push((log.rows.len(), picture.pixel(9, 13) == colour(7), picture.pixel(0, 0) == colour(7)));
        b.clock.advance(115_000_000);
    }
    assert_eq!(b.screen.picture().pixel(9, 13), colour(7), "a picture for keeps has it always");
    let lit = |shown: &[(usize, bool, bool)], i: usize| (shown[i].1, shown[i].2);
    assert_eq!(lit(&shown, 0), (true, true));
    assert_eq!(lit(&shown, 1), (false, true));
    assert_eq!(shown[1].0, 2, "only the cursor's lines are new");
    assert!(!shown[2].2, "characters at half the pace");
}

#[test]
fn fonts_are_chosen_by_attribute_bit_3() {
    let b = bench();
    b.text_mode();
    // Font block 1 (offset 16 KiB) gets inverse glyphs; characters with bit 3 use it.
    b.graphics_mode();
    b.set(0x3c4, 2, 4);
    for c in 0..=255u8 {
        b.store(0xa4000 + u64::from(c) * 32, &[!c; 16]);
    }
    b.mode(0x67, [0, 3, 0b00_0100, 2], &crate::testing::TEXT_CRTC, &[0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff], 0x0c);
    b.store(0xb8000, &[0xf0, 0x07, 0xf0, 0x0f]);
    let p = b.screen.picture();
    assert_eq!((p.pixel(0, 0), p.pixel(4, 0)), (colour(7), colour(0)));
    assert_eq!((p.pixel(9, 0), p.pixel(13, 0)), (colour(0), colour(15)));
}

#[test]
fn sixteen_colours_come_from_planes() {
    let b = bench();
    b.graphics_mode();
    b.set(0x3ce, 5, 2);
    b.set(0x3ce, 8, 0x80);
    b.store(0xa0000, &[5]);
    b.store(0xa0000 + 80, &[9]);
    let p = b.screen.picture();
    assert_eq!((p.width(), p.height()), (640, 480));
    assert_eq!((p.pixel(0, 0), p.pixel(1, 0), p.pixel(0, 1)), (colour(5), colour(0), colour(9)));
    b.set_attr(5, 33);
    b.set_attr(0x12, 0x07);
    b.outb(0x3c0, 0x20);
    let p = b.screen.picture();
    assert_eq!((p.pixel(0, 0), p.pixel(0, 1)), (colour(33), colour(1)), "palette, and plane 3 masked");
    b.set_attr(0x13, 1);
    b.outb(0x3c0, 0x20);
    b.set(0x3d4, 0x0d, 80);
    assert_eq!(b.screen.picture().pixel(0, 0), colour(0), "panned by a pixel");
}

#[test]
fn a_split_screen_starts_again_at_zero() {
    let b = bench();
    b.graphics_mode();
    b.set(0x3ce, 5, 2);
    b.set(0x3ce, 8, 0x80);
    b.store(0xa0000, &[3]);
    b.set(0x3d4, 0x0c, 0x20);
    b.set(0x3d4, 0x18, 99);
    b.set(0x3d4, 0x07, 0x2e);
    b.set(0x3d4, 0x09, 0x00);
    let p = b.screen.picture();
    assert_eq!((p.pixel(0, 0), p.pixel(0, 99), p.pixel(0, 100)), (colour(0), colour(0), colour(3)));
}

#[test]
fn bytes_are_pixels_two_by_two() {
    let b = bench();
    b.bytes_mode();
    b.store(0xa0000, &[1, 2, 3]);
    b.store(0xa0000 + 320, &[63]);
    let p = b.screen.picture();
    assert_eq!((p.width(), p.height()), (640, 400));
    assert_eq!([0, 1, 2, 4, 6].map(|x| p.pixel(x, 1)), [1, 1, 2, 3, 0].map(colour));
    assert_eq!((p.pixel(0, 2), p.pixel(1, 3)), (colour(63), colour(63)));
    b.outb(0x3c6, 0x3e);
    assert_eq!(b.screen.picture().pixel(0, 0), colour(0), "the DAC's mask");
}

#[test]
fn cga_graphics_interleave_rows_and_planes() {
    let b = bench();
    let mut crtc = crate::testing::BYTES_CRTC;
    (crtc[0x09], crtc[0x13], crtc[0x14], crtc[0x17]) = (0xc1, 0x14, 0, 0xa2);
    (crtc[0x01], crtc[0x00]) = (0x27, 0x2d);
    b.mode(0x63, [9, 3, 0, 2], &crtc, &[0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff], 1);
    b.outb(0x3c8, 0);
    (0..192).for_each(|i| b.outb(0x3c9, i / 3));
    b.store(0xb8000, &[0b00_01_10_11, 0b11_00_00_00]);
    b.store(0xba000, &[0b10_00_00_00]);
    let p = b.screen.picture();
    assert_eq!((p.width(), p.height()), (640, 400));
    let grey = |i: u32| (i << 2 | i >> 4) * 0x01_0101;
    assert_eq!([0, 2, 4, 6, 8, 10].map(|x| p.pixel(x, 0)), [0, 1, 2, 3, 3, 0].map(grey));
    assert_eq!((p.pixel(0, 2), p.pixel(1, 3)), (grey(2), grey(2)), "odd rows are 8 KiB further");
}

#[test]
fn linear_pixels_have_their_formats() {
    let b = bench();
    b.text_mode();
    for (bpp, bytes, want) in [
        (8, vec![33], colour(33)),
        (15, vec![0xe5, 0x7b], 0xf7_ff29),
        (16, vec![0x1f, 0xf8], 0xff_00ff),
        (24, vec![1, 2, 3], 0x03_0201),
        (32, vec![1, 2, 3, 0xff], 0x03_0201),
    ] {
        b.vbe(4, 0);
        (1..=3).zip([64, 32, bpp]).for_each(|(i, v)| b.vbe(i, v));
        b.vbe(4, 0x41);
        let pixel = usize::from(bpp).div_ceil(8);
        b.memory.write(((5 * 64 + 2) * pixel) as u64, &bytes);
        let p = b.screen.picture();
        assert_eq!((p.width(), p.height()), (64, 32));
        assert_eq!((p.pixel(2, 5), p.pixel(1, 5)), (want, if bpp == 8 { colour(0) } else { 0 }), "{bpp} bits");
    }
    b.vbe(4, 0);
    b.vbe(3, 4);
    b.vbe(4, 0x41);
    b.mode(0x63, [1, 0xf, 0, 6], &crate::testing::GRAPHICS_CRTC, &[0, 0, 0, 0, 0, 2, 5, 0xf, 0x40], 1);
    b.store(0xa0000 + 8 * 3, &[6]);
    let p = b.screen.picture();
    assert_eq!((p.width(), p.pixel(1, 3)), (64, colour(6)), "four bits in planes");
}

#[test]
fn viewers_get_only_what_is_new_to_them() {
    let b = bench();
    assert_eq!(b.vga.set_linear(1024, 768), (1024, 768));
    let (first, log) = b.changes(Generation::default());
    assert_eq!((log.size, log.rows.len()), (Some((1024, 768)), 768));
    let (g, log) = b.changes(first);
    assert_eq!((g, log.rows.len()), (first, 0), "an idle screen");
    b.memory.store(4096 * 100 + 40, 0x00ab_cdef);
    let (second, log) = b.changes(first);
    assert_eq!((log.size, &log.rows[..], log.last[10]), (None, &[100][..], 0xab_cdef));
    b.memory.store(4096 * 700, 1);
    let (third, log) = b.changes(second);
    assert_eq!(log.rows, [700]);
    assert_eq!(b.changes(first).1.rows, [100, 700], "a slower viewer");
    assert_eq!(b.changes(third).1.rows, [0u32; 0]);
    b.vbe(9, 5);
    let (fourth, log) = b.changes(third);
    assert_eq!((log.size, log.rows.len()), (None, 768), "panned: all rows, same size");
    assert_eq!(b.screen.picture().pixel(10, 95), 0xab_cdef);
    b.vga.set_linear(800, 600);
    let (_, log) = b.changes(fourth);
    assert_eq!((log.size, log.rows.len()), (Some((800, 600)), 600));
}

#[test]
fn text_modes_tell_of_changed_rows() {
    let b = bench();
    b.text_mode();
    b.set(0x3d4, 0x0a, 0x20);
    let (first, log) = b.changes(Generation::default());
    assert_eq!((log.size, log.rows.len()), (Some((720, 400)), 400));
    b.store(0xb8000 + 160 * 2, &[0xff, 0x07]);
    let (second, log) = b.changes(first);
    assert_eq!(log.rows, (32..48).collect::<Vec<_>>());
    b.store(0xb8000 + 160 * 2, &[0xff, 0x07]);
    assert_eq!(b.changes(second).1.rows, [0u32; 0], "written, but the same");
    b.vga.set_linear(1024, 768);
    assert_eq!(b.changes(second).1.rows.len(), 768);
    b.vbe(4, 0);
    assert_eq!(b.changes(second).1.rows.len(), 400, "there and back");
}

#[test]
fn graphical_consoles_are_read_with_the_font_of_the_text_mode() {
    let b = bench();
    b.text_mode();
    let mut rom = vec![0x55; 30];
    let mut font = [0u8; 4096];
    for c in 0x21..=0xffu32 {
        // Glyphs that are far from each other.
        let mut x = c.wrapping_mul(0x9e37_79b9);
        for row in &mut font[c as usize * 16..][2..14] {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *row = (x >> 24) as u8;
        }
    }
    font[0x41 * 16 + 2..][..14]
        .copy_from_slice(&[0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0]);
    rom.extend(font);
    assert!(b.vga.learn_font(&rom));
    assert!(!b.vga.learn_font(&rom[..4000]));
    b.vga.set_linear(256, 64);
    let draw = |column: u64, row: u64, text: &str, fore: u32, back: u32| {
        for (i, c) in text.bytes().enumerate() {
            for (y, bits) in font[usize::from(c) * 16..][..16].iter().enumerate() {
                for x in 0..8u64 {
                    let at = ((row * 16 + y as u64) * 256 + (column + i as u64) * 8 + x) * 4;
                    b.memory.store(at, if bits & 0x80 >> x != 0 { fore } else { back });
                }
            }
        }
    };
    draw(0, 0, "Press ANY key", 0xaaaaaa, 0);
    draw(3, 2, "inverse", 0, 0xffffff);
    assert_eq!(b.screen.text().unwrap(), ["Press ANY key", "", "   inverse", ""]);
    b.memory.store(4 * (256 * 4 + 1), 0xaaaaaa);
    assert_eq!(b.screen.text().unwrap()[0], "Press ANY key", "a dot more or less does not matter");
    for i in 0..256 * 64 {
        b.memory.store(i * 4, (i as u32).wrapping_mul(2_654_435_761) & 0xff_ffff);
    }
    assert_eq!(b.screen.text(), None, "a picture");
}
