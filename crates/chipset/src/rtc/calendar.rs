//! Dates and the clock's register formats.

/// Where the registers of [`TimeRegs`] are.
pub(super) const INDICES: [usize; 8] = [0, 2, 4, 6, 7, 8, 9, super::REG_CENTURY];

const DAY: i64 = 86_400;

/// How register B says that numbers and hours are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    binary: bool,
    hours24: bool,
}

/// Second, minute, hour, weekday, day, month, year, century as the registers hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRegs(pub(super) [u8; 8]);

impl Format {
    pub(super) fn from_register_b(b: u8) -> Self {
        Format { binary: b & 4 != 0, hours24: b & 2 != 0 }
    }

    fn encode(self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(self, raw: u8) -> u8 {
        if self.binary { raw } else { (raw >> 4).min(9) * 10 + (raw & 0xf).min(9) }
    }

    fn encode_hour(self, hour: u8) -> u8 {
        if self.hours24 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(self, raw: u8) -> u8 {
        if self.hours24 {
            return self.decode(raw);
        }
        self.decode(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
    }
}

impl TimeRegs {
    /// The registers at `seconds` since 1970.
    pub(super) fn of(seconds: i64, f: Format) -> Self {
        let (days, in_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        // 1970-01-01 was a Thursday; Sunday is 1.
        let weekday = (days + 4).rem_euclid(7) + 1;
        let two = |v: i64| f.encode(v.rem_euclid(100) as u8);
        TimeRegs([
            two(in_day % 60),
            two(in_day / 60 % 60),
            f.encode_hour((in_day / 3600) as u8),
            two(weekday),
            two(day),
            two(month),
            two(year),
            two(year.div_euclid(100)),
        ])
    }

    /// Seconds since 1970; values out of range are brought into it. The weekday is not looked at.
    pub(super) fn seconds(&self, f: Format) -> i64 {
        let [s, min, h, _, day, month, year, century] = self.0;
        let get = |raw: u8, low: u8, high: u8| i64::from(f.decode(raw).clamp(low, high));
        let year = get(century, 0, 99) * 100 + get(year, 0, 99);
        let days = days_from_civil(year, get(month, 1, 12), get(day, 1, 31));
        days * DAY + i64::from(f.decode_hour(h).min(23)) * 3600 + get(min, 0, 59) * 60 + get(s, 0, 59)
    }
}

/// The first second after `after` that matches the alarm registers (second, minute, hour; C0h and above match all), or
/// `None` if a register holds no time of day.
pub(super) fn next_alarm(alarm: [u8; 3], f: Format, after: i64) -> Option<i64> {
    let field = |raw: u8, value: u8, limit: u8| match raw {
        0xc0.. => Some(None),
        _ if value < limit => Some(Some(i64::from(value))),
        _ => None,
    };
    let second = field(alarm[0], f.decode(alarm[0]), 60)?;
    let minute = field(alarm[1], f.decode(alarm[1]), 60)?;
    let hour = field(alarm[2], f.decode_hour(alarm[2]), 24)?;
    let mut t = after.checked_add(1)?;
    // Each turn skips to the next hour, minute or second: at most 24 + 60 + 60 of them and a few for the seams.
    for _ in 0..200 {
        let in_day = t.rem_euclid(DAY);
        if hour.is_some_and(|h| h != in_day / 3600) {
            t += 3600 - in_day % 3600;
        } else if minute.is_some_and(|m| m != in_day / 60 % 60) {
            t += 60 - in_day % 60;
        } else if second.is_some_and(|s| s != in_day % 60) {
            t += 1;
        } else {
            return Some(t);
        }
    }
    None
}

/// Year, month and day of a day number counted from 1970-01-01, in the Gregorian calendar. Counted in eras of 400 years
/// that begin on 1 March, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, in_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let in_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + in_year - 719_468
}
