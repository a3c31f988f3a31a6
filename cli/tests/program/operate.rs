//! A day of an operator.

use serde_json::json;

use crate::support::Place;

#[tokio::test]
async fn check_finds_an_empty_database_and_is_content_with_a_migrated_one() {
    let place = Place::empty().await;
    let before = place.run(&["check"]).await.fails(1, "findings are errors");
    assert!(before.stdout.contains("run `windrow migrate`"), "{before:?}");
    place.run(&["migrate"]).await.ok();
    place.run(&["migrate"]).await.ok();
    let after = place.run(&["check", "--json"]).await.ok();
    let findings = after.json(0);
    let of = |part: &str, level: &str| {
        findings.as_array().unwrap().iter().filter(|one| one["part"] == part && one["level"] == level).count()
    };
    assert_eq!((of("redis", "ok"), of("redis", "warning"), of("clocks", "ok")), (3, 0, 1), "{findings}");
    assert_eq!(of("postgres", "ok"), 2, "{findings}");
    assert_eq!(of("api", "warning"), 1, "an API without keys is worth a word: {findings}");
    for finding in findings.as_array().unwrap().iter().filter(|finding| finding["level"] != "ok") {
        assert!(finding["advice"].is_string(), "{finding}");
    }
}

#[tokio::test]
async fn a_redis_that_keeps_its_configuration_to_itself_is_judged_by_what_it_says() {
    let mut place = Place::migrated().await;
    let url = place.redis.url();
    for (user, forbidden) in [("noconfig", "-config"), ("noinfo", "-info")] {
        let mut connection = redis_cli(&url).await;
        connection.send(&["ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", forbidden]).await;
        place.set("WINDROW_REDIS_URL", &format!("redis://{user}:pw@127.0.0.1:{}/0", place.redis.port()));
        let checked = place.run(&["check", "--json"]).await.ok().json(0);
        let redis: Vec<_> = checked.as_array().unwrap().iter().filter(|finding| finding["part"] == "redis").collect();
        let warned = redis.iter().filter(|finding| finding["level"] == "warning").count();
        match user {
            "noconfig" => assert_eq!((redis.len(), warned), (3, 0), "INFO says it too: {redis:?}"),
            _ => {
                assert_eq!((redis.len(), warned), (1, 1), "{redis:?}");
                assert!(redis[0]["advice"].as_str().unwrap().contains("noeviction"), "{redis:?}");
            }
        }
    }
}

/// Redis' own protocol, as far as it is needed: this crate has no Redis client.
struct Line(tokio::net::TcpStream);

impl Line {
    async fn send(&mut self, words: &[&str]) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let parts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.0.write_all(format!("*{}\r\n{parts}", words.len()).as_bytes()).await.unwrap();
        let mut answer = [0; 5];
        self.0.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n", "{words:?}");
    }
}

async fn redis_cli(url: &str) -> Line {
    let (password, address) =
        url.strip_prefix("redis://:").unwrap().strip_suffix("/0").unwrap().split_once('@').unwrap();
    let mut line = Line(tokio::net::TcpStream::connect(address).await.unwrap());
    line.send(&["AUTH", password]).await;
    line
}

#[tokio::test]
async fn tenants_projects_and_sources_are_added_listed_and_paused() {
    let place = Place::migrated().await;
    place.run(&["tenants", "add", "acme", "--name", "Acme", "--time-zone", "Europe/Berlin"]).await.ok();
    place.run(&["tenants", "add", "acme", "--name", "Acme", "--time-zone", "Europe/Berlin"]).await.ok();
    place.run(&["tenants", "add", "acme", "--name", "Other"]).await.fails(1, "there is a tenant acme already");
    place.run(&["tenants", "add", "b", "--time-zone", "Mars/Base"]).await.fails(2, "--time-zone");
    place.run(&["tenants", "pause", "acme"]).await.ok();
    let listed = place.run(&["tenants", "list", "--json"]).await.ok().json(0);
    assert_eq!((&listed[0]["id"], &listed[0]["active"]), (&json!("acme"), &json!(false)), "{listed}");
    place.run(&["tenants", "resume", "acme"]).await.ok();
    assert!(place.run(&["tenants", "list"]).await.ok().stdout.contains("Europe/Berlin"));

    let added = place.run(&["projects", "add", "Spring", "--tenant", "acme", "--json"]).await.ok().json(0);
    place.run(&["projects", "add", "Spring", "--tenant", "none"]).await.fails(3, "windrow tenants add none");
    let listed = place.run(&["projects", "list", "--json"]).await.ok().json(0);
    assert_eq!(listed, json!([added]));

    let add = ["sources", "add", "board", "http://127.0.0.1:9/jobs", "--tenant", "acme", "--format"];
    place.run(&[&add[..], &["json"]].concat()).await.fails(2, "needs a mapping");
    place
        .run(&[&add[..], &["json", "--mapping", r#"{"title": "t", "url": "/u"}"#]].concat())
        .await
        .fails(2, "--mapping");
    place.run(&[&add[..], &["xml"]].concat()).await.fails(2, "use json, rss, atom or feed");
    place.run(&[&add[..], &["rss"]].concat()).await.ok();
    place.run(&[&add[..], &["rss"]].concat()).await.fails(1, "already");
    place.run(&[&add[..], &["atom", "--replace", "--header", "Accept-Language: en"]].concat()).await.ok();
    let listed = place.run(&["sources", "list", "--json"]).await.ok().json(0);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["format"]), (1, &json!("atom")), "{listed}");
    assert_eq!(place.run(&["vacancies", "list", "--json"]).await.ok().json(0), json!([]));
    assert_eq!(place.run(&["payments", "list", "--json"]).await.ok().json(0), json!([]));
    place.run(&["payments", "verify"]).await.ok();
}

#[tokio::test]
async fn a_job_can_be_enqueued_looked_for_and_enqueued_again_under_its_key() {
    let place = Place::migrated().await;
    for (kind, journaled) in [("vacancy.fetch_all", false), ("payment.post_due", true)] {
        let enqueue = ["jobs", "enqueue", kind, "--json", "--idempotency-key", "once", "--delay", "1h"];
        let first = place.run(&enqueue).await.ok().json(0);
        assert_eq!((&first["created"], &first["journaled"]), (&json!(true), &json!(journaled)));
        let again = place.run(&enqueue).await.ok().json(0);
        assert_eq!((&again["created"], &again["id"]), (&json!(false), &first["id"]));
        let status = place.run(&["jobs", "status", first["id"].as_str().unwrap(), "--json"]).await.ok().json(0);
        assert_eq!((&status["state"], &status["kind"]), (&json!("scheduled"), &json!(kind)), "{status}");
    }
    let waited = ["jobs", "enqueue", "payment.post_due", "--wait", "--timeout", "300ms"];
    place.run(&waited).await.fails(5, "was not over after 300ms");
    let kinds = place.run(&["jobs", "kinds", "--json"]).await.ok().json(0);
    assert_eq!(kinds.as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn a_new_key_is_shown_once_with_the_setting_that_lets_it_in() {
    let mut place = Place::migrated().await;
    let made = place.run(&["api-keys", "new", "ci", "--tenant", "acme", "--json"]).await.ok().json(0);
    assert_eq!(made["setting"]["tenant"], "acme");
    place.set("WINDROW_API__KEYS", &json!([made["setting"]]).to_string());
    let api = place.start("api").await;
    api.await_get("/readyz", 200, r#""ready":true"#).await;
    assert_eq!(api.get("/api/v1/jobs/01890000-0000-7000-8000-000000000000").await.0, 401);
}

#[tokio::test]
async fn a_new_key_for_encryption_is_one_that_the_settings_take_and_nobody_shows_again() {
    let mut place = Place::migrated().await;
    let (old, new) = (["keys", "new", "2026a", "--json"], ["keys", "new", "--json"]);
    let (old, new) = (place.run(&old).await.ok().json(0), place.run(&new).await.ok().json(0));
    assert_eq!(old["id"], "2026a");
    let line = |made: &serde_json::Value| made["key"].as_str().unwrap().to_owned();
    let newest = new["id"].as_str().unwrap();
    assert!(line(&old).starts_with("2026a:") && line(&new).starts_with(&format!("{newest}:")));
    place.run(&["keys", "new", "a b"]).await.fails(2, "the id of a key has 1 to 32 letters");

    place.set("WINDROW_ENCRYPTION_KEYS", &format!("{},{}", line(&new), line(&old)));
    let checked = place.run(&["check"]).await;
    assert!(checked.stdout.contains(&format!("key {newest} seals; older jobs open with 2026a")), "{checked:?}");
    for made in [&old, &new] {
        let bytes = line(made).split_once(':').unwrap().1.to_owned();
        assert!(!format!("{checked:?}").contains(&bytes), "{checked:?}");
    }
    place.set("WINDROW_ENCRYPTION_KEYS", "2026a:AQID");
    let refused = place.run(&["worker"]).await.fails(2, "encryption.keys (WINDROW_ENCRYPTION_KEYS in the environment)");
    assert!(
        refused.stderr.contains("key 2026a has 3 bytes, not 32") && !refused.stderr.contains("AQID"),
        "{refused:?}"
    );
}
