//! From text to key presses, on a keyboard with the US layout: what firmware and boot loaders assume.

use crate::{InputEvent, Key};

/// Keys that are held down together, in the order in which they go down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chord(pub Vec<Key>);

impl Chord {
    /// From names joined by `+` or `-`: `ctrl+alt+delete`, `F12`, `ctrl-c`. The error is the name that is not a key's.
    ///
    /// # Errors
    /// The part that names no key.
    pub fn parse(text: &str) -> Result<Chord, String> {
        let parts = text.split(['+', '-']).map(|name| {
            let single =
                || name.chars().next().filter(|_| name.chars().count() == 1).and_then(key_of).map(|(key, _)| key);
            Key::named(name).or_else(single).ok_or_else(|| name.to_owned())
        });
        parts.collect::<Result<_, _>>().map(Chord)
    }

    /// The events of pressing and releasing it.
    pub fn events(&self) -> Vec<InputEvent> {
        let down = self.0.iter().map(|key| InputEvent::Key { key: *key, down: true });
        let up = self.0.iter().rev().map(|key| InputEvent::Key { key: *key, down: false });
        down.chain(up).collect()
    }
}

/// The chords that type `text`; `\n` is Enter, `\t` Tab, `\x08` and `\x7f` Backspace, `\x1b` Escape. The error is the first
/// character that no key of the layout gives.
///
/// # Errors
/// That character.
pub fn strokes(text: &str) -> Result<Vec<Chord>, char> {
    text.chars().filter(|c| *c != '\r').map(|c| chord_of(c).ok_or(c)).collect()
}

fn chord_of(c: char) -> Option<Chord> {
    let (key, shift) = key_of(c)?;
    Some(Chord(if shift { vec![Key::LEFT_SHIFT, key] } else { vec![key] }))
}

/// The key that gives `c` on the US layout, and whether with Shift.
pub fn key_of(c: char) -> Option<(Key, bool)> {
    let special = match c {
        '\n' => Some(Key::ENTER),
        '\t' => Some(Key::TAB),
        '\x08' | '\x7f' => Some(Key::BACKSPACE),
        '\x1b' => Some(Key::ESC),
        ' ' => Some(Key::SPACE),
        _ => None,
    };
    if let Some(key) = special {
        return Some((key, false));
    }
    if c.is_ascii_alphanumeric() {
        return Some((Key::named(c.encode_utf8(&mut [0; 4]))?, c.is_ascii_uppercase()));
    }
    if let Some(i) = "!@#$%^&*()".find(c) {
        return Some((Key(Key::NUM_1.0 + i as u16), true));
    }
    const SIGNS: &[(char, char, Key)] = &[
        ('-', '_', Key::MINUS),
        ('=', '+', Key::EQUAL),
        ('[', '{', Key::LEFT_BRACE),
        (']', '}', Key::RIGHT_BRACE),
        ('\\', '|', Key::BACKSLASH),
        (';', ':', Key::SEMICOLON),
        ('\'', '"', Key::APOSTROPHE),
        ('`', '~', Key::GRAVE),
        (',', '<', Key::COMMA),
        ('.', '>', Key::DOT),
        ('/', '?', Key::SLASH),
    ];
    SIGNS.iter().find(|(a, b, _)| c == *a || c == *b).map(|(_, shifted, key)| (*key, c == *shifted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_ascii_character_has_its_own_chord() {
        let text: String = (' '..='~').collect();
        let chords = strokes(&text).unwrap();
        assert_eq!(chords.len(), 95);
        for (i, a) in chords.iter().enumerate() {
            assert!(!chords[..i].contains(a), "{:?}", text.chars().nth(i));
        }
        assert_eq!(strokes("a\nZ").unwrap()[1..], [Chord(vec![Key::ENTER]), Chord(vec![Key::LEFT_SHIFT, Key::Z])]);
        assert_eq!(strokes("0)").unwrap(), [Chord(vec![Key::NUM_0]), Chord(vec![Key::LEFT_SHIFT, Key::NUM_0])]);
        assert_eq!(strokes("naïve"), Err('ï'));
    }

    #[test]
    fn chords_have_names() {
        assert_eq!(Chord::parse("Ctrl+Alt-Delete").unwrap().0, [Key::LEFT_CTRL, Key::LEFT_ALT, Key::DELETE]);
        assert_eq!(Chord::parse("ctrl-c").unwrap().0, [Key::LEFT_CTRL, Key::C]);
        assert_eq!(Chord::parse("f12").unwrap().events().len(), 2);
        assert_eq!(Chord::parse("ctrl+/").unwrap().0[1], Key::SLASH);
        assert_eq!(Chord::parse("ctrl+any"), Err("any".into()));
        for key in Key::all() {
            assert_eq!(key.name().and_then(Key::named), Some(key));
        }
    }
}
