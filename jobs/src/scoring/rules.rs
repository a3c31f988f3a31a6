//! The built-in scorer: points for keywords, salary and freshness, each with its sentence in the reason.

use std::fmt::Write;

use rust_decimal::Decimal;

use super::{MAX_REASON, Subject, Verdict, profile::Rules, words::Words};
use crate::fetch::text::plain;

/// What every vacancy starts with, in half points.
const START: i32 = 10;

/// A contribution: half points, so that half a weight is exact, and what it is for.
struct Part {
    halves: i32,
    why: String,
}

/// Scores by rules. The same subject and rules give the same verdict, always.
pub(super) fn score(subject: &Subject, rules: &Rules) -> Verdict {
    let title = Words::new(&subject.title);
    let rest = Words::new(&rest(subject));
    if let Some(term) = rules.exclusions.iter().find(|term| title.contain(term) || rest.contain(term)) {
        return Verdict { score: 1, reason: format!("excluded: it has {term:?}") };
    }
    let mut parts: Vec<Part> = rules
        .keywords
        .iter()
        .filter_map(|keyword| {
            let (halves, place) = if title.contain(&keyword.term) {
                (keyword.weight * 2, "the title")
            } else if rest.contain(&keyword.term) {
                (keyword.weight, "the text")
            } else {
                return None;
            };
            Some(Part { halves, why: format!("{:?} in {place}", keyword.term) })
        })
        .collect();
    parts.extend(salary(subject, rules));
    parts.extend(freshness(subject, rules));
    verdict(&parts)
}

/// All that is searched besides the title.
fn rest(subject: &Subject) -> String {
    let company = subject.company.as_deref().unwrap_or_default();
    let location = subject.location.as_deref().unwrap_or_default();
    // A line each, so that no phrase is found across two fields.
    format!(
        "{company} \u{2016} {location} \u{2016} {} \u{2016} {}",
        subject.tags.join(" \u{2016} "),
        plain(&subject.description)
    )
}

fn salary(subject: &Subject, rules: &Rules) -> Option<Part> {
    let expected = rules.salary_expected?;
    let offered = subject.salary_max.or(subject.salary_min)?;
    let (offered, expected) = (offered.normalize(), expected.normalize());
    let (halves, how) = if offered >= expected {
        (2, "reaches")
    } else if offered * Decimal::from(5) >= expected * Decimal::from(4) {
        (0, "comes near")
    } else {
        (-4, "is far below")
    };
    Some(Part { halves, why: format!("salary {offered} {how} {expected}") })
}

fn freshness(subject: &Subject, rules: &Rules) -> Option<Part> {
    let age = subject.first_seen_at - subject.published_at?;
    // A source whose clock is ahead publishes in the future: that is fresh.
    let days = age.num_days().max(0);
    let fresh = i64::from(rules.fresh_days);
    let halves = if days <= fresh {
        2
    } else if days <= fresh * 4 {
        0
    } else {
        -2
    };
    let unit = if days == 1 { "day" } else { "days" };
    Some(Part { halves, why: format!("published {days} {unit} before it was seen") })
}

fn verdict(parts: &[Part]) -> Verdict {
    let total = parts.iter().fold(START, |total, part| total.saturating_add(part.halves));
    // Half a point counts as one.
    let score = (total + 1).div_euclid(2).clamp(1, 10);
    let mut reason = format!("{} to start", points(START));
    for part in parts {
        // Writing into a String cannot fail.
        let _ = write!(reason, "; {}{} {}", if part.halves < 0 { "" } else { "+" }, points(part.halves), part.why);
    }
    let _ = write!(reason, "; {} in all", points(total));
    if reason.chars().count() > MAX_REASON {
        reason = reason.chars().take(MAX_REASON - 1).collect();
        reason.push('…');
    }
    Verdict { score: i16::try_from(score).expect("it is 1 to 10"), reason }
}

fn points(halves: i32) -> String {
    let sign = if halves < 0 { "-" } else { "" };
    let half = if halves % 2 == 0 { "" } else { ".5" };
    format!("{sign}{}{half}", halves.abs() / 2)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{scoring::profile::Keyword, testing::instant};

    fn subject() -> Subject {
        Subject {
            id: Uuid::nil(),
            url: "https://a.example/1".to_owned(),
            title: "Senior Rust Engineer".to_owned(),
            description: "<p>Postgres &amp; Kubernetes. No <b>crypto</b>currency.</p>".to_owned(),
            company: Some("Acme".to_owned()),
            location: Some("Remote".to_owned()),
            salary_min: Some(Decimal::from(70_000)),
            salary_max: Some(Decimal::from(110_000)),
            tags: vec!["backend".to_owned(), "golang".to_owned()],
            published_at: Some(instant("2024-12-01T00:00:00Z")),
            first_seen_at: instant("2024-12-03T12:00:00Z"),
        }
    }

    fn rules(keywords: &[(&str, i32)]) -> Rules {
        let keyword = |(term, weight): &(&str, i32)| Keyword { term: (*term).to_owned(), weight: *weight };
        Rules { keywords: keywords.iter().map(keyword).collect(), ..Rules::default() }
    }

    #[test]
    fn without_a_profile_only_freshness_counts() {
        let verdict = score(&subject(), &Rules::default());
        assert_eq!(verdict.reason, "5 to start; +1 published 2 days before it was seen; 6 in all");
        assert_eq!(verdict.score, 6);
    }

    #[test]
    fn the_reason_explains_every_point() {
        let mut rules = rules(&[("rust", 3), ("kubernetes", 1), ("senior", -1), ("java", 5)]);
        rules.salary_expected = Some(Decimal::from(100_000));
        let verdict = score(&subject(), &rules);
        assert_eq!(
            verdict.reason,
            "5 to start; +3 \"rust\" in the title; +0.5 \"kubernetes\" in the text; -1 \"senior\" in the title; \
             +1 salary 110000 reaches 100000; +1 published 2 days before it was seen; 9.5 in all"
        );
        assert_eq!(verdict.score, 10);
    }

    #[test]
    fn an_exclusion_makes_it_one_whatever_else_speaks_for_it() {
        let mut rules = rules(&[("rust", 10)]);
        rules.exclusions = vec!["Golang".to_owned()];
        assert_eq!(score(&subject(), &rules), Verdict { score: 1, reason: "excluded: it has \"Golang\"".to_owned() });
        rules.exclusions = vec!["crypto".to_owned(), "acme remote".to_owned()];
        assert_eq!(score(&subject(), &rules).score, 10, "no part of a word, and no phrase across two fields");
    }

    #[test]
    fn the_score_stays_within_one_and_ten() {
        let text = score(&subject(), &rules(&[("rust", 10), ("senior", 10), ("postgres", 10)]));
        assert_eq!(text.score, 10);
        assert_eq!(score(&subject(), &rules(&[("rust", -10), ("senior", -10)])).score, 1);
    }

    #[test]
    fn salary_and_freshness_have_their_steps() {
        let with = |expected: i64, published: Option<&str>| {
            let rules = Rules { salary_expected: Some(Decimal::from(expected)), ..Rules::default() };
            score(&Subject { published_at: published.map(instant), ..subject() }, &rules).score
        };
        assert_eq!([with(110_000, None), with(137_500, None), with(137_501, None)], [6, 5, 3]);
        let fresh = |published| with(120_000, Some(published));
        assert_eq!(
            [
                fresh("2024-11-26T00:00:00Z"),
                fresh("2024-11-25T00:00:00Z"),
                fresh("2024-11-05T00:00:00Z"),
                fresh("2024-11-04T00:00:00Z")
            ],
            [6, 5, 5, 4]
        );
        assert_eq!(fresh("2025-01-01T00:00:00Z"), 6, "a source whose clock is ahead");
        let silent = Subject { salary_min: None, salary_max: None, published_at: None, ..subject() };
        let rules = Rules { salary_expected: Some(Decimal::from(1)), ..Rules::default() };
        assert_eq!(score(&silent, &rules).score, 5);
    }

    #[test]
    fn half_a_point_counts_as_one_and_long_reasons_are_cut() {
        let silent = Subject { published_at: None, ..subject() };
        assert_eq!(score(&silent, &rules(&[("postgres", 1)])).score, 6);
        assert_eq!(score(&silent, &rules(&[("postgres", -1)])).score, 5);
        let long = format!("rust{}", " engineer".repeat(10));
        let many: Vec<_> = (0..100).map(|_| (long.as_str(), 1)).collect();
        let subject = Subject { title: long.clone(), ..subject() };
        assert_eq!(score(&subject, &rules(&many)).reason.chars().count(), MAX_REASON);
    }
}
