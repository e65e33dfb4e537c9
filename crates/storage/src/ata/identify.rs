//! The 256 words by which drives describe themselves (ATA8-ACS §7.16, IDENTIFY DEVICE).

use super::disk::TRIM_BLOCKS;
use super::settings::dma_words;
use super::{AtaDisk, MAX_MULTIPLE};

/// A block of words under construction.
pub(crate) struct Identity([u16; 256]);

impl Identity {
    pub(crate) fn new() -> Self {
        Identity([0; 256])
    }

    pub(crate) fn set(&mut self, word: usize, value: u16) {
        self.0[word] = value;
    }

    /// A number over several words, low word first.
    pub(crate) fn number(&mut self, word: usize, words: usize, value: u64) {
        for i in 0..words {
            self.0[word + i] = (value >> (16 * i)) as u16;
        }
    }

    /// Text, padded with spaces, two characters a word, the first in the high byte.
    pub(crate) fn text(&mut self, word: usize, words: usize, text: &str) {
        let mut bytes = text
            .bytes()
            .map(|b| if b.is_ascii_graphic() || b == b' ' { b } else { b'?' })
            .chain(std::iter::repeat(b' '));
        for w in &mut self.0[word..word + words] {
            let mut next = || u16::from(bytes.next().unwrap_or(b' '));
            *w = next() << 8 | next();
        }
    }

    /// The bytes, with signature and checksum in the last word.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes[510] = 0xa5;
        let sum = bytes[..511].iter().fold(0u8, |s, b| s.wrapping_add(*b));
        bytes[511] = sum.wrapping_neg();
        bytes
    }
}

/// What both kinds of drives say: names, versions, modes.
pub(crate) fn common(id: &mut Identity, serial: &str, model: &str, transfer: u8, serial_ata: bool) {
    id.text(10, 10, serial);
    id.text(23, 4, env!("CARGO_PKG_VERSION"));
    id.text(27, 20, model);
    id.set(53, 0x0007); // words 54-58, 64-70 and 88 are valid
    let (multiword, ultra) = dma_words(transfer);
    id.set(63, multiword);
    id.set(64, 0x0003); // PIO 3 and 4
    for cycle in 65..=68 {
        id.set(cycle, 120); // nanoseconds
    }
    id.set(80, 0x01f0); // ATA/ATAPI-4 to ATA8-ACS
    id.set(88, ultra);
    if serial_ata {
        id.set(76, 0x0006); // 1.5 and 3 Gbit/s
        id.set(222, 0x101f); // serial transport
    } else {
        // Result of the reset: drive 0 passed its tests, an 80-wire cable (ATA8-ACS §7.16.7.43).
        id.set(93, 0x600b);
    }
}

impl AtaDisk {
    /// What the disk is and can do.
    pub(super) fn identify(&self) -> Vec<u8> {
        let (g, s) = (&self.geometry, &self.settings);
        let mut id = Identity::new();
        common(&mut id, &self.identity.serial, &self.identity.model, s.transfer, self.is_serial());
        id.set(0, 0x0040); // ATA, not removable
        id.set(1, self.native.cylinders);
        id.set(3, u16::from(self.native.heads));
        id.set(6, u16::from(self.native.sectors));
        id.set(47, 0x8000 | u16::from(MAX_MULTIPLE));
        id.set(49, 0x2f00); // standby timer, IORDY, LBA, DMA
        id.set(50, 0x4000);
        id.set(54, s.chs.cylinders);
        id.set(55, u16::from(s.chs.heads));
        id.set(56, u16::from(s.chs.sectors));
        let chs = u64::from(s.chs.cylinders) * u64::from(s.chs.heads) * u64::from(s.chs.sectors);
        id.number(57, 2, chs);
        id.set(59, if s.multiple == 0 { 0 } else { 0x0100 | u16::from(s.multiple) });
        id.number(60, 2, u64::from(self.lba28_sectors()));
        if self.is_serial() {
            id.set(75, 31); // 32 commands at a time
            id.set(76, 0x0106); // and that they may be queued
        }
        self.command_sets(&mut id);
        id.number(100, 4, g.sectors);
        let per_block = u64::from(g.physical_block) / 512;
        if per_block > 1 {
            id.set(106, 0x6000 | per_block.ilog2() as u16 & 15);
            id.set(209, 0x4000); // logical sector 0 begins a physical one
        }
        if !g.read_only {
            id.set(105, TRIM_BLOCKS);
            id.set(169, 1); // TRIM
        }
        id.set(217, 1); // does not rotate
        id.finish()
    }

    /// Words 82 to 87: command sets that exist, and those in use.
    fn command_sets(&self, id: &mut Identity) {
        let s = &self.settings;
        // NOP, look-ahead, write cache, power management, SMART.
        id.set(82, 0x4069);
        // FLUSH CACHE (EXT), 48-bit addresses.
        id.set(83, 0x7400);
        // WRITE FUA EXT, logs: general purpose, SMART errors, self-tests.
        id.set(84, 0x4063);
        let used = |on: bool, bit: u16| if on { bit } else { 0 };
        id.set(85, 0x4008 | used(s.look_ahead, 0x40) | used(s.write_cache, 0x20) | used(s.smart, 1));
        id.set(86, 0x3400);
        id.set(87, 0x4063);
    }
}
