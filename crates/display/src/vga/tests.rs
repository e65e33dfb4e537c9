use visor_device::Clock;

use crate::testing::bench;

#[test]
fn indexed_registers_keep_their_bits() {
    let b = bench();
    b.outb(0x3c2, 0x67);
    assert_eq!(b.inb(0x3cc), 0x67);
    b.set(0x3c4, 2, 0xff);
    assert_eq!(b.get(0x3c4, 2), 0x0f);
    b.set(0x3ce, 6, 0xff);
    assert_eq!(b.get(0x3ce, 6), 0x0f);
    b.set(0x3ce, 0x42, 0xff);
    assert_eq!(b.get(0x3ce, 0x42), 0);
    b.set(0x3d4, 0x13, 0x5a);
    assert_eq!(b.get(0x3d4, 0x13), 0x5a);
    assert_eq!(b.inw(0x3d4), 0x5a13, "a wide access is one to each port");
    assert_eq!(b.inb(0x3b5), 0xff, "the monochrome address is not decoded");
    b.outb(0x3c2, 0x66);
    assert_eq!((b.inb(0x3b5), b.inb(0x3d5)), (0x5a, 0xff));
}

#[test]
fn protected_crtc_registers_let_the_line_compare_through() {
    let b = bench();
    b.set(0x3d4, 7, 0x0f);
    b.set(0x3d4, 0x11, 0x80);
    b.set(0x3d4, 0, 0x99);
    b.set(0x3d4, 7, 0x10);
    assert_eq!((b.get(0x3d4, 0), b.get(0x3d4, 7)), (0, 0x1f));
    b.set(0x3d4, 0x11, 0);
    b.set(0x3d4, 0, 0x99);
    assert_eq!(b.get(0x3d4, 0), 0x99);
}

#[test]
fn the_attribute_port_alternates() {
    let b = bench();
    b.inb(0x3da);
    b.outb(0x3c0, 0x10);
    b.outb(0x3c0, 0xff);
    b.outb(0x3c0, 0x10);
    assert_eq!((b.inb(0x3c0), b.inb(0x3c1)), (0x10, 0xef));
    assert_eq!(b.get(0x3d4, 0x24), 0x80, "data comes next");
    b.inb(0x3da);
    assert_eq!(b.get(0x3d4, 0x24), 0);
    b.set_attr(3, 0xff);
    b.outb(0x3c0, 3);
    assert_eq!(b.inb(0x3c1), 0x3f);
}

#[test]
fn dac_components_come_in_threes() {
    let b = bench();
    b.outb(0x3c8, 254);
    for v in 1..=9 {
        b.outb(0x3c9, v | 0xc0);
    }
    assert_eq!(b.inb(0x3c8), 1, "the index wraps around");
    b.outb(0x3c7, 255);
    assert_eq!(b.inb(0x3c7), 3);
    let read: Vec<u8> = (0..6).map(|_| b.inb(0x3c9)).collect();
    assert_eq!(read, [4, 5, 6, 7, 8, 9]);
    b.outb(0x3c8, 0);
    assert_eq!((b.inb(0x3c7), b.inb(0x3c6)), (0, 0xff));
}

/// Registers of planar drawing, sequential.
fn planar() -> crate::testing::Bench {
    let b = bench();
    b.graphics_mode();
    b
}

/// The four planes at `offset`.
fn planes(b: &crate::testing::Bench, offset: u64) -> [u8; 4] {
    b.memory.load(offset * 4).to_le_bytes()
}

#[test]
fn write_mode_0_rotates_sets_masks_and_combines() {
    let b = planar();
    b.store(0xa0010, &[0b1001_0110]);
    assert_eq!(planes(&b, 0x10), [0b1001_0110; 4]);
    b.set(0x3ce, 3, 3);
    b.store(0xa0010, &[0b0000_0111]);
    assert_eq!(planes(&b, 0x10), [0b1110_0000; 4], "rotated right by three");
    b.set(0x3ce, 3, 0);
    b.set(0x3ce, 0, 0b0101);
    b.set(0x3ce, 1, 0b0011);
    b.store(0xa0010, &[0x3c]);
    assert_eq!(planes(&b, 0x10), [0xff, 0, 0x3c, 0x3c], "set/reset where enabled");
    b.set(0x3ce, 1, 0);
    b.load(0xa0010);
    b.set(0x3ce, 8, 0x0f);
    b.store(0xa0010, &[0x55]);
    assert_eq!(planes(&b, 0x10), [0xf5, 0x05, 0x35, 0x35], "bits outside of the mask come from the latches");
    b.set(0x3ce, 8, 0xff);
    for (op, want) in [(1, 0xf5 & 0x33), (2, 0xf5 | 0x33), (3, 0xf5 ^ 0x33)] {
        b.store(0xa0020, &[0]);
        b.set(0x3ce, 3, 0);
        b.store(0xa0020, &[0xf5]);
        b.load(0xa0020);
        b.set(0x3ce, 3, op << 3);
        b.store(0xa0020, &[0x33]);
        assert_eq!(planes(&b, 0x20)[1], want);
        b.set(0x3ce, 3, 0);
    }
    b.set(0x3c4, 2, 0b0010);
    b.store(0xa0020, &[0xaa]);
    assert_eq!(planes(&b, 0x20)[0], 0xf5 ^ 0x33, "only planes in the map mask");
    assert_eq!(planes(&b, 0x20)[1], 0xaa);
}

#[test]
fn write_modes_1_to_3() {
    let b = planar();
    b.set(0x3ce, 0, 0b1010);
    b.set(0x3ce, 1, 0b1111);
    b.store(0xa0000, &[0]);
    b.load(0xa0000);
    b.set(0x3ce, 5, 1);
    b.store(0xa1234, &[0x77]);
    assert_eq!(planes(&b, 0x1234), [0, 0xff, 0, 0xff], "mode 1 copies the latches");
    b.set(0x3ce, 5, 2);
    b.set(0x3ce, 8, 0xf0);
    b.store(0xa0000, &[0b0101]);
    assert_eq!(planes(&b, 0), [0xf0, 0x0f, 0xf0, 0x0f], "mode 2: a colour under the bit mask");
    b.set(0x3ce, 5, 3);
    b.set(0x3ce, 8, 0x3c);
    b.load(0xa1234);
    b.set(0x3ce, 0, 0b0001);
    b.store(0xa1234, &[0x0f]);
    assert_eq!(planes(&b, 0x1234), [0x0c, 0xf3, 0, 0xf3], "mode 3: data is a mask, the colour is set/reset");
}

#[test]
fn read_modes() {
    let b = planar();
    b.memory.store(0x40, u32::from_le_bytes([0x0f, 0x33, 0x55, 0xff]));
    for (plane, want) in [0x0f, 0x33, 0x55, 0xff].into_iter().enumerate() {
        b.set(0x3ce, 4, plane as u8);
        assert_eq!(b.load(0xa0010), want);
    }
    assert_eq!(b.get(0x3d4, 0x22), 0xff, "the latch of the chosen plane");
    b.set(0x3ce, 5, 8);
    b.set(0x3ce, 2, 0b1111);
    b.set(0x3ce, 7, 0b1111);
    assert_eq!(b.load(0xa0010), 0x0f & 0x33 & 0x55);
    b.set(0x3ce, 7, 0b0010);
    assert_eq!(b.load(0xa0010), 0x33, "planes that do not matter");
    b.set(0x3ce, 7, 0);
    assert_eq!(b.load(0xa0010), 0xff);
}

#[test]
fn odd_even_and_chain_4_spread_bytes_over_planes() {
    let b = bench();
    b.text_mode();
    b.store(0xb8000, b"A\x1fB\x2f");
    assert_eq!((planes(&b, 0)[..2].to_vec(), planes(&b, 2)[..2].to_vec()), (vec![b'A', 0x1f], vec![b'B', 0x2f]));
    assert_eq!((b.load(0xb8002), b.load(0xb8003)), (b'B', 0x2f));
    assert_eq!(b.load(0xa0000), 0xff, "outside of the window of this mode");
    b.bytes_mode();
    b.store(0xa0004, &[1, 2, 3, 4, 5]);
    assert_eq!((planes(&b, 4), planes(&b, 8)[0]), ([1, 2, 3, 4], 5));
    assert_eq!(b.load(0xa0006), 3);
    b.outb(0x3c2, 0x61);
    assert_eq!(b.load(0xa0006), 0xff, "RAM disabled");
}

#[test]
fn the_beam_goes_through_its_frame() {
    let b = bench();
    b.text_mode();
    let (mut retraces, mut dark, mut last) = (0, 0, false);
    // 14.3 ms in steps of 10 µs: one frame at 70 Hz.
    for _ in 0..1427 {
        b.clock.advance(10_000);
        let status = b.inb(0x3da);
        retraces += u32::from(status & 8 != 0 && !last);
        last = status & 8 != 0;
        dark += u32::from(status & 1 != 0);
    }
    assert_eq!(retraces, 1, "{:?}", b.clock.now());
    assert!((300..600).contains(&dark), "{dark} of 1427: 10 % below, 20 % at the side");
}

#[test]
fn extensions_read_back_what_they_can_do() {
    let b = bench();
    assert_eq!((b.vbe_get(0), b.vbe_get(10)), (0xb0c5, 256));
    b.vbe(0, 0xb0c2);
    assert_eq!(b.vbe_get(0), 0xb0c2);
    b.vbe(4, 2);
    assert_eq!((b.vbe_get(1), b.vbe_get(2), b.vbe_get(3)), (16000, 12000, 32));
    b.vbe(4, 0);
    (1..=3).zip([1027, 700, 33]).for_each(|(i, v)| b.vbe(i, v));
    b.memory.store(0x1000, 7);
    b.vbe(4, 0xc1);
    assert_eq!(b.memory.load(0x1000), 7, "memory is kept");
    assert_eq!((b.vbe_get(1), b.vbe_get(2), b.vbe_get(3), b.vbe_get(6)), (1024, 700, 8, 1024), "brought into range");
    b.vbe(3, 32);
    b.vbe(6, 2048);
    b.vbe(8, 5000);
    b.vbe(9, 5000);
    assert_eq!((b.vbe_get(7), b.vbe_get(8), b.vbe_get(9)), (2048, 1024, 2048 - 700));
    b.vbe(4, 0);
    b.vbe(4, 0x41);
    assert_eq!((b.memory.load(0x1000), b.vbe_get(8)), (0, 0), "memory is cleared, offsets start anew");
    b.vbe(5, 3);
    b.outb(0x3c2, 0x67);
    b.set(0x3ce, 6, 5);
    b.store(0xa0123, &[0x99]);
    assert_eq!(b.memory.load(0x3_0120) >> 24, 0x99, "the window shows a bank");
    assert_eq!(b.load(0xa0123), 0x99);
}

#[test]
fn bar_2_has_the_same_registers_and_the_monitor() {
    let b = bench();
    let mut f = b.function.lock().unwrap();
    let mut edid = [0; 128];
    edid.iter_mut().enumerate().for_each(|(i, e)| f.bar_read(2, i as u64, std::slice::from_mut(e)));
    assert_eq!(edid.iter().fold(0u8, |a, b| a.wrapping_add(*b)), 0, "checksum");
    assert_eq!((edid[1], edid[7], &edid[77..82]), (0xff, 0, &b"visor"[..]));
    let mut word = [0; 4];
    f.bar_read(2, 0x600, &mut word);
    assert_eq!(word, [8, 0, 0, 0]);
    f.bar_read(2, 0x604, &mut word);
    assert_eq!(word, [0x1e; 4]);
    f.bar_write(2, 0x502, &800u16.to_le_bytes());
    f.bar_write(2, 0x504, &600u16.to_le_bytes());
    f.bar_write(2, 0x506, &32u16.to_le_bytes());
    f.bar_write(2, 0x508, &0x41u16.to_le_bytes());
    f.bar_read(2, 0x502, &mut word[..2]);
    assert_eq!(word[..2], 800u16.to_le_bytes());
    f.bar_write(2, 0x402, &[0x67]);
    f.bar_read(2, 0x40c, &mut word[..1]);
    assert_eq!(word[0], 0x67);
    drop(f);
    assert_eq!(b.vbe_get(1), 800);
    assert_eq!((b.screen.picture().width(), b.screen.picture().height()), (800, 600));
}

#[test]
fn the_frame_buffer_is_where_bar_0_is() {
    let b = bench();
    let mut f = b.function.lock().unwrap();
    assert_eq!(f.config().bar(0).map(|r| r.size), Some(16 << 20));
    f.bar_moved(0, Some(0xe000_0000));
    assert_eq!(b.vga.frame_buffer(), Some(0xe000_0000));
    f.bar_write(0, 8, &[1, 2, 3, 4]);
    assert_eq!(b.memory.load(8), 0x0403_0201);
    f.reset();
    assert_eq!(b.memory.load(8), 0);
}

#[test]
fn nonsense_in_every_register_does_no_harm() {
    use visor_console::{Display, Generation};
    let b = bench();
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut seen = Generation::default();
    for round in 0..60_000u32 {
        let (r, v) = (next(), next());
        let port = [0x3b4, 0x3ba, 0x3c0, 0x3c4, 0x3c5, 0x3ce, 0x3d4, 0x3d5, 0x3da, 0x1ce, 0x1cf][r as usize % 11];
        let at = 0xa_0000 + (r >> 8) % 0x1_fff8;
        b.access(r >> 40 & 3 != 0, port + (r >> 32 & 1) as u16, at, v, [1, 2, 4, 8][(r >> 42) as usize % 4]);
        if round % 16 == 0 {
            b.vbe((r >> 50) as u16 % 12, if r >> 62 == 0 { v as u16 } else { v as u16 % 700 });
        }
        if round % 4096 == 0 {
            // Keep pictures small enough for the test's time.
            b.vbe(4, 0);
            b.vbe(1, 64 + (v % 512) as u16);
            b.vbe(2, 1 + (v >> 16) as u16 % 400);
            b.vbe(4, v as u16 & 1);
            let (g, _) = b.changes(seen);
            assert!(g >= seen);
            seen = g;
            b.screen.text();
        }
    }
    b.function.lock().unwrap().reset();
    b.text_mode();
    assert_eq!(b.screen.picture().width(), 720);
}
