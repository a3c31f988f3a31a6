//! What is done to the system, and when: drawn from a seed before the run begins, so that a seed names a run.
//!
//! Kinds of faults are drawn like cards: all of them come before one comes again. They overlap where they hit different parts.

use std::{fmt, time::Duration};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;

/// Processes of each role.
pub(crate) const WORKERS: usize = 3;
pub(crate) const SCHEDULERS: usize = 2;
pub(crate) const RELAYS: usize = 1;
/// All of them: workers first, then schedulers, then relays.
pub(crate) const NODES: usize = WORKERS + SCHEDULERS + RELAYS;

/// A server that a connection leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Server {
    Redis,
    Postgres,
}

/// Whose connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Whom {
    Everybody,
    Producer,
    Node(usize),
}

/// What happens to connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// All are closed once.
    Cut,
    /// All are closed, and new ones as soon as they are made.
    Refuse { ms: u64 },
    /// Nothing gets through, in neither direction; then everything that waited does, whether or not anybody still wants it.
    Hold { ms: u64 },
    /// Requests arrive; of each answer only so many bytes do, and then the connection is closed.
    CutReply { bytes: usize, ms: u64 },
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// SIGKILL; started again after a moment.
    Kill { node: usize, down_ms: u64 },
    /// SIGKILL to all workers at once.
    KillWorkers { down_ms: u64 },
    /// SIGTERM, and a new process when the old one has ended.
    Replace { node: usize },
    /// SIGSTOP, then SIGCONT.
    Freeze { node: usize, ms: u64 },
    /// Connections.
    Network { server: Server, whom: Whom, what: Network },
    /// SIGKILL to Redis, and a start from its append-only file.
    RedisKill { down_ms: u64 },
    /// The same, and the last second is missing from the file.
    RedisForget { back_ms: u64 },
    /// FLUSHALL.
    RedisFlush,
    /// Redis restarted from an older snapshot.
    RedisRestore { back_ms: u64 },
    /// An older state of the data under a server that runs on.
    RedisRollback { back_ms: u64 },
    /// SIGSTOP to Redis, then SIGCONT.
    RedisFreeze { ms: u64 },
    /// SIGKILL to PostgreSQL and all its processes, and a start.
    PostgresKill { down_ms: u64 },
    /// An orderly restart of PostgreSQL.
    PostgresRestart { down_ms: u64 },
    /// SIGSTOP to all of PostgreSQL, then SIGCONT.
    PostgresFreeze { ms: u64 },
    /// The wall clock of a process jumps to so many seconds from the right time.
    Clock { node: usize, to_s: i64 },
}

impl Fault {
    /// What faults are counted by.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Kill { node, .. } if *node < WORKERS => "SIGKILL of a worker",
            Self::Kill { node, .. } if *node < WORKERS + SCHEDULERS => "SIGKILL of a scheduler",
            Self::Kill { .. } => "SIGKILL of a relay",
            Self::KillWorkers { .. } => "SIGKILL of all workers at once",
            Self::Replace { .. } => "SIGTERM and a new process",
            Self::Freeze { .. } => "SIGSTOP and SIGCONT",
            Self::Network { server: Server::Redis, what, .. } => match what {
                Network::Cut => "connections to Redis cut",
                Network::Refuse { .. } => "connections to Redis refused",
                Network::Hold { .. } => "traffic to Redis held back",
                Network::CutReply { .. } => "answers of Redis cut off",
            },
            Self::Network { server: Server::Postgres, what, .. } => match what {
                Network::Cut => "connections to PostgreSQL cut",
                Network::Refuse { .. } => "connections to PostgreSQL refused",
                Network::Hold { .. } => "traffic to PostgreSQL held back",
                Network::CutReply { .. } => "answers of PostgreSQL cut off",
            },
            Self::RedisKill { .. } => "Redis killed and restarted",
            Self::RedisForget { .. } => "Redis killed, its last second lost",
            Self::RedisFlush => "FLUSHALL",
            Self::RedisRestore { .. } => "Redis restarted from an old snapshot",
            Self::RedisRollback { .. } => "older data under a running Redis",
            Self::RedisFreeze { .. } => "Redis stopped and continued",
            Self::PostgresKill { .. } => "PostgreSQL killed and restarted",
            Self::PostgresRestart { .. } => "PostgreSQL restarted",
            Self::PostgresFreeze { .. } => "PostgreSQL stopped and continued",
            Self::Clock { .. } => "clock of a process set wrong",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        match self {
            Self::Kill { node, down_ms } => write!(f, " ({}), back after {down_ms} ms", node_name(*node)),
            Self::Replace { node } => write!(f, " ({})", node_name(*node)),
            Self::Freeze { node, ms } => write!(f, " ({}), {ms} ms", node_name(*node)),
            Self::Network { whom, what, .. } => {
                match whom {
                    Whom::Everybody => write!(f, ", everybody's")?,
                    Whom::Producer => write!(f, ", the producer's")?,
                    Whom::Node(node) => write!(f, ", those of {}", node_name(*node))?,
                }
                match what {
                    Network::Cut => Ok(()),
                    Network::Refuse { ms } | Network::Hold { ms } => write!(f, ", {ms} ms"),
                    Network::CutReply { bytes, ms } => write!(f, " after {bytes} bytes, {ms} ms"),
                }
            }
            Self::KillWorkers { down_ms }
            | Self::RedisKill { down_ms }
            | Self::PostgresKill { down_ms }
            | Self::PostgresRestart { down_ms } => write!(f, ", back after {down_ms} ms"),
            Self::RedisForget { back_ms } | Self::RedisRestore { back_ms } | Self::RedisRollback { back_ms } => {
                write!(f, ", {back_ms} ms back")
            }
            Self::RedisFlush => Ok(()),
            Self::RedisFreeze { ms } | Self::PostgresFreeze { ms } => write!(f, ", {ms} ms"),
            Self::Clock { node, to_s } => write!(f, " ({}), {to_s:+} s", node_name(*node)),
        }
    }
}

/// What a node is called in logs.
pub(crate) fn node_name(node: usize) -> String {
    let (role, number) = match node {
        0..WORKERS => ("worker", node),
        node if node < WORKERS + SCHEDULERS => ("scheduler", node - WORKERS),
        _ => ("relay", node - WORKERS - SCHEDULERS),
    };
    format!("{role}-{}", number + 1)
}

/// A fault and when it begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Planned {
    /// Since the begin of the run.
    pub(crate) at_ms: u64,
    pub(crate) fault: Fault,
}

/// The kinds, as they are drawn. What breaks connections comes for both servers.
#[derive(Clone, Copy)]
enum Card {
    KillWorker,
    KillScheduler,
    KillRelay,
    KillWorkers,
    Replace,
    FreezeBriefly,
    FreezePastLease,
    Cut(Server),
    Refuse(Server),
    Hold(Server),
    CutReply(Server),
    RedisKill,
    RedisForget,
    RedisFlush,
    RedisRestore,
    RedisRollback,
    RedisFreeze,
    PostgresKill,
    PostgresRestart,
    PostgresFreeze,
    Clock,
}

const CARDS: [Card; 26] = [
    Card::KillWorker,
    Card::KillWorker,
    Card::KillScheduler,
    Card::KillRelay,
    Card::KillWorkers,
    Card::Replace,
    Card::FreezeBriefly,
    Card::FreezePastLease,
    Card::Cut(Server::Redis),
    Card::Cut(Server::Postgres),
    Card::Refuse(Server::Redis),
    Card::Refuse(Server::Postgres),
    Card::Hold(Server::Redis),
    Card::Hold(Server::Postgres),
    Card::CutReply(Server::Redis),
    Card::CutReply(Server::Postgres),
    Card::RedisKill,
    Card::RedisForget,
    Card::RedisFlush,
    Card::RedisRestore,
    Card::RedisRollback,
    Card::RedisFreeze,
    Card::PostgresKill,
    Card::PostgresRestart,
    Card::PostgresFreeze,
    Card::Clock,
];

/// The first fault begins after this: there must be something to break.
const CALM_MS: u64 = 2000;

/// Draws the faults of a run.
pub(crate) fn plan(seed: u64, seconds: u64, lease: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    // A short run has all kinds as well; in a long one there is time to recover between most.
    let gap_ms = if seconds < 60 { 300..1400 } else { 1000..5000 };
    let (mut planned, mut at_ms) = (Vec::new(), CALM_MS);
    let mut cards = Vec::new();
    while at_ms < seconds * 1000 {
        if cards.is_empty() {
            cards = CARDS.to_vec();
            cards.shuffle(&mut random);
        }
        let Some(card) = cards.pop() else { break };
        planned.push(Planned { at_ms, fault: draw(card, lease, &mut random) });
        at_ms += random.random_range(gap_ms.clone());
    }
    planned
}

fn draw(card: Card, lease: Duration, random: &mut impl Rng) -> Fault {
    let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(10_000);
    let down_ms = random.random_range(100..2500);
    let node = random.random_range(0..NODES);
    let network = |server, what, random: &mut dyn FnMut(usize) -> usize| {
        // Everybody as often as each of the others.
        let whom = match random(NODES + 2) {
            0 => Whom::Everybody,
            1 => Whom::Producer,
            node => Whom::Node(node - 2),
        };
        Fault::Network { server, whom, what }
    };
    match card {
        Card::KillWorker => Fault::Kill { node: random.random_range(0..WORKERS), down_ms },
        Card::KillScheduler => Fault::Kill { node: WORKERS + random.random_range(0..SCHEDULERS), down_ms },
        Card::KillRelay => Fault::Kill { node: WORKERS + SCHEDULERS + random.random_range(0..RELAYS), down_ms },
        Card::KillWorkers => Fault::KillWorkers { down_ms },
        Card::Replace => Fault::Replace { node },
        Card::FreezeBriefly => Fault::Freeze { node, ms: random.random_range(200..lease_ms * 2 / 3) },
        Card::FreezePastLease => Fault::Freeze {
            node: random.random_range(0..WORKERS),
            ms: lease_ms + 1500 + random.random_range(0..lease_ms / 2),
        },
        Card::Cut(server) => network(server, Network::Cut, &mut |of| random.random_range(0..of)),
        Card::Refuse(server) => {
            let what = Network::Refuse { ms: random.random_range(200..4000) };
            network(server, what, &mut |of| random.random_range(0..of))
        }
        // Shorter and longer than an answer of Redis is waited for.
        Card::Hold(server) => {
            let what = Network::Hold { ms: random.random_range(500..7000) };
            network(server, what, &mut |of| random.random_range(0..of))
        }
        Card::CutReply(server) => {
            let bytes = [0, 1, 5, 40, 300][random.random_range(0..5)];
            let what = Network::CutReply { bytes, ms: random.random_range(100..1500) };
            network(server, what, &mut |of| random.random_range(0..of))
        }
        Card::RedisKill => Fault::RedisKill { down_ms },
        Card::RedisForget => Fault::RedisForget { back_ms: 1000 },
        Card::RedisFlush => Fault::RedisFlush,
        Card::RedisRestore => Fault::RedisRestore { back_ms: random.random_range(1500..8000) },
        Card::RedisRollback => Fault::RedisRollback { back_ms: random.random_range(1500..8000) },
        Card::RedisFreeze => Fault::RedisFreeze { ms: random.random_range(500..5000) },
        Card::PostgresKill => Fault::PostgresKill { down_ms },
        Card::PostgresRestart => Fault::PostgresRestart { down_ms },
        Card::PostgresFreeze => Fault::PostgresFreeze { ms: random.random_range(500..5000) },
        Card::Clock => {
            // Minutes, hours, days, years, either way; and right again now and then.
            let to_s = [0, 90, 3600, 86_400, 3 * 366 * 86_400][random.random_range(0..5)];
            Fault::Clock { node, to_s: if random.random() { to_s } else { -to_s } }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    #[test]
    fn a_seed_names_a_run() {
        assert_eq!(plan(7, 600, LEASE), plan(7, 600, LEASE));
        assert_ne!(plan(7, 600, LEASE), plan(8, 600, LEASE));
        assert_eq!(plan(7, 300, LEASE), plan(7, 600, LEASE)[..plan(7, 300, LEASE).len()], "a longer run begins alike");
    }

    #[test]
    fn every_kind_of_fault_comes_before_one_comes_again_and_a_short_run_has_nearly_all() {
        for seed in 0..20 {
            let names = |seconds| plan(seed, seconds, LEASE).iter().map(|it| it.fault.name()).collect::<BTreeSet<_>>();
            let all = names(600);
            assert_eq!(all.len(), 24, "{all:?}");
            assert!(names(30).len() >= 20, "{:?}", names(30));
        }
    }

    #[test]
    fn freezes_are_shorter_and_longer_than_the_lease() {
        let frozen: Vec<u64> = plan(1, 600, LEASE)
            .into_iter()
            .filter_map(|planned| if let Fault::Freeze { ms, .. } = planned.fault { Some(ms) } else { None })
            .collect();
        assert!(frozen.iter().any(|ms| *ms > 11_000) && frozen.iter().any(|ms| *ms < 9_000), "{frozen:?}");
    }
}
