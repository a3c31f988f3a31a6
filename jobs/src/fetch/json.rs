//! JSON sources. The document is checked as a whole and decoded item by item, so that it never stands in memory as a tree:
//! `{"":0}` seven million times would be gigabytes.

use std::fmt;

use serde::{
    Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use url::Url;

use super::{
    document::{Limits, Page},
    error::DocumentError,
    item::{Item, RawItem},
    mapping::Mapping,
    pointer::Pointer,
    value,
};

/// The largest item, in bytes of JSON; a larger one is skipped.
const MAX_ITEM_BYTES: usize = 512 * 1024;

pub(super) fn parse(
    text: &str,
    url: &Url,
    mapping: &Mapping,
    next: Option<&Pointer>,
    limits: Limits,
) -> Result<Page, DocumentError> {
    // Syntax errors name line and column, and nothing of the content.
    let broken = |error: serde_json::Error| DocumentError::Json { reason: error.to_string() };
    let document: &RawValue = serde_json::from_str(text).map_err(broken)?;
    let no_list = || DocumentError::NoItemList { pointer: mapping.items.to_string() };
    let list = mapping.items.find_raw(document).map_err(broken)?.ok_or_else(no_list)?;
    if !list.get().starts_with('[') {
        return Err(no_list());
    }
    let mut page = read_list(list, limits, |decoded| item(decoded, mapping, url)).map_err(broken)?;
    if let Some(next) = next {
        let found = next.find_raw(document).map_err(broken)?;
        page.next =
            found.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()).filter(|next| !next.is_empty());
    }
    Ok(page)
}

/// The items of a list, decoded one after the other.
pub(super) fn read_list(
    list: &RawValue,
    limits: Limits,
    item: impl Fn(&Value) -> Option<Item>,
) -> Result<Page, serde_json::Error> {
    let items = Items { max: limits.max_items.saturating_mul(2) };
    let (items, beyond) = serde_json::Deserializer::from_str(list.get()).deserialize_seq(items)?;
    let mut page = Page { is_cut: beyond, ..Page::default() };
    let mut bytes = 0;
    for raw in items {
        // Nested too deeply for the decoder: an item like that has no title where it should be.
        let decoded = (raw.get().len() <= MAX_ITEM_BYTES).then(|| serde_json::from_str(raw.get()).ok()).flatten();
        if !page.take(decoded.as_ref().and_then(&item), limits, &mut bytes) {
            break;
        }
    }
    Ok(page)
}

fn item(decoded: &Value, mapping: &Mapping, url: &Url) -> Option<Item> {
    let field = |pointer: &Pointer| pointer.find(decoded);
    let optional = |pointer: &Option<Pointer>| field(pointer.as_ref()?);
    let text = |pointer: &Option<Pointer>| value::text(optional(pointer)?);
    let raw = RawItem {
        title: field(&mapping.title).and_then(value::text),
        url: field(&mapping.url).and_then(value::text),
        description: text(&mapping.description),
        published: optional(&mapping.published).and_then(value::instant),
        company: text(&mapping.company),
        location: text(&mapping.location),
        salary_min: optional(&mapping.salary_min).and_then(value::amount),
        salary_max: optional(&mapping.salary_max).and_then(value::amount),
        tags: match optional(&mapping.tags) {
            Some(Value::Array(tags)) => tags.iter().filter_map(value::text).collect(),
            Some(Value::String(tags)) => tags.split(',').map(str::to_owned).collect(),
            _ => Vec::new(),
        },
    };
    Item::new(raw, url)
}

/// The items of a list, undecoded, up to a number; and whether there are more.
struct Items {
    max: usize,
}

impl<'de> Visitor<'de> for Items {
    type Value = (Vec<&'de RawValue>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.max {
            match list.next_element()? {
                Some(item) => items.push(item),
                None => return Ok((items, false)),
            }
        }
        let mut beyond = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            beyond = true;
        }
        Ok((items, beyond))
    }
}
