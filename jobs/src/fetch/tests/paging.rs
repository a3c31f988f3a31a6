//! Pages.

use axum::http::header;
use serde_json::json;

use super::{Bench, Config, Format, Site, client, items, pointer, spec};
use crate::fetch::Paging;

fn page_of(uri: &axum::http::Uri) -> u32 {
    uri.query().and_then(|query| query.rsplit('=').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_json_pointer_leads_from_page_to_page() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| {
        let page = page_of(uri);
        let next = (page < 3).then(|| format!("/list?after={}", page + 1));
        json!({"data": items(page * 2..page * 2 + 2), "meta": {"next": next}}).to_string()
    })
    .await;
    let mut spec = spec("board", Format::Json, &site.url.join("list").unwrap());
    spec.mapping.as_mut().unwrap().items = pointer("/data");
    spec.paging = Some(Paging::NextLink { pointer: Some(pointer("/meta/next")), max_pages: None });
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    assert_eq!(bench.counts().await, [8, 0, 0, 0]);
    assert_eq!(site.asked(), ["/list", "/list?after=1", "/list?after=2", "/list?after=3"]);
}

#[tokio::test]
async fn a_link_header_and_an_atom_link_lead_from_page_to_page() {
    let bench = Bench::new().await;
    let json_site = Site::new(|uri, _| {
        let page = page_of(uri);
        let link = if page == 0 { "<?page=1>; rel=\"next\"" } else { "<?page=0>; rel=\"prev\"" };
        ([(header::LINK, link)], items(page..=page).to_string())
    })
    .await;
    let atom_site = Site::new(|uri, _| {
        let page = page_of(uri);
        let next = if page == 0 { "<link rel='next' href='?page=1'/>" } else { "" };
        format!(
            "<feed xmlns='http://www.w3.org/2005/Atom'><title>t</title>{next}
             <entry><title>Job {page}</title><link href='/atom/{page}'/></entry></feed>"
        )
    })
    .await;
    for (name, format, site) in [("json", Format::Json, &json_site), ("atom", Format::Atom, &atom_site)] {
        let mut spec = spec(name, format, &site.url);
        spec.paging = Some(Paging::NextLink { pointer: None, max_pages: None });
        let source = bench.source(&spec).await;
        bench.fetch(source).await;
        assert_eq!(site.asked(), ["/", "/?page=1"], "{name}");
    }
    assert_eq!(bench.counts().await, [4, 0, 0, 0]);
}

#[tokio::test]
async fn page_numbers_count_up_until_a_page_has_nothing_new() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| match page_of(uri) {
        page @ 1..=2 => items(page * 2..page * 2 + 2).to_string(),
        _ => "[]".to_owned(),
    })
    .await;
    // A server that does not know the parameter gives the same page for ever.
    let deaf = Site::new(|_, _| items(100..103).to_string()).await;
    for (name, site) in [("counts", &site), ("deaf", &deaf)] {
        let mut spec = spec(name, Format::Json, &site.url.join("?q=rust").unwrap());
        spec.paging = Some(Paging::PageNumber { parameter: "page".to_owned(), first: 1, max_pages: None });
        let source = bench.source(&spec).await;
        bench.fetch(source).await;
    }
    assert_eq!(site.asked(), ["/?q=rust&page=1", "/?q=rust&page=2", "/?q=rust&page=3"]);
    assert_eq!(deaf.asked().len(), 2);
    assert_eq!(bench.counts().await, [7, 0, 3, 0]);
}

#[tokio::test]
async fn pages_and_items_have_limits_and_a_loop_ends() {
    let endless = |uri: &axum::http::Uri, _: &axum::http::HeaderMap| {
        let page = page_of(uri);
        ([(header::LINK, format!("<?page={}>; rel=\"next\"", page + 1))], items(page * 2..page * 2 + 2).to_string())
    };
    let paging = |max_pages| Some(Paging::NextLink { pointer: None, max_pages });
    for (own, operators, max_items, pages, vacancies) in
        [(None, 4, 1000, 4, 8), (Some(2), 4, 1000, 2, 4), (Some(9), 3, 1000, 3, 6), (None, 9, 5, 3, 5)]
    {
        let config = Config { max_pages: operators, max_items, ..Config::default() };
        let bench = Bench::with(client(), config).await;
        let site = Site::new(endless).await;
        let mut spec = spec("board", Format::Json, &site.url);
        spec.paging = paging(own);
        let source = bench.source(&spec).await;
        bench.fetch(source).await;
        assert_eq!((site.asked().len(), bench.vacancies().await), (pages, vacancies));
        assert_eq!(bench.metrics.cut.get(), 1);
    }
    let bench = Bench::new().await;
    let looping = Site::new(|_, _| ([(header::LINK, "</>; rel=\"next\"")], items(0..2).to_string())).await;
    let mut spec = spec("board", Format::Json, &looping.url);
    spec.paging = paging(None);
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    assert_eq!(looping.asked().len(), 1);
}

#[tokio::test]
async fn a_page_that_fails_fails_the_fetch_and_nothing_is_stored() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| match page_of(uri) {
        0 => Ok(([(header::LINK, "<?page=1>; rel=\"next\"")], items(0..2).to_string())),
        _ => Err(axum::http::StatusCode::BAD_GATEWAY),
    })
    .await;
    let mut spec = spec("board", Format::Json, &site.url);
    spec.paging = Some(Paging::NextLink { pointer: None, max_pages: None });
    let source = bench.source(&spec).await;
    assert_eq!(bench.run(source).await.unwrap_err().class(), "http_5xx");
    assert_eq!(bench.vacancies().await, 0);
}

#[tokio::test]
async fn headers_of_the_source_do_not_follow_a_next_link_to_another_origin() {
    let bench = Bench::new().await;
    let other = Site::new(|_, _| items(2..4).to_string()).await;
    let next = format!("<{}>; rel=\"next\"", other.url);
    let site = Site::new(move |_, _| ([(header::LINK, next.clone())], items(0..2).to_string())).await;
    let mut spec = spec("board", Format::Json, &site.url);
    spec.paging = Some(Paging::NextLink { pointer: None, max_pages: None });
    spec.headers.insert("x-board".to_owned(), "jobs".to_owned());
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    assert_eq!((site.header(0, "x-board").is_some(), other.header(0, "x-board")), (true, None));
}
