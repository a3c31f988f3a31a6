//! The webhook scorer.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;
use windrow_queue::{Decision, Handler, Outcome};

use super::{Bench, Config, ScoreVacancy};
use crate::{
    fetch::VacancyStatus,
    scoring::{RefusedAnswer, Scorer},
    testing,
};

type Asked = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A webhook that answers as the test says, and remembers what it was asked.
async fn webhook<R: IntoResponse>(answer: impl Fn() -> R + Clone + Send + Sync + 'static) -> (Url, Asked) {
    let asked = Asked::default();
    let record = Arc::clone(&asked);
    let router = Router::new().route(
        "/secret-path",
        post(move |headers: HeaderMap, Json(question): Json<Value>| {
            record.lock().unwrap().push((headers, question));
            std::future::ready(answer().into_response())
        }),
    );
    (testing::serve(router).await.join("secret-path").unwrap(), asked)
}

async fn bench_with(url: &Url, config: Config) -> (Bench, Uuid) {
    let bench = Bench::with(config).await;
    let url = url.to_string();
    bench
        .profile(|profile| {
            profile.scorer = Scorer::Webhook;
            profile.webhook_url = Some(url);
        })
        .await;
    let id = bench.vacancy(1).await;
    (bench, id)
}

#[tokio::test]
async fn the_webhook_is_asked_with_the_vacancy_and_its_answer_taken() {
    let (url, asked) = webhook(|| Json(json!({"score": 9, "reason": "fits well", "model": "x"}))).await;
    let (bench, id) = bench_with(&url, Config::default()).await;
    let (ctx, job) = bench.attempt(id).await;
    bench.handler.run(ctx, ScoreVacancy { vacancy_id: id }).await.unwrap();
    let vacancy = bench.the_vacancy().await;
    assert_eq!(
        (vacancy.status, vacancy.score, vacancy.reason.as_deref()),
        (VacancyStatus::Scored, Some(9), Some("fits well"))
    );
    assert_eq!(bench.history(id).await[0].scorer, "webhook");
    assert_eq!(bench.metrics.scored.with_label_values(&["webhook", "9"]).get(), 1);
    let asked = asked.lock().unwrap();
    let (headers, question) = &asked[0];
    assert_eq!(headers["idempotency-key"], job.to_string());
    assert_eq!(question["job_id"], job.to_string());
    assert_eq!((&question["vacancy"]["id"], &question["vacancy"]["title"]), (&json!(id), &json!("Rust Engineer")));
    assert_eq!(question["vacancy"]["description"], "<p>Postgres</p>");
    assert_eq!((&question["tenant"], &question["rules"]["keywords"][0]["term"]), (&json!("acme"), &json!("rust")));
}

#[tokio::test]
async fn any_other_answer_is_refused_counted_and_changes_nothing() {
    for (answer, class) in [
        (json!({"score": 11, "reason": "great"}), "answer_score"),
        (json!({"score": "9", "reason": "great"}), "answer_score"),
        (json!({"score": 9}), "answer_reason"),
        (json!([{"score": 9, "reason": "great"}]), "answer_not_an_object"),
        (json!("ok"), "answer_not_an_object"),
    ] {
        let (url, _) = webhook(move || Json(answer.clone())).await;
        let (bench, id) = bench_with(&url, Config::default()).await;
        let error = bench.run(id).await.unwrap_err();
        assert_eq!((error.class(), error.decision()), (class, Decision::Retry));
        assert_eq!(bench.metrics.refused.with_label_values(&[class]).get(), 1);
        assert_eq!(bench.the_vacancy().await.status, VacancyStatus::Queued);
        assert!(bench.history(id).await.is_empty());
    }
    assert_eq!(RefusedAnswer::CLASSES.len(), 3);
}

#[tokio::test]
async fn a_webhook_that_fails_is_retried_or_not_and_its_address_stays_secret() {
    let after = Decision::RetryAfter(Duration::from_secs(9));
    type Case = (fn() -> Response, &'static str, Decision);
    let answers: [Case; 7] = [
        (|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), "http_5xx", Decision::Retry),
        (|| (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "9")]).into_response(), "http_5xx", after),
        (|| StatusCode::UNAUTHORIZED.into_response(), "http_4xx", Decision::Bury),
        (|| Redirect::temporary("http://169.254.169.254/").into_response(), "http_status", Decision::Bury),
        (|| "x".repeat(70_000).into_response(), "too_large", Decision::Bury),
        (|| StatusCode::NO_CONTENT.into_response(), "answer_not_an_object", Decision::Retry),
        (|| "<html>".into_response(), "answer_not_an_object", Decision::Retry),
    ];
    for (answer, class, decision) in answers {
        let (url, _) = webhook(answer).await;
        let (bench, id) = bench_with(&url, Config::default()).await;
        let error = bench.run(id).await.unwrap_err();
        assert_eq!((error.class(), error.decision()), (class, decision), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret-path"), "{error:?}");
        assert!(bench.history(id).await.is_empty());
    }
}

#[tokio::test]
async fn a_silent_webhook_is_left_after_its_time_limit() {
    let router = Router::new().route("/", post(std::future::pending::<&'static str>));
    let url = testing::serve(router).await;
    let config = Config { webhook_timeout: Duration::from_millis(200), ..Config::default() };
    let (bench, id) = bench_with(&url, config).await;
    assert_eq!(bench.run(id).await.unwrap_err().class(), "timeout");
}

#[tokio::test]
async fn a_private_webhook_is_refused() {
    let url = "http://10.0.0.1/".parse().unwrap();
    let (bench, id) = bench_with(&url, Config::default()).await;
    let error = bench.run(id).await.unwrap_err();
    assert_eq!((error.class(), error.decision()), ("forbidden_address", Decision::Bury));
}

#[tokio::test]
async fn no_transaction_is_open_while_the_webhook_thinks() {
    let bench = Bench::new().await;
    let pool = bench.pool.clone();
    let open = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&open);
    let router = Router::new().route(
        "/",
        post(move || async move {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
            *seen.lock().unwrap() = Some(testing::count(&pool, sql).await);
            Json(json!({"score": 5, "reason": "so so"}))
        }),
    );
    let url = testing::serve(router).await.to_string();
    bench
        .profile(|profile| {
            profile.scorer = Scorer::Webhook;
            profile.webhook_url = Some(url);
        })
        .await;
    let id = bench.vacancy(1).await;
    bench.score(id).await;
    assert_eq!(*open.lock().unwrap(), Some(0));
}

#[tokio::test]
async fn a_vacancy_that_changes_or_goes_while_it_is_judged_is_not_taken_for_scored() {
    for (sql, is_there) in
        [("UPDATE vacancy SET title = 'Changed', updated_at = clock_timestamp()", true), ("DELETE FROM vacancy", false)]
    {
        let bench = Bench::new().await;
        let pool = bench.pool.clone();
        let router = Router::new().route(
            "/",
            post(move || async move {
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
                Json(json!({"score": 5, "reason": "so so"}))
            }),
        );
        let url = testing::serve(router).await.to_string();
        bench
            .profile(|profile| {
                profile.scorer = Scorer::Webhook;
                profile.webhook_url = Some(url);
            })
            .await;
        let id = bench.vacancy(1).await;
        let outcome = bench.run(id).await.unwrap();
        if is_there {
            assert!(matches!(outcome, Outcome::Committed(_)));
            let vacancy = bench.the_vacancy().await;
            assert_eq!((vacancy.status, vacancy.score), (VacancyStatus::New, Some(5)));
        } else {
            assert!(matches!(outcome, Outcome::Cancel(_)));
        }
    }
}
