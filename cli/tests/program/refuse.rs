//! What cannot be done is refused with its name, and with a status that a script can read.

use crate::support::Place;

#[tokio::test]
async fn a_wrong_setting_stops_every_command_before_it_begins() {
    let mut place = Place::empty().await;
    place.write("config/windrow.toml", "[worker]\nconcurency = 3\n");
    for command in [&["worker"][..], &["scheduler"], &["api"], &["migrate"], &["tenants", "list"]] {
        place.run(command).await.fails(2, "worker.concurency (config/windrow.toml, line 2): is not a setting");
    }
    let checked = place.run(&["check", "--json"]).await.fails(1, "1 of 1 findings are errors");
    assert!(checked.json(0)[0]["found"].as_str().unwrap().starts_with("worker.concurency"));
    place.write("other.toml", "[worker]\nconcurrency = 3\n");
    place.run(&["--config", "other.toml", "migrate"]).await.ok();
    place.set("WINDROW_CONFIG", "none.toml");
    place.run(&["migrate"]).await.fails(2, "none.toml: there is no such file");
    place.set("WINDROW_CONFIG", "other.toml");
    place.set("WINDROW_REDIS_URL", "");
    for role in ["worker", "scheduler", "check"] {
        let ended = place.run(&[role]).await;
        assert!(ended.code != 0 && format!("{}{}", ended.stdout, ended.stderr).contains("redis.url"), "{ended:?}");
    }
    place.set("WINDROW_REDIS_URL", "redis://:hunter2@127.0.0.1:1");
    place.set("WINDROW_DATABASE_URL", "postgres://a:hunter2@127.0.0.1:nowhere/x");
    let refused = place.run(&["migrate"]).await.fails(2, "database.url (WINDROW_DATABASE_URL in the environment)");
    assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
    place.set("WINDROW_DATABASE_URL", "postgres://a:hunter2@127.0.0.1:1/x");
    let away = place.run(&["tenants", "list"]).await.fails(4, "");
    assert!(!away.stderr.contains("hunter2"), "{away:?}");
    let away = place.run(&["check"]).await.fails(1, "findings are errors");
    assert!(!format!("{away:?}").contains("hunter2") && away.stdout.contains("start Redis"), "{away:?}");
}

#[tokio::test]
async fn an_api_without_keys_does_not_start() {
    let mut place = Place::migrated().await;
    place.run(&["api"]).await.fails(2, "api.keys: no key is configured");
    place.set("WINDROW_API__OPEN", "true");
    place.set("WINDROW_API__LISTEN", "0.0.0.0:0");
    place.run(&["api"]).await.fails(2, "api.open (WINDROW_API__OPEN in the environment): an API without keys");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let mut place = Place::migrated().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (role, setting) in [("worker", "worker.listen"), ("scheduler", "scheduler.listen"), ("api", "api.listen")] {
        place.set(&format!("WINDROW_{}__LISTEN", role.to_uppercase()), &address);
        place.set("WINDROW_API__OPEN", "true");
        let words = format!("cannot listen on {address} ({setting}): another process listens there");
        place.run(&[role]).await.fails(1, &words);
    }
}

#[tokio::test]
async fn a_wrong_job_is_refused_and_nothing_is_enqueued() {
    let place = Place::migrated().await;
    for (args, words) in [
        (&["no.such_kind"][..], "known are: payment.post_due, phone.import_file, vacancy.fetch_all"),
        (&["vacancy.score"], "--args: the args of vacancy.score do not decode: missing field `vacancy_id`"),
        (&["vacancy.score", "--args", "{"], "--args: this is no JSON"),
        (&["vacancy.score", "--args", "@none"], "cannot read none"),
        (&["payment.post_due", "--fast"], "--fast: payment.post_due jobs have effects that must happen exactly once"),
        (&["vacancy.fetch_all", "--queue", "payments"], "--queue: vacancy.fetch_all jobs wait in queue fetch"),
        (&["vacancy.fetch_all", "--max-attempts", "0"], "--max-attempts: "),
        (&["vacancy.fetch_all", "--attempt-timeout", "1ms"], "--attempt-timeout: "),
        (&["vacancy.fetch_all", "--delay", "soon"], "--delay"),
        (&["vacancy.fetch_all", "--tenant", "a:b"], "--tenant"),
        (&["vacancy.fetch_all", "--timeout", "1s"], "--wait"),
    ] {
        place.run(&[&["jobs", "enqueue"], args].concat()).await.fails(2, words);
    }
    let id = "01890000-0000-7000-8000-000000000000";
    place.run(&["jobs", "status", id]).await.fails(3, "there is no job");
    for verb in ["show", "redrive", "discard"] {
        place.run(&["dead", verb, id]).await.fails(3, "there is no dead job");
    }
    place.run(&["tenants", "pause", "nobody"]).await.fails(3, "there is no tenant nobody");
    place.run(&["sources", "fetch", "nothing"]).await.fails(3, "there is no source");
    place.run(&["import", "x.csv", "--project", "nothing"]).await.fails(3, "there is no project");
    place.run(&["payments", "pause", id]).await.fails(3, "there is no recurring payment");
}

#[tokio::test]
async fn a_store_that_is_away_has_a_status_of_its_own_for_every_command_that_needs_it() {
    let mut place = Place::migrated().await;
    place.set("WINDROW_REDIS_URL", "redis://:hunter2@127.0.0.1:1");
    let id = "01890000-0000-7000-8000-000000000000";
    for command in [
        &["jobs", "show", id][..],
        &["jobs", "enqueue", "vacancy.fetch_all"],
        &["jobs", "list", "--state", "ready"],
        &["jobs", "cancel", id],
        &["jobs", "cancel", "--kind", "vacancy.fetch_all"],
        &["dead", "list"],
        &["dead", "redrive", "--kind", "vacancy.fetch_all"],
        &["queues", "list"],
        &["queues", "pause", "fetch"],
        &["limits", "list"],
        &["workers"],
        &["tenants", "usage", "fetch"],
        &["batches", "show", id],
    ] {
        let away = place.run(command).await.fails(4, "Redis is not available");
        assert!(!away.stderr.contains("hunter2"), "{away:?}");
    }
}
