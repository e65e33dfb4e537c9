//! Keys by the position they have, whatever is printed on them.

/// A key, with Linux's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u16);

macro_rules! keys {
    ($($name:ident $text:literal = $code:literal)*) => {
        #[allow(missing_docs, reason = "the names say it")]
        impl Key {
            $(pub const $name: Key = Key($code);)*
        }

        /// Names that people write, in lower case.
        const NAMES: &[(&str, Key)] = &[$(($text, Key::$name)),*];
    };
}

keys! {
    ESC "esc" = 1
    NUM_1 "1" = 2
    NUM_2 "2" = 3
    NUM_3 "3" = 4
    NUM_4 "4" = 5
    NUM_5 "5" = 6
    NUM_6 "6" = 7
    NUM_7 "7" = 8
    NUM_8 "8" = 9
    NUM_9 "9" = 10
    NUM_0 "0" = 11
    MINUS "minus" = 12
    EQUAL "equal" = 13
    BACKSPACE "backspace" = 14
    TAB "tab" = 15
    Q "q" = 16
    W "w" = 17
    E "e" = 18
    R "r" = 19
    T "t" = 20
    Y "y" = 21
    U "u" = 22
    I "i" = 23
    O "o" = 24
    P "p" = 25
    LEFT_BRACE "leftbrace" = 26
    RIGHT_BRACE "rightbrace" = 27
    ENTER "enter" = 28
    LEFT_CTRL "ctrl" = 29
    A "a" = 30
    S "s" = 31
    D "d" = 32
    F "f" = 33
    G "g" = 34
    H "h" = 35
    J "j" = 36
    K "k" = 37
    L "l" = 38
    SEMICOLON "semicolon" = 39
    APOSTROPHE "apostrophe" = 40
    GRAVE "grave" = 41
    LEFT_SHIFT "shift" = 42
    BACKSLASH "backslash" = 43
    Z "z" = 44
    X "x" = 45
    C "c" = 46
    V "v" = 47
    B "b" = 48
    N "n" = 49
    M "m" = 50
    COMMA "comma" = 51
    DOT "dot" = 52
    SLASH "slash" = 53
    RIGHT_SHIFT "rightshift" = 54
    KP_ASTERISK "kpasterisk" = 55
    LEFT_ALT "alt" = 56
    SPACE "space" = 57
    CAPS_LOCK "capslock" = 58
    F1 "f1" = 59
    F2 "f2" = 60
    F3 "f3" = 61
    F4 "f4" = 62
    F5 "f5" = 63
    F6 "f6" = 64
    F7 "f7" = 65
    F8 "f8" = 66
    F9 "f9" = 67
    F10 "f10" = 68
    NUM_LOCK "numlock" = 69
    SCROLL_LOCK "scrolllock" = 70
    KP_7 "kp7" = 71
    KP_8 "kp8" = 72
    KP_9 "kp9" = 73
    KP_MINUS "kpminus" = 74
    KP_4 "kp4" = 75
    KP_5 "kp5" = 76
    KP_6 "kp6" = 77
    KP_PLUS "kpplus" = 78
    KP_1 "kp1" = 79
    KP_2 "kp2" = 80
    KP_3 "kp3" = 81
    KP_0 "kp0" = 82
    KP_DOT "kpdot" = 83
    ISO "102nd" = 86
    F11 "f11" = 87
    F12 "f12" = 88
    RO "ro" = 89
    HENKAN "henkan" = 92
    KATAKANA_HIRAGANA "katakanahiragana" = 93
    MUHENKAN "muhenkan" = 94
    KP_ENTER "kpenter" = 96
    RIGHT_CTRL "rightctrl" = 97
    KP_SLASH "kpslash" = 98
    PRINT "print" = 99
    RIGHT_ALT "rightalt" = 100
    HOME "home" = 102
    UP "up" = 103
    PAGE_UP "pageup" = 104
    LEFT "left" = 105
    RIGHT "right" = 106
    END "end" = 107
    DOWN "down" = 108
    PAGE_DOWN "pagedown" = 109
    INSERT "insert" = 110
    DELETE "delete" = 111
    MUTE "mute" = 113
    VOLUME_DOWN "volumedown" = 114
    VOLUME_UP "volumeup" = 115
    POWER "power" = 116
    PAUSE "pause" = 119
    KP_COMMA "kpcomma" = 121
    HANGEUL "hangeul" = 122
    HANJA "hanja" = 123
    YEN "yen" = 124
    LEFT_META "meta" = 125
    RIGHT_META "rightmeta" = 126
    MENU "menu" = 127
    SLEEP "sleep" = 142
    WAKE "wake" = 143
}

/// Further names of the same keys.
const OTHER_NAMES: &[(&str, Key)] = &[
    ("escape", Key::ESC),
    ("return", Key::ENTER),
    ("control", Key::LEFT_CTRL),
    ("option", Key::LEFT_ALT),
    ("altgr", Key::RIGHT_ALT),
    ("super", Key::LEFT_META),
    ("win", Key::LEFT_META),
    ("del", Key::DELETE),
    ("ins", Key::INSERT),
    ("pgup", Key::PAGE_UP),
    ("pgdn", Key::PAGE_DOWN),
    ("printscreen", Key::PRINT),
    ("sysrq", Key::PRINT),
    ("break", Key::PAUSE),
    ("bksp", Key::BACKSPACE),
];

impl Key {
    /// The key that people call `name`, in any case: `enter`, `f12`, `ctrl`, `a`, `kp5`.
    pub fn named(name: &str) -> Option<Key> {
        let name = name.to_ascii_lowercase();
        NAMES.iter().chain(OTHER_NAMES).find(|(n, _)| *n == name).map(|(_, key)| *key)
    }

    /// Its name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(_, key)| *key == self).map(|(name, _)| *name)
    }

    /// All keys with names.
    pub fn all() -> impl Iterator<Item = Key> {
        NAMES.iter().map(|(_, key)| *key)
    }
}

/// Keys whose set-1 code is not their number: with an E0 prefix or not, and the code.
const SCAN_CODES: &[(Key, bool, u8)] = &[
    (Key::RO, false, 0x73),
    (Key::HENKAN, false, 0x79),
    (Key::KATAKANA_HIRAGANA, false, 0x70),
    (Key::MUHENKAN, false, 0x7b),
    (Key::KP_COMMA, false, 0x7e),
    (Key::YEN, false, 0x7d),
    (Key::HANGEUL, false, 0x72),
    (Key::HANJA, false, 0x71),
    (Key::KP_ENTER, true, 0x1c),
    (Key::RIGHT_CTRL, true, 0x1d),
    (Key::KP_SLASH, true, 0x35),
    (Key::RIGHT_ALT, true, 0x38),
    (Key::HOME, true, 0x47),
    (Key::UP, true, 0x48),
    (Key::PAGE_UP, true, 0x49),
    (Key::LEFT, true, 0x4b),
    (Key::RIGHT, true, 0x4d),
    (Key::END, true, 0x4f),
    (Key::DOWN, true, 0x50),
    (Key::PAGE_DOWN, true, 0x51),
    (Key::INSERT, true, 0x52),
    (Key::DELETE, true, 0x53),
    (Key::MUTE, true, 0x20),
    (Key::VOLUME_DOWN, true, 0x2e),
    (Key::VOLUME_UP, true, 0x30),
    (Key::LEFT_META, true, 0x5b),
    (Key::RIGHT_META, true, 0x5c),
    (Key::MENU, true, 0x5d),
    (Key::POWER, true, 0x5e),
    (Key::SLEEP, true, 0x5f),
    (Key::WAKE, true, 0x63),
];

impl Key {
    /// Its code in the PC's scan code set 1, and whether it comes with an E0 prefix. `None` for keys that such keyboards do not have, and
    /// for Print and Pause, which send several codes.
    pub fn scan_code(self) -> Option<(bool, u8)> {
        match self.0 {
            1..=83 | 86..=88 => Some((false, self.0 as u8)),
            _ => SCAN_CODES.iter().find(|(key, _, _)| *key == self).map(|(_, prefix, code)| (*prefix, *code)),
        }
    }

    /// The key with this code in set 1; Print is E0 37 and Pause E0 46.
    pub fn from_scan_code(prefix: bool, code: u8) -> Option<Key> {
        match (prefix, code) {
            (true, 0x37) => Some(Key::PRINT),
            (true, 0x46) => Some(Key::PAUSE),
            (false, 1..=83 | 86..=88) => Some(Key(code.into())),
            _ => SCAN_CODES.iter().find(|(_, p, c)| (*p, *c) == (prefix, code)).map(|(key, _, _)| *key),
        }
    }
}
