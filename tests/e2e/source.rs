//! Sources as the web has them: good ones, and every way to be bad.

use std::time::Duration;

use serde_json::json;
use windrow_jobs::fetch::Format;
use windrow_tests::{Page, Place, Site, TENANT, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_fetched_and_scored_once_and_an_unchanged_one_is_not_even_parsed() {
    let (place, site) = tokio::join!(Place::new(), Site::start());
    place.tenant(&site).await;
    place.source(&site, "board", Page::vacancies("board", 25).etag("v1")).await;
    let (_scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let parsed = || worker.metric("windrow_fetch_parsed_total", &[]);
    let items = async |result| worker.metric("windrow_fetch_items_total", &[&format!("result=\"{result}\"")]).await;
    place.json(&["sources", "fetch", "board", "--wait"]).await;
    until("all are scored", || async { place.is_idle().await }).await;
    place.assert_scored(25).await;
    assert_eq!((parsed().await, items("inserted").await), (1.0, 25.0));

    place.json(&["sources", "fetch", "board", "--wait"]).await;
    assert_eq!(worker.metric("windrow_fetch_sources_total", &["not_modified"]).await, 1.0);
    assert_eq!(parsed().await, 1.0, "an answer 304 is not parsed");

    site.put("/board", Page::vacancies("board", 26).etag("v2"));
    place.json(&["sources", "fetch", "board", "--wait"]).await;
    assert_eq!((parsed().await, items("inserted").await, items("duplicate").await), (2.0, 26.0, 25.0));
    until("the new one is scored", || async { place.is_idle().await }).await;
    place.assert_scored(26).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_source_has_its_error_and_its_decision_and_disturbs_no_other() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("OUTWARD__TIMEOUT", "2s");
    place.tenant(&site).await;
    let json = |body: &str| Page::new("application/json", body);
    let bomb = {
        // 64 MiB of zeros: a stored gzip of 64 KiB.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 64 << 20), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    // Worth another attempt.
    let passing = [
        ("http_5xx", Page::status(500)),
        ("timeout", Page::silence()),
        ("broken_answer", Page::vacancies("cut", 5).cut()),
        ("html_document", Page::new("text/html", "<!doctype html><title>Maintenance</title>")),
        ("broken_json", json("[{\"position\": ")),
        ("empty_document", json("")),
        ("no_item_list", json("{\"jobs\": 0}")),
    ];
    // Not before somebody has looked.
    let lasting = [
        ("forbidden_address", Page::redirect("http://169.254.169.254/latest/meta-data/")),
        ("redirect", Page::redirect("/redirect")),
        ("forbidden_scheme", Page::redirect("file:///etc/passwd")),
        ("http_4xx", Page::status(404)),
        ("too_large", json(&format!("[{}]", " ".repeat(20_000_000)))),
    ];
    for (class, page) in passing.iter().chain(&lasting) {
        place.source(&site, class, page.clone()).await;
    }
    place.source(&site, "bomb", Page::new("application/json", bomb).header("content-encoding", "gzip")).await;
    let broken = Page::new("application/rss+xml", "<rss version=\"2.0\"><channel><item><title>half");
    place.source_of(&site, "broken_feed", Format::Rss, broken).await;
    place.source(&site, "good", Page::vacancies("good", 10)).await;
    let (_scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;

    until("the good one is scored", || async {
        place.count("SELECT count(*) FROM vacancy WHERE status = 'scored'").await == 10
    })
    .await;
    let failed = "SELECT count(*) FROM source WHERE failures > 0";
    until("all others have failed", || async { place.count(failed).await == 14 }).await;
    let listed = place.json(&["sources", "list"]).await;
    for source in listed.as_array().unwrap().iter().filter(|source| source["name"] != "good") {
        let class = if source["name"] == "bomb" { "too_large" } else { source["name"].as_str().unwrap() };
        let error = source["last_error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{class}: ")), "{source}");
        assert!(worker.metric("windrow_fetch_errors_total", &[&format!("class=\"{class}\"")]).await > 0.0, "{class}");
    }
    until("the lasting ones are dead", || async { place.count("SELECT count(*) FROM job_closed").await == 6 }).await;
    let dead = place.json(&["dead", "list", "--kind", "vacancy.fetch_source", "--tenant", TENANT.as_str()]).await;
    let reasons: Vec<_> = dead.as_array().unwrap().iter().map(|job| job["reason"].as_str().unwrap()).collect();
    for name in lasting.iter().map(|(class, _)| *class).chain(["bomb"]) {
        assert!(reasons.iter().any(|reason| reason.contains(&format!("source {name:?}"))), "{name}: {reasons:?}");
    }
    for job in dead.as_array().unwrap() {
        assert_eq!(job["attempt"], 1, "{job}");
    }
    let waits = "SELECT count(*) FROM job_journal WHERE kind = 'vacancy.fetch_source'";
    assert_eq!(place.count(waits).await, 8, "the others are tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_as_they_are_found() {
    let (place, site) = tokio::join!(Place::new(), Site::start());
    place.tenant(&site).await;
    let rss = r#"<?xml version="1.0" encoding="windows-1251"?><?xml-stylesheet href="x.xsl"?>
        <rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>Jobs</title>
        <item><title><![CDATA[Инженер & Co]]></title><link> /relative/1 </link><content:encoded><![CDATA[<p>Да</p>]]></content:encoded>
        <pubDate>Tue, 03 Dec 2024 21:15:04 +0000</pubDate></item>
        <item><title>Caf&#233; &amp;amp; Bar</title><guid>https://a.example.org/2</guid></item>
        <item><title></title><link>https://a.example.org/3</link></item></channel></rss>"#;
    let (rss, ..) = encoding_rs::WINDOWS_1251.encode(rss);
    place.source_of(&site, "rss", Format::Rss, Page::new("text/xml", rss.into_owned())).await;
    let atom = r#"<feed xmlns="http://www.w3.org/2005/Atom" xml:base="http://b.example.org/deep/"><title>A</title><id>u</id>
        <updated>2024-12-03T21:15:04Z</updated><entry><title>Dev</title><id>urn:1</id><link rel="enclosure" href="http://e/x.mp3"/>
        <link rel="alternate" href="rel/1"/><updated>2024-12-03T21:15:04+02:00</updated></entry></feed>"#;
    place.source_of(&site, "atom", Format::Atom, Page::new("application/atom+xml", atom)).await;
    let feed = json!({"version": "https://jsonfeed.org/version/1.1", "title": "J", "items": [
        {"id": 1, "url": "https://c.example.org/1", "title": "Numeric id", "content_html": "<p>x</p>"},
        {"id": "2", "title": "No URL"}]});
    place.source_of(&site, "feed", Format::Feed, Page::new("application/feed+json", feed.to_string())).await;
    let (_scheduler, _worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    for name in ["rss", "atom", "feed"] {
        place.json(&["sources", "fetch", name, "--wait", "--timeout", "20s"]).await;
    }
    until("all are scored", || async { place.is_idle().await }).await;
    place.assert_scored(4).await;
    let found: Vec<(String, String)> =
        sqlx::query_as("SELECT title, url FROM vacancy ORDER BY url").fetch_all(&place.database).await.unwrap();
    let relative = site.url("/relative/1");
    let expected = [
        ("Инженер & Co", &*relative),
        ("Dev", "http://b.example.org/deep/rel/1"),
        ("Café & Bar", "https://a.example.org/2"),
        ("Numeric id", "https://c.example.org/1"),
    ];
    for (title, url) in expected {
        assert!(found.contains(&(title.to_owned(), url.to_owned())), "{title} {url}: {found:?}");
    }
    let dated = "SELECT count(*) FROM vacancy WHERE published_at IS NOT NULL";
    assert_eq!(place.count(dated).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_holds_up_no_other() {
    let (place, site) = tokio::join!(Place::new(), Site::start());
    place.tenant(&site).await;
    place.source(&site, "slow", Page::vacancies("slow", 5).delay(Duration::from_secs(5))).await;
    place.source(&site, "quick", Page::vacancies("quick", 5)).await;
    let (_scheduler, _worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("the quick one is scored", || async { place.count("SELECT count(*) FROM scoring_history").await == 5 }).await;
    assert_eq!(place.count("SELECT fetches FROM source WHERE name = 'slow'").await, 0, "the slow one is still at it");
    until("all is done", || async { place.is_idle().await }).await;
    place.assert_scored(10).await;
}
