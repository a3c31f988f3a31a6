//! Redis: version, and whether it keeps what it was given.

use windrow_queue::store::{MIN_REDIS, ServerInfo, Store, StoreError};

use super::finding::{Finding, Looked};
use crate::{context::Context, kinds};

const PART: &str = "redis";

pub(super) async fn check(context: &Context) -> Looked {
    let store = match context.store() {
        Ok(store) => store,
        // Said among the settings, unless it is the certificate's file.
        Err(_) if context.loaded.settings.redis.url.is_empty() || context.loaded.in_range(PART).is_err() => {
            return Looked::default();
        }
        Err(error) => return Finding::error(PART, format!("{error:#}"), "correct the setting").into(),
    };
    match store.server().await {
        Ok(server) => {
            let mut findings = judge(&server);
            findings.extend(rights(&store).await);
            Looked { findings, clock: Some(server.time_us) }
        }
        Err(error @ StoreError::Unavailable(_)) => {
            Finding::error(PART, error.to_string(), "start Redis, or correct redis.url (address, password, TLS)").into()
        }
        Err(error) => match store.ping().await {
            Ok(()) => Looked { findings: hidden(&error), clock: None },
            Err(error) => Finding::error(PART, error.to_string(), "correct redis.url (user, password)").into(),
        },
    }
}

/// A user may be allowed to look at the server, and not to run scripts or to touch our keys.
async fn rights(store: &Store) -> Option<Finding> {
    let queue = kinds::catalog().queues().into_iter().next()?;
    match store.counts(&queue).await {
        // That it is away or reading its data is said elsewhere.
        Ok(_) | Err(StoreError::Unavailable(_)) => None,
        Err(error) => Some(Finding::error(
            PART,
            format!("a queue cannot be read: {error}"),
            "give this user the rights that docs/OPERATIONS.md lists: scripts, and the keys windrow:*",
        )),
    }
}

/// It answers, but not to INFO.
fn hidden(error: &StoreError) -> Vec<Finding> {
    let found = format!("it answers, but does not say what it is: {error}");
    let advice = format!(
        "allow this user INFO and TIME, or have its operator confirm: version {}.{} or newer, maxmemory-policy noeviction, appendonly yes",
        MIN_REDIS.0, MIN_REDIS.1
    );
    vec![Finding::warning(PART, found, advice)]
}

fn judge(server: &ServerInfo) -> Vec<Finding> {
    let (major, minor) = MIN_REDIS;
    let mut findings = vec![match server.is_new_enough() {
        Some(true) => Finding::ok(PART, format!("Redis {} answers", server.version)),
        Some(false) => Finding::error(
            PART,
            format!("Redis {} is too old", server.version),
            format!("install Redis {major}.{minor} or newer"),
        ),
        None => Finding::warning(
            PART,
            "it does not say its version",
            format!("make sure that it does what Redis {major}.{minor} does (scripts with flags)"),
        ),
    }];
    if server.loading {
        findings.push(Finding::warning(
            PART,
            "it is still reading its data",
            "wait; jobs are taken and run after that",
        ));
    }
    if server.cluster {
        findings.push(Finding::error(
            PART,
            "it is a node of a Redis Cluster, which this version does not talk to",
            "use a single Redis, with a replica if you like",
        ));
    }
    findings.push(eviction(server.maxmemory_policy.as_deref()));
    findings.push(append_only(server.appendonly));
    findings.extend(memory(server));
    findings
}

fn eviction(policy: Option<&str>) -> Finding {
    const TO_DO: &str = "set `maxmemory-policy noeviction` in redis.conf, and now by `redis-cli CONFIG SET maxmemory-policy noeviction`";
    match policy {
        Some("noeviction") => Finding::ok(PART, "maxmemory-policy is noeviction"),
        Some(policy) => Finding::error(
            PART,
            format!("maxmemory-policy is {policy}: when memory is short, Redis would throw accepted jobs away"),
            TO_DO,
        ),
        None => Finding::warning(
            PART,
            "it does not say its maxmemory-policy",
            "look at its provider's console or redis.conf: it must be noeviction, or accepted jobs may be thrown away",
        ),
    }
}

fn append_only(appendonly: Option<bool>) -> Finding {
    match appendonly {
        Some(true) => Finding::ok(PART, "appendonly is on: accepted jobs survive a restart"),
        Some(false) => Finding::warning(
            PART,
            "appendonly is off: fast jobs are lost when Redis restarts (journaled jobs are put back)",
            "set `appendonly yes` and `appendfsync everysec` in redis.conf, and now by `redis-cli CONFIG SET appendonly yes`",
        ),
        None => Finding::warning(
            PART,
            "it does not say whether it writes an append-only file",
            "look at its provider's console or redis.conf: without `appendonly yes` fast jobs are lost when it restarts",
        ),
    }
}

fn memory(server: &ServerInfo) -> Option<Finding> {
    let (used, limit) = (server.used_memory, server.maxmemory);
    if limit == 0 {
        return Some(Finding::warning(
            PART,
            "maxmemory is not set: a full queue ends when the machine's memory does",
            "set `maxmemory` in redis.conf to what this Redis may use; near it, new jobs are refused in an orderly way",
        ));
    }
    (used > limit / 10 * 9).then(|| {
        let found = format!("{} of {} MB are in use: new fast jobs are refused", used >> 20, limit >> 20);
        Finding::warning(PART, found, "raise maxmemory, or add workers until the queues are shorter")
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn server() -> ServerInfo {
        ServerInfo {
            version: "7.0.15".into(),
            run_id: "a".into(),
            maxmemory_policy: Some("noeviction".into()),
            appendonly: Some(true),
            loading: false,
            cluster: false,
            used_memory: 1 << 20,
            maxmemory: 100 << 20,
            time_us: 0,
        }
    }

    fn worst(server: &ServerInfo) -> (Level, String) {
        let findings = judge(server);
        for level in [Level::Error, Level::Warning] {
            if let Some(finding) = findings.iter().find(|finding| finding.level == level) {
                assert!(finding.advice.is_some(), "{finding:?} says nothing to do");
                return (level, finding.found.clone());
            }
        }
        (Level::Ok, String::new())
    }

    #[test]
    fn each_fault_of_a_redis_is_found_and_a_good_one_has_none() {
        assert_eq!(worst(&server()).0, Level::Ok);
        let cases = [
            (ServerInfo { version: "6.2.14".into(), ..server() }, Level::Error, "too old"),
            (ServerInfo { version: String::new(), ..server() }, Level::Warning, "version"),
            (ServerInfo { maxmemory_policy: Some("allkeys-lru".into()), ..server() }, Level::Error, "allkeys-lru"),
            (ServerInfo { maxmemory_policy: None, ..server() }, Level::Warning, "maxmemory-policy"),
            (ServerInfo { appendonly: Some(false), ..server() }, Level::Warning, "appendonly is off"),
            (ServerInfo { appendonly: None, ..server() }, Level::Warning, "append-only"),
            (ServerInfo { loading: true, ..server() }, Level::Warning, "reading its data"),
            (ServerInfo { cluster: true, ..server() }, Level::Error, "Cluster"),
            (ServerInfo { maxmemory: 0, ..server() }, Level::Warning, "maxmemory is not set"),
            (ServerInfo { used_memory: 95 << 20, ..server() }, Level::Warning, "95 of 100 MB"),
        ];
        for (server, level, words) in cases {
            let (found, text) = worst(&server);
            assert!(found == level && text.contains(words), "{found:?}: {text}, not {words}");
        }
    }
}
