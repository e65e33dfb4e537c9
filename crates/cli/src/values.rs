//! Values on the command line that several commands take: sizes and times.

use std::time::Duration;

/// A size: digits with an optional K, M, G, T (binary), MiB without one.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 1 << 10,
        "" | "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        other => return Err(format!("unknown unit `{other}`; write for example 512M or 2G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number; write for example 512M or 2G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

/// A time: digits with an optional s, m, h (seconds without one).
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit `{other}`; write for example 90s or 5m")),
    };
    let number: f64 = digits.parse().map_err(|_| "not a number; write for example 90s or 5m".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| "too large or negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2048"), Ok(2048 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("").is_err() && parse_size("5x").is_err() && parse_size("99999999999999G").is_err());
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_time("-1s").is_err() && parse_time("1d").is_err());
    }
}
