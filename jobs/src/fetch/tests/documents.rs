//! Documents: what is read of good ones, and what is said of bad ones.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use serde_json::json;
use url::Url;

use super::{BOARD, board_mapping, pointer};
use crate::{
    fetch::{
        document::{Limits, Page, Reading, parse},
        error::DocumentError,
        item::Item,
        mapping::Mapping,
    },
    testing::instant,
};

const LIMITS: Limits = Limits { max_items: 1000, max_text_bytes: 10_000_000, timeout: Duration::from_secs(10) };

fn base() -> Url {
    "https://board.example.org/api/list".parse().unwrap()
}

fn json_with(text: &str, mapping: Mapping) -> Result<Page, DocumentError> {
    parse(text.as_bytes(), None, &base(), &Reading::Json { mapping: Box::new(mapping), next: None }, LIMITS)
}

fn json(text: &str) -> Result<Page, DocumentError> {
    json_with(text, board_mapping())
}

fn feed(text: impl AsRef<[u8]>) -> Result<Page, DocumentError> {
    parse(text.as_ref(), None, &base(), &Reading::Feed, LIMITS)
}

fn titles(page: &Page) -> Vec<&str> {
    page.items.iter().map(|item| &*item.title).collect()
}

#[test]
fn a_json_board_is_read_by_its_mapping() {
    let page = json(BOARD).unwrap();
    assert_eq!(titles(&page), ["Rust Engineer", "Go Developer", "Data Analyst (m/w/d)", "Rust Engineer (repeated)"]);
    assert_eq!(page.skipped, 2);
    let Item { url, description, published, company, location, salary_min, salary_max, tags, .. } = &page.items[0];
    assert_eq!(url, "https://board.example.org/jobs/1001");
    assert_eq!(description, "<p>Postgres, Redis and a <b>calm</b> team.</p>");
    assert_eq!(*published, Some(instant("2024-12-03T21:15:04Z")));
    assert_eq!((company.as_deref(), location.as_deref()), (Some("Acme & Sons"), None));
    assert_eq!((*salary_min, *salary_max), (Some(70_000.into()), Some(110_000.into())));
    assert_eq!(*tags, ["rust", "backend"]);
    let analyst = &page.items[2];
    assert_eq!((analyst.url.as_str(), analyst.published), ("https://board.example.org/jobs/1004", None));
    assert_eq!((analyst.salary_min, analyst.salary_max), (Some(52_000.into()), None));
}

#[test]
fn the_list_and_its_fields_may_lie_deep() {
    let text = json!({"data": {"jobs": [{"attributes": {"name": 42}, "links": [{"href": "/1"}], "tags": "a, b,,a"}]}})
        .to_string();
    let mapping = Mapping {
        items: pointer("/data/jobs"),
        title: pointer("/attributes/name"),
        url: pointer("/links/0/href"),
        tags: Some(pointer("/tags")),
        published: None,
        ..board_mapping()
    };
    let page = json_with(&text, mapping).unwrap();
    assert_eq!(
        (page.items[0].title.as_str(), page.items[0].tags.as_slice()),
        ("42", ["a".to_owned(), "b".to_owned()].as_slice())
    );
}

#[test]
fn items_without_title_or_url_are_skipped_and_counted() {
    let bad = json!([
        {"url": "/1"}, {"position": null, "url": "/1"}, {"position": "  ", "url": "/1"}, {"position": "a"},
        {"position": "a", "url": null}, {"position": "a", "url": ""}, {"position": "a", "url": ["/1"]},
        {"position": {"a": 1}, "url": "/1"}, {}, null, 7, "text", [], {"position": "\u{0}", "url": "/1"},
    ]);
    let page = json(&bad.to_string()).unwrap();
    assert_eq!((page.items.len(), page.skipped), (0, 14));
}

#[test]
fn nul_characters_never_come_out() {
    let text = r#"[{"position": "a\u0000b", "url": "/1\u0000", "description": "c\u0000d", "company": "e\u0000f", "tags": ["g\u0000h"]}]"#;
    let page = json(text).unwrap();
    assert!(!format!("{page:?}").contains("\\0"), "{page:?}");
    assert_eq!(page.items[0].description, "cd");
}

#[test]
fn rss_is_read() {
    let page = feed(include_str!("../fixtures/jobs.rss")).unwrap();
    assert_eq!(titles(&page), ["Platform Engineer <Remote> & more", "R&D Lead"]);
    assert_eq!(page.skipped, 2);
    let first = &page.items[0];
    assert_eq!(first.url, "https://board.example.org/jobs/2001");
    assert_eq!(first.description, "<p>The <b>whole</b> text.</p>");
    assert_eq!(first.published, Some(instant("2024-12-03T21:15:04Z")));
    assert_eq!(first.tags, ["DevOps", "Kubernetes"]);
    let second = &page.items[1];
    assert_eq!(
        (second.url.as_str(), second.description.as_str()),
        ("https://board.example.org/jobs/2002", "<p>Only a description.</p>")
    );
    assert_eq!(second.published, Some(instant("2024-12-03T21:15:04Z")), "the wrong week day is forgiven");
}

#[test]
fn atom_is_read_with_its_next_page() {
    let page = feed(include_str!("../fixtures/jobs.atom")).unwrap();
    assert_eq!(titles(&page), ["Embedded & Firmware Engineer", "Second"]);
    let first = &page.items[0];
    assert_eq!(first.url, "https://board.example.org/jobs/3001");
    assert!(first.description.contains("<em>text</em>"), "{}", first.description);
    assert_eq!(first.published, Some(instant("2024-12-01T07:00:00Z")));
    assert_eq!(first.tags, ["Embedded"]);
    assert_eq!(page.items[1].url, "https://board.example.org/jobs/3002");
    assert_eq!(page.next.as_deref(), Some("https://board.example.org/jobs.atom?page=2"));
}

#[test]
fn rss_1_and_json_feed_are_read_too() {
    let page = feed(include_str!("../fixtures/jobs.rdf")).unwrap();
    assert_eq!((titles(&page), page.items[0].published), (vec!["Librarian"], Some(instant("2024-12-03T21:15:04Z"))));
    let page = feed(include_str!("../fixtures/jobs.feed.json")).unwrap();
    assert_eq!(
        (titles(&page), page.items[0].url.as_str()),
        (vec!["Technical Writer", "Numeric id"], "https://board.example.org/jobs/5001")
    );
    assert_eq!(page.items[0].published, Some(instant("2024-12-03T21:15:04Z")));
    assert_eq!(
        (page.items[0].tags.as_slice(), &*page.items[0].description),
        (&["docs".to_owned()][..], "<p>Words.</p>")
    );
    let other = &page.items[1];
    assert_eq!((&*other.url, &*other.description), ("https://other.example.org/3", "Plain."));
    assert_eq!(page.skipped, 1);
}

#[test]
fn other_encodings_are_decoded() {
    let rss = |encoding: &str, title: &[u8]| {
        let start = format!("<?xml version='1.0' encoding='{encoding}'?><rss version='2.0'><channel><item><title>");
        [start.as_bytes(), title, b"</title><link>/1</link></item></channel></rss>"].concat()
    };
    assert_eq!(titles(&feed(rss("windows-1251", b"\xc2\xe0\xea\xe0\xed\xf1\xe8\xff")).unwrap()), ["Вакансия"]);
    assert_eq!(titles(&feed(rss("ISO-8859-1", b"Caf\xe9")).unwrap()), ["Café"]);
    assert_eq!(titles(&feed(rss("utf-8", b"a\xffb")).unwrap()), ["a\u{fffd}b"], "broken bytes do not lose the item");
    assert_eq!(titles(&feed(rss("klingon", "é".as_bytes())).unwrap()), ["é"]);
    let sixteen: Vec<u8> =
        String::from_utf8(rss("utf-16", "é".as_bytes())).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(titles(&feed([b"\xff\xfe".as_slice(), &sixteen].concat()).unwrap()), ["é"]);
    assert_eq!(json("\u{feff}[]").unwrap().items, []);
}

#[test]
fn bad_documents_are_told_apart() {
    let html = "<!-- cache --> <!DOCTYPE html><html><body>Sorry</body></html>";
    for (result, class) in [
        (json(""), "empty_document"),
        (json(" \n "), "empty_document"),
        (feed(""), "empty_document"),
        (json(html), "html_document"),
        (json("<rss/>"), "html_document"),
        (feed(html), "html_document"),
        (feed("<HTML lang='en'>"), "html_document"),
        (json("[1, 2"), "broken_json"),
        (json("[1] trailing"), "broken_json"),
        (json("Service unavailable"), "broken_json"),
        (json(r#"{"error": "busy"}"#), "no_item_list"),
        (json("null"), "no_item_list"),
        (json("7"), "no_item_list"),
        (feed("<rss version='2.0'><channel><item><title>cut o"), "broken_feed"),
        (feed("<rss version='2.0'><channel><item><title>a</b></item></channel></rss>"), "broken_feed"),
        (feed("Service unavailable"), "broken_feed"),
        (feed("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not_a_feed"),
        (feed(r#"{"items": []}"#), "not_a_feed"),
        (feed(r#"{"version": "https://jsonfeed.org/version/1.1", "items": 7}"#), "no_item_list"),
        (feed(r#"{"version": "https://jsonfeed.org/version/1.1", "items": [{"#), "broken_feed"),
        (feed("\u{1f}\u{8b}\u{8}binary"), "broken_feed"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
    }
}

#[test]
fn a_pointer_to_no_list_is_named() {
    let mapping = Mapping { items: pointer("/data/jobs"), ..board_mapping() };
    for text in ["{}", r#"{"data": {"jobs": {"0": {}}}}"#, r#"{"data": "jobs"}"#, "[]"] {
        let error = json_with(text, mapping.clone()).unwrap_err();
        assert!(error.to_string().contains("/data/jobs"), "{error}");
    }
}

#[test]
fn deep_nesting_neither_overflows_the_stack_nor_loses_the_others() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let page =
        json(&format!(r#"[{{"position": "a", "url": "/1", "x": {deep}}}, {{"position": "b", "url": "/2"}}]"#)).unwrap();
    assert_eq!((titles(&page), page.skipped), (vec!["b"], 1));
    assert!(json(&deep).is_ok(), "a list of one item that is a list");
    let mapping = Mapping { items: pointer("/0/0/0"), ..board_mapping() };
    assert!(json_with(&deep, mapping).is_ok());
    let elements = format!("<rss version='2.0'><channel>{}", "<a>".repeat(100_000));
    assert!(feed(&elements).is_err());
    let atom = format!(
        "<feed xmlns='http://www.w3.org/2005/Atom'><entry><title type='xhtml'>{}{}</title><link href='/1'/></entry></feed>",
        "<div>".repeat(90_000),
        "</div>".repeat(90_000)
    );
    assert_eq!(feed(&atom).unwrap_err().class(), "broken_feed");
}

#[test]
fn what_is_beyond_the_limits_is_left_and_said() {
    let many = super::items(0..30).to_string();
    let reading = Reading::Json { mapping: Box::new(board_mapping()), next: None };
    let few = Limits { max_items: 10, ..LIMITS };
    let page = parse(many.as_bytes(), None, &base(), &reading, few).unwrap();
    assert!(page.items.len() == 10 && page.is_cut);
    let short = Limits { max_text_bytes: 200, ..LIMITS };
    let page = parse(many.as_bytes(), None, &base(), &reading, short).unwrap();
    assert!((1..10).contains(&page.items.len()) && page.is_cut);
    assert!(!parse(many.as_bytes(), None, &base(), &reading, LIMITS).unwrap().is_cut);
    let huge =
        json!([{"position": "a", "url": "/1", "x": "y".repeat(600_000)}, {"position": "b", "url": "/2"}]).to_string();
    let page = json(&huge).unwrap();
    assert_eq!((titles(&page), page.skipped), (vec!["b"], 1), "an item too large is skipped");
}

#[test]
fn documents_that_inflate_in_memory_or_time_are_refused_early() {
    let start = Instant::now();
    let tags = format!("<rss version='2.0'><channel>{}</channel></rss>", "<item/>".repeat(300_000));
    assert_eq!(feed(&tags).unwrap_err().class(), "too_many");
    let objects = format!(
        r#"{{"version": "https://jsonfeed.org/version/1", "title": "", "items": [{}{{}}]}}"#,
        "{},".repeat(300_000)
    );
    let page = feed(&objects).unwrap();
    assert!(page.is_cut && page.items.is_empty() && page.skipped <= 2000, "{}", page.skipped);
    let attributes = (0..200_000).fold(String::new(), |mut text, number| {
        let _ = write!(text, " a{number}=''");
        text
    });
    assert_eq!(feed(format!("<rss version='2.0'{attributes}></rss>")).unwrap_err().class(), "too_many");
    let laughs = "<!DOCTYPE rss [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><rss version='2.0'><channel><item>\
                  <title>&b;</title><link>/1</link></item></channel></rss>";
    assert!(
        feed(laughs).map_or(true, |page| page.items[0].title.len() < 20),
        "entities of a document are not expanded"
    );
    let cdata = format!(
        "<rss version='2.0'><channel><item><title>a</title><link>/1</link><description><![CDATA[{}]]></description></item></channel></rss>",
        "<br>".repeat(300_000)
    );
    assert_eq!(feed(&cdata).unwrap().items.len(), 1, "markup within CDATA is text");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_feed_that_takes_too_long_is_left() {
    let text =
        format!("<rss version='2.0'><channel>{}</channel></rss>", "<item><title>a</title></item>".repeat(20_000));
    let limits = Limits { timeout: Duration::ZERO, ..LIMITS };
    let error = parse(text.as_bytes(), None, &base(), &Reading::Feed, limits).unwrap_err();
    assert_eq!(error.class(), "slow_document");
}
