//! What operators do with schedules, over the API and the command line.

use serde_json::{Map, Value, json};
use sqlx::PgPool;
use windrow_schedule::{
    self as schedule, AdminError, Declared, FireState, History, ListQuery, ScheduleState, ScheduleView, Triggered,
};

use crate::support::{catalog, count, cron, database, declare, fire, neglect};
use windrow_queue::Tenant;
use windrow_scheduler::service::Service;

const FILE: &str =
    "[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\ncron = \"0 3 * * *\"\ntime_zone = \"Europe/Berlin\"\n";

fn declared(value: Value) -> Declared {
    serde_json::from_value(value).unwrap()
}

fn hourly(name: &str) -> Declared {
    declared(json!({"name": name, "kind": "test.ping", "every": "1h"}))
}

async fn add(pool: &PgPool, declared: Declared) -> Result<(ScheduleView, bool), AdminError> {
    schedule::add(pool, &catalog(), declared).await
}

async fn show(pool: &PgPool, name: &str) -> ScheduleView {
    schedule::show(pool, &catalog(), name, None).await.unwrap()
}

async fn pause(pool: &PgPool, name: &str, paused: bool) -> bool {
    schedule::set_paused(pool, &catalog(), name, None, paused).await.unwrap()
}

async fn change(pool: &PgPool, name: &str, keys: Value) -> Result<ScheduleView, AdminError> {
    let Value::Object(keys) = keys else { panic!("an object") };
    schedule::change(pool, &catalog(), name, None, keys).await
}

async fn trigger(pool: &PgPool, key: Option<&str>) -> Triggered {
    schedule::trigger(pool, &catalog(), "a", None, "me", key).await.unwrap()
}

async fn history(pool: &PgPool, cursor: Option<&str>, limit: u16) -> History {
    schedule::history(pool, "a", None, cursor, limit).await.unwrap()
}

#[tokio::test]
async fn a_schedule_is_paused_resumed_and_what_fell_into_the_pause_is_not_made_up_for() {
    let pool = database().await;
    declare(&pool, FILE).await;
    assert_eq!(show(&pool, "a").await.state, ScheduleState::Active);
    assert!(pause(&pool, "a", true).await);
    assert!(!pause(&pool, "a", true).await, "it is paused already");
    assert_eq!(show(&pool, "a").await.state, ScheduleState::Paused);
    neglect(&pool, 5 * 24 * 3600).await;
    assert!(fire(&pool).await.is_empty());
    assert!(pause(&pool, "a", false).await);
    assert!(fire(&pool).await.is_empty(), "what fell into the pause is not made up for");
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE next_fire_at > now()").await, 1);
    let unknown = schedule::set_paused(&pool, &catalog(), "b", None, true).await.unwrap_err().to_string();
    assert!(unknown.contains("\"b\"") && unknown.contains("windrow schedules list"), "{unknown}");
}

#[tokio::test]
async fn a_schedule_is_added_once_however_often_it_is_asked_for() {
    let pool = database().await;
    let (made, created) = add(&pool, hourly("mine")).await.unwrap();
    assert!(created && made.origin == "api" && made.next_fire_at.is_some(), "{made:?}");
    let (again, created) = add(&pool, hourly("mine")).await.unwrap();
    assert_eq!((again.id, again.version, created), (made.id, 1, false));

    let other = Declared { every: Some(std::time::Duration::from_secs(60)), ..hourly("mine") };
    let refused = add(&pool, other.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("\"mine\"") && refused.contains("another definition"), "{refused}");
    let (replaced, changed) = schedule::replace(&pool, &catalog(), other).await.unwrap();
    assert_eq!((replaced.id, replaced.version, replaced.every.as_deref(), changed), (made.id, 2, Some("1m"), true));

    let bad = add(&pool, declared(json!({"name": "x", "kind": "test.ping", "args": {"txt": 1}, "every": "1h"}))).await;
    assert!(matches!(&bad, Err(AdminError::Invalid(error)) if error.key == "args"), "{bad:?}");
    let of_a_tenant = |tenant: &str| Declared { tenant: Some(tenant.to_owned()), ..hourly("mine") };
    assert!(add(&pool, of_a_tenant("acme")).await.unwrap().1, "each tenant has names of its own");
    assert!(add(&pool, of_a_tenant("beta")).await.unwrap().1);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule").await, 3);
}

#[tokio::test]
async fn adds_that_race_make_one_schedule() {
    let pool = database().await;
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { add(&pool, hourly("mine")).await.unwrap().1 })
        })
        .collect();
    let mut created = 0;
    for racer in racers {
        created += usize::from(racer.await.unwrap());
    }
    assert_eq!((created, count(&pool, "SELECT count(*) FROM schedule").await), (1, 1));
}

#[tokio::test]
async fn what_the_file_declares_is_changed_there_and_nowhere_else() {
    let pool = database().await;
    declare(&pool, FILE).await;
    let taken = add(&pool, hourly("a")).await.unwrap_err();
    let changed = change(&pool, "a", json!({"cron": "@daily"})).await.unwrap_err();
    let removed = schedule::remove(&pool, "a", None).await.unwrap_err();
    let replaced = schedule::replace(&pool, &catalog(), hourly("a")).await.unwrap_err();
    for refused in [taken, changed, removed, replaced] {
        assert!(matches!(refused, AdminError::Declared(_)), "{refused}");
        let words = refused.to_string();
        for part in ["\"a\"", "schedules.toml", "generation", "pause, resume or trigger"] {
            assert!(words.contains(part), "{part} is not in: {words}");
        }
    }
    assert_eq!(show(&pool, "a").await.version, 1);
    assert!(pause(&pool, "a", true).await);
    assert!(trigger(&pool, None).await.created);
    // And what was made by hand is not the file's.
    add(&pool, hourly("mine")).await.unwrap();
    assert_eq!(declare(&pool, "").await.removed, 1);
    assert_eq!(show(&pool, "mine").await.origin, "api");
    let clash = declare(&pool, &FILE.replace("\"a\"", "\"mine\"")).await;
    assert_eq!((clash.added, show(&pool, "mine").await.origin.as_str()), (0, "api"));
}

#[tokio::test]
async fn a_change_names_the_keys_that_change_and_starts_from_now() {
    let pool = database().await;
    let made =
        declared(json!({"name": "mine", "kind": "test.ping", "every": "1h", "jitter": "10s", "args": {"text": "a"},
                               "missed": {"catch_up": 3}}));
    add(&pool, made).await.unwrap();
    neglect(&pool, 30 * 24 * 3600).await;
    let changed = change(&pool, "mine", json!({"cron": "0 4 * * *", "jitter": null, "time_zone": "Europe/Berlin"}));
    let changed = changed.await.unwrap();
    assert_eq!((changed.cron.as_deref(), changed.every, changed.jitter), (Some("0 4 * * *"), None, None));
    assert_eq!(
        (changed.version, changed.args, changed.missed),
        (2, Some(json!({"text": "a"})), json!({"catch_up": 3}))
    );
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE next_fire_at > now()").await, 1, "none in the past");
    assert_eq!(change(&pool, "mine", json!({"cron": "0 4 * * *"})).await.unwrap().version, 2, "nothing changed");
    for (keys, key, words) in [
        (json!({"cron": "61 * * * *"}), "cron", "61"),
        (json!({"colour": "red"}), "colour", "unknown field"),
        (json!({"overlap": 5}), "overlap", ""),
        (json!({"kind": "other.kind"}), "kind", "test.ping"),
        (json!({"name": "other"}), "name", "cannot be changed"),
        (json!({"tenant": "acme"}), "tenant", "cannot be changed"),
        (json!({"cron": null}), "cron", "missing"),
        (json!({"cron": "@daily", "every": "1m"}), "every", "one of the two"),
        (json!({"start": "1066-10-14T09:00:00Z"}), "start", "1970"),
    ] {
        match change(&pool, "mine", keys).await {
            Err(AdminError::Invalid(error)) => assert!(error.key == key && error.reason.contains(words), "{error}"),
            other => panic!("{key}: {other:?}"),
        }
    }
    let none = schedule::change(&pool, &catalog(), "none", None, Map::new()).await;
    assert!(matches!(none, Err(AdminError::Unknown { .. })));
}

#[tokio::test]
async fn a_schedule_that_was_removed_and_made_again_has_its_record_still() {
    let pool = database().await;
    add(&pool, hourly("a")).await.unwrap();
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("fired"), 1);
    schedule::remove(&pool, "a", None).await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule").await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1, "its job stays");
    assert!(matches!(schedule::remove(&pool, "a", None).await, Err(AdminError::Unknown { .. })));
    add(&pool, hourly("a")).await.unwrap();
    assert_eq!(history(&pool, None, 10).await.fires.len(), 1);
    assert!(fire(&pool).await.is_empty());
}

#[tokio::test]
async fn lists_go_page_by_page_by_tenant_and_by_state() {
    let pool = database().await;
    for n in 0..7 {
        add(&pool, hourly(&format!("s{n}"))).await.unwrap();
    }
    for tenant in ["acme", "beta"] {
        add(&pool, Declared { tenant: Some(tenant.to_owned()), ..hourly("s3") }).await.unwrap();
    }
    pause(&pool, "s1", true).await;
    add(&pool, Declared { enabled: Some(false), ..hourly("off") }).await.unwrap();
    sqlx::query("UPDATE schedule SET error = 'x' WHERE name = 's5'").execute(&pool).await.unwrap();

    let pages = async |query: ListQuery| {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let query = ListQuery { cursor: cursor.take(), limit: 2, ..query.clone() };
            let page = schedule::list(&pool, &catalog(), &query).await.unwrap();
            assert!(page.schedules.len() <= 2 && page.schedules.iter().all(|view| view.args.is_none()));
            seen.extend(page.schedules.iter().map(|view| format!("{}{}", view.name, view.whose())));
            cursor = page.next;
            if cursor.is_none() {
                return seen.join(" ");
            }
        }
    };
    assert_eq!(pages(ListQuery::default()).await, "off s0 s1 s2 s3 s4 s5 s6 s3acme s3beta");
    let acme = ListQuery { tenant: Some(Tenant::new("acme").unwrap()), ..ListQuery::default() };
    assert_eq!(pages(acme).await, "s3acme");
    for (state, expected) in [
        (ScheduleState::Active, "s0 s2 s3 s4 s6 s3acme s3beta"),
        (ScheduleState::Paused, "s1"),
        (ScheduleState::Disabled, "off"),
        (ScheduleState::Error, "s5"),
    ] {
        assert_eq!(pages(ListQuery { state: Some(state), ..ListQuery::default() }).await, expected);
    }
    let odd = ListQuery { cursor: Some("odd".into()), limit: 2, ..ListQuery::default() };
    assert!(matches!(schedule::list(&pool, &catalog(), &odd).await, Err(AdminError::Cursor(_))));
}

#[tokio::test]
async fn next_marks_the_change_of_the_zones_clock() {
    let pool = database().await;
    let weekly =
        declared(json!({"name": "a", "kind": "test.ping", "cron": "0 3 * * SUN", "time_zone": "Europe/Berlin",
                                 "start": "2030-03-15T00:00:00Z", "jitter": "20m"}));
    add(&pool, weekly).await.unwrap();
    let next = schedule::next(&pool, &catalog(), "a", None, 4).await.unwrap();
    let local: Vec<&str> = next.iter().map(|fire| &*fire.local).collect();
    assert_eq!(
        local,
        [
            "2030-03-17T03:00:00+01:00",
            "2030-03-24T03:00:00+01:00",
            "2030-03-31T03:00:00+02:00",
            "2030-04-07T03:00:00+02:00"
        ]
    );
    let marked: Vec<bool> = next[1..].iter().map(|fire| fire.offset_change.is_some()).collect();
    assert_eq!(marked, [false, true, false]);
    let change = next[2].offset_change.as_ref().unwrap();
    assert_eq!(
        (change.at.to_rfc3339(), &*change.from, &*change.to),
        ("2030-03-31T01:00:00+00:00".into(), "+01:00", "+02:00")
    );
    let put_off: Vec<_> = next.iter().map(|fire| fire.due_at - fire.fire_at).collect();
    assert!(put_off.iter().all(|by| *by == put_off[0]), "the same share each time: {put_off:?}");
    // Of one that does not fire now: from now on, and not from where it stopped.
    sqlx::query("UPDATE schedule SET starts_at = NULL, paused = true, handled_until = '2001-01-01'")
        .execute(&pool)
        .await
        .unwrap();
    let next = schedule::next(&pool, &catalog(), "a", None, 1).await.unwrap();
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT now()").fetch_one(&pool).await.unwrap();
    assert!(next[0].fire_at > now, "{next:?}");
}

#[tokio::test]
async fn a_trigger_makes_one_job_for_one_request_and_it_stands_like_any_other() {
    let pool = database().await;
    add(&pool, hourly("a")).await.unwrap();
    let first = trigger(&pool, Some("k")).await;
    assert!(first.created && !first.fanning && first.jobs == 1 && first.job_id.is_some(), "{first:?}");
    let again = trigger(&pool, Some("k")).await;
    assert_eq!((again.id, again.job_id, again.created), (first.id, first.job_id, false));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
    assert_ne!(trigger(&pool, Some("l")).await.id, first.id);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 2);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire").await, 0, "a trigger is no fire time");
    // The schedule skips while a job of it stands, whoever asked for it.
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("skipped"), 1);
}

#[tokio::test]
async fn a_trigger_for_each_tenant_reaches_all_of_them_once_in_batches_and_over_a_crash() {
    let pool = database().await;
    sqlx::query(
        "INSERT INTO tenant (id, name, active) SELECT 't' || n, 'x', n % 10 <> 0 FROM generate_series(1, 1200) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    add(&pool, declared(json!({"name": "a", "kind": "test.ping", "every": "1h", "each_tenant": true}))).await.unwrap();
    let asked = trigger(&pool, None).await;
    assert!(asked.fanning && asked.job_id.is_none() && asked.jobs == 0, "{asked:?}");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0, "nothing unbounded is done at once");
    let mut first = cron(&pool);
    first.run_once().await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 500, "one bounded batch");
    assert_eq!(history(&pool, None, 10).await.fires[0].outcome, "triggering");
    drop(first); // and its process with it
    // A batch that cannot commit leaves nothing behind.
    sqlx::raw_sql(
        "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$;
         CREATE TRIGGER crash BEFORE UPDATE ON schedule_trigger FOR EACH STATEMENT EXECUTE FUNCTION crash()",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert!(cron(&pool).run_once().await.unwrap_err().to_string().contains("crash"));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 500);
    sqlx::raw_sql("DROP TRIGGER crash ON schedule_trigger").execute(&pool).await.unwrap();

    let racers: Vec<_> = (0..3)
        .map(|_| {
            let (mut cron, pool) = (cron(&pool), pool.clone());
            tokio::spawn(async move {
                while count(&pool, "SELECT count(*) FROM schedule_trigger WHERE fan_after IS NOT NULL").await > 0 {
                    cron.run_once().await.unwrap();
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1080);
    assert_eq!(
        count(&pool, "SELECT count(DISTINCT tenant) FROM job_journal WHERE schedule_id IS NOT NULL").await,
        1080
    );
    let record = history(&pool, None, 10).await.fires.remove(0);
    assert_eq!((record.outcome.as_str(), record.jobs, record.caller.as_deref()), ("triggered", 1080, Some("me")));
}

#[tokio::test]
async fn the_trigger_of_a_schedule_that_is_removed_meanwhile_ends() {
    let pool = database().await;
    sqlx::query("INSERT INTO tenant (id, name) VALUES ('t', 'x')").execute(&pool).await.unwrap();
    add(&pool, declared(json!({"name": "a", "kind": "test.ping", "every": "1h", "each_tenant": true}))).await.unwrap();
    trigger(&pool, None).await;
    schedule::remove(&pool, "a", None).await.unwrap();
    fire(&pool).await;
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_trigger WHERE fan_after IS NULL").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
}

#[tokio::test]
async fn history_has_every_outcome_newest_first_with_what_became_of_the_job() {
    let pool = database().await;
    let many = json!({"name": "a", "kind": "test.ping", "every": "1h", "overlap": "allow", "missed": {"catch_up": 5}});
    add(&pool, declared(many)).await.unwrap();
    neglect(&pool, 9 * 3600).await;
    fire(&pool).await;
    let triggered = trigger(&pool, None).await;
    let jobs: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT job_id FROM schedule_fire WHERE job_id IS NOT NULL ORDER BY fire_at")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(jobs.len(), 5);
    // One each: completed, dead, cancelled, parked; the last is live.
    sqlx::query("DELETE FROM job_journal WHERE id = $1").bind(jobs[0]).execute(&pool).await.unwrap();
    for (id, state) in [(jobs[1], "dead"), (jobs[2], "cancelled")] {
        sqlx::query(
            "WITH gone AS (DELETE FROM job_journal WHERE id = $1 RETURNING *)
             INSERT INTO job_closed (id, gen, state, queue, kind, reason, job)
             SELECT id, gen, $2, queue, kind, 'x', to_jsonb(gone) FROM gone",
        )
        .bind(id)
        .bind(state)
        .execute(&pool)
        .await
        .unwrap();
    }
    sqlx::query("UPDATE job_journal SET state = 'parked' WHERE id = $1").bind(jobs[3]).execute(&pool).await.unwrap();

    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = history(&pool, cursor.as_deref(), 2).await;
        assert!(page.fires.len() <= 2);
        seen.extend(page.fires);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let said: Vec<_> =
        seen.iter().map(|fire| (&*fire.outcome, fire.job_state.as_ref().map(FireState::as_str))).collect();
    assert_eq!(
        said,
        [
            ("triggered", Some("live")),
            ("fired", Some("live")),
            ("fired", Some("parked")),
            ("fired", Some("cancelled")),
            ("fired", Some("dead")),
            ("fired", Some("completed")),
            ("missed", None),
        ]
    );
    assert_eq!(seen[0].job_id, triggered.job_id);
    assert!(seen[6].times >= 3 && seen[6].through.is_some() && seen[1].late_ms > 0, "{seen:?}");
    for odd in ["", "x", "12", "1.9", "99999999999999999999.0", "9000000000000000.0"] {
        let error = schedule::history(&pool, "a", None, Some(odd), 2).await.unwrap_err();
        assert!(matches!(error, AdminError::Cursor(_)), "{odd}: {error}");
    }
}
