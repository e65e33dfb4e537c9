//! The Bochs display extensions: a linear frame buffer of any size (ports 1CEh and 1CFh; the same registers in BAR 2).
//!
//! ```text
//! 0 id (B0C0h to B0C5h)   1 width   2 height   3 bits per pixel: 4, 8, 15, 16, 24, 32
//! 4 enable [ 7 keep memory  6 linear frame buffer  5 8-bit DAC  1 reads of 1-3 give limits  0 on ]
//! 5 bank of the window at A0000h, in 64 KiB   6 virtual width   7 virtual height   8 x offset   9 y offset
//! A memory in 64 KiB
//! ```

/// Registers; further indices read as zero.
pub(crate) const COUNT: usize = 11;

const ID: usize = 0;
const WIDTH: usize = 1;
const HEIGHT: usize = 2;
const BPP: usize = 3;
const ENABLE: usize = 4;
const BANK: usize = 5;
const VIRTUAL_WIDTH: usize = 6;
const VIRTUAL_HEIGHT: usize = 7;
const X: usize = 8;
const Y: usize = 9;
const MEMORY: usize = 10;

const ON: u16 = 1;
const LIMITS: u16 = 2;
const WIDE_DAC: u16 = 0x20;
const KEEP_MEMORY: u16 = 0x80;

/// The latest version of the interface.
const VERSION: u16 = 0xb0c5;
const MAX_WIDTH: u16 = 16_000;
const MAX_HEIGHT: u16 = 12_000;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Vbe {
    index: u16,
    regs: [u16; COUNT],
    memory: u64,
}

/// What a write asks the device to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Bytes from the start of memory to clear.
    pub(crate) clear: u64,
    /// The picture may look different.
    pub(crate) changed: bool,
}

/// The linear picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) bpp: u32,
    /// Pixels from one row to the next.
    pub(crate) stride: u32,
    /// First pixel shown.
    pub(crate) x: u32,
    pub(crate) y: u32,
}

impl Frame {
    /// Bytes of a row of `pixels` pixels.
    pub(crate) fn bytes(&self, pixels: u32) -> u64 {
        u64::from(pixels) * u64::from(self.bpp.next_multiple_of(8)) / 8 / if self.bpp == 4 { 2 } else { 1 }
    }
}

impl Vbe {
    /// With `memory` bytes of memory.
    pub(crate) fn new(memory: u64) -> Self {
        let mut regs = [0; COUNT];
        regs[ID] = VERSION;
        regs[MEMORY] = (memory >> 16) as u16;
        Vbe { index: 0, regs, memory }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// The register that the index chooses.
    pub(crate) fn read(&self) -> u16 {
        self.read_at(usize::from(self.index))
    }

    pub(crate) fn read_at(&self, index: usize) -> u16 {
        if self.regs[ENABLE] & LIMITS != 0 {
            match index {
                WIDTH => return MAX_WIDTH,
                HEIGHT => return MAX_HEIGHT,
                BPP => return 32,
                _ => {}
            }
        }
        self.regs.get(index).copied().unwrap_or(0)
    }

    pub(crate) fn write(&mut self, value: u16) -> Effect {
        self.write_at(usize::from(self.index), value)
    }

    pub(crate) fn write_at(&mut self, index: usize, value: u16) -> Effect {
        let mut effect = Effect { clear: 0, changed: true };
        match index {
            ID if (0xb0c0..=VERSION).contains(&value) => self.regs[ID] = value,
            WIDTH | HEIGHT | BPP | BANK | VIRTUAL_WIDTH | X | Y => {
                self.regs[index] = value;
                if self.on() {
                    self.fix();
                }
            }
            ENABLE => {
                let was_on = self.on();
                self.regs[ENABLE] = value;
                if self.on() && !was_on {
                    self.regs[VIRTUAL_WIDTH] = 0;
                    self.regs[X] = 0;
                    self.regs[Y] = 0;
                    self.regs[BANK] = 0;
                    self.fix();
                    if value & KEEP_MEMORY == 0 {
                        let f = self.frame_unclipped();
                        effect.clear = (f.bytes(f.stride) * u64::from(f.height)).min(self.memory);
                    }
                }
            }
            _ => effect.changed = false,
        }
        effect
    }

    pub(crate) fn on(&self) -> bool {
        self.regs[ENABLE] & ON != 0
    }

    pub(crate) fn wide_dac(&self) -> bool {
        self.regs[ENABLE] & WIDE_DAC != 0
    }

    /// Offset of the window at A0000h in bytes of memory.
    pub(crate) fn bank(&self) -> u64 {
        u64::from(self.regs[BANK]) << 16
    }

    /// The window goes through the planes.
    pub(crate) fn planar(&self) -> bool {
        self.regs[BPP] == 4
    }

    /// The picture, all of it in memory; `None` if the extensions are off.
    pub(crate) fn frame(&self) -> Option<Frame> {
        if !self.on() {
            return None;
        }
        let mut f = self.frame_unclipped();
        let rows = (self.memory / f.bytes(f.stride).max(1)) as u32;
        f.x = f.x.min(f.stride - f.width);
        f.y = f.y.min(rows.saturating_sub(1));
        f.height = f.height.min(rows - f.y);
        (f.height > 0).then_some(f)
    }

    fn frame_unclipped(&self) -> Frame {
        let r = |i: usize| u32::from(self.regs[i]);
        Frame { width: r(WIDTH), height: r(HEIGHT), bpp: r(BPP), stride: r(VIRTUAL_WIDTH), x: r(X), y: r(Y) }
    }

    /// Brings the registers into range, as they then read back.
    fn fix(&mut self) {
        let memory = self.memory;
        let r = &mut self.regs;
        if ![4, 8, 15, 16, 24, 32].contains(&r[BPP]) {
            r[BPP] = 8;
        }
        r[WIDTH] = (r[WIDTH] & !7).clamp(8, MAX_WIDTH);
        r[HEIGHT] = r[HEIGHT].clamp(1, MAX_HEIGHT);
        r[VIRTUAL_WIDTH] = (r[VIRTUAL_WIDTH] & !7).clamp(r[WIDTH], MAX_WIDTH);
        let f = self.frame_unclipped();
        let rows = (memory / f.bytes(f.stride)).min(u64::from(u16::MAX)) as u16;
        self.regs[VIRTUAL_HEIGHT] = rows;
        self.regs[HEIGHT] = self.regs[HEIGHT].min(rows.max(1));
        self.regs[X] = self.regs[X].min(self.regs[VIRTUAL_WIDTH] - self.regs[WIDTH]);
        self.regs[Y] = self.regs[Y].min(rows.saturating_sub(self.regs[HEIGHT]));
    }
}
