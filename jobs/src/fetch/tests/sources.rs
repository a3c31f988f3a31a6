//! Sources, added and listed.

use std::collections::BTreeMap;

use windrow_queue::Tenant;

use super::{Bench, Format, board_mapping, pointer, spec};
use crate::fetch::{InvalidSource, Paging, SourceError, SourceSpec, add_source, find_source, list_sources};

fn good() -> SourceSpec {
    spec("board", Format::Json, &"https://board.example.org/api".parse().unwrap())
}

fn refused(change: impl FnOnce(&mut SourceSpec)) -> InvalidSource {
    let mut spec = good();
    change(&mut spec);
    spec.check().unwrap_err()
}

#[test]
fn a_source_that_cannot_work_is_refused_when_it_is_added() {
    assert!(good().check().is_ok());
    for url in [
        "",
        "board.example.org",
        "ftp://x/",
        "file:///etc/passwd",
        "https://user:pass@x/",
        &format!("https://x/{}", "y".repeat(2048)),
    ] {
        assert!(matches!(refused(|spec| spec.url = url.to_owned()), InvalidSource::Url(_)), "{url}");
    }
    assert_eq!(refused(|spec| spec.name = " ".to_owned()), InvalidSource::Name);
    assert_eq!(refused(|spec| spec.mapping = None), InvalidSource::NoMapping);
    assert_eq!(refused(|spec| spec.format = Format::Rss), InvalidSource::Mapping);
    let by_pointer = Some(Paging::NextLink { pointer: Some(pointer("/next")), max_pages: None });
    assert!(matches!(
        refused(|spec| (spec.format, spec.mapping, spec.paging) = (Format::Feed, None, by_pointer)),
        InvalidSource::Paging(_)
    ));
    let none = Some(Paging::NextLink { pointer: None, max_pages: Some(0) });
    assert!(matches!(refused(|spec| spec.paging = none), InvalidSource::Paging(_)));
    for (name, value) in
        [("Authorization", "Bearer x"), ("cookie", "a=b"), ("Host", "x"), ("bad name", "x"), ("x-a", "line\nbreak")]
    {
        let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert!(matches!(refused(|spec| spec.headers = headers), InvalidSource::Header { .. }), "{name}");
    }
}

#[tokio::test]
async fn sources_are_added_once_by_name_and_listed_by_tenant() {
    let bench = Bench::new().await;
    let id = bench.source(&good()).await;
    let again = add_source(&bench.pool, &bench.tenant, &good()).await.unwrap_err();
    assert!(matches!(again, SourceError::Exists { .. }), "{again}");
    let nobody = Tenant::new("nobody").unwrap();
    let error = add_source(&bench.pool, &nobody, &good()).await.unwrap_err();
    assert!(matches!(error, SourceError::NoTenant(_)), "{error}");
    assert_eq!(list_sources(&bench.pool, None).await.unwrap().len(), 1);
    assert!(list_sources(&bench.pool, Some(&nobody)).await.unwrap().is_empty());
    let found = find_source(&bench.pool, &bench.tenant, "board").await.unwrap().unwrap();
    assert_eq!((found.id, found.mapping.unwrap().0), (id, board_mapping()));
    assert!(find_source(&bench.pool, &nobody, "board").await.unwrap().is_none());
}

#[test]
fn a_spec_is_read_from_json() {
    let text = r#"{"name": "b", "format": "json", "url": "https://x/", "mapping": {"title": "/t", "url": "/u"},
                   "paging": {"by": "page_number", "parameter": "p"}, "headers": {"x-a": "b"}}"#;
    let spec: SourceSpec = serde_json::from_str(text).unwrap();
    assert!(spec.check().is_ok());
    assert!(serde_json::from_str::<SourceSpec>(&text.replace("mapping", "maping")).is_err());
}
