//! Redis: version, whether it keeps what it was given, and how its servers are arranged.

use windrow_queue::store::{Layout, MIN_REDIS, QueuePlace, ServerInfo, Store, StoreError};

use super::finding::{Finding, Level, Looked};
use crate::{context::Context, kinds};

const PART: &str = "redis";
const START: &str = "start Redis, or correct redis.url (address, password, TLS) and what stands beside it";

pub(super) async fn check(context: &Context) -> Looked {
    let store = match context.store() {
        Ok(store) => store,
        // Said among the settings, unless it is the certificate's file.
        Err(_) if context.loaded.settings.redis.url.is_empty() || context.loaded.in_range(PART).is_err() => {
            return Looked::default();
        }
        Err(error) => return Finding::error(PART, format!("{error:#}"), "correct the setting").into(),
    };
    let queues = kinds::catalog().queues();
    match store.servers().await {
        Ok(servers) => {
            let mut findings = match &servers[..] {
                [(_, server)] => judge(server),
                servers => judge_all(servers),
            };
            match store.layout(&queues).await {
                Ok(layout) => findings.extend(arrangement(&layout, servers.iter().any(|(_, server)| server.cluster))),
                Err(error) => findings.push(Finding::error(PART, error.to_string(), START)),
            }
            findings.extend(rights(&store).await);
            Looked { findings, clock: servers.first().map(|(_, server)| server.time_us) }
        }
        Err(error @ StoreError::Unavailable(_)) => {
            let mut findings = vec![Finding::error(PART, error.to_string(), START)];
            // Which of the servers it is.
            if let Ok(layout) = store.layout(&queues).await {
                findings.extend(arrangement(&layout, false));
            }
            Looked { findings, clock: None }
        }
        Err(error @ StoreError::Config { .. }) => Finding::error(PART, error.to_string(), "correct the setting").into(),
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
    findings.push(eviction(server.maxmemory_policy.as_deref()));
    findings.push(append_only(server.appendonly));
    findings.extend(memory(server));
    findings
}

/// Of several servers, what is wrong with each.
fn judge_all(servers: &[(String, ServerInfo)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (address, server) in servers {
        for finding in judge(server).into_iter().filter(|finding| finding.level != Level::Ok) {
            findings.push(Finding { found: format!("{address}: {}", finding.found), ..finding });
        }
    }
    if findings.is_empty() {
        let version = servers.first().map(|(_, server)| &*server.version).unwrap_or_default();
        findings.push(Finding::ok(PART, format!("{} masters answer, Redis {version}", servers.len())));
    }
    findings
}

fn arrangement(layout: &Layout, is_cluster: bool) -> Vec<Finding> {
    match layout {
        Layout::Single if is_cluster => vec![Finding::error(
            PART,
            "it is a node of a Redis Cluster, and redis.cluster is not set: only queues that happen to be on it work",
            "set redis.cluster = true, and name more nodes in redis.nodes",
        )],
        Layout::Single => Vec::new(),
        Layout::Sentinel { name, master, replicas, sentinels, failing } => {
            let count = replicas.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
            let found = format!("Sentinels say that {name:?} is {master}, which has {count} replicas");
            let mut findings = vec![if *replicas == Some(0) {
                Finding::warning(PART, found, "start a replica: nobody could take over from this master")
            } else {
                Finding::ok(PART, found)
            }];
            if *sentinels == 1 {
                findings.push(Finding::warning(
                    PART,
                    "the settings name one Sentinel: while it is away, nobody says where Redis is",
                    "name the others in redis.nodes",
                ));
            }
            findings.extend(failing.iter().map(|(address, reason)| {
                let found = format!("the Sentinel {address} would take no part in a failover: {reason}");
                Finding::warning(PART, found, "see to it: most of the Sentinels must agree before a replica takes over")
            }));
            findings
        }
        Layout::Cluster { masters, failing, queues } => {
            let places: Vec<String> = queues.iter().map(place).collect();
            let found = format!("Redis Cluster of {masters} masters; {}", places.join(", "));
            let is_whole = queues.iter().all(|place| place.node.is_some());
            let mut findings = vec![if is_whole {
                Finding::ok(PART, found)
            } else {
                Finding::error(
                    PART,
                    found,
                    "give each slot to a node: CLUSTER ADDSLOTS, or redis-cli --cluster fix HOST:PORT",
                )
            }];
            findings.extend(failing.iter().map(|(address, reason)| {
                let found = format!("{address}: {reason}");
                Finding::error(
                    PART,
                    found,
                    "look at CLUSTER NODES there: a slot without an owner, or a node that is away",
                )
            }));
            findings.extend(queues.iter().filter(|place| place.moving).map(|place| {
                let found = format!("queue {} waits: its slot {} is being moved", place.queue, place.slot);
                let advice = "if nobody is moving it any more, finish it: redis-cli --cluster fix HOST:PORT";
                Finding::warning(PART, found, advice)
            }));
            findings
        }
    }
}

fn place(place: &QueuePlace) -> String {
    let node = place.node.as_deref().unwrap_or("no node");
    format!("queue {} in slot {} on {node}", place.queue, place.slot)
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
    use super::*;

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
            (ServerInfo { maxmemory: 0, ..server() }, Level::Warning, "maxmemory is not set"),
            (ServerInfo { used_memory: 95 << 20, ..server() }, Level::Warning, "95 of 100 MB"),
        ];
        for (server, level, words) in cases {
            let (found, text) = worst(&server);
            assert!(found == level && text.contains(words), "{found:?}: {text}, not {words}");
        }
    }

    fn sentinel(replicas: Option<usize>, sentinels: usize, failing: &[(&str, &str)]) -> Layout {
        let failing = failing.iter().map(|(address, reason)| ((*address).into(), (*reason).into())).collect();
        Layout::Sentinel { name: "jobs".into(), master: "a:1".into(), replicas, sentinels, failing }
    }

    fn cluster(moving: bool, node: Option<&str>, failing: &[(&str, &str)]) -> Layout {
        let failing = failing.iter().map(|(address, reason)| ((*address).into(), (*reason).into())).collect();
        let queue = windrow_queue::QueueName::from_static("fetch");
        let queues = vec![QueuePlace { queue, slot: 1745, node: node.map(Into::into), moving }];
        Layout::Cluster { masters: 3, failing, queues }
    }

    #[test]
    fn each_arrangement_is_described_and_what_is_wrong_with_it_named() {
        let cases = [
            (Layout::Single, true, Level::Error, "redis.cluster is not set"),
            (sentinel(Some(1), 3, &[]), false, Level::Ok, "\"jobs\" is a:1, which has 1 replicas"),
            (sentinel(None, 3, &[]), false, Level::Ok, "an unknown number"),
            (sentinel(Some(0), 3, &[]), false, Level::Warning, "has 0 replicas"),
            (sentinel(Some(1), 1, &[]), false, Level::Warning, "one Sentinel"),
            (sentinel(Some(1), 3, &[("b:2", "NOQUORUM")]), false, Level::Warning, "b:2 would take no part"),
            (cluster(false, Some("c:3"), &[]), true, Level::Ok, "3 masters; queue fetch in slot 1745 on c:3"),
            (cluster(true, Some("c:3"), &[]), true, Level::Warning, "slot 1745 is being moved"),
            (cluster(false, None, &[]), true, Level::Error, "on no node"),
            (cluster(false, Some("c:3"), &[("d:4", "not whole")]), true, Level::Error, "d:4: not whole"),
        ];
        for (layout, is_cluster, level, words) in cases {
            let findings = arrangement(&layout, is_cluster);
            let found = findings.iter().find(|finding| finding.found.contains(words));
            assert_eq!(found.map(|finding| finding.level), Some(level), "{findings:?}");
            assert!(findings.iter().all(|finding| finding.level == Level::Ok || finding.advice.is_some()));
        }
        assert!(arrangement(&Layout::Single, false).is_empty());
    }

    #[test]
    fn of_several_servers_the_one_at_fault_is_named() {
        let bad = ServerInfo { maxmemory_policy: Some("allkeys-lru".into()), ..server() };
        let findings = judge_all(&[("a:1".into(), server()), ("b:2".into(), bad)]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].found.starts_with("b:2: maxmemory-policy is allkeys-lru"), "{findings:?}");
        let findings = judge_all(&[("a:1".into(), server()), ("b:2".into(), server())]);
        assert_eq!((findings[0].level, &*findings[0].found), (Level::Ok, "2 masters answer, Redis 7.0.15"));
    }
}
