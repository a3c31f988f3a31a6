//! Schedules: made, shown, listed, changed, paused, resumed, triggered, removed; their coming fire times and their history.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::*;

const ALL: &str = "/api/v1/schedules";

impl Api {
    async fn add(&self, body: Value) -> Answer {
        answer(self.request(Method::POST, ALL).json(&body)).await
    }

    async fn send(&self, method: Method, path: &str) -> Answer {
        answer(self.request(method, &format!("{ALL}{path}"))).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        answer(self.request(Method::PATCH, &format!("{ALL}{path}")).json(&body)).await
    }

    fn acme(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_acme(method, &format!("{ALL}{path}"))
    }

    async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&self.database).await.unwrap()
    }

    /// As `schedules.toml` would have made it.
    async fn declare(&self, name: &str) {
        sqlx::query(
            "INSERT INTO schedule (id, name, origin, kind, args, every_s, handled_until)
             VALUES (gen_random_uuid(), $1, 'config', 'sample.write_note', '{\"text\": \"a\"}', 3600, now())",
        )
        .bind(name)
        .execute(&self.database)
        .await
        .unwrap();
    }
}

fn nightly(name: &str) -> Value {
    json!({"name": name, "kind": "sample.write_note", "args": {"text": "a"}, "cron": "0 3 * * *", "time_zone": "Europe/Berlin"})
}

#[tokio::test]
async fn a_schedule_is_made_once_shown_changed_and_removed() {
    let api = Api::start().await;
    let made = api.add(nightly("nightly")).await;
    assert_eq!(
        (made.status, made.headers["location"].to_str().unwrap()),
        (StatusCode::CREATED, "/api/v1/schedules/nightly")
    );
    for (field, value) in [
        ("name", json!("nightly")),
        ("origin", json!("api")),
        ("state", json!("active")),
        ("version", json!(1)),
        ("overlap", json!("skip")),
        ("missed", json!("run_once")),
        ("args", json!({"text": "a"})),
    ] {
        assert_eq!(made.body[field], value, "{field}: {}", made.body);
    }
    assert!(made.body["next_fire_at"].is_string() && made.body.get("error").is_none(), "{}", made.body);
    let again = api.add(nightly("nightly")).await;
    assert_eq!((again.status, again.id()), (StatusCode::OK, made.id()));
    let mut other = nightly("nightly");
    other["cron"] = json!("0 4 * * *");
    let taken = api.add(other).await;
    assert_eq!(taken.problem(), (409, "schedule-exists", None));

    let changed = api.patch("/nightly", json!({"every": "90m", "missed": {"catch_up": 3}, "jitter": "1m"})).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    assert_eq!((&changed.body["every"], &changed.body["version"]), (&json!("1h 30m"), &json!(2)));
    assert!(changed.body.get("cron").is_none() && changed.body["missed"] == json!({"catch_up": 3}), "{}", changed.body);
    let shown = api.send(Method::GET, "/nightly").await;
    assert_eq!(shown.body, changed.body);

    assert_eq!(api.send(Method::DELETE, "/nightly").await.status, StatusCode::NO_CONTENT);
    for (method, path) in [
        (Method::GET, "/nightly"),
        (Method::DELETE, "/nightly"),
        (Method::POST, "/nightly/pause"),
        (Method::POST, "/nightly/resume"),
        (Method::POST, "/nightly/trigger"),
        (Method::GET, "/nightly/next"),
        (Method::GET, "/nightly/history"),
    ] {
        let gone = api.send(method, path).await;
        assert_eq!(gone.problem(), (404, "not-found", None), "{path}");
        assert!(gone.detail().contains("nightly"), "{}", gone.detail());
    }
    assert_eq!(api.patch("/nightly", json!({})).await.problem(), (404, "not-found", None));
}

#[tokio::test]
async fn a_definition_that_is_no_good_names_the_field_and_makes_nothing() {
    let api = Api::start().await;
    for (key, value, slug, words) in [
        ("name", json!("a b"), "invalid-request", "letters"),
        ("kind", json!("sample.none"), "unknown-kind", "sample.write_note"),
        ("args", json!({"txt": "a"}), "invalid-args", "text"),
        ("args", json!(["a"]), "invalid-args", "object"),
        ("args", json!({"text": "\u{0}"}), "invalid-args", ""),
        ("cron", json!("61 * * * *"), "invalid-request", "61"),
        ("cron", json!(5), "invalid-request", "string"),
        ("every", json!("1h"), "invalid-request", "one of the two"),
        ("time_zone", json!("Mars/Olympus"), "invalid-request", "Europe/Berlin"),
        ("jitter", json!("25h"), "invalid-request", "24h"),
        ("overlap", json!("maybe"), "invalid-request", "queue_one"),
        ("missed", json!({"catch_up": 501}), "invalid-request", "500"),
        ("start", json!("soon"), "invalid-request", ""),
        ("end", json!("+200000-01-01T00:00:00Z"), "invalid-request", "2199"),
        ("tenant", json!("a:b"), "invalid-request", ""),
        ("colour", json!("red"), "invalid-request", "unknown field"),
    ] {
        let mut body = nightly("a");
        body[key] = value;
        let refused = api.add(body).await;
        let pointer = format!("/{key}");
        assert_eq!(refused.problem(), (422, slug, Some(&*pointer)), "{}", refused.body);
        assert!(refused.detail().contains(words), "{words}: {}", refused.detail());
    }
    assert_eq!(api.count("SELECT count(*) FROM schedule").await, 0);
    api.add(nightly("a")).await;
    let refused = api.patch("/a", json!({"cron": "61 * * * *"})).await;
    assert_eq!(refused.problem(), (422, "invalid-request", Some("/cron")));
    assert_eq!(api.patch("/a", json!({"name": "b"})).await.problem(), (422, "invalid-request", Some("/name")));
    assert_eq!(api.patch("/a", json!([])).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn what_schedules_toml_declares_is_paused_and_triggered_here_and_changed_there() {
    let api = Api::start().await;
    api.declare("nightly").await;
    let body = nightly("nightly");
    let refused = [
        api.add(body.clone()).await,
        api.patch("/nightly", json!({"cron": "@daily"})).await,
        api.send(Method::DELETE, "/nightly").await,
    ];
    for refused in refused {
        assert_eq!(refused.problem(), (409, "schedule-declared", None));
        for words in ["schedules.toml", "generation", "pause, resume or trigger"] {
            assert!(refused.detail().contains(words), "{words}: {}", refused.detail());
        }
    }
    assert_eq!(api.send(Method::POST, "/nightly/pause").await.body["state"], "paused");
    assert_eq!(api.send(Method::POST, "/nightly/pause").await.body["state"], "paused", "again changes nothing");
    assert_eq!(api.send(Method::POST, "/nightly/resume").await.body["state"], "active");
    assert_eq!(api.send(Method::POST, "/nightly/trigger").await.status, StatusCode::CREATED);
    assert_eq!(api.count("SELECT count(*) FROM schedule WHERE origin = 'config' AND every_s = 3600").await, 1);
}

#[tokio::test]
async fn a_trigger_that_is_sent_again_makes_no_second_job_and_the_history_says_where_it_is() {
    let api = Api::start().await;
    api.add(nightly("nightly")).await;
    let trigger = async |key: &str| {
        answer(api.request(Method::POST, &format!("{ALL}/nightly/trigger")).header("Idempotency-Key", key)).await
    };
    let first = trigger("k").await;
    let again = trigger("k").await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!((&first.body["job_id"], &first.body["jobs"]), (&again.body["job_id"], &json!(1)));
    assert_eq!(trigger("").await.problem(), (400, "invalid-header", None));
    assert_eq!(trigger(&"k".repeat(256)).await.problem(), (400, "invalid-header", None));
    assert_eq!(trigger("l").await.status, StatusCode::CREATED);
    assert_eq!(api.count("SELECT count(*) FROM job_journal WHERE schedule_id IS NOT NULL").await, 2);

    sqlx::query("DELETE FROM job_journal WHERE id = $1::uuid")
        .bind(first.body["job_id"].as_str())
        .execute(&api.database)
        .await
        .unwrap();
    let page = api.send(Method::GET, "/nightly/history?limit=1").await;
    let newest = &page.body["fires"][0];
    assert_eq!((&newest["outcome"], &newest["job_state"]), (&json!("triggered"), &json!("ready")), "{}", page.body);
    assert_eq!(newest["caller"], "everything");
    let rest = api.send(Method::GET, &format!("/nightly/history?cursor={}", page.body["next"].as_str().unwrap())).await;
    assert_eq!((&rest.body["fires"][0]["job_state"], rest.body.get("next")), (&json!("completed"), None));
    assert_eq!(rest.body["fires"].as_array().unwrap().len(), 1);
    for query in ["limit=0", "limit=501", "limit=x", "cursor=odd", "colour=red"] {
        let refused = api.send(Method::GET, &format!("/nightly/history?{query}")).await;
        assert_eq!(refused.problem(), (400, "invalid-query", None), "{query}");
    }
}

#[tokio::test]
async fn lists_have_cursors_and_next_marks_the_change_of_the_clock() {
    let api = Api::start().await;
    for n in 0..5 {
        api.add(nightly(&format!("s{n}"))).await;
    }
    api.send(Method::POST, "/s3/pause").await;
    let names = |answer: &Answer| {
        let list = answer.body["schedules"].as_array().unwrap_or_else(|| panic!("{}", answer.body));
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.send(Method::GET, &format!("?limit=2{cursor}")).await;
        seen.extend(names(&page));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["s0", "s1", "s2", "s3", "s4"]);
    assert_eq!(names(&api.send(Method::GET, "?state=paused").await), ["s3"]);
    for query in ["?limit=0", "?limit=501", "?cursor=odd", "?state=odd", "?colour=red", "?tenant=a:b"] {
        let refused = api.send(Method::GET, query).await;
        assert_eq!(refused.problem(), (400, "invalid-query", None), "{query}: {}", refused.body);
    }
    let next = api.send(Method::GET, "/s0/next?times=400").await;
    let fires = next.body["fires"].as_array().unwrap();
    let changes: Vec<_> = fires.iter().filter_map(|fire| fire.get("offset_change")).collect();
    assert_eq!(fires.len(), 400);
    assert!((2..=3).contains(&changes.len()), "each year has two: {changes:?}");
    for query in ["times=0", "times=1001", "times=x"] {
        let refused = api.send(Method::GET, &format!("/s0/next?{query}")).await;
        assert_eq!(refused.problem(), (400, "invalid-query", None), "{query}");
    }
}

#[tokio::test]
async fn a_tenants_key_has_to_do_with_its_own_schedules_only() {
    let api = Api::start().await;
    api.add(nightly("everybodys")).await;
    let mut of_beta = nightly("theirs");
    of_beta["tenant"] = json!("beta");
    let made = api.add(of_beta.clone()).await;
    assert_eq!(made.headers["location"], "/api/v1/schedules/theirs?tenant=beta");

    let own = answer(api.acme(Method::POST, "").json(&nightly("ours"))).await;
    assert_eq!((own.status, &own.body["tenant"]), (StatusCode::CREATED, &json!("acme")));
    for (key, value, pointer) in [
        ("tenant", json!("beta"), "/tenant"),
        ("each_tenant", json!(true), "/each_tenant"),
        ("kind", json!("sample.sweep_all"), "/kind"),
    ] {
        let mut body = nightly("x");
        body[key] = value;
        let refused = answer(api.acme(Method::POST, "").json(&body)).await;
        assert_eq!(refused.problem(), (403, "forbidden", Some(pointer)), "{}", refused.body);
    }
    let sweep = answer(api.acme(Method::PATCH, "/ours").json(&json!({"kind": "sample.sweep_all", "args": {}}))).await;
    assert_eq!(sweep.problem(), (403, "forbidden", Some("/kind")));
    let list = answer(api.acme(Method::GET, "")).await;
    assert_eq!(list.body["schedules"].as_array().unwrap().len(), 1, "{}", list.body);
    for (method, path) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/pause"),
        (Method::POST, "/trigger"),
        (Method::GET, "/next"),
        (Method::GET, "/history"),
    ] {
        for name in ["everybodys", "theirs"] {
            let hidden = answer(api.acme(method.clone(), &format!("/{name}{path}"))).await;
            assert_eq!(hidden.problem(), (404, "not-found", None), "{name}{path}");
        }
        let refused = answer(api.acme(method.clone(), &format!("/theirs{path}?tenant=beta"))).await;
        assert_eq!(refused.problem(), (403, "forbidden", None), "{path}");
    }
    assert_eq!(answer(api.acme(Method::POST, "/ours/pause")).await.body["state"], "paused");
    assert_eq!(answer(api.acme(Method::POST, "/ours/trigger")).await.status, StatusCode::CREATED);
    assert_eq!(api.count("SELECT count(*) FROM job_journal WHERE tenant = 'acme'").await, 1);
    assert_eq!(answer(api.acme(Method::DELETE, "/ours")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.count("SELECT count(*) FROM schedule WHERE NOT paused").await, 2);
}
