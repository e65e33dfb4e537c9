//! What keys send in the three scan code sets (IBM PS/2 technical reference, "Keyboard"; Microsoft's "Keyboard Scan Code Specification").

use visor_console::Key;

/// What the controller makes of set-2 codes 00h to 7Fh; 83h becomes 41h, 84h 54h, others stay.
const TO_SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, //
];

/// Keys whose set-3 code is not that of set 2.
const SET3: &[(Key, u8)] = &[
    (Key::ESC, 0x08),
    (Key::F1, 0x07),
    (Key::F2, 0x0f),
    (Key::F3, 0x17),
    (Key::F4, 0x1f),
    (Key::F5, 0x27),
    (Key::F6, 0x2f),
    (Key::F7, 0x37),
    (Key::F8, 0x3f),
    (Key::F9, 0x47),
    (Key::F10, 0x4f),
    (Key::F11, 0x56),
    (Key::F12, 0x5e),
    (Key::PRINT, 0x57),
    (Key::SCROLL_LOCK, 0x5f),
    (Key::PAUSE, 0x62),
    (Key::CAPS_LOCK, 0x14),
    (Key::LEFT_CTRL, 0x11),
    (Key::LEFT_ALT, 0x19),
    (Key::RIGHT_ALT, 0x39),
    (Key::RIGHT_CTRL, 0x58),
    (Key::BACKSLASH, 0x5c),
    (Key::ISO, 0x13),
    (Key::INSERT, 0x67),
    (Key::HOME, 0x6e),
    (Key::PAGE_UP, 0x6f),
    (Key::DELETE, 0x64),
    (Key::END, 0x65),
    (Key::PAGE_DOWN, 0x6d),
    (Key::UP, 0x63),
    (Key::LEFT, 0x61),
    (Key::DOWN, 0x60),
    (Key::RIGHT, 0x6a),
    (Key::NUM_LOCK, 0x76),
    (Key::KP_SLASH, 0x77),
    (Key::KP_ASTERISK, 0x7e),
    (Key::KP_MINUS, 0x84),
    (Key::KP_PLUS, 0x7c),
    (Key::KP_ENTER, 0x79),
    (Key::LEFT_META, 0x8b),
    (Key::RIGHT_META, 0x8c),
    (Key::MENU, 0x8d),
];

/// Modifier keys that are down, for the keys that send something else with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modifiers {
    pub(super) ctrl: bool,
    pub(super) alt: bool,
}

/// The controller's translation of one set-2 byte that is no prefix.
pub(super) fn translate(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        _ => TO_SET1.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// What `key` sends in `set` when it goes down or up; nothing if there is no such key on the keyboard.
pub(super) fn bytes(key: Key, down: bool, set: u8, with: Modifiers) -> Vec<u8> {
    match (set, key) {
        (3, _) => match set3(key) {
            Some(code) if down => vec![code],
            Some(code) => vec![0xf0, code],
            None => Vec::new(),
        },
        (_, Key::PRINT) if with.alt => plain(set, false, 0x54, down),
        (_, Key::PRINT) => {
            let (shift, print) = (plain(set, true, 0x2a, down), plain(set, true, 0x37, down));
            if down { [shift, print].concat() } else { [print, shift].concat() }
        }
        // Sends everything when it goes down.
        (_, Key::PAUSE) if !down => Vec::new(),
        (_, Key::PAUSE) if with.ctrl => [plain(set, true, 0x46, true), plain(set, true, 0x46, false)].concat(),
        (1, Key::PAUSE) => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
        (_, Key::PAUSE) => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        _ => key.scan_code().map(|(prefix, code)| plain(set, prefix, code, down)).unwrap_or_default(),
    }
}

/// The set-3 code of `key`.
pub(super) fn set3(key: Key) -> Option<u8> {
    let own = SET3.iter().find(|(k, _)| *k == key).map(|(_, code)| *code);
    own.or_else(|| key.scan_code().filter(|(prefix, _)| !prefix).and_then(|(_, code)| set2(code)))
}

/// The set-2 code that the controller translates to `code`.
fn set2(code: u8) -> Option<u8> {
    match code {
        0x41 => Some(0x83),
        0x54 => Some(0x84),
        _ => TO_SET1.iter().position(|c| *c == code).map(|i| i as u8),
    }
}

/// A make or break code of sets 1 and 2 from a set-1 code.
fn plain(set: u8, prefix: bool, code: u8, down: bool) -> Vec<u8> {
    let mut out = if prefix { vec![0xe0] } else { Vec::new() };
    if set == 1 {
        out.push(if down { code } else { code | 0x80 });
    } else if let Some(code) = set2(code) {
        out.extend((!down).then_some(0xf0));
        out.push(code);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the controller passes set 2 on.
    fn translated(bytes: &[u8]) -> Vec<u8> {
        let mut released = 0;
        let mut out = Vec::new();
        for b in bytes {
            match b {
                0xf0 => released = 0x80,
                b => out.push(translate(*b) | std::mem::take(&mut released)),
            }
        }
        out
    }

    #[test]
    fn set_2_translated_is_set_1_for_every_key() {
        let mut seen = Vec::new();
        for key in Key::all() {
            for down in [true, false] {
                for with in
                    [Modifiers::default(), Modifiers { alt: true, ctrl: false }, Modifiers { ctrl: true, alt: false }]
                {
                    let (one, two) = (bytes(key, down, 1, with), bytes(key, down, 2, with));
                    assert_eq!(translated(&two), one, "{key:?} {down}");
                }
            }
            let make = bytes(key, true, 2, Modifiers::default());
            assert!(!make.is_empty() && !seen.contains(&make), "{key:?}");
            seen.push(make);
        }
    }

    #[test]
    fn well_known_codes() {
        let none = Modifiers::default();
        assert_eq!(bytes(Key::A, true, 2, none), [0x1c]);
        assert_eq!(bytes(Key::F7, false, 2, none), [0xf0, 0x83]);
        assert_eq!(bytes(Key::UP, false, 2, none), [0xe0, 0xf0, 0x75]);
        assert_eq!(bytes(Key::PRINT, true, 2, none), [0xe0, 0x12, 0xe0, 0x7c]);
        assert_eq!(bytes(Key::PRINT, false, 2, none), [0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]);
        assert_eq!(bytes(Key::PAUSE, true, 2, Modifiers { ctrl: true, alt: false }), [0xe0, 0x7e, 0xe0, 0xf0, 0x7e]);
        assert_eq!(bytes(Key::DELETE, true, 1, none), [0xe0, 0x53]);
        assert_eq!(bytes(Key::LEFT_CTRL, false, 3, none), [0xf0, 0x11]);
        assert_eq!((set3(Key::Q), set3(Key::KP_5), set3(Key::MUTE)), (Some(0x15), Some(0x73), None));
        assert_eq!(bytes(Key(700), true, 2, none), []);
    }
}
