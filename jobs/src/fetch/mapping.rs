//! Where a JSON source has what a vacancy needs.

use serde::{Deserialize, Serialize};

use super::pointer::Pointer;

/// Pointers into a JSON document: to the list of items, and from each item to its fields. An item without title or URL is
/// skipped and counted; every other field may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The list of items; `""` when the document itself is the list.
    #[serde(default = "root")]
    pub items: Pointer,
    /// The title.
    pub title: Pointer,
    /// The URL, absolute or relative to the document's.
    pub url: Pointer,
    /// The description, text or HTML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Pointer>,
    /// When it was published: RFC 3339, RFC 2822, a date, or seconds or milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Pointer>,
    /// The company's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub company: Option<Pointer>,
    /// The place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Pointer>,
    /// The lowest salary, number or text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salary_min: Option<Pointer>,
    /// The highest salary, number or text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salary_max: Option<Pointer>,
    /// Tags: a list of texts, or one text with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Pointer>,
}

fn root() -> Pointer {
    Pointer::new("").expect("the empty pointer is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_needs_title_and_url_and_refuses_what_it_does_not_know() {
        let read = |text| serde_json::from_str::<Mapping>(text);
        assert_eq!(read(r#"{"title": "/t", "url": "/u"}"#).unwrap().items, root());
        for bad in
            [r#"{"title": "/t"}"#, r#"{"title": "t", "url": "/u"}"#, r#"{"title": "/t", "url": "/u", "titel": "/x"}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
