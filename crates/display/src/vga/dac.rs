//! The palette DAC (ports 3C6h to 3C9h): 256 entries of three components, 6 bits each, or 8 if the extensions say so.

/// The three components of an entry come one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Dac {
    pub(crate) mask: u8,
    read_index: u8,
    write_index: u8,
    /// Which component is next, 0 to 2.
    component: u8,
    reading: bool,
    /// Components of the entry being written.
    held: [u8; 2],
    /// As written; 6 bits count unless `wide`.
    entries: [[u8; 3]; 256],
    pub(crate) wide: bool,
}

impl Default for Dac {
    fn default() -> Self {
        Dac {
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            reading: false,
            held: [0; 2],
            entries: [[0; 3]; 256],
            wide: false,
        }
    }
}

impl Dac {
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        match port {
            0x3c6 => self.mask,
            0x3c7 => {
                if self.reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.write_index,
            _ => {
                let value = self.entries[usize::from(self.read_index)][usize::from(self.component)];
                self.component = (self.component + 1) % 3;
                if self.component == 0 {
                    self.read_index = self.read_index.wrapping_add(1);
                }
                value
            }
        }
    }

    /// True if a colour has changed.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            0x3c6 => {
                self.mask = value;
                return true;
            }
            0x3c7 => {
                self.read_index = value;
                self.component = 0;
                self.reading = true;
            }
            0x3c8 => {
                self.write_index = value;
                self.component = 0;
                self.reading = false;
            }
            _ => {
                let value = if self.wide { value } else { value & 0x3f };
                match self.held.get_mut(usize::from(self.component)) {
                    Some(held) => *held = value,
                    None => {
                        self.entries[usize::from(self.write_index)] = [self.held[0], self.held[1], value];
                        self.write_index = self.write_index.wrapping_add(1);
                        self.component = 0;
                        return true;
                    }
                }
                self.component += 1;
            }
        }
        false
    }

    /// All colours as 00RRGGBBh, by the index that the pixel has before the mask.
    pub(crate) fn colours(&self) -> [u32; 256] {
        std::array::from_fn(|i| {
            let [r, g, b] = self.entries[i & usize::from(self.mask)].map(|c| u32::from(self.widen(c)));
            r << 16 | g << 8 | b
        })
    }

    fn widen(&self, c: u8) -> u8 {
        if self.wide { c } else { c << 2 | c >> 4 & 3 }
    }
}
