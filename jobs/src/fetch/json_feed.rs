//! JSON Feed. Read as it is found: `feed-rs` refuses the whole feed for one id that is a number, which the standard tells
//! readers to take, and ids do not matter here.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use url::Url;

use super::{
    document::{Limits, Page},
    error::DocumentError,
    item::{Item, RawItem},
    json, value,
};

/// What is wanted of the feed itself; its other fields may be anything.
#[derive(Deserialize)]
struct Feed<'a> {
    #[serde(borrow, default)]
    version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    items: Option<&'a RawValue>,
    #[serde(borrow, default)]
    next_url: Option<&'a RawValue>,
}

pub(super) fn parse(text: &str, url: &Url, limits: Limits) -> Result<Page, DocumentError> {
    let broken = |error: serde_json::Error| DocumentError::Feed { reason: error.to_string() };
    let feed: Feed<'_> = serde_json::from_str(text).map_err(broken)?;
    let version = feed.version.and_then(string).unwrap_or_default();
    if !version.contains("jsonfeed.org/version/") {
        return Err(DocumentError::NotAFeed);
    }
    let no_list = || DocumentError::NoItemList { pointer: "/items".to_owned() };
    let list = feed.items.filter(|items| items.get().starts_with('[')).ok_or_else(no_list)?;
    let mut page = json::read_list(list, limits, |decoded| item(decoded, url)).map_err(broken)?;
    page.next = feed.next_url.and_then(string).filter(|next| !next.is_empty()).map(Cow::into_owned);
    Ok(page)
}

fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get()).ok()
}

fn item(decoded: &Value, base: &Url) -> Option<Item> {
    let first = |names: &[&str]| names.iter().find_map(|name| decoded.get(name).and_then(value::text));
    let tags = decoded.get("tags").and_then(Value::as_array);
    let raw = RawItem {
        title: first(&["title"]),
        url: first(&["url", "external_url"]),
        description: first(&["content_html", "content_text", "summary"]),
        published: ["date_published", "date_modified"]
            .iter()
            .find_map(|name| decoded.get(name).and_then(value::instant)),
        tags: tags.map(|tags| tags.iter().filter_map(value::text).collect()).unwrap_or_default(),
        ..RawItem::default()
    };
    Item::new(raw, base)
}
