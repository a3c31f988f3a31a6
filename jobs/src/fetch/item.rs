//! One vacancy as a document gives it, cleaned and bounded.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use url::Url;

use super::text;

/// Longest title, in characters.
const MAX_TITLE: usize = 500;
/// Longest URL, in bytes. A longer one cannot be cut and cannot be indexed.
const MAX_URL: usize = 2048;
/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 32 * 1024;
/// Longest company or location, in characters.
const MAX_NAME: usize = 200;
/// Longest tag, in characters, and how many an item may have.
const MAX_TAG: usize = 64;
const MAX_TAGS: usize = 50;

/// What a document says about a vacancy, as it stands there.
#[derive(Debug, Default)]
pub(super) struct RawItem {
    pub title: Option<String>,
    pub url: Option<String>,
    pub description: Option<String>,
    pub published: Option<DateTime<Utc>>,
    pub company: Option<String>,
    pub location: Option<String>,
    pub salary_min: Option<Decimal>,
    pub salary_max: Option<Decimal>,
    pub tags: Vec<String>,
}

/// A vacancy that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub title: String,
    pub url: String,
    pub description: String,
    pub published: Option<DateTime<Utc>>,
    pub company: Option<String>,
    pub location: Option<String>,
    pub salary_min: Option<Decimal>,
    pub salary_max: Option<Decimal>,
    pub tags: Vec<String>,
}

impl Item {
    /// Cleans an item. `None` when it has no title or no URL that can be kept: it is skipped and counted.
    pub(super) fn new(raw: RawItem, base: &Url) -> Option<Self> {
        let title = text::line(&raw.title?, MAX_TITLE)?;
        let url = link(&raw.url?, base)?;
        let name = |text: Option<String>| text::line(&text?, MAX_NAME);
        let mut tags: Vec<String> = Vec::new();
        for tag in raw.tags.iter().filter_map(|tag| text::line(tag, MAX_TAG)) {
            if tags.len() < MAX_TAGS && !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Some(Self {
            title,
            url,
            description: raw.description.map(|text| text::body(&text, MAX_DESCRIPTION)).unwrap_or_default(),
            published: raw.published,
            company: name(raw.company),
            location: name(raw.location),
            salary_min: raw.salary_min,
            salary_max: raw.salary_max,
            tags,
        })
    }

    /// About how many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        let name = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let tags: usize = self.tags.iter().map(String::len).sum();
        self.title.len() + self.url.len() + self.description.len() + name(&self.company) + name(&self.location) + tags
    }
}

/// An absolute http or https URL, normalised; one with credentials is no link to be shown.
fn link(text: &str, base: &Url) -> Option<String> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_URL {
        return None;
    }
    let url = base.join(text).ok()?;
    let is_link = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    // Normalised it may be three times as long.
    (is_link && url.as_str().len() <= MAX_URL).then(|| url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(title: &str, url: &str) -> Option<Item> {
        let raw = RawItem { title: Some(title.to_owned()), url: Some(url.to_owned()), ..RawItem::default() };
        Item::new(raw, &"https://board.example.org/api/jobs.json".parse().unwrap())
    }

    #[test]
    fn a_link_is_absolute_after_cleaning() {
        for (given, expected) in [
            ("https://a.example/1", "https://a.example/1"),
            (" /jobs/ü ", "https://board.example.org/jobs/%C3%BC"),
            ("42", "https://board.example.org/api/42"),
            ("//cdn.example/x", "https://cdn.example/x"),
        ] {
            assert_eq!(item("t", given).unwrap().url, expected);
        }
    }

    #[test]
    fn without_a_usable_title_or_url_there_is_no_item() {
        let long = format!("https://a.example/{}", "x".repeat(2048));
        let grows = format!("https://a.example/{}", "ü".repeat(900));
        for (title, url) in [
            ("", "/1"),
            (" \t", "/1"),
            ("\0", "/1"),
            ("t", ""),
            ("t", "  "),
            ("t", "javascript:alert(1)"),
            ("t", "mailto:a@b.c"),
            ("t", "https://user:pass@a.example/"),
            ("t", "http://"),
            ("t", &long),
            ("t", &grows),
        ] {
            assert_eq!(item(title, url), None, "{title:?} {url:?}");
        }
    }

    #[test]
    fn every_field_is_bounded() {
        let long = "word ".repeat(20_000);
        let raw = RawItem {
            title: Some(long.clone()),
            url: Some("/1".to_owned()),
            description: Some(long.clone()),
            company: Some(long.clone()),
            location: Some(long.clone()),
            tags: (0..1000).map(|number| format!("{number} {long}")).collect(),
            ..RawItem::default()
        };
        let item = Item::new(raw, &"https://a.example/".parse().unwrap()).unwrap();
        assert!(item.title.chars().count() <= 500 && item.description.len() <= 32 * 1024);
        assert!(item.company.as_ref().unwrap().len() <= 200 && item.location.as_ref().unwrap().len() <= 200);
        assert!(item.tags.len() == 50 && item.tags.iter().all(|tag| tag.len() <= 64));
        assert!(item.bytes() < 64 * 1024);
    }
}
