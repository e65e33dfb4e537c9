//! What UEFI says on the serial console while it boots. It has no log of its own there, and its boot loaders have no known address; but
//! its boot manager tells what it loads, and that it starts it.

use visor_chipset::CharSink;

use crate::timeline::{Phase, Timeline};

/// Words of the boot manager (EDK2, BdsDxe), and what they mean.
const WORDS: [(&[u8], Phase); 2] =
    [(b"BdsDxe: loading Boot", Phase::DeviceSearch), (b"BdsDxe: starting Boot", Phase::BootLoader)];

/// The serial line's output on its way, overheard.
pub(crate) struct Overheard {
    sink: Box<dyn CharSink>,
    timeline: Timeline,
    /// How much of each of the words has been said.
    heard: [usize; 2],
}

impl Overheard {
    pub(crate) fn new(sink: Box<dyn CharSink>, timeline: Timeline) -> Self {
        Overheard { sink, timeline, heard: [0; 2] }
    }

    fn hear(&mut self, byte: u8) {
        for ((words, phase), heard) in WORDS.iter().zip(&mut self.heard) {
            // The first letter of the words occurs in them again only where the match fails anyway.
            *heard = match words.get(*heard) {
                Some(next) if *next == byte => *heard + 1,
                _ => usize::from(words[0] == byte),
            };
            if *heard == words.len() {
                *heard = 0;
                self.timeline.note(*phase, None);
            }
        }
    }
}

impl CharSink for Overheard {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.hear(*b));
        self.sink.write(bytes);
    }

    fn ready(&mut self) {
        self.sink.ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl CharSink for Nobody {
        fn write(&mut self, _bytes: &[u8]) {}
    }

    #[test]
    fn the_boot_manager_is_overheard_in_pieces() {
        let timeline = Timeline::default();
        timeline.begin(0);
        let mut line = Overheard::new(Box::new(Nobody), timeline.clone());
        line.write(b"BBdsDxe: loading Bo");
        line.write(b"ot0001 \"UEFI VISOR\"\r\nBdsDxe: star");
        assert_eq!(timeline.events().last().unwrap().phase, Phase::DeviceSearch);
        line.write(b"ting Boot0001");
        assert_eq!(timeline.events().last().unwrap().phase, Phase::BootLoader);
        assert_eq!(timeline.events().len(), 3);
    }
}
