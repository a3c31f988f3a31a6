//! Taking one job in, and asking for it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use windrow_queue::{
    JobId,
    journal::{CloseState, Closing, close},
    store::AttemptError,
};

use crate::support::*;

#[tokio::test]
async fn a_fast_job_is_accepted_and_can_be_asked_for() {
    let api = Api::start().await;
    let new = api.post(json!({"kind": "sample.write_note", "args": {"text": "hello"}, "tenant": "acme"})).await;
    assert_eq!(new.status, StatusCode::CREATED, "{}", new.body);
    let id = new.id();
    assert_eq!(
        new.body,
        json!({"id": id, "kind": "sample.write_note", "queue": "notes", "journaled": false, "state": "ready", "created": true})
    );
    assert_eq!(new.headers["location"], format!("/api/v1/jobs/{id}"));
    let found = api.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(found.headers["x-content-type-options"], "nosniff");
    for (field, value) in [("state", "ready"), ("tenant", "acme"), ("kind", "sample.write_note"), ("queue", "notes")] {
        assert_eq!(found.body[field], value, "{}", found.body);
    }
    let later = api.post(json!({"kind": "sample.write_note", "args": {"text": "later"}, "delay": "1h"})).await;
    assert_eq!(later.body["state"], "scheduled");
    let found = api.get(&format!("/api/v1/jobs/{}", later.id())).await;
    assert_eq!(found.body["state"], "scheduled", "{}", found.body);
    let at = api.post(json!({"kind": "sample.write_note", "args": {"text": "past"}, "run_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(at.await.body["state"], "ready");
}

#[tokio::test]
async fn a_journaled_job_stands_in_the_journal_with_everything_that_was_asked_for() {
    let api = Api::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = json!({
        "kind": "sample.charge_card", "args": {"cents": 5}, "tenant": "acme", "band": "high", "max_attempts": 3,
        "timeout": "1m", "keep_result": true, "run_at": "2100-01-01T00:00:00Z", "queue": "charges",
    });
    let new = answer(api.request(Method::POST, "/api/v1/jobs").header("traceparent", trace).json(&body)).await;
    assert_eq!(new.status, StatusCode::CREATED, "{}", new.body);
    assert_eq!((&new.body["journaled"], &new.body["state"]), (&json!(true), &json!("scheduled")));
    assert_eq!(new.headers["traceparent"], trace);
    let row: (Value, Value, i16, String, Option<String>) =
        sqlx::query_as("SELECT args, policy, band, traceparent, tenant FROM job_journal WHERE id = $1::uuid")
            .bind(new.id())
            .fetch_one(&api.database)
            .await
            .unwrap();
    assert_eq!(row.0, json!({"cents": 5}));
    assert_eq!(row.1, json!({"max_attempts": 3, "timeout": "1m", "keep_result": true}));
    assert_eq!((row.2, &*row.3, row.4.as_deref()), (1, trace, Some("acme")));
    let found = api.get(&format!("/api/v1/jobs/{}", new.id())).await;
    assert_eq!((&found.body["state"], &found.body["journaled"]), (&json!("scheduled"), &json!(true)));

    let id: JobId = new.id().parse().unwrap();
    let error = AttemptError {
        attempt: 1,
        class: "declined".into(),
        message: "no".into(),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        ran: Duration::from_secs(1),
    };
    let closing = Closing {
        state: CloseState::Dead,
        reason: "declined: no",
        fingerprint: [0; 16],
        error: Some(&error),
        attempt: 1,
    };
    assert!(close(&api.database, id, 1, &closing).await.unwrap());
    let dead = api.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!((&dead.body["state"], &dead.body["reason"]), (&json!("dead"), &json!("declined: no")));
    assert_eq!((&dead.body["attempt"], &dead.body["errors"][0]["class"]), (&json!(1), &json!("declined")));
}

#[tokio::test]
async fn the_same_request_twice_is_one_job() {
    let api = Api::start().await;
    for kind in ["sample.write_note", "sample.charge_card"] {
        let body = json!({"kind": kind, "args": {"text": "a", "cents": 1}});
        let other = json!({"kind": kind, "args": {"text": "b", "cents": 2}});
        let key = format!("{kind}-{}", JobId::new());
        let send = |body: &Value| api.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", &key).json(body);
        let first = answer(send(&body)).await;
        let again = answer(send(&body)).await;
        assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK), "{}", again.body);
        assert_eq!(first.id(), again.id());
        assert_eq!(again.body["created"], false);
        let differs = answer(send(&other)).await;
        assert_eq!(differs.problem(), (422, "idempotency-conflict", None), "{kind}");
        assert!(differs.detail().contains(&first.id()), "{}", differs.detail());
        let mut with_field = body.clone();
        with_field["idempotency_key"] = json!(key);
        assert_eq!(api.post(with_field.clone()).await.id(), first.id());
        with_field["idempotency_key"] = json!("another");
        let differ = answer(send(&with_field)).await;
        assert_eq!(differ.problem(), (422, "invalid-request", Some("/idempotency_key")));
        let mut unique = body.clone();
        unique["unique_key"] = json!(key);
        let first = api.post(unique.clone()).await;
        let again = api.post(unique).await;
        assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
        assert_eq!(first.id(), again.id());
    }
}

#[tokio::test]
async fn without_a_good_key_nothing_is_said() {
    let api = Api::start().await;
    for path in ["/api/v1/jobs", "/api/v1/jobs/01890000-0000-7000-8000-000000000000"] {
        for (header, value) in [
            ("x-none", String::new()),
            ("authorization", "Bearer wrong".into()),
            ("authorization", "Bearer".into()),
            ("authorization", format!("Basic {}", api.key)),
            ("authorization", api.key.clone()),
        ] {
            let url = format!("http://{}{path}", api.address);
            let method = if path.ends_with("jobs") { Method::POST } else { Method::GET };
            let refused = answer(api.client.request(method, url).header(header, value)).await;
            assert_eq!(refused.problem(), (401, "unauthorized", None));
            assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
    }
    let open = api.client.get(format!("http://{}/healthz", api.address));
    assert_eq!(answer(open).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_of_one_tenant_sees_and_makes_only_its_jobs() {
    let api = Api::start().await;
    let body = json!({"kind": "sample.write_note", "args": {"text": "x"}});
    let own = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&body)).await;
    assert_eq!(own.status, StatusCode::CREATED);
    let own = answer(api.as_acme(Method::GET, &format!("/api/v1/jobs/{}", own.id()))).await;
    assert_eq!(own.body["tenant"], "acme");
    let mut foreign = body.clone();
    foreign["tenant"] = json!("globex");
    let refused = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&foreign)).await;
    assert_eq!(refused.problem(), (403, "forbidden", Some("/tenant")));
    for foreign in [foreign, body] {
        let theirs = api.post(foreign).await.id();
        let hidden = answer(api.as_acme(Method::GET, &format!("/api/v1/jobs/{theirs}"))).await;
        assert_eq!(hidden.problem(), (404, "not-found", None));
    }
}

#[tokio::test]
async fn each_fault_of_a_request_has_its_status_its_type_and_its_pointer() {
    let api = Api::start().await;
    let note = |field: &str, value: Value| {
        let mut body = json!({"kind": "sample.write_note", "args": {"text": "x"}});
        body[field] = value;
        body
    };
    let charge = |field: &str, value: Value| {
        let mut body = json!({"kind": "sample.charge_card", "args": {"cents": 1}});
        body[field] = value;
        body
    };
    let invalid = |pointer| (422, "invalid-request", Some(pointer));
    let cases = [
        (json!({"kind": "sample.nothing"}), (422, "unknown-kind", Some("/kind"))),
        (json!({"args": {}}), invalid("")),
        (note("args", json!({"text": 5})), (422, "invalid-args", Some("/args"))),
        (note("args", json!(["x"])), (422, "invalid-args", Some("/args"))),
        (charge("args", json!({"cents": -5})), (422, "invalid-args", Some("/args"))),
        (charge("args", json!({"cents": 1, "memo": "a\u{0}b"})), invalid("/args")),
        (note("args", json!({"text": "x".repeat(300_000)})), (413, "too-large", Some("/args"))),
        (charge("journaled", json!(false)), (422, "journal-required", Some("/journaled"))),
        (note("queue", json!("charges")), invalid("/queue")),
        (note("queue", json!("no queue")), invalid("/queue")),
        (note("tenant", json!("a:b")), invalid("/tenant")),
        (note("delay", json!("soon")), invalid("/delay")),
        (note("delay", json!("100years")), invalid("/delay")),
        (note("run_at", json!("yesterday")), invalid("/run_at")),
        (note("run_at", json!("+100000-01-01T00:00:00Z")), invalid("/run_at")),
        (note("max_attempts", json!(0)), invalid("/max_attempts")),
        (note("max_attempts", json!(70_000)), invalid("/max_attempts")),
        (note("timeout", json!("0s")), invalid("/timeout")),
        (note("band", json!("urgent")), invalid("/band")),
        (note("unique_key", json!("")), invalid("/unique_key")),
        (note("idempotency_key", json!("k".repeat(256))), invalid("/idempotency_key")),
        (note("unique_scope", json!("queued")), invalid("/unique_scope")),
        (note("unique_scope", json!("period")), invalid("/unique_scope")),
        (note("unique_scope", json!("for_ever")), invalid("/unique_scope")),
        (note("unique_scope", json!({"period": "soon"})), invalid("/unique_scope")),
        (note("on_conflict", json!("replace")), invalid("/on_conflict")),
        (note("on_conflict", json!("win")), invalid("/on_conflict")),
        (note("rescue_limit", json!(200)), invalid("/rescue_limit")),
        (note("delivery", json!("twice")), invalid("/delivery")),
        (note("batch", json!("mine")), invalid("/batch")),
        (note("batch", json!(JobId::new())), (409, "batch-closed", Some("/batch"))),
        (charge("batch", json!(JobId::new())), (409, "batch-closed", Some("/batch"))),
        (note("colour", json!("red")), invalid("/colour")),
    ];
    for (body, expected) in cases {
        let refused = api.post(body.clone()).await;
        let shown: String = body.to_string().chars().take(120).collect();
        assert_eq!(refused.problem(), expected, "{shown} was answered {}", refused.body);
    }
    let both = api.post(
        json!({"kind": "sample.write_note", "args": {"text": ""}, "delay": "1s", "run_at": "2100-01-01T00:00:00Z"}),
    );
    assert_eq!(both.await.problem(), invalid("/run_at"));
    let period = api.post(note("unique_scope", json!("period"))).await;
    assert!(period.detail().contains(r#"such as {"period": "1h"}"#), "{}", period.body);
    let unknown = api.post(json!({"kind": "sample.nothing"})).await;
    assert!(
        unknown.detail().contains("sample.charge_card, sample.sweep_all, sample.write_note"),
        "{}",
        unknown.detail()
    );
    let args = api.post(note("args", json!({}))).await;
    assert!(args.detail().contains("missing field `text`"), "{}", args.detail());

    let raw = |content_type: &str, body: Vec<u8>| {
        answer(api.request(Method::POST, "/api/v1/jobs").header("content-type", content_type).body(body))
    };
    assert_eq!(raw("application/json", b"{not json".to_vec()).await.problem(), (400, "invalid-json", None));
    assert_eq!(raw("application/json", Vec::new()).await.problem(), (400, "invalid-json", None));
    let deep = format!("{{\"kind\":\"sample.charge_card\",\"args\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(raw("application/json", deep.into_bytes()).await.problem(), (400, "invalid-json", None));
    assert_eq!(raw("application/json", vec![b' '; 1_100_000]).await.problem(), (413, "too-large", None));
    assert_eq!(raw("text/plain", b"{}".to_vec()).await.problem(), (415, "unsupported-media-type", None));

    assert_eq!(api.get("/api/v1/nothing").await.problem(), (404, "not-found", None));
    assert_eq!(api.get("/api/v1/jobs/not-an-id").await.problem(), (404, "not-found", None));
    assert_eq!(api.get("/api/v1/jobs/%ff").await.problem(), (404, "not-found", None));
    assert_eq!(api.get(&format!("/api/v1/jobs/{}", JobId::new())).await.problem(), (404, "not-found", None));
    let wrong_method = answer(api.request(Method::DELETE, "/api/v1/jobs")).await;
    assert_eq!(wrong_method.problem(), (405, "method-not-allowed", None));
    let header =
        api.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", "\u{e9}").json(&note("band", json!("low")));
    assert_eq!(answer(header).await.problem(), (400, "invalid-header", None));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM job_journal").fetch_one(&api.database).await.unwrap();
    assert_eq!(count, 0, "a refused request left something behind");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let api = Api::start_with(Options { max_jobs: Some(0), ..Options::default() }).await;
    let full = api.post(json!({"kind": "sample.write_note", "args": {"text": "x"}})).await;
    assert_eq!(full.problem(), (429, "queue-full", None));
    assert!(full.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn a_store_that_is_away_is_named_and_nothing_is_accepted() {
    let no_redis = Options { redis_url: Some(format!("redis://:hunter2@127.0.0.1:{NOWHERE}/0")), ..Options::default() };
    let api = Api::start_with(no_redis).await;
    let away = api.post(json!({"kind": "sample.write_note", "args": {"text": "x"}})).await;
    assert_eq!(away.problem(), (503, "store-unavailable", None));
    assert!(away.detail().contains("Redis") && !away.body.to_string().contains("hunter2"), "{}", away.body);
    assert!(away.headers.contains_key("retry-after"));
    let journaled = api.post(json!({"kind": "sample.charge_card", "args": {"cents": 1}})).await;
    assert_eq!(journaled.status, StatusCode::CREATED, "the journal takes jobs without Redis");

    let no_postgres = format!("postgres://windrow:hunter2@127.0.0.1:{NOWHERE}/windrow");
    let api = Api::start_with(Options { database_url: Some(no_postgres), ..Options::default() }).await;
    let away = api.post(json!({"kind": "sample.charge_card", "args": {"cents": 1}})).await;
    assert_eq!(away.problem(), (503, "store-unavailable", None));
    assert!(away.detail().contains("Postgres") && !away.body.to_string().contains("hunter2"), "{}", away.body);
    let fast = api.post(json!({"kind": "sample.write_note", "args": {"text": "x"}})).await;
    assert_eq!(fast.status, StatusCode::CREATED, "Redis takes fast jobs without Postgres");
    assert_eq!(api.get(&format!("/api/v1/jobs/{}", fast.id())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_soft_stop_lets_a_request_in_flight_finish_and_takes_no_more() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let api = Api::start().await;
    let body = json!({"kind": "sample.write_note", "args": {"text": "x"}}).to_string();
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        api.key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body: the request is in flight.
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100"));
    api.shutdown.stop();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&rest));
    tokio::time::timeout(Duration::from_secs(5), api.served).await.unwrap().unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
async fn requests_and_jobs_are_counted() {
    let api = Api::start().await;
    api.post(json!({"kind": "sample.write_note", "args": {"text": "x"}})).await;
    api.get(&format!("/api/v1/jobs/{}", JobId::new())).await;
    let metrics = api.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    for line in [
        r#"windrow_http_requests_total{method="POST",route="/api/v1/jobs",status="201"} 1"#,
        r#"windrow_http_requests_total{method="GET",route="/api/v1/jobs/{id}",status="404"} 1"#,
        r#"windrow_http_request_duration_seconds_count{method="POST",route="/api/v1/jobs"} 1"#,
        r#"windrow_jobs_enqueued_total{kind="sample.write_note",queue="notes"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
