//! Times as `systemctl status` writes them.

use std::time::SystemTime;

/// For example `Sat 2026-11-21 04:09:00 UTC; 5s ago`, from seconds since 1970.
pub(super) fn since(then: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format!("{}; {} ago", date(then), ago(now.saturating_sub(then)))
}

fn ago(secs: u64) -> String {
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match () {
        () if secs < 60 => format!("{secs}s"),
        () if hours < 1 => format!("{minutes}min {}s", secs % 60),
        () if days < 1 => format!("{hours}h {}min", minutes % 60),
        () => format!("{days} days"),
    }
}

/// The civil date of a day number, after Howard Hinnant's `civil_from_days`: years begin in March, so that the day
/// that only leap years have is their last.
fn date(secs: u64) -> String {
    let days = secs / 86_400;
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{weekday} {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Thu 1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "Mon 2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "Tue 2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_795_233_600), "Sat 2026-11-21 04:00:00 UTC");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(ago(5), "5s");
        assert_eq!(ago(65), "1min 5s");
        assert_eq!(ago(3700), "1h 1min");
        assert_eq!(ago(200_000), "2 days");
    }
}
