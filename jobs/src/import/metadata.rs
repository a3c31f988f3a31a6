//! Which numbers exist: the metadata of the crate `phonenumber` (which are libphonenumber's), in a form that is quick to ask
//! from many threads.
//!
//! The crate keeps its regular expressions in one cache of 100 behind one lock. Numbers of +1 alone need more than 200, so a
//! mixed file has the cache compile an expression for nearly every number: 23,000 numbers a second were measured, and fewer
//! with two threads than with one. Here each expression is compiled once, when it is first needed, and never locked again.
//! What is asked of them is the same (a test compares).

use std::sync::{LazyLock, OnceLock};

use phonenumber::{
    Metadata,
    metadata::{DATABASE, Descriptor},
};
use regex::{Regex, RegexBuilder};

use super::Reason;

/// A pattern, compiled when first asked.
#[derive(Debug)]
struct Pattern {
    source: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(source: &str) -> Self {
        Self { source: source.to_owned(), compiled: OnceLock::new() }
    }

    fn regex(&self) -> Option<&Regex> {
        // The metadata are part of the program and their patterns compile (a test goes through all). ASCII digits are all
        // that is ever asked about, so `\d` need not know others.
        let compile = || {
            let anchored = format!("^(?:{})", self.source);
            RegexBuilder::new(&anchored).unicode(false).ignore_whitespace(true).build().ok()
        };
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Whether the beginning of `text` matches.
    fn begins(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }
}

/// One type of numbers of a region (mobile, fixed line and so on).
#[derive(Debug)]
struct Shape {
    pattern: Pattern,
    lengths: Vec<u16>,
}

impl Shape {
    fn of(descriptor: &Descriptor) -> Self {
        Self {
            pattern: Pattern::new(descriptor.national_number().as_str()),
            lengths: descriptor.possible_length().to_vec(),
        }
    }

    fn has_length(&self, length: usize) -> bool {
        self.lengths.is_empty() || self.lengths.iter().any(|possible| usize::from(*possible) == length)
    }

    fn matches(&self, national: &str) -> bool {
        self.has_length(national.len()) && self.pattern.begins(national)
    }
}

#[derive(Debug)]
struct Region {
    id: String,
    general: Shape,
    types: Vec<Shape>,
    leading_digits: Option<Pattern>,
    international_prefix: Option<Pattern>,
}

impl Region {
    fn of(metadata: &Metadata) -> Self {
        let all = metadata.descriptors();
        // The frequent ones first. These are the types that the crate knows a valid number by.
        let types = [
            all.mobile(),
            all.fixed_line(),
            all.toll_free(),
            all.premium_rate(),
            all.shared_cost(),
            all.voip(),
            all.personal_number(),
            all.pager(),
            all.uan(),
            all.voicemail(),
        ];
        Self {
            id: metadata.id().to_owned(),
            general: Shape::of(all.general()),
            types: types.into_iter().flatten().map(Shape::of).collect(),
            leading_digits: metadata.leading_digits().map(|regex| Pattern::new(regex.as_str())),
            international_prefix: metadata.international_prefix().map(|regex| Pattern::new(regex.as_str())),
        }
    }

    fn has(&self, national: &str) -> bool {
        self.general.matches(national) && self.types.iter().any(|shape| shape.matches(national))
    }
}

/// All regions of a country calling code, the main one first.
#[derive(Debug)]
struct Country {
    regions: Vec<Region>,
}

static COUNTRIES: LazyLock<Vec<Option<Country>>> = LazyLock::new(|| {
    (0..1000u16)
        .map(|code| {
            let listed = DATABASE.region(&code);
            let metadata: Vec<&Metadata> = match listed.as_deref() {
                // Numbers of no country are listed by their code alone.
                None | Some([] | ["001"]) => DATABASE.by_code(&code)?.into_iter().take(1).collect(),
                Some(ids) => ids.iter().filter_map(|id| DATABASE.by_id(*id)).collect(),
            };
            Some(Country { regions: metadata.into_iter().map(Region::of).collect() })
        })
        .collect()
});

impl Country {
    /// The region that a national number belongs to, valid or not. Where a code has several regions, one that names its
    /// leading digits is known by them, the others by having the number.
    fn region_of(&self, national: &str) -> Option<&Region> {
        if let [only] = self.regions.as_slice() {
            return Some(only);
        }
        self.regions.iter().find(|region| {
            region.leading_digits.as_ref().map_or_else(|| region.has(national), |digits| digits.begins(national))
        })
    }

    fn why_not(&self, national: &str) -> Reason {
        let lengths = || self.regions.iter().flat_map(|region| region.types.iter().flat_map(|shape| &shape.lengths));
        let length = national.len();
        if lengths().all(|possible| length < usize::from(*possible)) {
            Reason::TooShort
        } else if lengths().all(|possible| length > usize::from(*possible)) {
            Reason::TooLong
        } else {
            Reason::Invalid
        }
    }
}

/// The country calling code at the beginning of these digits, and the rest. No code is the beginning of another.
pub(super) fn split_code(digits: &str) -> Option<(u16, &str)> {
    if digits.starts_with('0') {
        return None;
    }
    (1..=3).find_map(|length| {
        let code: u16 = digits.get(..length)?.parse().ok()?;
        country(code).map(|_| (code, &digits[length..]))
    })
}

fn country(code: u16) -> Option<&'static Country> {
    COUNTRIES.get(usize::from(code))?.as_ref()
}

/// The region of a national significant number, if it is valid there.
pub(super) fn region_of(code: u16, national: &str) -> Result<&'static str, Reason> {
    let country = country(code).ok_or(Reason::UnknownCountry)?;
    country
        .region_of(national)
        .filter(|region| region.has(national))
        .map(|region| region.id.as_str())
        .ok_or_else(|| country.why_not(national))
}

/// What follows the prefix for calls abroad, if the digits begin with that of this region (00 in most, 011 in the US).
pub(super) fn after_international_prefix(region: phonenumber::country::Id, digits: &str) -> Option<&str> {
    let id: &str = region.as_ref();
    let code = DATABASE.by_id(id)?.country_code();
    let region = country(code)?.regions.iter().find(|region| region.id == id)?;
    let found = region.international_prefix.as_ref()?.regex()?.find(digits)?;
    Some(&digits[found.end()..]).filter(|rest| !rest.starts_with('0'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use phonenumber::Mode;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_patterns_compile_and_all_codes_are_there() {
        let mut patterns = 0;
        for country in COUNTRIES.iter().flatten() {
            for region in &country.regions {
                let shapes = region.types.iter().chain([&region.general]).map(|shape| &shape.pattern);
                for pattern in shapes.chain(&region.leading_digits).chain(&region.international_prefix) {
                    assert!(pattern.regex().is_some(), "{}: {}", region.id, pattern.source);
                    patterns += 1;
                }
            }
        }
        assert!(patterns > 1500, "{patterns}");
        for metadata in DATABASE.iter() {
            let country = country(metadata.country_code()).unwrap();
            assert!(metadata.id() == "001" || country.regions.iter().any(|region| region.id == metadata.id()));
        }
    }

    #[test]
    fn every_example_of_the_metadata_is_valid_as_it_is_written() {
        let mut examples = 0;
        for metadata in DATABASE.iter() {
            let all = metadata.descriptors();
            for example in [
                all.fixed_line(),
                all.mobile(),
                all.toll_free(),
                all.premium_rate(),
                all.shared_cost(),
                all.voip(),
                all.personal_number(),
                all.pager(),
                all.uan(),
                all.voicemail(),
            ]
            .into_iter()
            .flatten()
            .filter_map(Descriptor::example)
            {
                region_of(metadata.country_code(), example).unwrap_or_else(|reason| {
                    panic!("+{}{example} of {}: {reason}", metadata.country_code(), metadata.id())
                });
                examples += 1;
            }
        }
        assert!(examples > 1000, "{examples}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// For numbers that the crate leaves as they are written, it and these tables agree on validity and region.
        #[test]
        fn validity_is_what_the_crate_says(
            country in 0..246usize, digits in "[0-9]{4,13}", like in any::<bool>(), tail in "[0-9]{0,4}",
        ) {
            let metadata = DATABASE.iter().nth(country).unwrap();
            // Half of the cases begin like a real number, or hardly any would be valid.
            let example = metadata.descriptors().general().example()
                .or_else(|| metadata.descriptors().fixed_line().and_then(Descriptor::example));
            let digits = match example {
                Some(example) if like => {
                    let kept = example.len().saturating_sub(tail.len());
                    format!("{}{tail}", &example[..kept])
                }
                _ => digits,
            };
            let written = format!("+{}{digits}", metadata.country_code());
            let Ok(parsed) = phonenumber::parse(None, &written) else { return Ok(()) };
            prop_assume!(parsed.format().mode(Mode::E164).to_string() == written);
            let ours = split_code(&written[1..]).map(|(code, national)| region_of(code, national));
            let valid = phonenumber::is_valid(&parsed);
            prop_assert_eq!(matches!(ours, Some(Ok(_))), valid, "{}", written);
            // Leading zeros are lost on the way to the crate's own answer about the region.
            if let (Some(Ok(region)), Some(id)) = (ours, parsed.country().id()) && !digits.starts_with('0') {
                prop_assert_eq!(region, id.as_ref());
            }
        }
    }
}
