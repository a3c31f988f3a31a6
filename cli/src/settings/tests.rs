#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use windrow_queue::{JobArgs, Kind, Policy};

use super::*;

/// The sample file, as it is shipped.
const SAMPLE: &str = include_str!("../../../config/windrow.toml");

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Loaded, SettingError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loaded::of(Some(("windrow.toml", file)), variables)
}

fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
    load(file, variables).unwrap_err().to_string()
}

/// Every setting by its full name.
fn leaves(value: &Value, name: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                leaves(value, &format!("{name}{}{key}", if name.is_empty() { "" } else { "." }), into);
            }
        }
        value => drop(into.insert(name.to_owned(), value.clone())),
    }
}

fn flat(settings: &Settings) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    leaves(&serde_json::to_value(settings).unwrap(), "", &mut all);
    all
}

#[test]
fn the_sample_file_holds_every_setting_with_its_default_and_a_line_of_meaning() {
    let sample = load(SAMPLE, &[]).unwrap();
    assert_eq!(flat(&sample.settings), flat(&Settings::default()), "a value differs from its default");

    let (mut section, mut described, mut above) = (String::new(), BTreeMap::new(), "");
    for line in SAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            described.insert(format!("{section}{key}"), above.starts_with("# ") && above.len() > 10);
        }
        above = line;
    }
    for name in flat(&Settings::default()).keys() {
        assert_eq!(
            described.get(name),
            Some(&true),
            "{name} is not in the sample file, or has no line of meaning above it"
        );
    }
    assert!(SAMPLE.contains("[worker.queues]"), "an empty table has no line of its own");
}

#[test]
fn the_environment_covers_the_file_and_takes_the_type_that_the_setting_has() {
    let file = "[worker]\nconcurrency = 3\ngrace = '1m'\n[worker.queues]\nfetch = 2\nscoring = { concurrency = 4, weight = 2 }";
    let variables = [
        ("WINDROW_WORKER__QUEUES__FETCH", "8"),
        ("WINDROW_WORKER__QUEUES__IMPORT__WEIGHT", "3"),
        ("WINDROW_WORKER__GRACE", "2m 30s"),
        ("WINDROW_REDIS_URL", "redis://a"),
        ("WINDROW_DATABASE__URL", "postgres://b"),
        ("WINDROW_DATABASE__MAX_CONNECTIONS", " 20 "),
        ("WINDROW_OUTWARD__ALLOW_NETWORKS", "127.0.0.0/8, ::1/128"),
        ("WINDROW_API__KEYS", r#"[{"name": "a", "sha256": "00", "tenant": "acme"}]"#),
        ("WINDROW_API__OPEN", "true"),
        ("WINDROW_API__LISTEN", "0.0.0.0:80"),
        ("WINDROW_LOG__FORMAT", "json"),
        ("WINDROW_LOG__LEVEL", "7"),
        ("WINDROW_IMPORT__DIRECTORY", "/data"),
        ("WINDROW_TEST_ALL", "1"),
        ("PATH", "/bin"),
    ];
    let Settings { redis, database, worker, api, log, outward, import, .. } = load(file, &variables).unwrap().settings;
    assert_eq!((worker.concurrency, worker.grace), (3, Duration::from_secs(150)));
    let queues = worker.queues.iter().map(|(queue, slots)| (queue.as_str(), slots.concurrency, slots.weight));
    assert_eq!(queues.collect::<Vec<_>>(), [("fetch", Some(8), 1), ("import", None, 3), ("scoring", Some(4), 2)]);
    assert_eq!((&*redis.url, &*database.url, database.max_connections), ("redis://a", "postgres://b", 20));
    assert_eq!(outward.allow_networks, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!((api.open, api.listen.port(), &*api.keys[0].name), (true, 80, "a"));
    assert_eq!((log.format, &*log.level), (log::Format::Json, "7"));
    assert_eq!(import.directory, Path::new("/data"));
    assert!(load("", &[("WINDROW_OUTWARD__ALLOW_NETWORKS", "")]).unwrap().settings.outward.allow_networks.is_empty());
    let list = load("", &[("WINDROW_API__KEYS", "[{ name = 'a', sha256 = '00' }]")]).unwrap();
    assert_eq!(list.settings.api.keys.len(), 1);
}

#[test]
fn a_file_that_is_wrong_is_refused_with_the_setting_its_line_and_what_is_expected() {
    let cases = [
        (
            "[worker]\n\nconcurency = 3",
            "worker.concurency (windrow.toml, line 3): is not a setting; here there are concurrency",
        ),
        ("[wroker]\nx = 1", "wroker (windrow.toml, line 1): is not a setting; here there are redis, database, worker"),
        (
            "[worker]\nconcurrency = 'many'",
            "worker.concurrency (windrow.toml, line 2): expected a whole number, 0 or more",
        ),
        ("[worker]\nconcurrency = -1", "worker.concurrency (windrow.toml, line 2): expected a whole number, 0 or more"),
        ("[worker]\ngrace = 'soon'", "worker.grace (windrow.toml, line 2): expected a duration such as 500ms"),
        ("[worker]\ngrace = 30", "worker.grace (windrow.toml, line 2): expected a duration such as 500ms"),
        ("[worker.queues]\n'a b' = 3", "worker.queues.a b (windrow.toml, line 2): queue \"a b\" is not valid"),
        ("worker = 3", "worker (windrow.toml, line 1): expected a table of settings"),
        (
            "[redis]\nrescue_limit = 300",
            "redis.rescue_limit (windrow.toml, line 2): expected a whole number from 0 to 255",
        ),
        ("[redis]\nurl = 3", "redis.url (windrow.toml, line 2): expected text"),
        ("[api]\nlisten = 'here'", "api.listen (windrow.toml, line 2): "),
        ("[api]\nopen = 'yes'", "api.open (windrow.toml, line 2): expected true or false"),
        ("[api]\nkeys = 'x'", "api.keys (windrow.toml, line 2): expected a list"),
        (
            "[[api.keys]]\nname = 'a'\nsha256 = 'b'\nsecret = 'c'",
            "api.keys.number 1.secret (windrow.toml, line 4): is not a setting; here there are name, sha256, tenant",
        ),
        ("[log]\nformat = 'xml'", "log.format (windrow.toml, line 2): expected one of text, json"),
        ("[outward]\nallow_networks = ['all']", "outward.allow_networks.number 1 (windrow.toml, line 2): "),
        (
            "[scheduler.relay]\nbatchsize = 1",
            "scheduler.relay.batchsize (windrow.toml, line 2): is not a setting; here there are batch",
        ),
        ("[payments]\nbatch = 70000", "payments.batch (windrow.toml, line 2): expected a whole number from 0 to 65535"),
        ("[redis]\nurl = \"redis", "windrow.toml, line 2: is not TOML: "),
    ];
    for (file, expected) in cases {
        let refused = refusal(file, &[]);
        assert!(refused.starts_with(expected), "{file:?} gave {refused:?}, not {expected:?}");
    }
}

#[test]
fn a_variable_that_is_wrong_is_refused_by_its_name() {
    let cases = [
        (
            "WINDROW_WORKER__CONCURENCY",
            "3",
            "worker.concurency (WINDROW_WORKER__CONCURENCY in the environment): is not a setting",
        ),
        ("WINDROW_NOTHING__AT_ALL", "3", "nothing (WINDROW_NOTHING__AT_ALL in the environment): is not a setting"),
        (
            "WINDROW_WORKER_GRACE",
            "3s",
            "WINDROW_WORKER_GRACE in the environment: is not a setting: variables are named",
        ),
        ("WINDROW___X", "3", "WINDROW___X in the environment: is not a setting"),
        (
            "WINDROW_WORKER__CONCURRENCY",
            "many",
            "worker.concurrency (WINDROW_WORKER__CONCURRENCY in the environment): expected a whole number, 0 or more",
        ),
        (
            "WINDROW_WORKER__QUEUES__FETCH",
            "-1",
            "worker.queues.fetch (WINDROW_WORKER__QUEUES__FETCH in the environment): expected a whole number",
        ),
        (
            "WINDROW_WORKER__GRACE__X",
            "1s",
            "worker.grace (WINDROW_WORKER__GRACE__X in the environment): expected a duration",
        ),
        ("WINDROW_WORKER", "x", "WINDROW_WORKER in the environment: is not a setting"),
        ("WINDROW_WORKER__QUEUES", "x", "worker.queues (WINDROW_WORKER__QUEUES in the environment): expected a table"),
        ("WINDROW_API__OPEN", "yes", "api.open (WINDROW_API__OPEN in the environment): expected true or false"),
        ("WINDROW_API__KEYS", "[{", "api.keys (WINDROW_API__KEYS in the environment): expected a list"),
        ("WINDROW_API__LISTEN", "here", "api.listen (WINDROW_API__LISTEN in the environment): "),
        (
            "WINDROW_LOG__FORMAT",
            "xml",
            "log.format (WINDROW_LOG__FORMAT in the environment): expected one of text, json",
        ),
    ];
    for (name, value, expected) in cases {
        let refused = refusal("", &[(name, value)]);
        assert!(refused.starts_with(expected), "{name} gave {refused:?}, not {expected:?}");
    }
    let both = refusal("", &[("WINDROW_REDIS_URL", "a"), ("WINDROW_REDIS__URL", "b")]);
    assert!(both.contains("WINDROW_REDIS_URL is set as well"), "{both}");
}

#[test]
fn no_error_shows_a_value_that_may_be_a_secret() {
    let files = [
        "[redis]\nurl = \"redis://:hunter2@host",
        "[redis]\nurl = ['redis://:hunter2@host']",
        "[redis]\nurl = { a = 'hunter2' }",
        "[api]\nkeys = 'hunter2'",
        "[worker]\ngrace = 'hunter2'",
        "[log]\nformat = 'hunter2'",
        "[redis]\nlease = 'hunter2'",
    ];
    for file in files {
        let refused = refusal(file, &[]);
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    for name in ["WINDROW_API__KEYS", "WINDROW_WORKER__QUEUES", "WINDROW_API__OPEN", "WINDROW_WORKER__CONCURRENCY"] {
        let refused = refusal("", &[(name, "hunter2")]);
        let is_list_of_one = name == "WINDROW_API__KEYS";
        assert!(!refused.contains("hunter2"), "{refused} ({is_list_of_one})");
    }
}

#[test]
fn what_is_missing_or_cannot_stand_is_named_with_what_to_do() {
    let faults =
        |file: &str| -> Vec<String> { load(file, &[]).unwrap().faults().iter().map(ToString::to_string).collect() };
    let missing = faults("");
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0].starts_with("redis.url: is missing: set it in windrow.toml or as WINDROW_REDIS_URL"),
        "{missing:?}"
    );
    assert!(
        missing[1].starts_with("database.url: is missing: set it in windrow.toml or as WINDROW_DATABASE_URL"),
        "{missing:?}"
    );
    let good = "[redis]\nurl = 'redis://a'\n[database]\nurl = 'postgres://a'\n";
    assert!(faults(good).is_empty());
    let cases = [
        ("[log]\nlevel = 'a=b=c'", "log.level (windrow.toml, line 6): is no filter"),
        ("[worker]\nlisten = 'here'", "worker.listen (windrow.toml, line 6): "),
        ("[scheduler.relay]\nbatch = 0", "scheduler.relay.batch (windrow.toml, line 6): "),
        ("[scheduler.cron]\nidle = '2m'", "scheduler.cron.idle (windrow.toml, line 6): "),
        ("max_connections = 0", "database.max_connections (windrow.toml, line 5): must be 1 to 1000"),
        (
            "[worker.queues]\nnone = 3",
            "worker.queues.none (windrow.toml, line 6): is no queue of a known kind; those are fetch, import",
        ),
        ("[worker.queues]\nfetch = 0", "worker.queues.fetch (windrow.toml, line 6): must be 1 to 1000"),
        (
            "[worker.queues]\nfetch = { weight = 0 }",
            "worker.queues.fetch.weight (windrow.toml, line 6): must be 1 to 1000",
        ),
        ("[payments]\nbatch = 0", "payments.batch (windrow.toml, line 6): must be 1 to 10000"),
        ("[outward]\ntimeout = '0s'", "outward.timeout (windrow.toml, line 6): must be 1ms to 1h"),
        ("[scoring]\nmax_jobs = -1", "scoring.max_jobs (windrow.toml, line 6): must be 1 to 1000"),
    ];
    for (more, expected) in cases {
        let found = faults(&format!("{good}{more}"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{more:?} gave {found:?}");
    }
}

const KEY: &str = "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

#[test]
fn keys_for_encryption_are_a_list_and_what_is_no_key_is_refused_without_being_shown() {
    let two = format!("2026b:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=, {KEY}");
    for variable in ["WINDROW_ENCRYPTION_KEYS", "WINDROW_ENCRYPTION__KEYS"] {
        let vault = load("", &[(variable, &two)]).unwrap().vault().unwrap();
        assert_eq!(vault.key_ids().map(ToString::to_string).collect::<Vec<_>>(), ["2026b", "2026a"]);
    }
    let vault = load(&format!("[encryption]\nkeys = ['{KEY}']"), &[]).unwrap().vault().unwrap();
    assert_eq!(vault.key_ids().count(), 1);

    let loaded = load("", &[("WINDROW_ENCRYPTION_KEYS", "2026a:aHVudGVyMg==")]).unwrap();
    let refused = loaded.faults().iter().map(ToString::to_string).find(|fault| fault.contains("encryption")).unwrap();
    assert_eq!(
        refused,
        "encryption.keys (WINDROW_ENCRYPTION_KEYS in the environment): key 2026a has 7 bytes, not 32; `windrow keys new` makes one"
    );
    let loaded = load("", &[("WINDROW_ENCRYPTION_KEYS_FILE", "/none/such")]).unwrap();
    assert!(loaded.vault().unwrap_err().to_string().starts_with("encryption.keys_file (WINDROW_ENCRYPTION_KEYS_FILE"));
    let shown = format!("{:?}", load("", &[("WINDROW_ENCRYPTION_KEYS", KEY)]).unwrap().settings);
    assert!(!shown.contains("AQID"), "{shown}");
}

#[test]
fn an_encrypted_kind_without_a_key_is_a_fault_that_names_it() {
    #[derive(Serialize, Deserialize)]
    struct Secret;
    impl JobArgs for Secret {
        const KIND: Kind = Kind::from_static("test.secret");
        const QUEUE: QueueName = QueueName::from_static("test");
        const POLICY: Policy = Policy::DEFAULT.encrypted();
    }
    let catalog = kinds::catalog().with::<Secret>();
    let without = load("", &[]).unwrap();
    let fault = without.missing_key(&without.vault().unwrap(), &catalog).unwrap().to_string();
    assert!(fault.starts_with("encryption.keys: is missing: test.secret cannot be enqueued"), "{fault}");
    assert!(without.missing_key(&without.vault().unwrap(), &kinds::catalog()).is_none());
    let with = load("", &[("WINDROW_ENCRYPTION_KEYS", KEY)]).unwrap();
    assert!(with.missing_key(&with.vault().unwrap(), &catalog).is_none());
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let missing = Loaded::read(Some(Path::new("/none/such.toml")), []).unwrap_err().to_string();
    assert!(missing.starts_with("/none/such.toml: there is no such file"), "{missing}");
}
