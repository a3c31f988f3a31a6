//! Enqueuing by SQL: what `windrow_enqueue` writes is what `enqueue_in` writes, and what is wrong is said.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgDatabaseError, PgListener},
};
use uuid::Uuid;
use windrow_queue::{
    Band, BatchId, Catalog, Delivery, Due, Enqueued, JobArgs, JobId, Kind, NewJob, Policy, QueueName, Tenant,
    UniqueScope,
    job::OnConflict,
    journal::{self, OUTBOX_CHANNEL},
    store::NewBatch,
};

use crate::support::{Note, attempt, count, database, enqueue, note, patient};

/// A kind with a policy of its own in every respect that rows show.
#[derive(Serialize, Deserialize)]
struct Odd {}

impl JobArgs for Odd {
    const KIND: Kind = Kind::from_static("test.odd");
    const QUEUE: QueueName = QueueName::from_static("odd");
    const POLICY: Policy = Policy::DEFAULT.journaled().at_most_once().with_rescue_limit(255).with_band(Band::High);
}

#[derive(Serialize, Deserialize)]
struct Secret {}

impl JobArgs for Secret {
    const KIND: Kind = Kind::from_static("test.secret");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = Policy::DEFAULT.encrypted();
}

/// A database whose kinds are registered.
async fn producing() -> PgPool {
    let pool = database().await;
    let catalog = Catalog::default().with::<Note>().with::<Odd>().with::<Secret>();
    assert_eq!(journal::register_kinds(&pool, &catalog).await.unwrap(), 3);
    pool
}

/// What `windrow_enqueue` answers.
async fn ask(pool: &PgPool, args: &str) -> Result<(JobId, String), sqlx::Error> {
    let sql = format!("SELECT id, outcome FROM windrow_enqueue({args})");
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(pool).await?;
    let id: Uuid = row.get(0);
    Ok((JobId(id), row.get(1)))
}

fn is(answer: Enqueued, outcome: &str) -> (JobId, String) {
    (answer.id(), outcome.to_owned())
}

/// All that an enqueue writes, without ids and times, which are told apart as now, later and never.
async fn rows(pool: &PgPool) -> Value {
    let later = "CASE WHEN run_at > now() + interval '30 s' THEN round(extract(epoch FROM run_at - now()) / 60) END";
    let sql = format!(
        "SELECT jsonb_build_object(
             'journal', (SELECT jsonb_agg(to_jsonb(j) - '{{id,run_at,enqueued_at}}'::text[] || jsonb_build_object('later', {later}))
                         FROM job_journal j),
             'version', (SELECT jsonb_agg(substr(id::text, 15, 1)) FROM job_journal),
             'outbox', (SELECT jsonb_agg(to_jsonb(o) - '{{id,run_at,relay_at,seq}}'::text[]
                            || jsonb_build_object('later', {later}, 'due', relay_at <= now(), 'same',
                                (SELECT o.run_at = j.run_at FROM job_journal j WHERE j.id = o.id))) FROM job_outbox o),
             'unique', (SELECT jsonb_agg(jsonb_build_array(digest, job_id IN (SELECT id FROM job_journal),
                            round(extract(epoch FROM expires_at - now()) / 10))) FROM job_unique),
             'idempotency', (SELECT jsonb_agg(jsonb_build_array(digest, request, job_id IN (SELECT id FROM job_journal),
                            round(extract(epoch FROM expires_at - now()) / 10))) FROM job_idempotency),
             'parts', (SELECT jsonb_agg(to_jsonb(p)) FROM job_batch_part p))"
    );
    let rows: Value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap();
    sqlx::raw_sql("TRUNCATE job_journal, job_outbox, job_unique, job_idempotency, job_batch_part")
        .execute(pool)
        .await
        .unwrap();
    rows
}

#[tokio::test]
async fn a_job_enqueued_by_sql_is_the_job_that_rust_enqueues() {
    let pool = producing().await;
    let batch = NewBatch { id: BatchId(JobId::new().0), follow_up: note("follow-up") };
    let mut tx = pool.begin().await.unwrap();
    journal::open_batch_in(&mut tx, &batch).await.unwrap();
    tx.commit().await.unwrap();
    let acme = || note("a").tenant(Tenant::new("acme").unwrap());
    let with = |change: fn(&mut NewJob)| {
        let mut job = note("a");
        change(&mut job);
        job
    };
    let odd = || NewJob::new(&Odd {}).unwrap();
    let a = r#"'test.write_note', '{"text": "a"}'"#;
    let period = |seconds| UniqueScope::Period(Duration::from_secs(seconds));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let cases: Vec<(NewJob, String)> = vec![
        (note("a"), a.into()),
        (note("a\u{1f}\"\\é\u{1f600}"), r#"'test.write_note', '{"text": "a\u001f\"\\é😀"}'"#.into()),
        (acme(), format!("{a}, tenant => 'acme', queue => 'test'")),
        (odd(), "'test.odd'".into()),
        (
            {
                let mut job = odd();
                job.policy.delivery = Some(Delivery::AtLeastOnce);
                job.policy.rescue_limit = Some(3);
                job
            },
            "'test.odd', delivery => 'at_least_once', rescue_limit => 3".into(),
        ),
        (note("a").due(Due::In(Duration::from_secs(3600))), format!("{a}, delay => '1 hour'")),
        (
            note("a").due(Due::At("2100-01-01T00:00:00Z".parse().unwrap())),
            format!("{a}, run_at => '2100-01-01 00:00Z'"),
        ),
        (with(|job| job.band = Band::Low), format!("{a}, band => 'low'")),
        (with(|job| job.policy.max_attempts = Some(7)), format!("{a}, max_attempts => 7")),
        (
            with(|job| job.policy.timeout = Some(Duration::from_millis(187_384_005))),
            format!("{a}, timeout => '2 days 4:03:04.005'"),
        ),
        (with(|job| job.policy.timeout = Some(Duration::from_secs(86_400))), format!("{a}, timeout => '1 day'")),
        (
            with(|job| job.policy.timeout = Some(Duration::from_micros(1_000_001))),
            format!("{a}, timeout => '1.000001'"),
        ),
        (
            with(|job| {
                job.policy.keep_result = true;
                job.policy.delivery = Some(Delivery::AtMostOnce);
            }),
            format!("{a}, keep_result => true, delivery => 'at_most_once'"),
        ),
        (with(|_| ()), format!("{a}, keep_result => false")),
        (note("a").unique("key"), format!("{a}, unique_key => 'key'")),
        (acme().unique("é"), format!("{a}, tenant => 'acme', unique_key => 'é'")),
        (
            note("a").unique_for("key", UniqueScope::Queued, OnConflict::Replace),
            format!("{a}, unique_key => 'key', unique_scope => 'queued', on_conflict => 'replace'"),
        ),
        (
            note("a").unique_for("key", period(5400), OnConflict::Ignore),
            format!("{a}, unique_key => 'key', unique_scope => 'period', unique_period => '90 min'"),
        ),
        (note("a").idempotent("request"), format!("{a}, idempotency_key => 'request'")),
        (
            acme().unique("key").idempotent("request"),
            format!("{a}, tenant => 'acme', unique_key => 'key', idempotency_key => 'request'"),
        ),
        (note("a").batch(batch.id), format!("{a}, batch => '{}'", batch.id)),
        (note("a").traceparent(Some(trace.into())), format!("{a}, traceparent => '{trace}'")),
    ];
    for (job, sql) in &cases {
        let mut tx = pool.begin().await.unwrap();
        assert!(journal::enqueue_idempotent(&mut tx, job).await.unwrap().is_created());
        tx.commit().await.unwrap();
        let by_rust = rows(&pool).await;
        assert_eq!(ask(&pool, sql).await.unwrap().1, "created", "{sql}");
        assert_eq!(rows(&pool).await, by_rust, "{sql}");
    }
    // The same over the bulk form, all that are not of one another's key.
    for (job, sql) in cases {
        let members = sql.replacen("'test.write_note', ", "kind => 'test.write_note', args => ", 1);
        let members = members.replacen("'test.odd'", "kind => 'test.odd'", 1);
        let mut object = String::from("'{}'::jsonb");
        for member in split(&members) {
            let (name, value) = member.split_once(" => ").unwrap();
            let cast = if name == "args" { "::jsonb" } else { "" };
            write!(object, " || jsonb_build_object('{name}', {value}{cast})").unwrap();
        }
        let many = format!("SELECT outcome FROM windrow_enqueue_many(jsonb_build_array({object}))");
        let outcome: String = sqlx::raw_sql(AssertSqlSafe(many.clone()))
            .fetch_one(&pool)
            .await
            .unwrap_or_else(|e| panic!("{e}: {many}"))
            .get(0);
        let by_sql = rows(&pool).await;
        let mut tx = pool.begin().await.unwrap();
        journal::enqueue_idempotent(&mut tx, &job).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((&*outcome, by_sql), ("created", rows(&pool).await), "{many}");
    }
}

/// The arguments of a call: commas inside of quotes do not count.
fn split(args: &str) -> Vec<&str> {
    let (mut parts, mut from, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in args.bytes().enumerate() {
        quoted ^= byte == b'\'';
        if byte == b',' && !quoted {
            parts.push(args[from..at].trim());
            from = at + 1;
        }
    }
    parts.push(args[from..].trim());
    parts
}

#[tokio::test]
async fn keys_hold_between_sql_and_rust_whoever_comes_first() {
    let pool = producing().await;
    let a = r#"'test.write_note', '{"text": "a"}'"#;
    let b = r#"'test.write_note', '{"text": "b"}'"#;
    let first = enqueue(&pool, &[note("a").unique("k")]).await[0];
    assert_eq!(ask(&pool, &format!("{b}, unique_key => 'k'")).await.unwrap(), is(first, "exists"));
    let (by_sql, _) = ask(&pool, &format!("{a}, unique_key => 'l', delay => '1 h'")).await.unwrap();
    assert_eq!(enqueue(&pool, &[note("b").unique("l")]).await[0], Enqueued::Exists(by_sql));

    let asked =
        ask(&pool, &format!("{b}, unique_key => 'l', on_conflict => 'replace', max_attempts => 2")).await.unwrap();
    assert_eq!(asked, (by_sql, "replaced".into()));
    let (generation, args, policy, later): (i32, Value, Value, bool) =
        sqlx::query_as("SELECT gen, args, policy, run_at > now() + interval '50 min' FROM job_journal WHERE id = $1")
            .bind(by_sql.0)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((generation, args, policy, later), (2, json!({"text": "b"}), json!({"max_attempts": 2}), true));
    let asked =
        ask(&pool, &format!("{a}, unique_key => 'l', on_conflict => 'reschedule', delay => '1 day'")).await.unwrap();
    assert_eq!(asked, (by_sql, "rescheduled".into()));
    let changed =
        "SELECT count(*) FROM job_journal WHERE gen = 3 AND args->>'text' = 'b' AND run_at > now() + interval '23 h'";
    assert_eq!(count(&pool, changed).await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 3").await, 1, "in its new generation");
    // A job whose time has come stays as it is.
    let asked = ask(&pool, &format!("{b}, unique_key => 'k', on_conflict => 'replace'")).await.unwrap();
    assert_eq!(asked, is(first, "exists"));

    let p = format!("{a}, unique_key => 'p', unique_scope => 'period', unique_period => '1 h'");
    let (of_period, _) = ask(&pool, &p).await.unwrap();
    attempt(&pool, of_period, 1).begin().await.unwrap().commit().await.unwrap();
    assert_eq!(ask(&pool, &p).await.unwrap(), (of_period, "exists".into()), "whatever became of its job");
    sqlx::query("UPDATE job_unique SET expires_at = now()").execute(&pool).await.unwrap();
    assert_eq!(ask(&pool, &p).await.unwrap().1, "created");
}

#[tokio::test]
async fn the_same_request_by_sql_and_by_rust_is_one_and_another_is_refused() {
    let pool = producing().await;
    let ask_rust = async |text: &str| {
        let mut tx = pool.begin().await.unwrap();
        let answer = journal::enqueue_idempotent(&mut tx, &note(text).idempotent("r")).await;
        tx.commit().await.unwrap();
        answer
    };
    let (first, outcome) = ask(&pool, r#"'test.write_note', '{"text": "a"}', idempotency_key => 'r'"#).await.unwrap();
    assert_eq!(outcome, "created");
    assert_eq!(ask_rust("a").await.unwrap(), Enqueued::Exists(first));
    assert!(ask_rust("b").await.is_err());
    attempt(&pool, first, 1).begin().await.unwrap().commit().await.unwrap();
    let again = ask(&pool, r#"'test.write_note', '{"text": "a"}', idempotency_key => 'r'"#).await.unwrap();
    assert_eq!(again, (first, "exists".into()), "after its job completed, too");
    let error = ask(&pool, r#"'test.write_note', '{"text": "b"}', idempotency_key => 'r'"#).await.unwrap_err();
    let refusal = error.as_database_error().unwrap();
    assert_eq!(refusal.code().as_deref(), Some("23505"));
    assert!(refusal.message().contains(&first.to_string()), "{error}");
    // The key stands for the job that a unique key found.
    let unique = enqueue(&pool, &[note("u").unique("u")]).await[0];
    let both = r#"'test.write_note', '{"text": "c"}', idempotency_key => 's', unique_key => 'u'"#;
    assert_eq!(ask(&pool, both).await.unwrap(), is(unique, "exists"));
    attempt(&pool, unique.id(), 1).begin().await.unwrap().commit().await.unwrap();
    assert_eq!(ask(&pool, both).await.unwrap(), is(unique, "exists"));
}

#[tokio::test]
async fn requests_have_one_digest_in_both_languages() {
    let pool = database().await;
    let mut cases: Vec<String> = [
        r#"{}"#, r#"[]"#, r#"null"#, r#"true"#, r#""""#, r#"{"a":1,"b":[true,null]}"#, r#"{ "b": [true, null], "a": 1 }"#,
        r#"{"é":"\u00e9","z":"\u001f\u007f\t\"\\/","aa":{"b":{}},"a":[[],[[]],{}]}"#, r#"{"b":1,"aa":2,"a":3,"":4,"B":5}"#,
        r#"[0,-1,9223372036854775807,-9223372036854775808,18446744073709551615,18446744073709551616,-9223372036854775809]"#,
        r#"[0.0,1.0,1.10,-2.5,0.1,100.25,0.001,0.0001,0.00001,0.000012,0.000001,1.5e-7,1e-7,1e300,5e-324]"#,
        r#"[123456789012345.6,1234567890123456.5,12345678901234567.5,0.30000000000000004,1e21,1.7976931348623157e308]"#,
    ]
    .map(str::to_owned)
    .into();
    let mut state = 7_u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Nothing larger or smaller: there the reader of JSON may be off by the last digit.
        let (digits, exponent) = ((state >> 33) % 1_000_000, (state >> 20) % 28);
        let number: f64 = format!("{digits}e{}", i64::try_from(exponent).unwrap() - 20).parse().unwrap();
        cases.push(json!(number).to_string());
    }
    for case in cases {
        let raw = serde_json::value::RawValue::from_string(case.clone()).unwrap();
        let by_sql: Vec<u8> = sqlx::query_scalar("SELECT substring(sha256(windrow_request_bytes($1)) FOR 16)")
            .bind(sqlx::types::Json(&raw))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(by_sql, journal::request_digest(&raw), "{case}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_written() {
    let pool = producing().await;
    let a = r#"'test.write_note', '{"text": "a"}'"#;
    let with = |rest: &str| format!("{a}, {rest}");
    let large = "'test.write_note', jsonb_build_object('text', repeat('x', 262144))".to_owned();
    let long = "'test.write_note', '{\"text\": 1}', unique_key => repeat('x', 256)".to_owned();
    let deep = "'test.write_note', ('{\"text\":' || repeat('[', 127) || repeat(']', 127) || '}')::jsonb, idempotency_key => 'x'";
    for (call, code, column, words) in [
        ("NULL".into(), "22004", "kind", "null"),
        ("'test.none'".into(), "22023", "kind", "there is no kind 'test.none'"),
        ("'test.secret'".into(), "0A000", "kind", "no key"),
        ("'test.write_note', NULL".into(), "22004", "args", "null"),
        ("'test.write_note', '[1]'".into(), "22023", "args", "array"),
        ("'test.write_note', 'null'".into(), "22023", "args", "not an object"),
        ("'test.write_note'".into(), "22023", "args", "lack text"),
        (large, "54000", "args", "262144"),
        (deep.into(), "54000", "", "127"),
        (with("tenant => ''"), "22023", "tenant", "''"),
        (with("tenant => 'a}b'"), "22023", "tenant", "'a}b'"),
        (with("tenant => E'a\\n'"), "22023", "tenant", "not valid"),
        (with("tenant => 'é'"), "22023", "tenant", "not valid"),
        (with("tenant => repeat('x', 65)"), "22023", "tenant", "not valid"),
        (with("queue => 'odd'"), "22023", "queue", "wait in queue test"),
        (with("delay => '-1 second'"), "22023", "delay", "-00:00:01"),
        (with("delay => '11 years'"), "22023", "delay", "11 years"),
        (with("delay => 'NaN'"), "22007", "", "NaN"),
        (with("delay => '1 s', run_at => now()"), "22023", "run_at", "both"),
        (with("run_at => 'infinity'"), "22023", "run_at", "infinity"),
        (with("run_at => '2200-01-01Z'"), "22023", "run_at", "2200"),
        (with("band => 'urgent'"), "22023", "band", "'urgent'"),
        (with("band => ''"), "22023", "band", "''"),
        (with("max_attempts => 0"), "22023", "max_attempts", "0"),
        (with("max_attempts => 1001"), "22023", "max_attempts", "1001"),
        (with("timeout => '99 milliseconds'"), "22023", "timeout", "00:00:00.099"),
        (with("timeout => '8 days'"), "22023", "timeout", "8 days"),
        (with("rescue_limit => 21"), "22023", "rescue_limit", "21"),
        (with("delivery => 'twice'"), "22023", "delivery", "'twice'"),
        (with("unique_key => ''"), "22023", "unique_key", "0 bytes"),
        (long, "22023", "unique_key", "256 bytes"),
        (with("unique_scope => 'queued'"), "22023", "unique_key", "no unique_key"),
        (with("on_conflict => 'ignore'"), "22023", "unique_key", "no unique_key"),
        (with("unique_key => 'k', unique_scope => 'ever'"), "22023", "unique_scope", "'ever'"),
        (with("unique_key => 'k', unique_scope => 'period'"), "22023", "unique_period", "null"),
        (
            with("unique_key => 'k', unique_period => '1 h', unique_scope => 'queued'"),
            "22023",
            "unique_period",
            "queued",
        ),
        (
            with("unique_key => 'k', unique_scope => 'period', unique_period => '0'"),
            "22023",
            "unique_period",
            "00:00:00",
        ),
        (with("unique_key => 'k', on_conflict => 'fail'"), "22023", "on_conflict", "'fail'"),
        (with("idempotency_key => ''"), "22023", "idempotency_key", "0 bytes"),
        (with("batch => '00000000-0000-0000-0000-000000000001'"), "23514", "", "takes no members"),
        (with("traceparent => '00-xyz'"), "22023", "traceparent", "'00-xyz'"),
    ] {
        let error = ask(&pool, &call).await.expect_err(&call);
        let refusal = error.as_database_error().expect(&call).downcast_ref::<PgDatabaseError>();
        assert_eq!(refusal.code(), code, "{call}: {error}");
        assert_eq!(refusal.column().unwrap_or_default(), column, "{call}: {error}");
        assert!(refusal.message().contains(words), "{call}: {error}");
    }
    let unknown = ask(&pool, "'test.none'").await.unwrap_err();
    let refusal = unknown.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
    assert!(refusal.detail().unwrap().contains("test.odd, test.secret, test.write_note"));
    assert!(refusal.hint().unwrap().contains("windrow migrate"));

    for (jobs, code, words) in [
        ("NULL", "22023", "not an array"),
        ("'{}'", "22023", "not an array"),
        ("'[1]'", "22023", "job 1: it is not an object"),
        (r#"'[{"kind": "test.odd"}, {"kind": "test.odd", "when": 1}]'"#, "22023", "job 2: there is no parameter when"),
        (r#"'[{"kind": "test.odd"}, {"kind": "test.odd", "delay": "soon"}]'"#, "22007", "job 2: "),
        (
            r#"'[{"kind": "test.odd"}, {"kind": "test.odd", "args": null}]'"#,
            "22004",
            "job 2: the args of test.odd are null",
        ),
        (r#"'[{"kind": "test.odd"}, {"args": {}}]'"#, "22004", "job 2: the kind is null"),
        (r#"(SELECT jsonb_agg('{"kind": "test.odd"}'::jsonb) FROM generate_series(1, 10001))"#, "54000", "10001 jobs"),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(format!("SELECT * FROM windrow_enqueue_many({jobs})")))
            .fetch_all(&pool)
            .await
            .expect_err(jobs);
        let refusal = error.as_database_error().expect(jobs).downcast_ref::<PgDatabaseError>();
        assert!(refusal.code() == code && refusal.message().contains(words), "{jobs}: {error:?}");
    }
    let all = "SELECT (SELECT count(*) FROM job_journal) + (SELECT count(*) FROM job_outbox) + (SELECT count(*) FROM job_unique)
               + (SELECT count(*) FROM job_idempotency)";
    assert_eq!(count(&pool, all).await, 0);
}

#[tokio::test]
async fn many_jobs_are_answered_in_their_order_and_stand_or_fall_together() {
    let pool = producing().await;
    let standing = enqueue(&pool, &[note("a").unique("k")]).await[0].id();
    let jobs = json!([
        {"kind": "test.write_note", "args": {"text": 1}},
        {"kind": "test.write_note", "args": {"text": 2}, "unique_key": "new", "delay": 3600},
        {"kind": "test.write_note", "args": {"text": 3}, "unique_key": "k"},
        {"kind": "test.write_note", "args": {"text": 4}, "unique_key": "new", "on_conflict": "replace"},
        {"kind": "test.write_note", "args": {"text": 5}, "idempotency_key": "i", "unique_key": "k"},
        {"kind": "test.write_note", "args": {"text": 5}, "idempotency_key": "i"},
        {"kind": "test.odd", "idempotency_key": "i"},
    ]);
    let many = "SELECT position, id, outcome FROM windrow_enqueue_many($1)";
    let answers: Vec<(i32, Uuid, String)> = sqlx::query_as(many).bind(&jobs).fetch_all(&pool).await.unwrap();
    let outcomes: Vec<_> = answers.iter().map(|answer| &*answer.2).collect();
    assert_eq!(outcomes, ["created", "created", "exists", "replaced", "exists", "exists", "created"]);
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!([2, 4, 5].iter().all(|&at| answers[at].1 == standing.0), "{answers:?}");
    assert_eq!(answers[1].1, answers[3].1);
    let text: Value = sqlx::query_scalar("SELECT args FROM job_journal WHERE id = $1")
        .bind(answers[1].1)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(text, json!({"text": 4}));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 4);
    let none: Vec<(i32, Uuid, String)> = sqlx::query_as(many).bind(json!([])).fetch_all(&pool).await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_with_the_same_keys_in_any_order_never_deadlock() {
    let pool = patient(&producing().await).await;
    let mut created = 0;
    for round in 0..5 {
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(pool.begin().await.unwrap());
        }
        let callers = open.into_iter().enumerate().map(|(caller, mut tx)| {
            let mut jobs: Vec<Value> = (0..200)
                .map(|key| {
                    let mut job = json!({"kind": "test.odd", "unique_key": format!("{round}.{key}")});
                    // Some under a request of their own, some of a period, in every mixture.
                    if (key + caller) % 3 == 0 {
                        job["idempotency_key"] = format!("{round}.{key}").into();
                    }
                    if key % 2 == 0 {
                        job["unique_scope"] = "period".into();
                        job["unique_period"] = "1 h".into();
                    }
                    job
                })
                .collect();
            if caller % 2 == 1 {
                jobs.reverse();
            }
            tokio::spawn(async move {
                let sql = "SELECT count(*) FROM windrow_enqueue_many($1) WHERE outcome = 'created'";
                let created: i64 = sqlx::query_scalar(sql).bind(Value::Array(jobs)).fetch_one(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                created
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            created += caller.await.unwrap();
        }
    }
    assert_eq!(created, 1000);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1000);
}

#[tokio::test]
async fn the_relay_is_woken_only_while_it_sleeps() {
    let pool = producing().await;
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen(OUTBOX_CHANNEL).await.unwrap();
    for (idle, expected) in [(false, 0), (true, 1)] {
        journal::set_idle(&pool, idle).await.unwrap();
        ask(&pool, "'test.odd'").await.unwrap();
        sqlx::query("SELECT pg_notify($1, 'marker')").bind(OUTBOX_CHANNEL).execute(&pool).await.unwrap();
        let mut heard = 0;
        while listener.recv().await.unwrap().payload() != "marker" {
            heard += 1;
        }
        assert_eq!(heard, expected, "idle: {idle}");
    }
}

/// A connection as a role of this name, which may do nothing.
async fn connect_as(pool: &PgPool, role: &str) -> PgConnection {
    let sql = format!(
        "DO $$ BEGIN CREATE ROLE {role} LOGIN PASSWORD 'app'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
    let options: PgConnectOptions = (*pool.connect_options()).clone();
    options.username(role).password("app").connect().await.unwrap()
}

#[tokio::test]
async fn an_application_needs_the_right_to_execute_it_and_no_other() {
    let pool = producing().await;
    let mut app = connect_as(&pool, "windrow_test_app").await;
    let mut other = connect_as(&pool, "windrow_test_other").await;
    let call = "SELECT outcome FROM windrow_enqueue('test.odd')";
    sqlx::raw_sql(
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO windrow_test_app, windrow_test_other;
         GRANT EXECUTE ON FUNCTION windrow_enqueue, windrow_enqueue_many TO windrow_test_app",
    )
    .execute(&pool)
    .await
    .unwrap();
    let refused = async |connection: &mut PgConnection, sql: &'static str| {
        let error = sqlx::raw_sql(sql).execute(&mut *connection).await.expect_err(sql);
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{sql}: {error}");
    };
    refused(&mut other, call).await;
    refused(&mut other, "SELECT windrow_enqueue_many('[]')").await;
    for sql in [
        "SELECT FROM job_journal",
        "SELECT FROM job_kind",
        "INSERT INTO job_outbox DEFAULT VALUES",
        "SELECT windrow_insert('{}', '{}')",
        "SELECT windrow_change(NULL, NULL)",
        "SELECT windrow_claim(NULL, NULL)",
        "SELECT windrow_put(NULL, NULL)",
        "SELECT windrow_key_digest('a', 'b', 'c')",
    ] {
        refused(&mut app, sql).await;
    }

    // What it makes in its own temporary schema is not what the function sees.
    sqlx::raw_sql(
        "CREATE TEMPORARY TABLE job_kind (kind text, queue text); CREATE TEMPORARY TABLE job_journal (id uuid);
         SET search_path = pg_temp, public",
    )
    .execute(&mut app)
    .await
    .unwrap();
    let mut tx = app.begin().await.unwrap();
    sqlx::query_scalar::<_, String>(call).fetch_one(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM public.job_journal").await, 0);
    let outcome: String = sqlx::query_scalar(call).fetch_one(&mut app).await.unwrap();
    assert_eq!(outcome, "created");
    sqlx::query("SELECT FROM windrow_enqueue_many('[{\"kind\": \"test.odd\"}]')").execute(&mut app).await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM public.job_journal").await, 2);
    assert_eq!(count(&pool, "SELECT count(*) FROM public.job_outbox").await, 2);
}

#[tokio::test]
async fn kinds_are_registered_as_they_are_now_and_never_forgotten() {
    let pool = database().await;
    let catalog = Catalog::default().with::<Note>().with::<Odd>();
    assert_eq!(journal::register_kinds(&pool, &catalog).await.unwrap(), 2);
    assert_eq!(journal::register_kinds(&pool, &catalog).await.unwrap(), 0, "nothing is written twice");
    sqlx::raw_sql("UPDATE job_kind SET queue = 'old', required = '{x}' WHERE kind = 'test.odd'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(journal::register_kinds(&pool, &Catalog::default().with::<Odd>()).await.unwrap(), 1);
    let kinds: Value = sqlx::query_scalar(
        "SELECT jsonb_agg(to_jsonb(k) - '{changed_at,max_args_bytes}'::text[] ORDER BY kind) FROM job_kind k",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(
        kinds,
        json!([
            {"kind": "test.odd", "queue": "odd", "band": 1, "rescue_limit": 254, "at_most_once": true, "encrypted": false,
             "required": []},
            {"kind": "test.write_note", "queue": "test", "band": 2, "rescue_limit": null, "at_most_once": false,
             "encrypted": false, "required": ["text"]},
        ])
    );
    // Two that start at the same time.
    let catalog = Catalog::default().with::<Note>().with::<Odd>().with::<Secret>();
    let (one, two) = tokio::join!(journal::register_kinds(&pool, &catalog), journal::register_kinds(&pool, &catalog));
    assert_eq!(one.unwrap() + two.unwrap(), 1);
}
