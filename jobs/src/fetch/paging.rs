//! How to come to the next page of a source.

use serde::{Deserialize, Serialize};
use url::Url;

use super::pointer::Pointer;

/// How a source is paged. In every way a page that was seen already ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Paging {
    /// The document links to the next one: by this pointer in JSON; without a pointer by a `Link` header with
    /// `rel="next"`, or by a feed's own `rel="next"`.
    NextLink {
        /// Where the JSON document has the next page's URL.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pointer: Option<Pointer>,
        /// Pages, at most; the operator's limit holds too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_pages: Option<u32>,
    },
    /// A query parameter counts up. A page without items, or with none that is new to this fetch, is the last.
    PageNumber {
        /// The parameter's name.
        parameter: String,
        /// The first page's number.
        #[serde(default = "one")]
        first: u32,
        /// Pages, at most; the operator's limit holds too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_pages: Option<u32>,
    },
}

const fn one() -> u32 {
    1
}

impl Paging {
    /// Pages that this source wants, at most.
    pub(super) const fn max_pages(&self) -> Option<u32> {
        match self {
            Self::NextLink { max_pages, .. } | Self::PageNumber { max_pages, .. } => *max_pages,
        }
    }
}

/// The URL with one query parameter set, others kept.
pub(super) fn with_parameter(url: &Url, name: &str, value: u32) -> Url {
    let others: Vec<(String, String)> =
        url.query_pairs().filter(|(other, _)| other != name).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let mut url = url.clone();
    url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, &value.to_string());
    url
}

/// The target of `rel="next"` in a `Link` header (RFC 8288).
pub(super) fn next_in_link_header(header: &str) -> Option<&str> {
    header.split('<').skip(1).find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let is_next = parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        is_next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found_among_others() {
        for (header, expected) in [
            (r#"<https://x/?page=2>; rel="next", <https://x/?page=9>; rel="last""#, Some("https://x/?page=2")),
            (r#"<https://x/?page=1>; rel="prev", </p?a=1,2>; title="a"; REL=next"#, Some("/p?a=1,2")),
            (r#"</3>; rel="last next""#, Some("/3")),
            (r#"<https://x/?page=9>; rel="last""#, None),
            ("nonsense <", None),
            ("", None),
        ] {
            assert_eq!(next_in_link_header(header), expected, "{header}");
        }
    }

    #[test]
    fn the_page_number_replaces_an_older_one() {
        let url = "https://x/jobs?page=1&q=a%26b&page=7".parse().unwrap();
        assert_eq!(with_parameter(&url, "page", 3).as_str(), "https://x/jobs?q=a%26b&page=3");
    }

    #[test]
    fn paging_is_written_as_documented() {
        let read = |text| serde_json::from_str::<Paging>(text);
        assert!(matches!(read(r#"{"by": "next_link"}"#), Ok(Paging::NextLink { pointer: None, .. })));
        assert!(matches!(read(r#"{"by": "page_number", "parameter": "p"}"#), Ok(Paging::PageNumber { first: 1, .. })));
        for bad in [r#"{"by": "magic"}"#, r#"{"by": "page_number"}"#, r#"{"by": "next_link", "pointr": "/x"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
