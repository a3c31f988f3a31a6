//! RSS and Atom, through `feed-rs`.
//!
//! `feed-rs` builds the whole feed in memory, with structures many times the size of an empty element, and compares every
//! attribute of a tag with every other. So tags are counted and measured before it sees the text, and it reads through a
//! reader that ends when the time is over.

use std::{
    io::{self, Read},
    time::Instant,
};

use feed_rs::{
    model::{Entry, Link, Text},
    parser::{self, ParseErrorKind, ParseFeedError},
};
use url::Url;

use super::{
    document::{Limits, Page},
    error::DocumentError,
    item::{Item, RawItem},
    value,
};

/// Tags in one feed. 5,000 items of 20 elements have this many.
const MAX_TAGS: usize = 200_000;
/// The longest tag, attributes included.
const MAX_TAG_BYTES: usize = 32 * 1024;

pub(super) fn parse(text: &str, url: &Url, limits: Limits) -> Result<Page, DocumentError> {
    check_tags(text)?;
    let start = Instant::now();
    let reader = Limited { text: text.as_bytes(), start, limits };
    // No sanitising: the description is stored as it came and made safe where it is shown. Ids are not used: do not hash.
    let parser = parser::Builder::new()
        .base_uri(Some(url))
        .sanitize_content(false)
        .id_generator(|_, _, _| String::new())
        .build();
    let feed = parser.parse(reader).map_err(|error| {
        if start.elapsed() > limits.timeout {
            return DocumentError::Slow { limit: limits.timeout };
        }
        match error {
            ParseFeedError::ParseError(ParseErrorKind::NoFeedRoot) => no_root(text),
            error => DocumentError::Feed { reason: error.to_string().chars().take(300).collect() },
        }
    })?;

    let mut page = Page::default();
    let mut bytes = 0;
    for entry in feed.entries {
        if !page.take(item(entry, url), limits, &mut bytes) {
            break;
        }
    }
    page.next = feed.links.into_iter().find(|link| has_rel(link, "next")).map(|link| link.href);
    Ok(page)
}

/// `feed-rs` says that there is no root also when the XML breaks before it.
fn no_root(text: &str) -> DocumentError {
    if text.starts_with('<') {
        DocumentError::NotAFeed
    } else {
        DocumentError::Feed { reason: "it does not begin with a tag".to_owned() }
    }
}

fn item(entry: Entry, base: &Url) -> Option<Item> {
    let published = entry.published.or(entry.updated).and_then(value::plausible);
    let body = entry.content.and_then(|content| content.body).filter(|body| !body.trim().is_empty());
    let content = |text: Text| text.content;
    let raw = RawItem {
        title: entry.title.map(content),
        url: link(&entry.links).or(entry.id.starts_with("http").then_some(entry.id)),
        description: body.or(entry.summary.map(content)),
        published,
        tags: entry.categories.into_iter().map(|category| category.label.unwrap_or(category.term)).collect(),
        ..RawItem::default()
    };
    Item::new(raw, base)
}

/// The link to the vacancy itself, not to its comments, enclosures or its own feed entry.
fn link(links: &[Link]) -> Option<String> {
    let is_page = |link: &&Link| link.target.is_none() && (link.rel.is_none() || has_rel(link, "alternate"));
    links.iter().find(is_page).map(|link| link.href.clone())
}

fn has_rel(link: &Link, rel: &str) -> bool {
    link.rel.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(rel))
}

/// Refuses what only an attack looks like. Text, CDATA and comments do not count.
fn check_tags(text: &str) -> Result<(), DocumentError> {
    let too_many = || Err(DocumentError::TooMany { what: "elements", limit: MAX_TAGS });
    let mut tags = 0;
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let unparsed = [("<![CDATA[", "]]>"), ("<!--", "-->")].into_iter().find(|(start, _)| rest.starts_with(start));
        if let Some((_, end)) = unparsed {
            // Never closed: the parser will say so.
            rest = rest.find(end).map_or("", |at| &rest[at + end.len()..]);
            continue;
        }
        let length = tag_length(rest);
        tags += 1;
        if tags > MAX_TAGS {
            return too_many();
        }
        if length > MAX_TAG_BYTES {
            return Err(DocumentError::TooMany { what: "bytes in one tag", limit: MAX_TAG_BYTES });
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// Up to and with the `>` that is not within quotes.
fn tag_length(tag: &str) -> usize {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    tag.len()
}

/// Gives out the text until the time is over.
struct Limited<'a> {
    text: &'a [u8],
    start: Instant,
    limits: Limits,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start.elapsed() > self.limits.timeout {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "parsing takes too long"));
        }
        self.text.read(buffer)
    }
}
