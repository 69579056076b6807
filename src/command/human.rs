//! Facts in the words of people: sizes, times, counts.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `1.5 GiB`; bytes below 1 KiB as they are.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // 1023.95 would be printed as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// `12 ms`, `3.4 s`, `2 min 05 s`, `3 h 20 min`, `5 d 02 h`.
pub fn duration(time: Duration) -> String {
    let (ms, seconds) = (time.as_millis(), time.as_secs());
    match seconds {
        _ if ms < 1000 => format!("{ms} ms"),
        0..60 => format!("{:.1} s", (ms / 100) as f64 / 10.0),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The time from `earlier` to `later`, or none if the clocks disagree.
pub fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// `2026-11-22 10:09:46`, in UTC.
pub fn utc(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How many times smaller: `2.55:1`.
pub fn ratio(raw: u64, stored: u64) -> String {
    if stored == 0 { "-".to_owned() } else { format!("{:.2}:1", raw as f64 / stored as f64) }
}

/// `1 file`, `2 files`, with the thousands apart.
pub fn count(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", thousands(number))
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_never_show_1024_of_a_unit() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 5 << 30, u64::MAX].into_iter().map(size).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 GiB", "16384.0 PiB"]);
    }

    #[test]
    fn durations_keep_two_units() {
        let shown: Vec<String> =
            [12, 3_450, 59_999, 125_000, 12_000_000, 439_200_000].map(|ms| duration(Duration::from_millis(ms))).into();
        assert_eq!(shown, ["12 ms", "3.4 s", "59.9 s", "2 min 05 s", "3 h 20 min", "5 d 02 h"]);
    }

    #[test]
    fn a_clock_that_went_back_gives_no_negative_age() {
        let (early, late) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(between(late, early), Duration::ZERO);
        assert_eq!(duration(between(early, late)), "1 d 00 h");
        assert_eq!(utc(late), "2026-01-02 00:00:00");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1_234_567, "file"), "1,234,567 files");
        assert_eq!(thousands(123), "123");
    }
}
