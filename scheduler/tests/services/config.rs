//! `schedules.toml`: what is refused, and how it comes into force.

use sqlx::PgPool;
use windrow_schedule::{Reconciled, Schedules};

use crate::support::{catalog, count, database, declare};

fn refused(text: &str) -> String {
    Schedules::parse("config/schedules.toml", text, &catalog()).unwrap_err().to_string()
}

#[test]
fn an_error_names_file_schedule_and_key() {
    let with = |line: &str| format!("[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\n{line}\n");
    for (text, parts) in [
        (with("cron = \"61 * * * *\""), ["\"a\"", "cron", "61"]),
        (with("cron = \"0 0 30 2 *\""), ["\"a\"", "cron", "no date"]),
        (with("every = \"500ms\""), ["\"a\"", "every", "at least 1s"]),
        (with("every = \"soon\""), ["\"a\"", "every", "soon"]),
        (with(""), ["\"a\"", "cron", "missing"]),
        (with("cron = \"@daily\"\nevery = \"1m\""), ["\"a\"", "every", "one of the two"]),
        (with("every = \"1m\"\ntime_zone = \"Mars/Olympus\""), ["\"a\"", "time_zone", "Europe/Berlin"]),
        (with("every = \"1m\"\nargs = { txt = \"x\" }"), ["\"a\"", "args", "txt"]),
        (with("every = \"1m\"\noverlap = \"maybe\""), ["\"a\"", "overlap", "queue_one"]),
        (with("every = \"1m\"\nmissed = { catch_up = 0 }"), ["\"a\"", "missed", "1 to 500"]),
        (with("every = \"1m\"\nmissed = { catch_up = -1 }"), ["\"a\"", "missed", "-1"]),
        (with("every = \"1m\"\ntenant = \"a:b\""), ["\"a\"", "tenant", "a:b"]),
        (with("every = \"1m\"\ntenant = \"a\"\neach_tenant = true"), ["\"a\"", "each_tenant", "one of the two"]),
        (with("every = \"1m\"\nevry = \"1m\""), ["\"a\"", "evry", "unknown field"]),
        (with("every = \"1m\"\njitter = \"25h\""), ["\"a\"", "jitter", "24h"]),
        (
            with("every = \"1m\"\nstart = 2025-01-02T00:00:00Z\nend = 2025-01-01T00:00:00Z"),
            ["\"a\"", "end", "before start"],
        ),
        ("[[schedule]]\nname = \"a\"\nkind = \"test.pong\"\nevery = \"1m\"".to_owned(), ["\"a\"", "kind", "test.ping"]),
        ("[[schedule]]\nkind = \"test.ping\"\nevery = \"1m\"".to_owned(), ["\"\"", "name", "1 to 100"]),
        ("[[schedule]]\nname = 5".to_owned(), ["number 1", "name", "string"]),
        (with("every = \"1m\"") + &with("every = \"1m\""), ["\"a\"", "name", "twice"]),
        ("generation = -1".to_owned(), ["generation", "0 or more", ""]),
        ("schedules = []".to_owned(), ["schedules", "[[schedule]]", ""]),
        ("[[schedule]".to_owned(), ["line 1", "", ""]),
    ] {
        let error = refused(&text);
        assert!(error.starts_with("config/schedules.toml: "), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

const TWO: &str = "
    [[schedule]]
    name = \"a\"
    kind = \"test.ping\"
    cron = \"0 3 * * *\"
    time_zone = \"Europe/Berlin\"
    args = { text = \"hello\" }

    [[schedule]]
    name = \"b\"
    kind = \"test.ping\"
    every = \"15m\"
    jitter = \"30s\"
    missed = { catch_up = 5 }
    overlap = \"queue_one\"
    start = 2025-01-01T00:00:00Z
";

async fn version(pool: &PgPool, name: &str) -> i32 {
    sqlx::query_scalar("SELECT version FROM schedule WHERE name = $1").bind(name).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn the_table_follows_the_file_and_an_unchanged_schedule_keeps_its_state() {
    let pool = database().await;
    assert_eq!(declare(&pool, TWO).await, Reconciled { added: 2, ..Reconciled::default() });
    assert_eq!(declare(&pool, TWO).await, Reconciled::default(), "nothing changed");
    sqlx::query("UPDATE schedule SET paused = true, missed_count = 7 WHERE name = 'b'").execute(&pool).await.unwrap();

    let changed = TWO.replace("0 3 * * *", "0 4 * * *");
    assert_eq!(declare(&pool, &changed).await, Reconciled { changed: 1, ..Reconciled::default() });
    assert_eq!((version(&pool, "a").await, version(&pool, "b").await), (2, 1));
    assert_eq!(count(&pool, "SELECT missed_count::bigint FROM schedule WHERE name = 'b'").await, 7);

    let paused_and_changed = changed.replace("15m", "20m");
    assert_eq!(declare(&pool, &paused_and_changed).await.changed, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE paused").await, 1, "the operator's word stands");

    assert_eq!(declare(&pool, "").await, Reconciled { removed: 2, ..Reconciled::default() });
}

#[tokio::test]
async fn an_edited_schedule_is_next_due_after_now_however_long_it_was_neglected() {
    let pool = database().await;
    declare(&pool, TWO).await;
    sqlx::query("UPDATE schedule SET handled_until = now() - interval '30 days', due_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    declare(&pool, &TWO.replace("15m", "20m").replace("0 3", "0 4")).await;
    assert_eq!(
        count(&pool, "SELECT count(*) FROM schedule WHERE next_fire_at > now() AND due_at >= next_fire_at").await,
        2
    );
}

#[tokio::test]
async fn schedules_made_over_the_api_are_not_touched_and_keep_their_name() {
    let pool = database().await;
    sqlx::query(
        "INSERT INTO schedule (id, name, origin, kind, args, every_s, handled_until)
         VALUES (gen_random_uuid(), 'a', 'api', 'test.ping', '{}', 60, now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(declare(&pool, TWO).await, Reconciled { added: 1, ..Reconciled::default() });
    assert_eq!(declare(&pool, "").await, Reconciled { removed: 1, ..Reconciled::default() });
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE origin = 'api' AND every_s = 60").await, 1);
}

#[tokio::test]
async fn an_older_generation_leaves_the_schedules_of_a_newer_one_alone() {
    let pool = database().await;
    declare(&pool, &format!("generation = 2\n{TWO}")).await;
    let old = declare(&pool, "generation = 1").await;
    assert_eq!(old, Reconciled { outdated: true, ..Reconciled::default() });
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule").await, 2);
    assert_eq!(declare(&pool, "generation = 3").await.removed, 2);
}

#[tokio::test]
async fn processes_that_start_together_put_the_file_in_force_once() {
    let pool = database().await;
    let starts: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { declare(&pool, TWO).await.added })
        })
        .collect();
    let mut added = 0;
    for start in starts {
        added += start.await.unwrap();
    }
    assert_eq!(added, 2);
}
