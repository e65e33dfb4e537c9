//! A client that decodes what it gets.

use flate2::{Decompress, FlushDecompress};

use crate::format::{Format, NATIVE};
use crate::{Config, Session};

/// A client with a picture of its own.
pub(crate) struct Client {
    pub(crate) session: Session,
    inflate: Decompress,
    pub(crate) format: Format,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u32>,
    pub(crate) others: Vec<Vec<u8>>,
}

pub(crate) fn config(password: Option<&str>) -> Config {
    Config { name: "test".into(), password: password.map(Into::into), challenge: *b"0123456789abcdef" }
}

pub(crate) fn take(session: &mut Session) -> Vec<u8> {
    let out = session.output().to_vec();
    session.sent(out.len());
    out
}

pub(crate) fn request(incremental: bool, x: u16, y: u16, w: u16, h: u16) -> Vec<u8> {
    [vec![3, incremental.into()], [x, y, w, h].iter().flat_map(|v| v.to_be_bytes()).collect()].concat()
}

pub(crate) fn encodings(numbers: &[i32]) -> Vec<u8> {
    let mut m = vec![2, 0];
    m.extend((numbers.len() as u16).to_be_bytes());
    m.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
    m
}

impl Client {
    pub(crate) fn new(width: u32, height: u32, numbers: &[i32], format: [u8; 16]) -> Self {
        let mut session = Session::new(config(None));
        session.canvas().resize(width, height);
        assert_eq!(take(&mut session), b"RFB 003.008\n");
        session.receive(b"RFB 003.008\n").unwrap();
        assert_eq!(take(&mut session), [1, 1]);
        session.receive(&[1]).unwrap();
        assert_eq!(take(&mut session), [0; 4]);
        session.receive(&[1]).unwrap();
        let init = take(&mut session);
        assert_eq!(
            (&init[..4], &init[4..20], &init[20..]),
            (
                &[(width >> 8) as u8, width as u8, (height >> 8) as u8, height as u8][..],
                &NATIVE[..],
                &b"\0\0\0\x04test"[..]
            )
        );
        let mut set = vec![0, 0, 0, 0];
        set.extend(format);
        session.receive(&set).unwrap();
        session.receive(&encodings(numbers)).unwrap();
        let (width, height) = (width as usize, height as usize);
        let pixels = vec![0xdead_beef; width * height];
        let format = Format::parse(&format).unwrap();
        Client { session, inflate: Decompress::new(true), format, width, height, pixels, others: Vec::new() }
    }

    pub(crate) fn ask(&mut self, incremental: bool) -> bool {
        let (w, h) = (self.width as u16, self.height as u16);
        self.session.receive(&request(incremental, 0, 0, w, h)).unwrap();
        self.pull()
    }

    /// Takes an update; false if there is none.
    pub(crate) fn pull(&mut self) -> bool {
        let mut out = take(&mut self.session);
        let updated = self.session.update();
        out.extend(take(&mut self.session));
        let mut at = 0;
        while at < out.len() {
            at += self.server_message(&out[at..]);
        }
        updated
    }

    fn server_message(&mut self, b: &[u8]) -> usize {
        match b[0] {
            0 => {
                let mut at = 4;
                for _ in 0..u16::from_be_bytes([b[2], b[3]]) {
                    at += self.rect(&b[at..]);
                }
                at
            }
            1 => 6 + 256 * 6,
            150 => {
                self.others.push(vec![150]);
                1
            }
            248 => {
                let len = 9 + usize::from(b[8]);
                self.others.push(b[..len].to_vec());
                len
            }
            other => panic!("server message {other}"),
        }
    }

    fn rect(&mut self, b: &[u8]) -> usize {
        let v = |i: usize| usize::from(u16::from_be_bytes([b[i], b[i + 1]]));
        let (x, y, w, h) = (v(0), v(2), v(4), v(6));
        let data = &b[12..];
        12 + match i32::from_be_bytes([b[8], b[9], b[10], b[11]]) {
            0 => {
                let mut at = 0;
                (0..w * h).for_each(|i| self.put(x + i % w, y + i / w, pixel(&self.format, data, &mut at)));
                at
            }
            5 => self.hextile(x, y, w, h, data),
            16 => self.zrle(x, y, w, h, data),
            -223 => {
                (self.width, self.height) = (w, h);
                self.pixels = vec![0; w * h];
                0
            }
            -258 | -239 => {
                self.others.push(b.to_vec());
                if b[11] == 0x11 { w * h * self.format.bytes + w.div_ceil(8) * h } else { 0 }
            }
            other => panic!("encoding {other}"),
        }
    }

    fn put(&mut self, x: usize, y: usize, value: u32) {
        assert!(x < self.width && y < self.height, "outside of the picture");
        self.pixels[y * self.width + x] = value;
    }

    fn hextile(&mut self, x: usize, y: usize, w: usize, h: usize, b: &[u8]) -> usize {
        let (mut at, mut back, mut fore) = (0, 0, 0);
        for ty in (0..h).step_by(16) {
            for tx in (0..w).step_by(16) {
                let (tw, th) = (16.min(w - tx), 16.min(h - ty));
                let flags = b[at];
                at += 1;
                if flags & 1 != 0 {
                    (0..tw * th)
                        .for_each(|i| self.put(x + tx + i % tw, y + ty + i / tw, pixel(&self.format, b, &mut at)));
                    continue;
                }
                if flags & 2 != 0 {
                    back = pixel(&self.format, b, &mut at);
                }
                if flags & 4 != 0 {
                    fore = pixel(&self.format, b, &mut at);
                }
                (0..tw * th).for_each(|i| self.put(x + tx + i % tw, y + ty + i / tw, back));
                let count = if flags & 8 != 0 {
                    at += 1;
                    b[at - 1]
                } else {
                    0
                };
                for _ in 0..count {
                    let colour = if flags & 16 != 0 { pixel(&self.format, b, &mut at) } else { fore };
                    let (p, s) = (b[at], b[at + 1]);
                    at += 2;
                    for i in 0..=usize::from(s >> 4) {
                        for j in 0..=usize::from(s & 15) {
                            self.put(x + tx + usize::from(p >> 4) + i, y + ty + usize::from(p & 15) + j, colour);
                        }
                    }
                }
            }
        }
        at
    }

    fn zrle(&mut self, x: usize, y: usize, w: usize, h: usize, b: &[u8]) -> usize {
        let len = u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize;
        let mut plain = Vec::with_capacity(w * h * 5 + 4096);
        let (before, mut last) = (self.inflate.total_in(), usize::MAX);
        while plain.len() != last {
            last = plain.len();
            let done = (self.inflate.total_in() - before) as usize;
            self.inflate.decompress_vec(&b[4 + done..4 + len], &mut plain, FlushDecompress::Sync).unwrap();
        }
        let mut at = 0;
        for ty in (0..h).step_by(64) {
            for tx in (0..w).step_by(64) {
                let (tw, th) = (64.min(w - tx), 64.min(h - ty));
                let tile = zrle_tile(&self.format, &plain, &mut at, tw, th);
                tile.iter().enumerate().for_each(|(i, p)| self.put(x + tx + i % tw, y + ty + i / tw, *p));
            }
        }
        assert_eq!(at, plain.len());
        4 + len
    }
}

pub(crate) fn zrle_tile(f: &Format, b: &[u8], at: &mut usize, w: usize, h: usize) -> Vec<u32> {
    let kind = b[*at];
    *at += 1;
    let mut out = Vec::new();
    let length = |at: &mut usize| {
        let mut n = 1;
        loop {
            let v = b[*at];
            *at += 1;
            n += usize::from(v);
            if v < 255 {
                return n;
            }
        }
    };
    let palette: Vec<u32> = (0..kind & 127).filter(|_| kind != 128).map(|_| cpixel(f, b, at)).collect();
    match kind {
        0 => out = (0..w * h).map(|_| cpixel(f, b, at)).collect(),
        1 => out = vec![palette[0]; w * h],
        2..=16 => {
            let bits = [1, 2, 4][usize::from(kind > 2) + usize::from(kind > 4)];
            for _ in 0..h {
                for x in 0..w {
                    let byte = b[*at + x * bits / 8];
                    out.push(palette[usize::from(byte >> (8 - bits - x * bits % 8)) & ((1 << bits) - 1)]);
                }
                *at += (w * bits).div_ceil(8);
            }
        }
        128 => {
            while out.len() < w * h {
                let colour = cpixel(f, b, at);
                out.extend(std::iter::repeat_n(colour, length(at)));
            }
        }
        _ => {
            while out.len() < w * h {
                let i = b[*at];
                *at += 1;
                let n = if i & 128 != 0 { length(at) } else { 1 };
                out.extend(std::iter::repeat_n(palette[usize::from(i & 127)], n));
            }
        }
    }
    assert_eq!(out.len(), w * h);
    out
}

/// A pixel in the client's format, as a number.
pub(crate) fn pixel(f: &Format, b: &[u8], at: &mut usize) -> u32 {
    let p = &b[*at..*at + f.bytes];
    *at += f.bytes;
    p.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b))
}

pub(crate) fn cpixel(f: &Format, b: &[u8], at: &mut usize) -> u32 {
    let (len, from) = f.compressed();
    let mut p = vec![0; f.bytes];
    p[from..from + len].copy_from_slice(&b[*at..*at + len]);
    *at += len;
    pixel(f, &p, &mut 0)
}

pub(crate) struct Random(pub(crate) u64);
impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
