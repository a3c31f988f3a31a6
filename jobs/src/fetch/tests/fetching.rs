//! From a source to stored vacancies and their scoring jobs.

use axum::http::StatusCode;
use uuid::Uuid;
use windrow_queue::{Handler, JobId, Outcome};

use super::{BOARD, Bench, Config, FetchSource, Format, Site, client, spec};
use crate::{
    fetch::{FetchAll, FetchAllHandler, request_fetch},
    scoring::ScoreVacancy,
    testing::{self, attempt, attempt_of, standing},
};

#[tokio::test]
async fn a_fetch_stores_each_vacancy_once_and_queues_its_scoring() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| BOARD).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    assert_eq!(bench.counts().await, [3, 0, 1, 2]);
    assert_eq!(bench.titles().await, ["Data Analyst (m/w/d)", "Rust Engineer", "Go Developer"]);
    assert_eq!(bench.column("SELECT DISTINCT status FROM vacancy").await, ["queued"]);
    let tags: Vec<String> = sqlx::query_scalar("SELECT tags FROM vacancy WHERE title = 'Rust Engineer'")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert_eq!(tags, ["rust", "backend"]);

    let jobs = standing::<ScoreVacancy>(&bench.pool).await;
    assert_eq!(jobs.len(), 3);
    let mut scored = Vec::new();
    for job in jobs {
        let (ctx, args) = attempt_of::<ScoreVacancy>(&bench.pool, job).await;
        assert_eq!(ctx.tenant(), Some(&bench.tenant));
        scored.push(args.vacancy_id);
    }
    scored.sort();
    let vacancies: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM vacancy ORDER BY id").fetch_all(&bench.pool).await.unwrap();
    assert_eq!(scored, vacancies);
    assert!(bench.the_source().await.last_fetch_at.is_some());
}

#[tokio::test]
async fn a_second_fetch_inserts_none_and_queues_none() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| BOARD).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    bench.fetch(source).await;
    assert_eq!(bench.counts().await, [3, 0, 5, 4]);
    assert_eq!(bench.vacancies().await, 3);
    assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 3);
}

#[tokio::test]
async fn every_kind_of_feed_is_fetched() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| match uri.path() {
        "/rss" => include_str!("../fixtures/jobs.rss"),
        "/atom" => include_str!("../fixtures/jobs.atom"),
        _ => include_str!("../fixtures/jobs.rdf"),
    })
    .await;
    for (name, format) in [("rss", Format::Rss), ("atom", Format::Atom), ("rdf", Format::Feed)] {
        let source = bench.source(&spec(name, format, &site.url.join(name).unwrap())).await;
        bench.fetch(source).await;
    }
    assert_eq!(bench.counts().await, [5, 0, 0, 2]);
}

#[tokio::test]
async fn changed_content_updates_the_vacancy_and_keeps_its_date_and_score() {
    let bench = Bench::new().await;
    let changed = BOARD.replace("Go   Developer", "Go Architect").replace("2024-12-03T18:20:00", "2025-01-01T00:00:00");
    let site = Site::new(move |uri, _| if uri.path() == "/" { BOARD.to_owned() } else { changed.clone() }).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    sqlx::raw_sql("UPDATE vacancy SET status = 'scored', score = 4, reason = 'so so'")
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE source SET url = url || 'changed'").execute(&bench.pool).await.unwrap();
    bench.fetch(source).await;
    assert_eq!(bench.counts().await, [3, 1, 4, 4]);
    assert_eq!(bench.titles().await, ["Data Analyst (m/w/d)", "Rust Engineer", "Go Architect"]);
    let sql = "SELECT status || ' ' || score || ' ' || published_at::date FROM vacancy WHERE title = 'Go Architect'";
    assert_eq!(bench.column(sql).await, ["scored 4 2024-12-03"]);
    assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 3);
}

#[tokio::test]
async fn changed_content_is_new_again_where_the_operator_wants_it_rescored() {
    let bench = Bench::with(client(), Config { rescore_changed: true, ..Config::default() }).await;
    let changed = BOARD.replace("Go   Developer", "Go Architect");
    let site = Site::new(move |uri, _| if uri.path() == "/" { BOARD.to_owned() } else { changed.clone() }).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    sqlx::raw_sql("UPDATE vacancy SET status = 'scored', score = 4, reason = 'so so'")
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE source SET url = url || 'changed'").execute(&bench.pool).await.unwrap();
    bench.fetch(source).await;
    assert_eq!(bench.column("SELECT title FROM vacancy WHERE status = 'new'").await, ["Go Architect"]);
}

#[tokio::test]
async fn another_source_of_the_tenant_neither_repeats_nor_rewrites_a_vacancy_and_another_tenant_has_its_own() {
    let bench = Bench::new().await;
    let other = testing::tenant(&bench.pool, "other").await;
    let renamed = BOARD.replace("Rust Engineer", "Rewritten");
    let site = Site::new(move |uri, _| if uri.path() == "/a" { BOARD.to_owned() } else { renamed.clone() }).await;
    let a = bench.source(&spec("a", Format::Json, &site.url.join("a").unwrap())).await;
    let b = bench.source(&spec("b", Format::Json, &site.url.join("b").unwrap())).await;
    bench.fetch(a).await;
    bench.fetch(b).await;
    assert_eq!(bench.counts().await, [3, 0, 5, 4]);
    assert_eq!(bench.column("SELECT title FROM vacancy WHERE title = 'Rewritten'").await, Vec::<String>::new());

    let spec = spec("c", Format::Json, &site.url.join("b").unwrap());
    let source_id = crate::fetch::add_source(&bench.pool, &other, &spec).await.unwrap();
    let (ctx, _) = attempt(&bench.pool, Some(&other), &FetchSource { source_id }).await;
    bench.handler.run(ctx, FetchSource { source_id }).await.unwrap();
    assert_eq!(bench.vacancies().await, 6);
}

#[tokio::test]
async fn a_tenant_cannot_fetch_anothers_source_and_an_inactive_one_is_not_fetched() {
    let bench = Bench::new().await;
    let stranger = testing::tenant(&bench.pool, "stranger").await;
    let site = Site::new(|_, _| BOARD).await;
    let source_id = bench.json_source(&site.url).await;
    let cancelled = |outcome: Outcome| assert!(matches!(outcome, Outcome::Cancel(_)), "{outcome:?}");
    let (ctx, _) = attempt(&bench.pool, Some(&stranger), &FetchSource { source_id }).await;
    cancelled(bench.handler.run(ctx, FetchSource { source_id }).await.unwrap());
    cancelled(bench.run(Uuid::nil()).await.unwrap());
    sqlx::raw_sql("UPDATE tenant SET active = false WHERE id = 'acme'").execute(&bench.pool).await.unwrap();
    cancelled(bench.run(source_id).await.unwrap());
    sqlx::raw_sql("UPDATE tenant SET active = true; UPDATE source SET active = false")
        .execute(&bench.pool)
        .await
        .unwrap();
    cancelled(bench.run(source_id).await.unwrap());
    assert!(site.asked().is_empty());
}

#[tokio::test]
async fn every_active_source_of_every_active_tenant_gets_one_fetch() {
    let bench = Bench::new().await;
    let url = "https://board.example.org/".parse().unwrap();
    let resting = testing::tenant(&bench.pool, "resting").await;
    sqlx::raw_sql("UPDATE tenant SET active = false WHERE id = 'resting'").execute(&bench.pool).await.unwrap();
    crate::fetch::add_source(&bench.pool, &resting, &spec("board", Format::Json, &url)).await.unwrap();
    let mut sources = Vec::new();
    for number in 0..3 {
        sources.push(bench.source(&spec(&format!("s{number}"), Format::Json, &url)).await);
    }
    let inactive = sources.pop().unwrap();
    sqlx::query("UPDATE source SET active = false WHERE id = $1").bind(inactive).execute(&bench.pool).await.unwrap();
    // More than a batch.
    sqlx::raw_sql(
        "INSERT INTO tenant (id, name) VALUES ('many', 'many');
         INSERT INTO source (tenant, name, format, url) SELECT 'many', n::text, 'feed', 'https://x/' FROM generate_series(1, 1001) n",
    )
    .execute(&bench.pool)
    .await
    .unwrap();
    let handler = FetchAllHandler::new(bench.pool.clone());
    let (ctx, _) = attempt(&bench.pool, Some(&bench.tenant), &FetchAll {}).await;
    handler.run(ctx, FetchAll {}).await.unwrap();
    assert_eq!(
        standing::<FetchSource>(&bench.pool).await.len(),
        2,
        "a tenant's job leaves other tenants' sources alone"
    );
    for _ in 0..2 {
        let (ctx, _) = attempt(&bench.pool, None, &FetchAll {}).await;
        assert!(matches!(handler.run(ctx, FetchAll {}).await.unwrap(), Outcome::Done));
        let jobs = standing::<FetchSource>(&bench.pool).await;
        assert_eq!(jobs.len(), 1003, "a second round adds none while the first stands");
    }
    let requested = JobId(
        sqlx::query_scalar("SELECT id FROM job_journal WHERE args->>'source_id' = $1")
            .bind(sources[0].to_string())
            .fetch_one(&bench.pool)
            .await
            .unwrap(),
    );
    let mut tx = bench.pool.begin().await.unwrap();
    let answer = request_fetch(&mut tx, &bench.tenant, sources[0], None).await.unwrap();
    assert_eq!((answer.id(), answer.is_created()), (requested, false));
}

#[tokio::test]
async fn headers_go_to_the_source() {
    let bench = Bench::new().await;
    let site =
        Site::new(|_, headers| if headers.contains_key("x-board") { Ok(BOARD) } else { Err(StatusCode::FORBIDDEN) })
            .await;
    let mut spec = spec("board", Format::Json, &site.url);
    spec.headers.insert("X-Board".to_owned(), "jobs".to_owned());
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    assert_eq!(site.header(0, "x-board").as_deref(), Some("jobs"));
    assert_eq!(
        site.header(0, "accept-encoding").map(|value| value.contains("gzip") && value.contains("br")),
        Some(true)
    );
}
