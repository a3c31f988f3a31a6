//! From what stands in a file to E.164.
//!
//! A number in international form that is valid **as it is written** is taken as it is written. Only what is not is given to the
//! parser of the crate `phonenumber`, which knows national forms, national prefixes in the wrong place (`+49 (0)30 …`) and more. The parser is not asked first because it repairs too much: it takes `+7 800 555 35 35` for the
//! national prefix 8 and a shorter number and so finds 10 of the metadata's own 1,133 examples invalid; given a default region,
//! it strips that region's prefix from numbers of other countries (`+39 02 …` with `DE` loses its zero).

use std::panic::{AssertUnwindSafe, catch_unwind};

use phonenumber::{ParseError, country};

use super::{
    Reason,
    metadata::{after_international_prefix, region_of, split_code},
};

/// A valid number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct E164 {
    /// Its digits, country calling code first; the plus sign is left out.
    pub digits: i64,
    /// Its region: ISO 3166, or 001 for numbers of no country.
    pub region: &'static str,
}

/// E.164 allows 15 digits.
const MAX_DIGITS: usize = 15;

/// Nothing longer is looked at: no way of writing a number needs it.
const MAX_CHARS: usize = 60;

/// Reads one number. `default` is the country of numbers that are written without one.
///
/// # Errors
/// Why it is not a number that can be called.
pub fn parse_number(text: &str, default: Option<country::Id>) -> Result<E164, Reason> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if let Some(number) = as_written(text) {
        return Ok(number);
    }
    if text.chars().nth(MAX_CHARS).is_some() {
        return Err(Reason::TooLong);
    }
    let text = text.get(..4).filter(|head| head.eq_ignore_ascii_case("tel:")).map_or(text, |_| text[4..].trim_start());
    if text.chars().any(char::is_alphabetic) {
        let extension = parse(default, text).is_ok_and(|number| number.extension().is_some());
        return Err(if extension { Reason::Extension } else { Reason::Letters });
    }
    if text.starts_with(['+', '\u{ff0b}']) {
        return repaired(None, text);
    }
    if let Some(default) = default {
        // 0049 30 … and +49 30 … are the same, and must not be read with the default region's rules.
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        if let Some(rest) = after_international_prefix(default, &digits) {
            let abroad = format!("+{rest}");
            return as_written(&abroad).map_or_else(|| repaired(None, &abroad), Ok);
        }
    }
    repaired(default, text)
}

/// A plus sign, then digits with usual punctuation, that are a valid number without any repair.
fn as_written(text: &str) -> Option<E164> {
    let rest = text.strip_prefix('+')?;
    let mut digits = [0u8; MAX_DIGITS];
    let mut length = 0;
    for byte in rest.bytes() {
        match byte {
            b'0'..=b'9' => {
                *digits.get_mut(length)? = byte;
                length += 1;
            }
            b' ' | b'-' | b'.' | b'(' | b')' => {}
            _ => return None,
        }
    }
    let digits = std::str::from_utf8(&digits[..length]).ok()?;
    let (code, national) = split_code(digits)?;
    let region = region_of(code, national).ok()?;
    Some(E164 { digits: digits.parse().ok()?, region })
}

fn repaired(default: Option<country::Id>, text: &str) -> Result<E164, Reason> {
    let number = parse(default, text)?;
    if number.extension().is_some() {
        return Err(Reason::Extension);
    }
    let (code, national) = (number.code().value(), number.national().to_string());
    let region = region_of(code, &national)?;
    let digits = format!("{code}{national}");
    if digits.len() > MAX_DIGITS {
        return Err(Reason::TooLong);
    }
    Ok(E164 { digits: digits.parse().map_err(|_| Reason::NotANumber)?, region })
}

fn parse(default: Option<country::Id>, text: &str) -> Result<phonenumber::PhoneNumber, Reason> {
    // The parser unwraps in places that the input decides about; a row must not end the import.
    let parsed =
        catch_unwind(AssertUnwindSafe(|| phonenumber::parse(default, text))).map_err(|_| Reason::NotANumber)?;
    parsed.map_err(|error| match error {
        ParseError::InvalidCountryCode if default.is_none() && !text.starts_with(['+', '\u{ff0b}']) => {
            Reason::NoCountry
        }
        ParseError::InvalidCountryCode => Reason::UnknownCountry,
        ParseError::TooShortNsn | ParseError::TooShortAfterIdd => Reason::TooShort,
        ParseError::TooLong => Reason::TooLong,
        ParseError::NoNumber | ParseError::MalformedInteger(_) => Reason::NotANumber,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use phonenumber::Mode;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, default: Option<country::Id>) -> Result<String, Reason> {
        parse_number(text, default).map(|number| format!("+{} {}", number.digits, number.region))
    }

    #[test]
    fn numbers_as_people_write_them() {
        let de = Some(country::DE);
        for (text, default, expected) in [
            ("+4930123456", None, "+4930123456 DE"),
            ("+49 (0)30 123456", None, "+4930123456 DE"),
            (" +49 30/123456 ", None, "+4930123456 DE"),
            ("tel:+49-30-123456", None, "+4930123456 DE"),
            ("'+49 30 123456", None, "+4930123456 DE"),
            ("030 123456", de, "+4930123456 DE"),
            ("004930123456", de, "+4930123456 DE"),
            ("4930123456", de, "+4930123456 DE"),
            ("(0151) 12345678", de, "+4915112345678 DE"),
            ("+1 (212) 555-0123", None, "+12125550123 US"),
            ("+1 416 555 0123", None, "+14165550123 CA"),
            ("+1 876 555 0123", None, "+18765550123 JM"),
            ("+44 7400 123456", None, "+447400123456 GB"),
            ("+44 7911 123456", None, "+447911123456 GG"),
            // An Italian zero belongs to the number, whatever the default region is.
            ("+39 02 36618300", de, "+390236618300 IT"),
            ("0039 02 36618300", de, "+390236618300 IT"),
            // The 8 is not the national prefix here.
            ("+7 800 555 35 35", None, "+78005553535 RU"),
            ("+7 800 555 35 35", de, "+78005553535 RU"),
            ("+800 1234 5678", None, "+80012345678 001"),
        ] {
            assert_eq!(read(text, default).as_deref(), Ok(expected), "{text} {default:?}");
        }
    }

    #[test]
    fn every_class_of_bad_number_has_its_reason() {
        let de = Some(country::DE);
        for (text, default, expected) in [
            ("", None, Reason::Empty),
            (" \u{a0} ", None, Reason::Empty),
            ("030 123456", None, Reason::NoCountry),
            ("+999 123456", None, Reason::UnknownCountry),
            ("+0 123456", None, Reason::UnknownCountry),
            ("+49 1", None, Reason::TooShort),
            ("+1 212 555 01234", None, Reason::TooLong),
            ("+4930123456789012345", None, Reason::TooLong),
            ("+1 012 345 6789", None, Reason::Invalid),
            ("n/a", None, Reason::Letters),
            ("1-800-FLOWERS", Some(country::US), Reason::Letters),
            ("someletters1110@gmail.com", de, Reason::Letters),
            ("4.9170E+11", de, Reason::Letters),
            ("030 123456 ext. 12", de, Reason::Extension),
            ("030 123456 x12", de, Reason::Extension),
            ("+49", None, Reason::NotANumber),
            ("#####", de, Reason::NotANumber),
            ("-", de, Reason::NotANumber),
            ("+49 30 123456, +49 30 654321", None, Reason::NotANumber),
        ] {
            assert_eq!(read(text, default), Err(expected), "{text:?} {default:?}");
        }
        assert_eq!(read(&"9".repeat(100_000), de), Err(Reason::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn nothing_from_outside_panics(text in "\\PC{0,70}", with_default in any::<bool>()) {
            let _ = parse_number(&text, with_default.then_some(country::DE));
        }

        #[test]
        fn what_looks_like_a_number_does_not_panic_either(text in "[-+0-9 ().x#;/*,]{0,30}", which in 0..4usize) {
            let default = [None, Some(country::DE), Some(country::AR), Some(country::BR)][which];
            let _ = parse_number(&text, default);
        }

        /// What the crate finds valid and leaves as it is written, is read the same here, by the quick way or the slow one.
        #[test]
        fn the_quick_way_finds_what_the_crate_finds(
            country in 0..246usize, tail in "[0-9]{0,5}", blank in 1..8usize,
        ) {
            let metadata = phonenumber::metadata::DATABASE.iter().nth(country).unwrap();
            let Some(example) = metadata.descriptors().mobile().and_then(|mobile| mobile.example()) else {
                return Ok(());
            };
            let kept = example.len().saturating_sub(tail.len());
            let digits = format!("{}{tail}", &example[..kept]);
            let (head, end) = digits.split_at(blank.min(digits.len()));
            let written = format!("+{} {head} {end}", metadata.country_code());
            if let Ok(theirs) = phonenumber::parse(None, &written)
                && phonenumber::is_valid(&theirs)
            {
                let ours = parse_number(&written, None).map(|number| format!("+{}", number.digits));
                prop_assert_eq!(ours, Ok(theirs.format().mode(Mode::E164).to_string()), "{}", written);
            }
        }
    }
}
