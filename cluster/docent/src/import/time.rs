//! Timestamps of sources.
//!
//! The rule for numbers: below 100,000,000,000 they are seconds since 1970 (that number of seconds lies in the year 5138), from there
//! on milliseconds (that number of milliseconds is 3 March 1973). `--timestamp-unit` overrides it. Seconds may have decimals.
//! Text is RFC 3339, or a date with or without a time, taken as UTC.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// The first number that is taken for milliseconds.
const MILLISECONDS_FROM: f64 = 1e11;

/// The unit of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// By size: below 100,000,000,000 seconds, from there on milliseconds.
    #[default]
    Auto,
    /// Seconds since 1970.
    S,
    /// Milliseconds since 1970.
    Ms,
}

/// Milliseconds since 1970 of a number or a date.
pub fn parse(text: &str, unit: Unit) -> Result<i64, String> {
    let text = text.trim();
    let Ok(number) = text.parse::<f64>() else { return date(text) };
    if !number.is_finite() || number.abs() > 1e15 {
        return Err(format!("{text:?} is not a time"));
    }
    let is_seconds = match unit {
        Unit::Auto => number.abs() < MILLISECONDS_FROM,
        Unit::S => true,
        Unit::Ms => false,
    };
    let ms = if is_seconds { number * 1_000.0 } else { number };
    #[allow(clippy::cast_possible_truncation, reason = "at most 1e18, within i64")]
    Ok(ms.round() as i64)
}

/// Milliseconds since 1970 of RFC 3339 text, or of a date with or without a time in UTC.
pub fn date(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)));
    match civil.and_then(|civil| civil.to_zoned(TimeZone::UTC)) {
        Ok(zoned) => Ok(zoned.timestamp().as_millisecond()),
        Err(_) => Err(format!(
            "{:?} is not a time: write 2024-05-01T12:00:00Z, or seconds or milliseconds since 1970",
            clip(text)
        )),
    }
}

/// The first instant of a year, for items of which only the year is known; 1 to 9999.
pub fn year(year: i16) -> Option<i64> {
    let date = Date::new(year, 1, 1).ok().filter(|_| year > 0)?;
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_millisecond())
}

/// Long garbage shortened for a message.
pub fn clip(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_by_the_documented_rule() {
        let cases = [
            ("964982703", Unit::Auto, 964_982_703_000),
            ("964982703.25", Unit::Auto, 964_982_703_250),
            ("964982703000", Unit::Auto, 964_982_703_000),
            ("99999999999", Unit::Auto, 99_999_999_999_000),
            ("100000000000", Unit::Auto, 100_000_000_000),
            ("5", Unit::Ms, 5),
            ("100000000000", Unit::S, 100_000_000_000_000),
            (" 2000-07-30T18:45:03Z ", Unit::Auto, 964_982_703_000),
            ("2000-07-30T20:45:03+02:00", Unit::Auto, 964_982_703_000),
            ("2000-07-30 18:45:03", Unit::Auto, 964_982_703_000),
            ("2000-07-30T18:45:03.125Z", Unit::Ms, 964_982_703_125),
            ("1970-01-02", Unit::Auto, 86_400_000),
        ];
        for (text, unit, ms) in cases {
            assert_eq!(parse(text, unit), Ok(ms), "{text}");
        }
        for bad in ["", "soon", "nan", "inf", "1e300", "2000-13-01", "30/07/2000"] {
            assert!(parse(bad, Unit::Auto).is_err(), "{bad}");
        }
        assert_eq!(year(1970), Some(0));
        assert_eq!(year(0), None);
    }
}
