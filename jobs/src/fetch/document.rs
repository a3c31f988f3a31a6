//! A document to a page of items, off the async threads and within limits.

use std::time::Duration;

use url::Url;

use super::{
    decode::{decode, without_declaration},
    error::DocumentError,
    feed,
    item::Item,
    json, json_feed,
    mapping::Mapping,
    pointer::Pointer,
};

/// What a document is to be read as.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// JSON by a mapping, with the pointer to the next page's URL.
    Json { mapping: Box<Mapping>, next: Option<Pointer> },
    /// RSS, Atom or JSON Feed.
    Feed,
}

/// How much of a document is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_items: usize,
    pub max_text_bytes: usize,
    pub timeout: Duration,
}

/// One page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Items that can be stored.
    pub items: Vec<Item>,
    /// Items without title or URL, or too large.
    pub skipped: u64,
    /// Whether there was more than the limits allow.
    pub is_cut: bool,
    /// The next page, if the document names it.
    pub next: Option<String>,
}

impl Page {
    /// Takes an item, or counts it as skipped. False once the page is full.
    pub(super) fn take(&mut self, item: Option<Item>, limits: Limits, bytes: &mut usize) -> bool {
        let Some(item) = item else {
            self.skipped += 1;
            return true;
        };
        *bytes += item.bytes();
        if self.items.len() >= limits.max_items || *bytes > limits.max_text_bytes {
            self.is_cut = true;
            return false;
        }
        self.items.push(item);
        true
    }
}

/// Parses a document.
pub(super) fn parse(
    body: &[u8],
    content_type: Option<&str>,
    url: &Url,
    reading: &Reading,
    limits: Limits,
) -> Result<Page, DocumentError> {
    let text = decode(body, content_type);
    let text = without_declaration(&text);
    if text.is_empty() {
        return Err(DocumentError::Empty);
    }
    match reading {
        Reading::Json { .. } if text.starts_with('<') => Err(DocumentError::Html { expected: "JSON" }),
        Reading::Json { mapping, next } => json::parse(text, url, mapping, next.as_ref(), limits),
        Reading::Feed if is_html(text) => Err(DocumentError::Html { expected: "a feed" }),
        Reading::Feed if text.starts_with('{') => json_feed::parse(text, url, limits),
        Reading::Feed => feed::parse(text, url, limits),
    }
}

/// Parses on a thread where it may take its time. A panic of a parser ends there.
pub(super) async fn parse_aside(
    body: Vec<u8>,
    content_type: Option<String>,
    url: Url,
    reading: Reading,
    limits: Limits,
) -> Result<Page, DocumentError> {
    tokio::task::spawn_blocking(move || parse(&body, content_type.as_deref(), &url, &reading, limits))
        .await
        .unwrap_or(Err(DocumentError::Parser))
}

/// Whether it begins as a web page does, comments left aside.
fn is_html(text: &str) -> bool {
    let mut text = text;
    while let Some(comment) = text.strip_prefix("<!--") {
        text = comment.split_once("-->").map_or("", |(_, rest)| rest.trim_start());
    }
    ["<!doctype html", "<html", "<head", "<body"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)))
}
