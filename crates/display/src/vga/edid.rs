//! What the monitor says of itself: a VESA E-EDID 1.4 base block that prefers 1024x768 at 60 Hz.

/// The block.
pub(super) const BLOCK: [u8; 128] = block();

/// Detailed timing of 1024x768 at 60 Hz: 65 MHz, 1344 x 806 in all (VESA DMT id 10h), on a picture of 270 x 203 mm.
const TIMING: [u8; 18] =
    [0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18, 0x88, 0x36, 0x00, 0x0e, 0xcb, 0x10, 0x00, 0x00, 0x18];

const fn block() -> [u8; 128] {
    let mut b = [0; 128];
    put(&mut b, 0, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // Manufacturer "VSR" in five bits a letter, product 1, serial 0, week 0 of 2026, version 1.4.
    put(&mut b, 8, &[0x5a, 0x72, 1, 0, 0, 0, 0, 0, 0, 36, 1, 4]);
    // Digital, 8 bits a colour; 27 x 20 cm, gamma 2.2; RGB, sRGB is the default space, first timing is the native one.
    put(&mut b, 20, &[0xa0, 27, 20, 120, 0x06]);
    // sRGB's chromaticities.
    put(&mut b, 25, &[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // Established: 640x480, 800x600 and 1024x768 at 60 Hz.
    put(&mut b, 35, &[0x21, 0x08, 0x00]);
    // Standard: 1280x1024, 1280x720, 1440x900, 1600x1200, 1680x1050, 1920x1080 at 60 Hz; the rest unused.
    put(&mut b, 38, &[0x81, 0x80, 0x81, 0xc0, 0x95, 0x00, 0xa9, 0x40, 0xb3, 0x00, 0xd1, 0xc0, 1, 1, 1, 1]);
    put(&mut b, 54, &TIMING);
    put(&mut b, 72, b"\0\0\0\xfc\0visor\n       ");
    // Ranges: 50 to 125 Hz, 30 to 160 kHz, up to 600 MHz.
    put(&mut b, 90, &[0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 60, 0, 10, 32, 32, 32, 32, 32, 32]);
    put(&mut b, 108, b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut sum = 0u8;
    let mut i = 0;
    while i < 127 {
        sum = sum.wrapping_add(b[i]);
        i += 1;
    }
    b[127] = sum.wrapping_neg();
    b
}

const fn put(block: &mut [u8; 128], at: usize, bytes: &[u8]) {
    let mut i = 0;
    while i < bytes.len() {
        block[at + i] = bytes[i];
        i += 1;
    }
}
