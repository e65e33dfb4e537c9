//! Pixel formats (RFC 6143 §7.4).

/// How the client wants pixels, with tables from 8-bit components to their place in a pixel.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    /// Bytes of a pixel: 1, 2 or 4.
    pub(crate) bytes: usize,
    depth: u8,
    big_endian: bool,
    red: Box<[u32; 256]>,
    green: Box<[u32; 256]>,
    blue: Box<[u32; 256]>,
    /// Bits that any pixel can have set.
    used: u32,
    /// The client wants indices into a map of colours, which must be sent to it.
    pub(crate) mapped: bool,
    /// Pixels are 00RRGGBBh in the host's own order.
    native: bool,
}

/// The server's own format: 32 bits, 00RRGGBBh little-endian.
pub(crate) const NATIVE: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
/// What clients with a map of colours get: 3 bits red, 3 green, 2 blue.
const MAP: [u8; 16] = [8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0];

impl Format {
    /// `None` if the format is impossible.
    pub(crate) fn parse(b: &[u8; 16]) -> Option<Self> {
        let mapped = b[3] == 0;
        if mapped && b[0] != 8 {
            return None;
        }
        let b = if mapped { &MAP } else { b };
        let [bits, depth, big_endian, ..] = *b;
        if ![8, 16, 32].contains(&bits) {
            return None;
        }
        let component = |max: usize, shift: usize| table(u16::from_be_bytes([b[max], b[max + 1]]), b[shift], bits);
        let (red, green, blue) = (component(4, 10)?, component(6, 11)?, component(8, 12)?);
        let used = red[255] | green[255] | blue[255];
        let native = b[..13] == NATIVE[..13];
        let bytes = usize::from(bits) / 8;
        Some(Format { bytes, depth, big_endian: big_endian != 0, red, green, blue, used, mapped, native })
    }

    /// `pixel` (00RRGGBBh) in this format.
    #[inline]
    pub(crate) fn convert(&self, pixel: u32) -> u32 {
        if self.native {
            return pixel & 0xff_ffff;
        }
        let [b, g, r, _] = pixel.to_le_bytes();
        self.red[usize::from(r)] | self.green[usize::from(g)] | self.blue[usize::from(b)]
    }

    /// Appends a converted pixel.
    #[inline]
    pub(crate) fn put(&self, value: u32, out: &mut Vec<u8>) {
        match (self.bytes, self.big_endian) {
            (1, _) => out.push(value as u8),
            (2, false) => out.extend_from_slice(&(value as u16).to_le_bytes()),
            (2, true) => out.extend_from_slice(&(value as u16).to_be_bytes()),
            (_, false) => out.extend_from_slice(&value.to_le_bytes()),
            (_, true) => out.extend_from_slice(&value.to_be_bytes()),
        }
    }

    /// Bytes of a "compressed pixel" (§7.7.5), and the first of its bytes within a pixel.
    pub(crate) fn compressed(&self) -> (usize, usize) {
        if self.bytes == 4 && self.depth <= 24 {
            if self.used >> 24 == 0 {
                return (3, usize::from(self.big_endian));
            }
            if self.used & 0xff == 0 {
                return (3, usize::from(!self.big_endian));
            }
        }
        (self.bytes, 0)
    }

    /// Appends a compressed pixel.
    pub(crate) fn put_compressed(&self, value: u32, out: &mut Vec<u8>) {
        let (len, from) = self.compressed();
        if len == self.bytes {
            return self.put(value, out);
        }
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        out.extend_from_slice(&bytes[from..from + len]);
    }
}

/// Values of a component in their place.
fn table(max: u16, shift: u8, bits: u8) -> Option<Box<[u32; 256]>> {
    if shift >= bits || u64::from(max) << shift >= 1 << bits {
        return None;
    }
    let scale = |c: usize| (c as u32 * u32::from(max) + 127) / 255;
    Some(Box::new(std::array::from_fn(|c| scale(c) << shift)))
}

/// The message that gives a client the map behind [`MAP`].
pub(crate) fn colour_map() -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0, 1, 0];
    for i in 0..256u32 {
        for (value, max) in [(i >> 5, 7), (i >> 2 & 7, 7), (i & 3, 3)] {
            out.extend_from_slice(&((value * 65535 / max) as u16).to_be_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_scaled_and_placed() {
        let native = Format::parse(&NATIVE).unwrap();
        assert_eq!((native.convert(0x12_3456), native.compressed()), (0x12_3456, (3, 0)));
        let rgb565 = Format::parse(&[16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]).unwrap();
        assert_eq!(rgb565.convert(0xff_80_00), 31 << 11 | 32 << 5);
        let high = Format::parse(&[32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 24, 16, 8, 0, 0, 0]).unwrap();
        let mut out = Vec::new();
        high.put(high.convert(0x01_02_03), &mut out);
        high.put_compressed(high.convert(0x01_02_03), &mut out);
        assert_eq!(out, [1, 2, 3, 0, 1, 2, 3]);
        let map = Format::parse(&[8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(map.mapped && map.convert(0xff_ff_ff) == 0xff);
        assert_eq!(colour_map().len(), 6 + 256 * 6);
    }

    #[test]
    fn impossible_formats_are_refused() {
        for bad in [
            [24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0],
            [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 32, 8, 0, 0, 0, 0],
            [16, 16, 0, 1, 255, 255, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0],
            [32, 24, 0, 0, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0],
        ] {
            assert!(Format::parse(&bad).is_none(), "{bad:?}");
        }
    }
}
