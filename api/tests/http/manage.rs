//! Lists, cancel, many jobs at once, batches, callbacks.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    JobId, Member, QueueName,
    journal::{self, CloseState, Closing, Parked},
    store::{Applied, AttemptError, CallbackToken, CalledBack, Claim, Finish, Hold, Reply, Session, SessionId},
};

use crate::support::*;

const NOTES: QueueName = QueueName::from_static("notes");

/// A tenant that no other test has.
fn someone() -> String {
    format!("t{}", JobId::new())
}

fn note(tenant: &str, text: &str) -> Value {
    json!({"kind": "sample.write_note", "args": {"text": text}, "tenant": tenant})
}

fn charge(tenant: &str, cents: u32) -> Value {
    json!({"kind": "sample.charge_card", "args": {"cents": cents}, "tenant": tenant})
}

impl Api {
    async fn list(&self, query: &str) -> Answer {
        self.get(&format!("/api/v1/jobs?{query}")).await
    }

    async fn at(&self, method: Method, path: &str, body: Value) -> Answer {
        answer(self.request(method, path).json(&body)).await
    }
}

fn ids(answer: &Answer) -> Vec<String> {
    let jobs = answer.body["jobs"].as_array().unwrap_or_else(|| panic!("{}", answer.body));
    jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

/// A Redis where nobody else claims.
async fn alone() -> (RedisServer, Api) {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default())).await.unwrap().unwrap();
    let api = Api::start_with(Options { redis_url: Some(server.url()), ..Options::default() }).await;
    (server, api)
}

/// A worker's session, on the queue of notes if nothing is said.
struct Worker {
    queue: QueueName,
    session: Session,
    n: u64,
}

impl Worker {
    async fn open(api: &Api) -> Self {
        Self::of(api, &NOTES).await
    }

    async fn of(api: &Api, queue: &QueueName) -> Self {
        let session =
            Session::open(&api.store, queue, SessionId::from_random(rand::random()), 9, "test").await.unwrap();
        Self { queue: queue.clone(), session, n: 0 }
    }

    async fn serve(&mut self, want: usize, outcomes: &[Applied]) -> Vec<Claim> {
        self.n += 1;
        match self.session.finish_claim(self.n, self.n - 1, want, 1 << 20, true, outcomes).await.unwrap() {
            Reply::Ok(reply) => reply.claims,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&self, claim: &Claim) -> Hold {
        let session = self.session.id().clone();
        Hold { queue: self.queue.clone(), session, member: claim.member, claim_no: claim.claim_no }
    }
}

fn ended(claim: &Claim, finish: Finish) -> Applied {
    Applied { member: claim.member, claim_no: claim.claim_no, finish }
}

fn error(message: &str) -> AttemptError {
    AttemptError {
        attempt: 1,
        class: "test".into(),
        message: message.into(),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        ran: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn jobs_are_listed_by_state_and_tenant_page_by_page() {
    let api = Api::start().await;
    let who = someone();
    let mut expected = Vec::new();
    for n in 0..5 {
        expected.push(api.post(note(&who, &n.to_string())).await.id());
        let mut later = note(&who, "later");
        later["delay"] = json!(format!("{}h", 9 - n));
        api.post(later).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.list(&format!("state=ready&tenant={who}&limit=2{cursor}")).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        assert!(ids(&page).len() <= 2);
        seen.extend(ids(&page));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, expected, "in the order of claims");
    let scheduled = api.list(&format!("state=scheduled&queue=notes&tenant={who}&kind=sample.write_note")).await;
    let due: Vec<&str> =
        scheduled.body["jobs"].as_array().unwrap().iter().map(|job| job["ready_at"].as_str().unwrap()).collect();
    assert!(due.len() == 5 && due.is_sorted(), "{due:?}");
    for query in ["state=running", "state=parked", "state=dead", "state=cancelled", "state=finished"] {
        let none = api.list(&format!("{query}&tenant={who}")).await;
        assert_eq!((none.status, ids(&none).len()), (StatusCode::OK, 0), "{query}: {}", none.body);
    }
    for (query, words) in [
        ("", "state"),
        ("state=odd", "state"),
        ("state=ready&limit=0", "limit"),
        ("state=ready&limit=5000", "limit"),
        ("state=ready&cursor=odd", "cursor"),
        ("state=ready&cursor=notes~73", "cursor"),
        ("state=dead&cursor=1.2", "cursor"),
        ("state=dead&fingerprint=12", "fingerprint"),
        ("state=ready&colour=red", "colour"),
        ("state=ready&since=yesterday", "since"),
        ("state=ready&since=2030-01-02T00:00:00Z&until=2030-01-01T00:00:00Z", "is after until"),
        ("state=ready&tenant=a:b", "tenant"),
    ] {
        let refused = api.list(query).await;
        assert_eq!(refused.problem(), (400, "invalid-query", None), "{query}: {}", refused.body);
        assert!(refused.detail().contains(words) || query.contains("tenant"), "{query}: {}", refused.detail());
    }
}

#[tokio::test]
async fn the_dead_of_both_stores_are_one_list_newest_first() {
    let (_redis, api) = alone().await;
    let who = someone();
    let mut expected = Vec::new();
    let mut worker = Worker::open(&api).await;
    for n in 0..12 {
        if n % 3 == 0 {
            let id: JobId = api.post(charge(&who, n)).await.id().parse().unwrap();
            let closing = Closing {
                state: CloseState::Dead,
                reason: "declined: no",
                fingerprint: [7; 16],
                error: Some(&error("no")),
                attempt: 1,
            };
            assert!(journal::close(&api.database, id, 1, &closing).await.unwrap());
            expected.push(id.to_string());
        } else {
            expected.push(api.post(note(&who, "x")).await.id());
            let claims = worker.serve(1, &[]).await;
            worker.serve(0, &[ended(&claims[0], Finish::Bury { error: error("it cannot be done") })]).await;
        }
        // The next death is of another millisecond.
        let died = api.store.server().await.unwrap().time_us / 1000;
        while api.store.server().await.unwrap().time_us / 1000 <= died {}
    }
    expected.reverse();
    for limit in [1, 2, 5, 12, 50] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        for _ in 0..30 {
            let page = api.list(&format!("state=dead&tenant={who}&limit={limit}{cursor}")).await;
            seen.extend(ids(&page));
            let Some(next) = page.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, expected, "by {limit}");
    }
    let page = api.list(&format!("state=dead&tenant={who}&fingerprint={}", "07".repeat(16))).await;
    assert_eq!(ids(&page).len(), 4, "{}", page.body);
    let first = &api.list(&format!("state=dead&tenant={who}&limit=1")).await.body["jobs"][0];
    assert_eq!((&first["reason"], &first["state"]), (&json!("test: it cannot be done"), &json!("dead")));
    let same = api.list(&format!("state=dead&fingerprint={}", first["fingerprint"].as_str().unwrap())).await;
    assert_eq!(ids(&same).len(), 8);
}

#[tokio::test]
async fn a_running_job_shows_who_runs_it_and_how_far_it_is() {
    let (_redis, api) = alone().await;
    let who = someone();
    let id = api.post(note(&who, "x")).await.id();
    let mut worker = Worker::open(&api).await;
    let claim = worker.serve(1, &[]).await.remove(0);
    assert!(api.store.progress(&worker.hold(&claim), 3, 4).await.unwrap());
    let shown = api.get(&format!("/api/v1/jobs/{id}")).await.body;
    assert_eq!((&shown["state"], &shown["progress"]), (&json!("running"), &json!({"done": 3, "total": 4})), "{shown}");
    assert_eq!(shown["session"], worker.session.id().as_str());
    assert!(shown["running_since"].is_string() && shown.get("held_by").is_none(), "{shown}");
    let listed = api.list(&format!("state=running&tenant={who}")).await;
    assert_eq!((ids(&listed), &listed.body["jobs"][0]["progress"]["done"]), (vec![id.clone()], &json!(3)));
    let stopping = api.at(Method::POST, &format!("/api/v1/jobs/{id}/cancel"), json!({})).await;
    assert_eq!((stopping.status, &stopping.body["outcome"]), (StatusCode::OK, &json!("stopping")));
    assert_eq!(api.get(&format!("/api/v1/jobs/{id}")).await.body["stopping"], true);
    worker.serve(0, &[ended(&claim, Finish::Cancel { keep: None })]).await;
    let finished = api.list(&format!("state=finished&tenant={who}")).await;
    assert_eq!((ids(&finished), &finished.body["jobs"][0]["state"]), (vec![id], &json!("cancelled")));

    let scope = "tenant=held".parse().unwrap();
    api.store.pause(&NOTES, &scope).await.unwrap();
    let held = api.post(note("held", "x")).await.id();
    let shown = api.get(&format!("/api/v1/jobs/{held}")).await.body;
    assert_eq!(shown["held_by"], json!({"why": "paused", "scope": "tenant=held"}), "{shown}");
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_once_and_only_by_whom_it_belongs_to() {
    let api = Api::start().await;
    for body in [note("acme", "x"), charge("acme", 1)] {
        let id = api.post(body.clone()).await.id();
        let path = format!("/api/v1/jobs/{id}/cancel");
        let done = answer(api.as_acme(Method::POST, &path)).await;
        assert_eq!((done.status, &done.body), (StatusCode::OK, &json!({"id": id, "outcome": "cancelled"})));
        let again = answer(api.as_acme(Method::POST, &path)).await;
        match body["kind"].as_str().unwrap() {
            "sample.charge_card" => {
                assert_eq!(again.problem(), (409, "already-final", None));
                let shown = api.get(&format!("/api/v1/jobs/{id}")).await.body;
                assert_eq!(shown["state"], "cancelled");
                assert!(shown["reason"].as_str().unwrap().contains("acme only"), "{shown}");
                assert!(ids(&api.list("state=cancelled").await).contains(&id));
            }
            _ => assert_eq!(again.problem(), (404, "not-found", None), "of a fast job nothing is left"),
        }
        let theirs = api.post(note("globex", "x")).await.id();
        let hidden = answer(api.as_acme(Method::POST, &format!("/api/v1/jobs/{theirs}/cancel"))).await;
        assert_eq!(hidden.problem(), (404, "not-found", None));
        assert_eq!(api.get(&format!("/api/v1/jobs/{theirs}")).await.body["state"], "ready");
    }
}

#[tokio::test]
async fn a_key_of_one_tenant_lists_its_own_jobs_and_makes_none_that_concern_all() {
    let api = Api::start().await;
    let own = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&note("acme", "x"))).await.id();
    let theirs = api.post(note("globex", "x")).await.id();
    let list = |query: &str| answer(api.as_acme(Method::GET, &format!("/api/v1/jobs?state=ready&limit=500{query}")));
    let seen = ids(&list("").await);
    assert!(seen.contains(&own) && !seen.contains(&theirs));
    assert_eq!(list("&tenant=globex").await.problem(), (403, "forbidden", None));
    let sweep = json!({"kind": "sample.sweep_all"});
    let refused = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&sweep)).await;
    assert_eq!(refused.problem(), (403, "forbidden", Some("/kind")));
    let refused = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&json!([sweep]))).await;
    assert_eq!(refused.problem(), (403, "forbidden", Some("/0/kind")));
    assert_eq!(api.post(sweep).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn many_jobs_are_taken_in_one_request_and_each_has_its_answer() {
    let api = Api::start().await;
    let who = someone();
    let jobs: Vec<Value> = (0..1200)
        .map(|n| {
            let mut job = if n % 2 == 0 { note(&who, &n.to_string()) } else { charge(&who, n) };
            if n % 100 < 2 {
                job["idempotency_key"] = json!(format!("{who}-{}", n % 2));
            }
            job
        })
        .collect();
    let answers = api.post(json!(jobs)).await;
    assert_eq!(answers.status, StatusCode::OK, "{}", answers.body);
    let answers = answers.body.as_array().unwrap();
    assert_eq!(answers.len(), 1200);
    let created = answers.iter().filter(|answer| answer["created"] == true).count();
    let conflicts =
        answers.iter().filter(|answer| answer["problem"]["type"] == "urn:windrow:problem:idempotency-conflict");
    // Of 24 with two keys in all, two are the first; the others have other args.
    assert_eq!((created, conflicts.count()), (1178, 22));
    for (job, answer) in jobs.iter().zip(answers).filter(|(_, answer)| answer["problem"].is_null()) {
        assert_eq!(answer["kind"], job["kind"]);
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM job_journal").fetch_one(&api.database).await.unwrap();
    assert_eq!(count, 589);
    assert_eq!(api.post(json!([])).await.body, json!([]));

    let mut wrong = jobs[..3].to_vec();
    wrong[2]["args"] = json!({"text": 5});
    let refused = api.post(json!(wrong)).await;
    assert_eq!(refused.problem(), (422, "invalid-args", Some("/2/args")));
    wrong[2] = json!(5);
    assert_eq!(api.post(json!(wrong)).await.problem(), (422, "invalid-request", Some("/2")));
    let count_after: i64 =
        sqlx::query_scalar("SELECT count(*) FROM job_journal").fetch_one(&api.database).await.unwrap();
    assert_eq!(count_after, count, "a fault in one leaves nothing behind");
    let too_many: Vec<Value> = (0..5001).map(|_| note("t", "x")).collect();
    assert_eq!(api.post(json!(too_many)).await.problem(), (413, "too-large", None));
    let header = api.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", "k").json(&json!([]));
    assert_eq!(answer(header).await.problem(), (400, "invalid-header", None));
    let full = Api::start_with(Options { max_jobs: Some(0), ..Options::default() }).await;
    let answers = full.post(json!([note(&who, "x"), charge(&who, 1)])).await;
    assert_eq!(answers.body[0]["problem"]["type"], "urn:windrow:problem:queue-full", "{}", answers.body);
    assert_eq!(answers.body[1]["created"], true);
}

#[tokio::test]
async fn a_unique_key_is_replaced_or_rescheduled_as_asked_for() {
    let api = Api::start().await;
    for body in [note(&someone(), "first"), charge(&someone(), 1)] {
        let mut first = body.clone();
        (first["unique_key"], first["delay"]) = (json!("k"), json!("1h"));
        let stands = api.post(first.clone()).await;
        assert_eq!(stands.status, StatusCode::CREATED, "{}", stands.body);
        let mut second = first.clone();
        second["args"] = json!({"text": "second", "cents": 2});
        second["on_conflict"] = json!("replace");
        let replaced = api.post(second.clone()).await;
        assert_eq!((replaced.status, &replaced.body["replaced"]), (StatusCode::OK, &json!(true)), "{}", replaced.body);
        assert_eq!(replaced.id(), stands.id());
        (second["on_conflict"], second["delay"]) = (json!("reschedule"), json!("0s"));
        let rescheduled = api.post(second).await;
        assert_eq!(
            (&rescheduled.body["rescheduled"], rescheduled.id()),
            (&json!(true), stands.id()),
            "{}",
            rescheduled.body
        );
        assert_eq!(api.get(&format!("/api/v1/jobs/{}", stands.id())).await.body["state"], "ready");
        let mut period = body.clone();
        (period["unique_key"], period["unique_scope"]) = (json!("p"), json!({"period": "1h"}));
        let first = api.post(period.clone()).await;
        api.at(Method::POST, &format!("/api/v1/jobs/{}/cancel", first.id()), json!({})).await;
        let again = api.post(period.clone()).await;
        assert_eq!(
            (again.status, again.id()),
            (StatusCode::OK, first.id()),
            "{}: it holds whatever became of it",
            again.body
        );
        period["unique_scope"] = json!({"period": "0s"});
        assert_eq!(api.post(period).await.problem(), (422, "invalid-request", Some("/unique_scope")));
    }
    let mut once = charge(&someone(), 1);
    (once["delivery"], once["rescue_limit"]) = (json!("at_most_once"), json!(3));
    let id = api.post(once).await.id();
    let policy: Value = sqlx::query_scalar("SELECT policy FROM job_journal WHERE id = $1::uuid")
        .bind(id)
        .fetch_one(&api.database)
        .await
        .unwrap();
    assert_eq!(policy, json!({"delivery": "at_most_once", "rescue_limit": 3}));
}

#[tokio::test]
async fn a_batch_is_opened_filled_sealed_and_followed() {
    let (_redis, api) = alone().await;
    let open = api.at(Method::POST, "/api/v1/batches", json!({"follow_up": note("acme", "all done")})).await;
    assert_eq!(open.status, StatusCode::CREATED, "{}", open.body);
    let (id, path) = (open.id(), format!("/api/v1/batches/{}", open.id()));
    assert_eq!(open.headers["location"], path);
    assert_eq!(
        (&open.body["journaled"], &open.body["queue"], &open.body["tenant"]),
        (&json!(false), &json!("notes"), &json!("acme"))
    );
    let again = api.at(Method::POST, "/api/v1/batches", json!({"id": id, "follow_up": note("acme", "x")})).await;
    assert_eq!((again.status, &again.body["follow_up"]), (StatusCode::OK, &open.body["follow_up"]));
    let mut member = note("acme", "member");
    member["batch"] = json!(id);
    let made = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&json!([member, member]))).await;
    assert_eq!(made.body[1]["created"], true, "{}", made.body);
    assert_eq!(api.get(&format!("/api/v1/jobs/{}", made.body[0]["id"].as_str().unwrap())).await.body["batch"], id);
    let sealed = answer(api.as_acme(Method::POST, &format!("{path}/seal"))).await;
    assert_eq!(
        (&sealed.body["sealed"], &sealed.body["members"], &sealed.body["pending"]),
        (&json!(true), &json!(2), &json!(2))
    );
    assert_eq!(api.post(member).await.problem(), (409, "batch-closed", Some("/batch")));
    let mut worker = Worker::open(&api).await;
    let claims = worker.serve(5, &[]).await;
    let ends: Vec<Applied> = claims.iter().map(|claim| ended(claim, Finish::Complete { keep: None })).collect();
    worker.serve(0, &ends).await;
    let follow_up = worker.serve(5, &[]).await;
    assert_eq!(open.body["follow_up"], json!(follow_up[0].member.id));
    let over = api.get(&path).await.body;
    assert_eq!(
        (&over["completed"], &over["pending"], over["fired_at"].is_string()),
        (&json!(2), &json!(0), true),
        "{over}"
    );

    let journaled = api.at(Method::POST, "/api/v1/batches", json!({"follow_up": charge("globex", 1)})).await;
    assert_eq!(
        (journaled.status, &journaled.body["journaled"]),
        (StatusCode::CREATED, &json!(true)),
        "{}",
        journaled.body
    );
    let mut member = charge("globex", 2);
    member["batch"] = json!(journaled.id());
    let id: JobId = api.post(member.clone()).await.id().parse().unwrap();
    assert_eq!(api.get(&format!("/api/v1/jobs/{id}")).await.body["batch"], json!(journaled.id()));
    api.at(Method::POST, &format!("/api/v1/batches/{}/seal", journaled.id()), json!({})).await;
    assert_eq!(api.post(member.clone()).await.problem(), (409, "batch-closed", Some("/batch")));
    let open = api.at(Method::POST, "/api/v1/batches", json!({"follow_up": charge("globex", 3)})).await;
    let mut fits = charge("globex", 4);
    fits["batch"] = json!(open.id());
    let list = json!([note("acme", "x"), fits, charge("globex", 5), member, fits]);
    assert_eq!(api.post(list).await.problem(), (409, "batch-closed", Some("/3/batch")), "the first that does not fit");
    assert_eq!(api.get(&format!("/api/v1/batches/{}", open.id())).await.body["members"], json!(0), "none was taken");
    api.at(Method::POST, &format!("/api/v1/jobs/{id}/cancel"), json!({})).await;
    let shown = api.get(&format!("/api/v1/batches/{}", journaled.id())).await.body;
    assert_eq!(
        (&shown["members"], &shown["cancelled"], &shown["pending"]),
        (&json!(1), &json!(1), &json!(0)),
        "{shown}"
    );

    for (method, path) in [
        (Method::GET, format!("/api/v1/batches/{}", journaled.id())),
        (Method::POST, format!("/api/v1/batches/{}/seal", journaled.id())),
        (Method::GET, format!("/api/v1/batches/{}", JobId::new())),
        (Method::GET, "/api/v1/batches/odd".to_owned()),
    ] {
        assert_eq!(answer(api.as_acme(method, &path)).await.problem(), (404, "not-found", None), "{path}");
    }
    let mut intruder = note("acme", "x");
    intruder["batch"] = json!(journaled.id());
    let refused = answer(api.as_acme(Method::POST, "/api/v1/jobs").json(&intruder)).await;
    assert_eq!(refused.problem(), (404, "not-found", Some("/batch")));
    let mut keyed = note("acme", "x");
    keyed["unique_key"] = json!("k");
    let refused = api.at(Method::POST, "/api/v1/batches", json!({"follow_up": keyed})).await;
    assert_eq!(refused.problem(), (422, "invalid-request", Some("/follow_up")));
    let refused = api.at(Method::POST, "/api/v1/batches", json!({"follow_up": {"kind": "sample.none"}})).await;
    assert_eq!(refused.problem(), (422, "unknown-kind", Some("/follow_up/kind")));
}

#[tokio::test]
async fn what_is_secret_is_shown_by_no_list_no_status_and_no_callback() {
    const SECRET: &str = "under the third stone";
    let secrets = QueueName::from_static("secrets");
    let (_redis, api) = alone().await;
    let ask = |journaled: bool| json!({"kind": "secret.keep", "args": {"text": SECRET}, "tenant": "acme", "journaled": journaled, "keep_result": true});
    let call = |token: CallbackToken| {
        let url = format!("http://{}/api/v1/callbacks/{}", api.address, token.as_str());
        answer(api.client.post(url).json(&json!({"answer": SECRET})))
    };
    let token = || CallbackToken::new(&QueueName::from_static("secrets"), rand::random());
    let mut answers = vec![api.post(ask(false)).await, api.post(ask(true)).await];
    let journaled: JobId = answers[1].id().parse().unwrap();
    answers.push(api.list("state=ready").await);

    let minute = Duration::from_secs(60);
    let mut worker = Worker::of(&api, &secrets).await;
    let claim = worker.serve(1, &[]).await.remove(0);
    answers.push(api.list("state=running").await);
    let (fast_token, journaled_token) = (token(), token());
    assert!(api.store.expect_callback(&worker.hold(&claim), fast_token.digest()).await.unwrap());
    worker.serve(0, &[ended(&claim, Finish::Park { delay: minute })]).await;
    assert!(journal::expect_callback(&api.database, journaled, 1, journaled_token.digest(), minute).await.unwrap());
    assert_eq!(journal::park(&api.database, journaled, 1, minute, 1).await.unwrap(), Parked::Parked);
    let parked = api.list("state=parked").await;
    assert_eq!(ids(&parked).len(), 2, "{}", parked.body);
    answers.push(parked);
    for token in [fast_token, journaled_token] {
        assert_eq!(call(token).await.status, StatusCode::NO_CONTENT);
    }
    let extras = api.store.extras(&secrets, claim.member).await.unwrap();
    let Some(CalledBack::Payload(stored)) = extras.callback else { panic!("{extras:?}") };
    assert!(stored.get().contains("$sealed") && !stored.get().contains(SECRET), "{stored}");

    let claim = worker.serve(1, &[]).await.remove(0);
    worker.serve(0, &[ended(&claim, Finish::Bury { error: error("enough") })]).await;
    answers.push(api.list("state=dead").await);
    for id in [claim.member.id, journaled] {
        answers.push(api.get(&format!("/api/v1/jobs/{id}")).await);
    }
    api.at(Method::POST, &format!("/api/v1/jobs/{journaled}/cancel"), json!({})).await;
    answers.push(api.list("state=cancelled").await);
    answers.push(api.get(&format!("/api/v1/jobs/{journaled}")).await);
    for answer in &answers {
        assert!(answer.status.is_success(), "{}", answer.body);
        assert!(!answer.body.to_string().contains(SECRET), "{}", answer.body);
    }
    let tables = "SELECT schema_to_xml('public', false, false, '')::text";
    let tables: String = sqlx::query_scalar(tables).fetch_one(&api.database).await.unwrap();
    assert!(tables.contains("$sealed") && !tables.contains(SECRET), "no table has it in plain text");
}

#[tokio::test]
async fn a_callback_is_delivered_once_to_whoever_waits_for_it() {
    let (_redis, api) = alone().await;
    let call = |token: &CallbackToken, body: Value| {
        // Without a key: the token is the authority.
        answer(api.client.post(format!("http://{}/api/v1/callbacks/{}", api.address, token.as_str())).json(&body))
    };
    let token = || CallbackToken::new(&NOTES, rand::random());

    api.post(note("acme", "x")).await;
    let mut worker = Worker::open(&api).await;
    let claim = worker.serve(1, &[]).await.remove(0);
    let fast = token();
    assert!(api.store.expect_callback(&worker.hold(&claim), fast.digest()).await.unwrap());
    worker.serve(0, &[ended(&claim, Finish::Park { delay: Duration::from_secs(60) })]).await;
    let parked = api.get(&format!("/api/v1/jobs/{}", claim.member.id)).await.body;
    assert!(parked["state"] == "parked" && parked["park_deadline"].is_string(), "{parked}");
    assert_eq!(ids(&api.list("state=parked").await), [claim.member.id.to_string()]);
    assert_eq!(call(&fast, json!({"score": 7})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(call(&fast, json!({"score": 8})).await.problem(), (409, "callback-duplicate", None));
    assert_eq!(worker.serve(1, &[]).await[0].member, claim.member);

    let id: JobId = api.post(charge("acme", 1)).await.id().parse().unwrap();
    let journaled = token();
    let minute = Duration::from_secs(60);
    assert!(journal::expect_callback(&api.database, id, 1, journaled.digest(), minute).await.unwrap());
    assert_eq!(journal::park(&api.database, id, 1, minute, 1).await.unwrap(), Parked::Parked);
    let parked = ids(&api.list("state=parked&limit=1").await);
    assert_eq!(parked, [id.to_string()], "after the fast ones");
    assert_eq!(call(&journaled, json!("yes")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(call(&journaled, json!("yes")).await.problem(), (409, "callback-duplicate", None));
    assert_ne!(api.get(&format!("/api/v1/jobs/{id}")).await.body["state"], "parked");

    let late = token();
    let other: JobId = api.post(charge("acme", 2)).await.id().parse().unwrap();
    assert!(journal::expect_callback(&api.database, other, 1, late.digest(), Duration::ZERO).await.unwrap());
    assert_eq!(call(&late, json!(1)).await.problem(), (410, "callback-late", None));

    let unknown = call(&token(), json!(1)).await;
    assert_eq!(unknown.problem(), (404, "not-found", None));
    assert_eq!(call(&fast, json!("x".repeat(70_000))).await.problem(), (413, "too-large", None));
    let post = |path: &str, content_type: &str, body: &'static str| {
        let url = format!("http://{}/api/v1/callbacks/{path}", api.address);
        answer(api.client.post(url).header("content-type", content_type).body(body))
    };
    let (json, token) = ("application/json", token());
    assert_eq!(post(token.as_str(), json, "{").await.problem(), (400, "invalid-json", None));
    assert_eq!(post(token.as_str(), "text/plain", "x").await.problem(), (415, "unsupported-media-type", None));
    let mistyped = post("notes.secret", json, "1").await;
    assert!(mistyped.problem() == (404, "not-found", None) && !mistyped.body.to_string().contains("notes.secret"));
    assert!(!unknown.body.to_string().contains(token.as_str()));
}

#[tokio::test]
async fn a_job_that_redis_alone_knows_is_not_confused_with_a_journaled_one() {
    let api = Api::start().await;
    let id: JobId = api.post(note("acme", "x")).await.id().parse().unwrap();
    assert!(api.store.exists(&NOTES, &[Member::fast(id)]).await.unwrap()[0]);
    let shown = api.get(&format!("/api/v1/jobs/{id}")).await.body;
    assert_eq!((&shown["journaled"], &shown["state"]), (&json!(false), &json!("ready")), "{shown}");
}
