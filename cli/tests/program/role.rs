//! Roles as processes: what they execute, what they say of themselves, and how they end.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::Place;

#[tokio::test]
async fn worker_and_scheduler_execute_what_the_command_line_asks_for() {
    let place = Place::migrated().await;
    let (worker, _scheduler) = (place.start("worker").await, place.start("scheduler").await);
    place.run(&["tenants", "add", "acme"]).await.ok();

    let done = place.run(&["jobs", "enqueue", "vacancy.fetch_all", "--wait", "--json"]).await.ok().json(0);
    assert_eq!((&done["state"], &done["journaled"]), (&json!("completed"), &json!(false)), "{done}");
    let done = place.run(&["jobs", "enqueue", "payment.post_due", "--wait", "--json"]).await.ok().json(0);
    assert_eq!((&done["state"], &done["journaled"]), (&json!("completed"), &json!(true)), "{done}");

    place.run(&["projects", "add", "Spring", "--tenant", "acme"]).await.ok();
    place.write("numbers.csv", "phone\n+4930123456\n+4930123456\nnonsense\n+14155552671\n");
    let import = place.run(&["import", "numbers.csv", "--project", "Spring", "--wait", "--json"]).await.ok();
    let summary = import.json(1);
    for (field, number) in [("rows_read", 4), ("inserted", 2), ("duplicates", 1), ("rejected", 1)] {
        assert_eq!(summary[field], number, "{summary}");
    }
    let imports = place.run(&["projects", "imports", "--project", "Spring", "--json"]).await.ok().json(0);
    assert_eq!(imports[0]["state"], "done");

    // A private address is refused for good: a dead letter.
    let add = ["sources", "add", "inside", "http://127.0.0.1:9/", "--tenant", "acme", "--format", "rss"];
    place.run(&add).await.ok();
    let dead = place.run(&["sources", "fetch", "inside", "--wait", "--json"]).await.fails(1, "is dead");
    let id = dead.json(0)["id"].as_str().unwrap().to_owned();
    let listed = place.run(&["dead", "list", "--kind", "vacancy.fetch_source", "--json"]).await.ok().json(0);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &json!(id)), "{listed}");
    assert_eq!(place.run(&["dead", "list", "--tenant", "other", "--json"]).await.ok().json(0), json!([]));
    let shown = place.run(&["dead", "show", &id, "--json"]).await.ok().json(0);
    assert!(shown["errors"][0]["message"].as_str().unwrap().contains("127.0.0.1"), "{shown}");
    let logged = worker.log_of(&id);
    let span = &logged.first().expect("a dead job is worth a line")["span"];
    assert_eq!(
        (&span["kind"], &span["tenant"], &span["attempt"]),
        (&json!("vacancy.fetch_source"), &json!("acme"), &json!(1)),
        "{logged:?}"
    );
    assert_eq!(span["trace_id"].as_str().map(str::len), Some(32), "{logged:?}");
    place.run(&["dead", "redrive", &id]).await.ok();
    place.run(&["jobs", "status", &id]).await.ok();
    // It dies again, and is given up.
    worker.await_get("/metrics", 200, r#"outcome="dead",queue="fetch"} 2"#).await;
    place.run(&["dead", "discard", &id]).await.ok();
    assert_eq!(place.run(&["jobs", "status", &id, "--json"]).await.ok().json(0)["state"], "discarded");
    place.run(&["dead", "redrive", &id]).await.fails(3, "there is no dead job");
}

#[tokio::test]
async fn each_role_serves_metrics_and_says_when_a_store_is_away() {
    let mut place = Place::migrated().await;
    place.set("WINDROW_API__OPEN", "true");
    for name in ["worker", "scheduler", "api"] {
        let mut role = place.start(name).await;
        assert_eq!(role.get("/healthz").await.0, 200);
        role.await_get("/readyz", 200, r#""ready":true"#).await;
        role.await_get("/metrics", 200, "windrow_").await;
        place.redis.stop().unwrap();
        role.await_get("/readyz", 503, r#""redis":{"ok":false,"reason":"does not answer: "#).await;
        assert_eq!(role.get("/healthz").await.0, 200, "{name} waits, it does not end");
        place.redis.restart().unwrap();
        role.await_get("/readyz", 200, r#""ready":true"#).await;
        role.terminate();
        assert_eq!(role.ended().await.code(), Some(0), "{name}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_role_at_once() {
    let mut place = Place::migrated().await;
    place.set("WINDROW_API__OPEN", "true");
    let mut api = place.start("api").await;
    // A request in flight, which the soft stop waits for.
    let mut stream = tokio::net::TcpStream::connect(&api.address).await.unwrap();
    let head = "POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    api.terminate();
    let refused = async { while tokio::net::TcpStream::connect(&api.address).await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), refused).await.expect("the first signal was not heard");
    api.terminate();
    assert_eq!(api.ended().await.code(), Some(130));
}

#[tokio::test]
async fn schedules_of_the_file_are_in_force_and_can_be_paused_and_triggered() {
    let mut place = Place::migrated().await;
    place.write("schedules.toml", "[[schedule]]\nname = \"yearly\"\nkind = \"payment.post_due\"\ncron = \"@yearly\"\n");
    place.set("WINDROW_SCHEDULER__SCHEDULES", "schedules.toml");
    let scheduler = place.start("scheduler").await;
    scheduler.await_get("/readyz", 200, r#""schedules":{"ok":true}"#).await;
    let listed = place.run(&["schedules", "list", "--json"]).await.ok().json(0);
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&json!("yearly"), &json!("active")), "{listed}");
    assert!(place.run(&["schedules", "next", "yearly", "--times", "2"]).await.ok().stdout.contains("-01-01 00:00:00"));
    place.run(&["schedules", "pause", "yearly"]).await.ok();
    assert_eq!(place.run(&["schedules", "list", "--json"]).await.ok().json(0)[0]["state"], "paused");
    place.run(&["schedules", "resume", "yearly"]).await.ok();
    let trigger = ["schedules", "trigger", "yearly", "--idempotency-key", "k", "--json"];
    let triggered = place.run(&trigger).await.ok().json(0);
    assert_eq!(place.run(&trigger).await.ok().json(0)["job_id"], triggered["job_id"]);
    let status = place.run(&["jobs", "status", triggered["job_id"].as_str().unwrap(), "--json"]).await.ok().json(0);
    assert_eq!(status["kind"], "payment.post_due");
    let history = place.run(&["schedules", "history", "yearly", "--json"]).await.ok().json(0);
    assert_eq!((history.as_array().unwrap().len(), &history[0]["outcome"]), (1, &json!("triggered")), "{history}");
    assert!(["ready", "running", "completed"].contains(&history[0]["job_state"].as_str().unwrap()), "{history}");
    place.run(&["schedules", "remove", "yearly"]).await.fails(1, "declared in schedules.toml");
    place
        .run(&["schedules", "add", "yearly", "payment.post_due", "--every", "1h"])
        .await
        .fails(1, "declared in schedules.toml");
    place.run(&["schedules", "pause", "none"]).await.fails(3, "there is no schedule");

    place.write("schedules.toml", "[[schedule]]\nname = \"bad\"\nkind = \"payment.post_due\"\ncron = \"never\"\n");
    place.run(&["scheduler"]).await.fails(
        2,
        "scheduler.schedules (WINDROW_SCHEDULER__SCHEDULES in the environment): schedules.toml: schedule \"bad\": cron",
    );
}

#[tokio::test]
async fn schedules_are_added_shown_listed_and_removed_by_hand() {
    let place = Place::migrated().await;
    let add = |name: &'static str, more: &[&'static str]| {
        let mut args = vec!["schedules", "add", name, "payment.post_due"];
        args.extend(more);
        args
    };
    let full = [
        "--cron",
        "0 3 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--jitter",
        "30s",
        "--overlap",
        "queue-one",
        "--missed",
        "5",
        "--tenant",
        "acme",
        "--end",
        "2190-01-01T00:00:00Z",
        "--json",
    ];
    let made = place.run(&add("nightly", &full)).await.ok();
    assert!(
        made.stderr.contains("schedules.add") && made.stderr.contains("name=nightly tenant=acme"),
        "{}",
        made.stderr
    );
    let made = made.json(0);
    assert_eq!(
        (&made["origin"], &made["missed"], &made["overlap"]),
        (&json!("api"), &json!({"catch_up": 5}), &json!("queue_one"))
    );
    assert_eq!(place.run(&add("nightly", &full)).await.ok().json(0)["version"], 1, "the very same again is no change");
    let other = ["--every", "90m", "--tenant", "acme"];
    place.run(&add("nightly", &other)).await.fails(1, "--replace");
    place.run(&add("nightly", &["--every", "90m", "--tenant", "acme", "--replace"])).await.ok();
    place.run(&add("other", &["--every", "1h"])).await.ok();
    let shown = place.run(&["schedules", "show", "nightly", "--tenant", "acme"]).await.ok().stdout;
    assert!(shown.contains("every 1h 30m") && shown.contains("acme"), "{shown}");

    let page = place.run(&["schedules", "list", "--limit", "1", "--json"]).await.ok();
    assert_eq!(page.json(0)[0]["name"], "other");
    assert!(page.stderr.contains("--cursor other~"), "{}", page.stderr);
    let rest = place.run(&["schedules", "list", "--cursor", "other~", "--json"]).await.ok().json(0);
    assert_eq!((rest.as_array().unwrap().len(), &rest[0]["name"]), (1, &json!("nightly")));
    let none = place.run(&["schedules", "list", "--state", "paused", "--json"]).await.ok().json(0);
    assert_eq!(none, json!([]));

    let weekly = ["--cron", "0 3 * * SUN", "--time-zone", "Europe/Berlin", "--start", "2030-03-20T00:00:00Z"];
    place.run(&add("weekly", &weekly)).await.ok();
    let next = place.run(&["schedules", "next", "weekly", "--times", "3"]).await.ok().stdout;
    let words = "changed from +01:00 to +02:00 at 2030-03-31 01:00 UTC";
    assert!(next.contains("2030-03-31 01:00:00") && next.contains(words), "{next}");

    for (args, code, words) in [
        (add("bad", &["--cron", "61 * * * *"]), 2, "cron"),
        (add("bad", &["--every", "1h", "--args", "{"]), 2, "JSON"),
        (add("bad", &["--every", "1h", "--time-zone", "Mars"]), 2, "Europe/Berlin"),
        (add("bad", &["--every", "1h", "--missed", "501"]), 2, "500"),
        (add("bad", &["--every", "1h", "--missed", "some"]), 2, "run-once"),
        (vec!["schedules", "add", "bad", "no.kind", "--every", "1h"], 2, "payment.post_due"),
        (vec!["schedules", "remove", "nightly"], 3, "no schedule"),
        (vec!["schedules", "list", "--cursor", "odd"], 2, "cursor"),
        (vec!["schedules", "history", "other", "--cursor", "odd"], 2, "cursor"),
    ] {
        place.run(&args).await.fails(code, words);
    }
    place.run(&["schedules", "remove", "nightly", "--tenant", "acme"]).await.ok();
    place.run(&["schedules", "show", "nightly", "--tenant", "acme"]).await.fails(3, "of tenant acme");
}
