//! Dates and numbers, as sources write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;

/// A text, if it is one; numbers are taken as they are written.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An instant: RFC 3339, RFC 2822, a date with or without a time (UTC), or seconds or milliseconds since 1970, as a number
/// or a string.
pub(super) fn instant(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::Number(number) => number.as_f64().and_then(epoch),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().and_then(epoch).or_else(|| instant_from_text(text))
        }
        _ => None,
    }
    .and_then(plausible)
}

/// An instant that a feed gave, unless it is nonsense.
pub(super) fn plausible(instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let bounds = DateTime::from_timestamp(0, 0)?..DateTime::from_timestamp(LATEST, 0)?;
    bounds.contains(&instant).then_some(instant)
}

/// The year 2200. Later dates are mistakes.
const LATEST: i64 = 7_258_118_400;

/// Seconds would reach this in the year 5138; milliseconds did in 1973.
const MILLISECONDS_FROM: f64 = 1e11;

fn epoch(number: f64) -> Option<DateTime<Utc>> {
    let milliseconds = if number.abs() < MILLISECONDS_FROM { number * 1000.0 } else { number };
    // What is out of range saturates and is then refused as implausible. A year as a number, "2024", is no epoch.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let milliseconds = milliseconds as i64;
    (milliseconds >= 100_000_000_000).then(|| DateTime::from_timestamp_millis(milliseconds)).flatten()
}

fn instant_from_text(text: &str) -> Option<DateTime<Utc>> {
    let with_offset = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc2822(text));
    if let Ok(instant) = with_offset.or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z")) {
        return Some(instant.with_timezone(&Utc));
    }
    let without = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|date| date.and_time(NaiveTime::MIN)));
    without.ok().map(|instant| instant.and_utc())
}

/// An amount of money, positive and rounded to cents: a number, or a string such as `"85,000"` or `"85 000.50"`. Zero, which
/// sources write for "not said", is nothing.
pub(super) fn amount(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 40 => {
            text.chars().filter(|c| !c.is_whitespace() && !matches!(c, ',' | '_' | '\'' | '$' | '€' | '£')).collect()
        }
        _ => return None,
    };
    let amount = text.parse().or_else(|_| Decimal::from_scientific(&text)).ok()?.round_dp(2);
    (amount > Decimal::ZERO && amount < Decimal::from(1_000_000_000_000_i64)).then_some(amount)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_are_read_in_all_their_forms() {
        let expected = Some(crate::testing::instant("2024-12-03T21:15:04Z"));
        for value in [
            json!("2024-12-03T21:15:04+00:00"),
            json!("2024-12-03T22:15:04+01:00"),
            json!("2024-12-03T22:15:04+0100"),
            json!("Tue, 03 Dec 2024 21:15:04 GMT"),
            json!("Tue, 3 Dec 2024 16:15:04 -0500"),
            json!(1_733_260_504),
            json!(1_733_260_504_000_i64),
            json!("1733260504"),
            json!(" 1733260504000 "),
            json!("2024-12-03T21:15:04"),
            json!("2024-12-03 21:15:04"),
        ] {
            assert_eq!(instant(&value), expected, "{value}");
        }
        assert_eq!(instant(&json!("2024-12-03")), Some(crate::testing::instant("2024-12-03T00:00:00Z")));
    }

    #[test]
    fn nonsense_is_no_date() {
        for value in [
            json!("soon"),
            json!(""),
            json!(null),
            json!(true),
            json!([1]),
            json!(0),
            json!(2024),
            json!("2024"),
            json!(-5),
            json!(1e300),
            json!(i64::MAX),
            json!("NaN"),
            json!("inf"),
            json!("9999-12-31T00:00:00Z"),
            json!("2024-13-45"),
        ] {
            assert_eq!(instant(&value), None, "{value}");
        }
    }

    #[test]
    fn amounts_are_exact_positive_and_bounded() {
        for (value, expected) in [
            (json!(70000), Some("70000")),
            (json!("85,000"), Some("85000")),
            (json!("$ 85 000.505"), Some("85000.50")),
            (json!(0.1), Some("0.1")),
            (json!(1.5e5), Some("150000")),
            (json!(0), None),
            (json!(-5), None),
            (json!("0.001"), None),
            (json!("competitive"), None),
            (json!(1e300), None),
            (json!(1_000_000_000_000_i64), None),
            (json!(null), None),
        ] {
            assert_eq!(amount(&value), expected.map(|text| text.parse().unwrap()), "{value}");
        }
    }
}
