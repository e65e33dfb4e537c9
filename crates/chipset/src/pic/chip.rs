//! One 8259A.

/// Where the initialisation sequence stands: which word the next write to the odd port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// No ICW1 yet since power-on.
    Raw,
    Icw2,
    Icw3,
    Icw4,
    Ready,
}

#[derive(Clone, Debug)]
pub(super) struct Chip {
    step: Step,
    /// ICW1: bit 0 ICW4 follows, bit 1 single, bit 3 level-triggered inputs.
    icw1: u8,
    base: u8,
    /// ICW4: bit 1 automatic EOI, bit 4 special fully nested.
    icw4: u8,
    irr: u8,
    isr: u8,
    imr: u8,
    lines: u8,
    /// Inputs that are level-triggered whatever ICW1 says; the cascade input always is.
    elcr: u8,
    elcr_writable: u8,
    cascade: u8,
    /// The input with the lowest priority.
    lowest: u8,
    special_mask: bool,
    rotate_on_auto_eoi: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    pub(super) fn new(elcr_writable: u8) -> Self {
        Chip {
            step: Step::Raw,
            icw1: 0,
            base: 0,
            icw4: 0,
            irr: 0,
            isr: 0,
            imr: 0xff,
            lines: 0,
            elcr: 0,
            elcr_writable,
            cascade: 0,
            lowest: 7,
            special_mask: false,
            rotate_on_auto_eoi: false,
            read_isr: false,
            poll: false,
        }
    }

    /// Power-on, with the lines at the level their drivers hold them at.
    pub(super) fn reset(&mut self) {
        *self = Chip { lines: self.lines, ..Chip::new(self.elcr_writable) };
    }

    pub(super) fn is_ready(&self) -> bool {
        self.step != Step::Raw
    }

    pub(super) fn set(&mut self, input: u8, level: bool) {
        let bit = 1u8 << input;
        let rise = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if self.level_triggered() & bit != 0 {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if rise {
            self.irr |= bit;
        }
    }

    /// The cascade input follows the slave's output.
    pub(super) fn set_cascade(&mut self, input: u8, level: bool) {
        self.cascade = 1 << input;
        self.set(input, level);
    }

    /// The input that the INT output stands for (data sheet, "priority resolver" and "fully nested mode").
    pub(super) fn request(&self) -> Option<u8> {
        if self.step != Step::Ready {
            return None;
        }
        let wanting = self.irr & !self.imr;
        // In special mask mode a masked input in service blocks nobody; in special fully nested mode the slave may
        // interrupt its own service.
        let mut serving = if self.special_mask { self.isr & !self.imr } else { self.isr };
        if self.icw4 & 0x10 != 0 {
            serving &= !self.cascade;
        }
        let best = self.first(wanting)?;
        let allowed = self.special_mask && serving & 1 << best == 0
            || self.first(serving).is_none_or(|s| self.rank(best) < self.rank(s));
        allowed.then_some(best)
    }

    /// The second half of INTA: the request goes into service.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let input = self.request()?;
        let bit = 1 << input;
        if self.icw4 & 2 == 0 {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
        if self.level_triggered() & bit == 0 {
            self.irr &= !bit;
        }
        Some(input)
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.base | input
    }

    pub(super) fn read(&mut self, odd: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            return self.acknowledge().map_or(0, |input| 0x80 | input);
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    pub(super) fn write(&mut self, odd: bool, value: u8) {
        match (odd, value >> 3 & 3) {
            (false, 2 | 3) => self.initialise(value),
            (false, 1) => self.ocw3(value),
            (false, _) => self.ocw2(value),
            (true, _) => self.write_odd(value),
        }
    }

    pub(super) fn elcr(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_writable;
        let level = self.level_triggered();
        self.irr = self.irr & !level | self.lines & level;
    }

    fn initialise(&mut self, icw1: u8) {
        self.icw1 = icw1;
        self.icw4 = 0;
        self.imr = 0;
        self.isr = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.rotate_on_auto_eoi = false;
        self.read_isr = false;
        self.poll = false;
        // The edge sense is reset: an edge-triggered input needs a new rise.
        self.irr = self.lines & self.level_triggered();
        self.step = Step::Icw2;
    }

    fn write_odd(&mut self, value: u8) {
        let (single, icw4) = (self.icw1 & 2 != 0, self.icw1 & 1 != 0);
        let last = if icw4 { Step::Icw4 } else { Step::Ready };
        match self.step {
            Step::Raw | Step::Ready => self.imr = value,
            Step::Icw2 => {
                self.base = value & 0xf8;
                self.step = if single { last } else { Step::Icw3 };
            }
            // How the pair is wired is fixed in a PC; what is written does not change it.
            Step::Icw3 => self.step = last,
            Step::Icw4 => {
                self.icw4 = value;
                self.step = Step::Ready;
            }
        }
    }

    fn ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            command @ (0b001 | 0b101) => {
                let serving = if self.special_mask { self.isr & !self.imr } else { self.isr };
                if let Some(input) = self.first(serving) {
                    self.isr &= !(1 << input);
                    if command == 0b101 {
                        self.lowest = input;
                    }
                }
            }
            command @ (0b011 | 0b111) => {
                self.isr &= !(1 << input);
                if command == 0b111 {
                    self.lowest = input;
                }
            }
            0b110 => self.lowest = input,
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 4 != 0 {
            self.poll = true;
        }
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn level_triggered(&self) -> u8 {
        if self.icw1 & 8 != 0 { 0xff } else { self.elcr | self.cascade }
    }

    /// 0 for the highest priority, 7 for the lowest.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest + 1) & 7
    }

    /// The input of `set` with the highest priority.
    fn first(&self, set: u8) -> Option<u8> {
        let top = (self.lowest + 1) & 7;
        let rotated = set.rotate_right(u32::from(top));
        (rotated != 0).then(|| (rotated.trailing_zeros() as u8 + top) & 7)
    }
}
