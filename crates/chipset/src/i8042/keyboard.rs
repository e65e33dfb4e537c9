//! An IBM PS/2 keyboard: scan code sets 1 to 3, typematic repeat, LEDs.

use std::collections::{BTreeSet, VecDeque};

use visor_console::Key;
use visor_device::Nanos;

use super::keys::{self, Modifiers};

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// Most bytes of key codes that wait; presses beyond that are lost, as on a keyboard. Releases are kept: each belongs to a press
/// that was.
const WAITING: usize = 32;
/// Most answers that wait.
const ANSWERS: usize = 64;

/// Commands that have a parameter.
mod command {
    pub(super) const LEDS: u8 = 0xed;
    pub(super) const SET: u8 = 0xf0;
    pub(super) const RATE: u8 = 0xf3;
    /// Set 3: the keys named by the following bytes repeat (FBh), send make and break (FCh), or make only (FDh).
    pub(super) const KEYS: std::ops::RangeInclusive<u8> = 0xfb..=0xfd;
}

/// What a key does besides sending its make code (set 3 can choose).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Habit {
    repeats: bool,
    breaks: bool,
}

const ALL: Habit = Habit { repeats: true, breaks: true };

#[derive(Clone, Debug)]
pub(super) struct Keyboard {
    /// Answers go before keys.
    answers: VecDeque<u8>,
    codes: VecDeque<u8>,
    scanning: bool,
    set: u8,
    leds: u8,
    /// Delay and rate as written.
    typematic: u8,
    /// The command whose parameter comes next.
    expects: Option<u8>,
    last: u8,
    /// The controller has passed on a break prefix, which marks the code after it.
    released: bool,
    down: BTreeSet<Key>,
    /// The key that repeats, and when.
    repeat: Option<(Key, Nanos)>,
    /// By set-3 code.
    habits: [Habit; 256],
}

impl Default for Keyboard {
    fn default() -> Self {
        Keyboard {
            answers: VecDeque::new(),
            codes: VecDeque::new(),
            scanning: true,
            set: 2,
            leds: 0,
            // 500 ms, then 10.9 a second.
            typematic: 0x2b,
            expects: None,
            last: 0,
            released: false,
            down: BTreeSet::new(),
            repeat: None,
            habits: [ALL; 256],
        }
    }
}

impl Keyboard {
    /// A key goes down or up. A key that is down already is left alone: repeating is the keyboard's business.
    pub(super) fn key(&mut self, key: Key, down: bool, now: Nanos) {
        if !self.scanning {
            return;
        }
        if !down {
            if self.down.remove(&key) {
                let with = self.modifiers();
                if self.habit(key).breaks {
                    self.codes.extend(keys::bytes(key, false, self.set, with));
                }
            }
            self.repeat = self.repeat.filter(|(k, _)| *k != key);
            return;
        }
        if self.codes.len() >= WAITING || self.down.contains(&key) {
            return;
        }
        let bytes = keys::bytes(key, true, self.set, self.modifiers());
        if bytes.is_empty() {
            return;
        }
        self.codes.extend(bytes);
        self.down.insert(key);
        let repeats = self.habit(key).repeats && key != Key::PAUSE;
        self.repeat = repeats.then(|| (key, now + self.delay()));
    }

    /// When to call [`Keyboard::tick`].
    pub(super) fn alarm(&self) -> Option<Nanos> {
        self.repeat.map(|(_, at)| at)
    }

    /// Lets the key that is held repeat if it is time.
    pub(super) fn tick(&mut self, now: Nanos) {
        let Some((key, at)) = self.repeat.filter(|(_, at)| *at <= now) else { return };
        // A guest that does not read gets no backlog.
        if self.codes.is_empty() {
            let bytes = keys::bytes(key, true, self.set, self.modifiers());
            // Of several bytes the last are the key's own.
            let own = bytes.len().saturating_sub(2);
            self.codes.extend(if key == Key::PRINT { &bytes[own..] } else { &bytes[..] });
        }
        let next = at + self.period();
        self.repeat = Some((key, if next > now { next } else { now + self.period() }));
    }

    /// Scroll, Num and Caps Lock in bits 0 to 2.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// Everything has been read.
    pub(super) fn is_idle(&self) -> bool {
        self.codes.is_empty() && self.answers.is_empty()
    }

    /// The next byte for the guest, translated to set 1 where the controller does so.
    pub(super) fn next(&mut self, translate: bool) -> Option<u8> {
        loop {
            let byte = self.answers.pop_front().or_else(|| self.codes.pop_front())?;
            self.last = byte;
            if !translate {
                return Some(byte);
            }
            if byte == 0xf0 {
                self.released = true;
                continue;
            }
            let code = keys::translate(byte);
            return Some(if std::mem::take(&mut self.released) { code | 0x80 } else { code });
        }
    }

    /// A byte from the guest: a command or its parameter.
    pub(super) fn write(&mut self, value: u8) {
        match self.expects.take() {
            Some(command) if command::KEYS.contains(&command) && value < 0xed => {
                // Further keys may follow; the next command ends the list.
                self.expects = Some(command);
                self.habits[usize::from(value)] = habit_of(command);
                self.send(ACK);
            }
            Some(command) if value < 0xed => self.parameter(command, value),
            _ => self.command(value),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        self.send(ACK);
        match (command, value) {
            (command::LEDS, _) => self.leds = value & 7,
            (command::RATE, _) => self.typematic = value & 0x7f,
            (command::SET, 0) => self.send(self.set),
            (command::SET, 1..=3) => {
                self.set = value;
                self.forget();
            }
            _ => {}
        }
    }

    fn command(&mut self, value: u8) {
        match value {
            command::LEDS | command::SET | command::RATE => {
                self.expects = Some(value);
                self.send(ACK);
            }
            0xee => self.send(0xee),
            0xf2 => [ACK, 0xab, 0x83].into_iter().for_each(|b| self.send(b)),
            0xf4 => {
                self.forget();
                self.scanning = true;
                self.send(ACK);
            }
            0xf5 | 0xf6 => {
                *self = Keyboard { scanning: value == 0xf6, leds: self.leds, ..Keyboard::default() };
                self.send(ACK);
            }
            0xf7..=0xfa => {
                self.habits = [habit_of(value); 256];
                self.send(ACK);
            }
            0xfb..=0xfd => {
                self.expects = Some(value);
                self.send(ACK);
            }
            0xfe => self.send(self.last),
            0xff => {
                *self = Keyboard::default();
                self.send(ACK);
                // The basic assurance test passed.
                self.send(0xaa);
            }
            _ => self.send(RESEND),
        }
    }

    /// Drops what was not read, and what is held.
    fn forget(&mut self) {
        self.codes.clear();
        self.down.clear();
        self.repeat = None;
    }

    fn send(&mut self, byte: u8) {
        if self.answers.len() < ANSWERS {
            self.answers.push_back(byte);
        }
    }

    fn modifiers(&self) -> Modifiers {
        let any = |keys: [Key; 2]| keys.iter().any(|k| self.down.contains(k));
        Modifiers { ctrl: any([Key::LEFT_CTRL, Key::RIGHT_CTRL]), alt: any([Key::LEFT_ALT, Key::RIGHT_ALT]) }
    }

    fn habit(&self, key: Key) -> Habit {
        match keys::set3(key) {
            Some(code) if self.set == 3 => self.habits[usize::from(code)],
            _ => ALL,
        }
    }

    fn delay(&self) -> Nanos {
        (u64::from(self.typematic >> 5 & 3) + 1) * 250_000_000
    }

    /// (8 + A) × 2^B × 4.17 ms.
    fn period(&self) -> Nanos {
        (8 + u64::from(self.typematic & 7)) * (1 << (self.typematic >> 3 & 3)) * 4_170_000
    }
}

/// What commands F7h to FDh make of a key.
fn habit_of(command: u8) -> Habit {
    match command {
        0xf7 | 0xfb => Habit { repeats: true, breaks: false },
        0xf8 | 0xfc => Habit { repeats: false, breaks: true },
        0xf9 | 0xfd => Habit { repeats: false, breaks: false },
        _ => ALL,
    }
}
