//! Many jobs at a time: lists, filters, pauses, limits, and what is logged of it.

use std::time::Duration;

use serde_json::{Value, json};
use windrow_queue::{
    Due, JobArgs, JobId, Kind, NewJob, QueueName, Tenant,
    store::{Applied, AttemptError, Config, Finish, Reply, Session, SessionId, Store},
};

use crate::support::{Ended, Place, signal};

const FETCH: QueueName = QueueName::from_static("fetch");

/// The args of a kind that the program knows, by name only.
#[derive(serde::Serialize, serde::Deserialize)]
struct FetchAll {}

impl JobArgs for FetchAll {
    const KIND: Kind = Kind::from_static("vacancy.fetch_all");
    const QUEUE: QueueName = FETCH;
}

fn store(place: &Place) -> Store {
    Store::new(&Config { url: place.redis.url(), ..Config::default() }).unwrap()
}

fn jobs(count: usize, tenant: &str) -> Vec<NewJob> {
    let tenant = Tenant::new(tenant).unwrap();
    (0..count).map(|_| NewJob::new(&FetchAll {}).unwrap().tenant(tenant.clone())).collect()
}

/// Fast jobs that died, half of them of one thing and half of another.
async fn dead(place: &Place, count: usize, tenant: &str) -> Vec<JobId> {
    let (store, jobs) = (store(place), jobs(count, tenant));
    for answer in store.enqueue(&jobs).await.unwrap() {
        answer.unwrap();
    }
    let session = Session::open(&store, &FETCH, SessionId::from_random(rand::random()), 100, "test").await.unwrap();
    let Reply::Ok(reply) = session.finish_claim(1, 0, count, 1 << 20, true, &[]).await.unwrap() else { panic!("gone") };
    assert_eq!(reply.claims.len(), count);
    let message = |n: usize| if n.is_multiple_of(2) { format!("order {n} is not paid") } else { "no route".to_owned() };
    let error = |n| AttemptError {
        attempt: 1,
        class: "test".into(),
        message: message(n),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        ran: Duration::from_millis(3),
    };
    let buried: Vec<Applied> = reply
        .claims
        .iter()
        .enumerate()
        .map(|(n, claim)| Applied {
            member: claim.member,
            claim_no: claim.claim_no,
            finish: Finish::Bury { error: error(n) },
        })
        .collect();
    session.finish_claim(2, 1, 0, 0, true, &buried).await.unwrap();
    assert!(session.bye().await.unwrap());
    jobs.iter().map(|job| job.id).collect()
}

/// The line that is logged of an act.
fn audited(ended: &Ended) -> Value {
    let lines = ended.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut acts = lines.filter(|line| line["message"] == "an operator acted");
    let act = acts.next().unwrap_or_else(|| panic!("nothing was logged: {ended:?}"));
    assert!(act["operator"].as_str().unwrap().contains('@') && act["level"] == "INFO", "{act}");
    act
}

fn ids(page: &Value) -> Vec<&str> {
    page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn jobs_are_listed_page_by_page_shown_and_cancelled() {
    let place = Place::migrated().await;
    let enqueue = async |args: &[&str]| {
        let job = place.run(&[&["jobs", "enqueue", "vacancy.fetch_all", "--json"], args].concat()).await.ok().json(0);
        job["id"].as_str().unwrap().to_owned()
    };
    let mut ready = Vec::new();
    for _ in 0..3 {
        ready.push(enqueue(&["--tenant", "acme"]).await);
    }
    let later = enqueue(&["--tenant", "acme", "--delay", "1h"]).await;
    let theirs = enqueue(&["--tenant", "globex"]).await;

    let list = ["jobs", "list", "--state", "ready", "--tenant", "acme", "--limit", "2", "--json"];
    let first = place.run(&list).await.ok().json(0);
    assert_eq!(ids(&first), ready[..2]);
    let cursor = first["next"].as_str().unwrap();
    let second = place.run(&[&list[..], &["--cursor", cursor]].concat()).await.ok().json(0);
    assert_eq!((ids(&second), second.get("next")), (vec![&*ready[2]], None));
    let table = place.run(&["jobs", "list", "--state", "ready", "--limit", "3"]).await.ok().stdout;
    assert!(table.contains(&ready[0]) && table.contains("more: --cursor "), "{table}");
    assert!(place.run(&["jobs", "list", "--state", "scheduled"]).await.ok().stdout.contains(&later));
    place.run(&[&list[..], &["--cursor", "odd"]].concat()).await.fails(2, "this is no cursor of a list");
    assert_eq!(place.run(&["jobs", "show", &later, "--json"]).await.ok().json(0)["state"], "scheduled");

    place.run(&["jobs", "cancel"]).await.fails(2, "which jobs? Give ids, or a filter");
    place.run(&["jobs", "cancel", &later, "--tenant", "acme"]).await.fails(2, "not both");
    let cancel = ["jobs", "cancel", "--tenant", "acme", "--json"];
    let counted = place.run(&[&cancel[..], &["--dry-run"]].concat()).await.ok().json(0);
    assert_eq!((&counted["matched"], &counted["done"], &counted["dry_run"]), (&json!(4), &json!(0), &json!(true)));
    let done = place.run(&[&cancel[..], &["--state", "ready"]].concat()).await.ok();
    assert_eq!((&done.json(0)["matched"], &done.json(0)["done"]), (&json!(3), &json!(3)));
    let act = audited(&done);
    assert_eq!(
        (&act["action"], &act["filter"], &act["count"]),
        (&json!("jobs.cancel"), &json!("tenant=acme state=ready"), &json!(3))
    );
    let one = place.run(&["jobs", "cancel", &later]).await.ok();
    assert!(one.stdout.contains(&later) && audited(&one)["filter"] == format!("id={later}"), "{one:?}");
    place.run(&["jobs", "cancel", &later]).await.fails(3, "there is no job");
    let left = place.run(&["jobs", "list", "--state", "ready", "--json"]).await.ok().json(0);
    assert_eq!(ids(&left), [&*theirs]);

    let pay = ["jobs", "enqueue", "payment.post_due", "--delay", "1h", "--json"];
    let journaled = place.run(&pay).await.ok().json(0)["id"].as_str().unwrap().to_owned();
    let done = place.run(&["jobs", "cancel", "--kind", "payment.post_due", "--json"]).await.ok().json(0);
    assert_eq!((&done["matched"], &done["done"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(place.run(&["jobs", "show", &journaled, "--json"]).await.ok().json(0)["state"], "cancelled");
    place.run(&["jobs", "cancel", &journaled]).await.fails(1, "the job is over (cancelled)");
    let listed = place.run(&["jobs", "list", "--state", "cancelled", "--json"]).await.ok().json(0);
    assert_eq!(ids(&listed), [&*journaled]);
    place.run(&["jobs", "cancel", "--all", "--json"]).await.ok();
    assert_eq!(ids(&place.run(&["jobs", "list", "--state", "ready", "--json"]).await.ok().json(0)), [""; 0]);
}

#[tokio::test]
async fn a_list_goes_on_until_it_has_what_was_asked_for() {
    let place = Place::migrated().await;
    let due = |hours: u64| Due::In(Duration::from_secs(3600 * hours));
    let mut many: Vec<NewJob> = jobs(1500, "acme").into_iter().map(|job| job.due(due(1))).collect();
    let wanted: Vec<NewJob> =
        jobs(2, "globex").into_iter().zip([2, 3]).map(|(job, hours)| job.due(due(hours))).collect();
    many.extend_from_slice(&wanted);
    store(&place).enqueue(&many).await.unwrap();
    let list = ["jobs", "list", "--state", "scheduled", "--tenant", "globex", "--limit", "1", "--json"];
    let first = place.run(&list).await.ok().json(0);
    assert_eq!(ids(&first), [wanted[0].id.to_string()], "behind more than one page looks at");
    let cursor = first["next"].as_str().unwrap();
    let second = place.run(&[&list[..], &["--cursor", cursor]].concat()).await.ok().json(0);
    assert_eq!(ids(&second), [wanted[1].id.to_string()]);

    let never = ["--since", "2030-01-02T00:00:00Z", "--until", "2030-01-01T00:00:00Z"];
    for command in [
        &["jobs", "list", "--state", "ready"][..],
        &["jobs", "cancel", "--dry-run"],
        &["dead", "list"],
        &["dead", "redrive", "--dry-run"],
        &["dead", "discard", "--dry-run"],
    ] {
        place.run(&[command, &never].concat()).await.fails(2, "is after until");
    }
}

#[tokio::test]
async fn dead_jobs_are_listed_grouped_and_redriven_by_what_they_died_of() {
    let place = Place::migrated().await;
    let mut acme = dead(&place, 30, "acme").await;
    dead(&place, 6, "globex").await;
    let page = place.run(&["dead", "list", "--tenant", "acme", "--limit", "20", "--json"]).await.ok();
    assert_eq!(page.json(0).as_array().unwrap().len(), 20);
    let (_, cursor) = page.stderr.trim().split_once("--cursor ").unwrap();
    let rest = place.run(&["dead", "list", "--tenant", "acme", "--cursor", cursor, "--json"]).await.ok().json(0);
    let mut seen: Vec<JobId> = [page.json(0), rest]
        .iter()
        .flat_map(|page| page.as_array().unwrap().clone())
        .map(|job| job["id"].as_str().unwrap().parse().unwrap())
        .collect();
    seen.sort();
    acme.sort();
    assert_eq!(seen, acme);
    let table = place.run(&["dead", "list", "--limit", "100"]).await.ok().stdout;
    assert!(acme.iter().all(|id| table.contains(&id.to_string())), "{table}");

    let groups = place.run(&["dead", "groups", "--json"]).await.ok().json(0);
    let figures: Vec<_> = groups.as_array().unwrap().iter().map(|group| group["jobs"].as_u64().unwrap()).collect();
    assert_eq!(figures, [18, 18], "{groups}");
    let unpaid = groups.as_array().unwrap().iter().find(|group| group["sample"].as_str().unwrap().contains("paid"));
    let print = unpaid.unwrap()["fingerprint"].as_str().unwrap();
    let shown = place.run(&["dead", "show", &acme[0].to_string(), "--json"]).await.ok().json(0);
    assert_eq!((&shown["args"], &shown["errors"][0]["class"]), (&json!({}), &json!("test")), "{shown}");

    place.run(&["dead", "redrive"]).await.fails(2, "which jobs?");
    place.run(&["dead", "redrive", "--fingerprint", "12"]).await.fails(2, "32 hexadecimal digits");
    let by_print = ["dead", "redrive", "--fingerprint", print, "--tenant", "acme", "--rate", "0", "--json"];
    let counted = place.run(&[&by_print[..], &["--dry-run"]].concat()).await.ok().json(0);
    assert_eq!((&counted["matched"], &counted["done"]), (&json!(15), &json!(0)));
    let done = place.run(&by_print).await.ok();
    assert_eq!((&done.json(0)["matched"], &done.json(0)["done"]), (&json!(15), &json!(15)));
    assert_eq!(audited(&done)["filter"], format!("tenant=acme fingerprint={print}"));
    let queues = place.run(&["queues", "list", "--json"]).await.ok().json(0);
    let fetch = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == "fetch").unwrap();
    assert_eq!((&fetch["ready"], &fetch["dead"]), (&json!(15), &json!(21)), "{fetch}");

    let left = place.run(&["dead", "list", "--tenant", "acme", "--json"]).await.ok().json(0);
    let id = left[0]["id"].as_str().unwrap();
    let discarded = place.run(&["dead", "discard", id, "--json"]).await.ok();
    assert_eq!((discarded.json(0), &audited(&discarded)["action"]), (json!([id]), &json!("dead.discard")));
    place.run(&["dead", "discard", id]).await.fails(3, "there is no dead job");
    let all = place.run(&["dead", "discard", "--all", "--json"]).await.ok().json(0);
    assert_eq!((&all["matched"], &all["done"]), (&json!(20), &json!(20)));
}

#[tokio::test]
async fn an_interrupted_redrive_ends_at_a_batch_and_says_how_far_it_came() {
    let place = Place::migrated().await;
    dead(&place, 40, "acme").await;
    let store = store(&place);
    let child = place.spawn(&["dead", "redrive", "--all", "--rate", "8/s", "--json"]);
    while store.counts(&FETCH).await.unwrap().ready < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    signal(&child, rustix::process::Signal::INT);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let (text, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.code() == Some(1) && log.contains("run it again to go on"), "{log}");
    let told: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let counts = store.counts(&FETCH).await.unwrap();
    assert_eq!((&told["stopped"], told["done"].as_u64()), (&json!(true), Some(counts.ready)), "{told}");
    assert_eq!(counts.ready + counts.dead, 40);
    assert!(counts.dead > 0, "it was to be stopped before its end");
}

#[tokio::test]
async fn queues_are_paused_and_limited_and_say_so() {
    let place = Place::migrated().await;
    let job = place.run(&["jobs", "enqueue", "vacancy.fetch_all", "--tenant", "acme", "--json"]).await.ok().json(0);
    let id = job["id"].as_str().unwrap();
    let paused = place.run(&["queues", "pause", "fetch", "--tenant", "acme", "--json"]).await.ok();
    assert_eq!((&paused.json(0)["changed"], &audited(&paused)["action"]), (&json!(true), &json!("queues.pause")));
    assert!(place.run(&["queues", "pause", "fetch", "--tenant", "acme"]).await.ok().stdout.contains("already"));
    assert!(place.run(&["jobs", "show", id]).await.ok().stdout.contains("paused: tenant=acme"));
    let ready = place.run(&["jobs", "list", "--state", "ready"]).await.ok();
    assert!(ready.stdout.contains("paused: tenant=acme"), "{ready:?}");
    assert!(place.run(&["queues", "list"]).await.ok().stdout.contains("tenant=acme"));
    place.run(&["queues", "pause", "nothing"]).await.fails(3, "there is no queue nothing; there are: fetch");

    place.run(&["limits", "set", "fetch", "tenant=*"]).await.fails(2, "give --concurrency, --rate or both");
    place.run(&["limits", "set", "fetch", "tenants", "--concurrency", "1"]).await.fails(2, "is no scope");
    place.run(&["limits", "set", "fetch", "queue", "--rate", "often"]).await.fails(2, "100/1m");
    place
        .run(&["limits", "set", "fetch", "queue", "--concurrency", "0"])
        .await
        .fails(2, "to let nothing run, pause it");
    let limit = ["limits", "set", "fetch", "tenant=*", "--concurrency", "3", "--rate", "100/1m"];
    let set = place.run(&limit).await.ok();
    assert!(set.stdout.contains("3 at once; 100 in 1m"), "{set:?}");
    assert_eq!(audited(&set)["filter"], "queue=fetch scope=tenant=* 3 at once; 100 in 1m, 1 of them at once");
    let listed = place.run(&["limits", "list", "--queue", "fetch", "--json"]).await.ok().json(0);
    let of = |scope: &str| listed.as_array().unwrap().iter().find(|limit| limit["scope"] == scope).unwrap().clone();
    assert_eq!((&of("tenant=*")["concurrency"], &of("tenant=*")["rate"]), (&json!(3), &json!("100/1m")));
    assert_eq!(of("tenant=acme")["paused"], true);
    place.run(&["limits", "clear", "fetch", "tenant=*"]).await.ok();
    place.run(&["limits", "clear", "fetch", "tenant=*"]).await.fails(3, "has no limit");
    place.run(&["queues", "resume", "fetch", "--tenant", "acme"]).await.ok();
    assert_eq!(place.run(&["limits", "list", "--json"]).await.ok().json(0), json!([]));

    let usage = place.run(&["tenants", "usage", "fetch", "--json"]).await.ok().json(0);
    assert_eq!((&usage[0]["tenant"], &usage[0]["jobs"]), (&json!("acme"), &json!(1)), "{usage}");
    place.run(&["batches", "show", id]).await.fails(3, "there is no batch");
    assert_eq!(place.run(&["workers", "--json"]).await.ok().json(0), json!([]));
    let worker = place.start("worker").await;
    worker.await_get("/readyz", 200, r#""ready":true"#).await;
    // It is ready as soon as its stores are there; its session follows.
    let workers = place.await_json(&["workers", "--queue", "fetch", "--json"], |workers| *workers != json!([])).await;
    assert_eq!((&workers[0]["queue"], &workers[0]["alive"]), (&json!("fetch"), &json!(true)), "{workers}");
    assert!(workers[0]["slots"].as_u64().unwrap() > 0 && !workers[0]["info"].as_str().unwrap().is_empty(), "{workers}");
}
