//! Which key an X11 key symbol stands for (X11 protocol, appendix A), on a keyboard with the US layout.

use visor_console::{Key, key_of};

/// Symbols that are not characters.
const SYMBOLS: &[(u32, Key)] = &[
    (0xff08, Key::BACKSPACE),
    (0xff09, Key::TAB),
    (0xfe20, Key::TAB),
    (0xff0d, Key::ENTER),
    (0xff13, Key::PAUSE),
    (0xff14, Key::SCROLL_LOCK),
    (0xff15, Key::PRINT),
    (0xff1b, Key::ESC),
    (0xff50, Key::HOME),
    (0xff51, Key::LEFT),
    (0xff52, Key::UP),
    (0xff53, Key::RIGHT),
    (0xff54, Key::DOWN),
    (0xff55, Key::PAGE_UP),
    (0xff56, Key::PAGE_DOWN),
    (0xff57, Key::END),
    (0xff61, Key::PRINT),
    (0xff63, Key::INSERT),
    (0xff67, Key::MENU),
    (0xff6b, Key::PAUSE),
    (0xff7f, Key::NUM_LOCK),
    (0xff8d, Key::KP_ENTER),
    (0xff95, Key::KP_7),
    (0xff96, Key::KP_4),
    (0xff97, Key::KP_8),
    (0xff98, Key::KP_6),
    (0xff99, Key::KP_2),
    (0xff9a, Key::KP_9),
    (0xff9b, Key::KP_3),
    (0xff9c, Key::KP_1),
    (0xff9d, Key::KP_5),
    (0xff9e, Key::KP_0),
    (0xff9f, Key::KP_DOT),
    (0xffaa, Key::KP_ASTERISK),
    (0xffab, Key::KP_PLUS),
    (0xffad, Key::KP_MINUS),
    (0xffae, Key::KP_DOT),
    (0xffaf, Key::KP_SLASH),
    (0xffb0, Key::KP_0),
    (0xffb1, Key::KP_1),
    (0xffb2, Key::KP_2),
    (0xffb3, Key::KP_3),
    (0xffb4, Key::KP_4),
    (0xffb5, Key::KP_5),
    (0xffb6, Key::KP_6),
    (0xffb7, Key::KP_7),
    (0xffb8, Key::KP_8),
    (0xffb9, Key::KP_9),
    (0xffc8, Key::F11),
    (0xffc9, Key::F12),
    (0xffe1, Key::LEFT_SHIFT),
    (0xffe2, Key::RIGHT_SHIFT),
    (0xffe3, Key::LEFT_CTRL),
    (0xffe4, Key::RIGHT_CTRL),
    (0xffe5, Key::CAPS_LOCK),
    (0xffe7, Key::LEFT_ALT),
    (0xffe8, Key::RIGHT_ALT),
    (0xffe9, Key::LEFT_ALT),
    (0xffea, Key::RIGHT_ALT),
    (0xfe03, Key::RIGHT_ALT),
    (0xffeb, Key::LEFT_META),
    (0xffec, Key::RIGHT_META),
    (0xffff, Key::DELETE),
];

/// F1; F2 to F10 follow.
const F1: u32 = 0xffbe;

/// The key of `symbol`, and whether Shift belongs to it.
pub(super) fn of_symbol(symbol: u32) -> Option<(Key, bool)> {
    match symbol {
        0x20..=0x7e => key_of(char::from(symbol as u8)),
        F1..=0xffc7 => Some((Key(Key::F1.0 + (symbol - F1) as u16), false)),
        _ => SYMBOLS.iter().find(|(s, _)| *s == symbol).map(|(_, key)| (*key, false)),
    }
}

/// The key with a scan code of set 1 that has the E0 prefix in bit 7.
pub(super) fn of_scan_code(code: u8) -> Option<Key> {
    Key::from_scan_code(code & 0x80 != 0, code & 0x7f)
}
