//! The EEPROM: 64 words behind a Microwire interface that drivers move bit by bit (SDM §5.3), and behind EERD (§13.4.4).

use visor_net::MacAddr;

const WORDS: usize = 64;
/// The words add up to this (§5.6.35).
const SUM: u16 = 0xbaba;

const SK: u32 = 1;
const CS: u32 = 2;
const DI: u32 = 4;
const DO: u32 = 8;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;

/// Start bit, opcode of READ, six address bits.
const COMMAND_BITS: u32 = 9;
const READ: u32 = 0b110;

/// The EEPROM and its interface.
#[derive(Debug)]
pub(super) struct Eeprom {
    words: [u16; WORDS],
    /// The lines as the driver set them.
    lines: u32,
    command: u32,
    bits: u32,
    /// The word being read, and its bits that are still to come.
    out: Option<(usize, u32)>,
    level: bool,
}

impl Eeprom {
    /// The contents for a card with `mac` (§5.6).
    pub(super) fn new(mac: MacAddr, vendor: u16, device: u16) -> Self {
        let mut words = [0; WORDS];
        for (w, pair) in words.iter_mut().zip(mac.0.chunks_exact(2)) {
            *w = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[0x0a] = 0x4000; // signature of valid contents
        words[0x0b] = device;
        words[0x0c] = vendor;
        words[0x0d] = device;
        words[0x0e] = vendor;
        let sum = words.iter().fold(0u16, |a, b| a.wrapping_add(*b));
        words[WORDS - 1] = SUM.wrapping_sub(sum);
        Eeprom { words, lines: 0, command: 0, bits: 0, out: None, level: false }
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// The control register as it reads.
    pub(super) fn lines(&self) -> u32 {
        let grant = if self.lines & REQUEST != 0 { GRANT } else { 0 };
        self.lines | grant | PRESENT | if self.level { DO } else { 0 }
    }

    /// Sets the lines. A word is sent bit by bit after each rise of the clock, the next word follows.
    pub(super) fn set_lines(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.lines, value & (SK | CS | DI | REQUEST));
        if value & CS == 0 {
            (self.command, self.bits, self.out, self.level) = (0, 0, None, false);
            return;
        }
        if value & SK == 0 || before & SK != 0 {
            return;
        }
        match &mut self.out {
            Some((at, left)) => {
                *left -= 1;
                self.level = self.words[*at] >> *left & 1 != 0;
                if *left == 0 {
                    self.out = Some(((*at + 1) % WORDS, 16));
                }
            }
            None => {
                let bit = u32::from(value & DI != 0);
                // Zeroes before the start bit do not count.
                if self.bits > 0 || bit == 1 {
                    self.command = self.command << 1 | bit;
                    self.bits += 1;
                }
                if self.bits == COMMAND_BITS {
                    let read = self.command >> 6 == READ;
                    self.out = read.then_some(((self.command & 63) as usize, 16));
                    (self.command, self.bits, self.level) = (0, 0, false);
                }
            }
        }
    }
}
