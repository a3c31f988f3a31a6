//! What a worker process does and how much of it at a time.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use windrow_queue::QueueName;

/// The settings of a worker process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Jobs of one queue that run at a time, where `queues` does not say.
    pub concurrency: usize,
    /// Jobs of all queues together that run at a time; 0: only the queues have bounds.
    pub max_running: usize,
    /// The queues that this process serves. Empty: all queues of known kinds.
    pub queues: BTreeMap<QueueName, QueueSlots>,
    /// After the first signal to stop: how long running jobs may take to finish, before they are given back.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long a job waits for a program that knows its kind, before it is dead.
    #[serde(with = "humantime_serde")]
    pub unknown_after: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 8,
            max_running: 0,
            queues: BTreeMap::new(),
            grace: Duration::from_secs(25),
            unknown_after: Duration::from_secs(7 * 24 * 3600),
            listen: "127.0.0.1:9464".into(),
        }
    }
}

/// How much of a queue a process does: in the settings a number (jobs at a time), or a table of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSlots {
    /// Jobs that run at a time; `None`: as `worker.concurrency` says.
    pub concurrency: Option<usize>,
    /// Its part in `worker.max_running`, beside the others': a queue of weight 3 starts three jobs for one of a queue of
    /// weight 1, while both have work.
    pub weight: u32,
}

impl From<usize> for QueueSlots {
    /// So many jobs at a time, with weight 1.
    fn from(concurrency: usize) -> Self {
        Self { concurrency: Some(concurrency), weight: 1 }
    }
}

impl<'de> Deserialize<'de> for QueueSlots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Slots;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            concurrency: Option<usize>,
            #[serde(default = "one")]
            weight: u32,
        }

        const fn one() -> u32 {
            1
        }

        const EXPECTED: &str = "expected a whole number, 0 or more, or a table with concurrency and weight";

        impl<'de> Visitor<'de> for Slots {
            type Value = QueueSlots;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED.trim_start_matches("expected "))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<QueueSlots, E> {
                // Beyond any bound stays beyond it.
                Ok(usize::try_from(number).unwrap_or(usize::MAX).into())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<QueueSlots, E> {
                u64::try_from(number).map_err(|_| E::custom(EXPECTED)).and_then(|number| self.visit_u64(number))
            }

            /// What comes from the environment is text.
            fn visit_str<E: Error>(self, text: &str) -> Result<QueueSlots, E> {
                text.trim().parse().map_err(|_| E::custom(EXPECTED)).and_then(|number| self.visit_u64(number))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<QueueSlots, A::Error> {
                let Table { concurrency, weight } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(QueueSlots { concurrency, weight })
            }
        }

        deserializer.deserialize_any(Slots)
    }
}

/// The most jobs of one queue that a process may run at a time.
pub const MAX_CONCURRENCY: usize = 1000;
/// The greatest weight of a queue.
pub const MAX_WEIGHT: u32 = 1000;

/// A queue that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) queue: QueueName,
    pub(crate) concurrency: usize,
    pub(crate) weight: u32,
}

impl Config {
    /// The queues to serve, given those of the known kinds.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn served(&self, known: &[QueueName]) -> anyhow::Result<Vec<Served>> {
        let all = || known.iter().map(|queue| (queue.clone(), QueueSlots { concurrency: None, weight: 1 })).collect();
        let queues: BTreeMap<_, _> = if self.queues.is_empty() { all() } else { self.queues.clone() };
        anyhow::ensure!(!queues.is_empty(), "there is no queue to serve: no handler is registered");
        let serve = |(queue, QueueSlots { concurrency, weight })| {
            let concurrency = concurrency.unwrap_or(self.concurrency);
            anyhow::ensure!(
                (1..=MAX_CONCURRENCY).contains(&concurrency),
                "worker.queues.{queue}: {concurrency} jobs at a time is not possible, use 1 to {MAX_CONCURRENCY}"
            );
            anyhow::ensure!(
                (1..=MAX_WEIGHT).contains(&weight),
                "worker.queues.{queue}.weight: {weight} is not possible, use 1 to {MAX_WEIGHT}"
            );
            anyhow::ensure!(
                known.contains(&queue),
                "worker.queues.{queue}: no kind that this program knows waits in it; known queues are {known:?}"
            );
            Ok(Served { queue, concurrency, weight })
        };
        queues.into_iter().map(serve).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FETCH: QueueName = QueueName::from_static("fetch");

    fn served(config: &str) -> Result<Vec<(usize, u32)>, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        let served = config.served(&[FETCH]).map_err(|error| error.to_string())?;
        Ok(served.into_iter().map(|served| (served.concurrency, served.weight)).collect())
    }

    #[test]
    fn a_queue_has_a_number_or_a_table_of_slots() {
        for (config, expected) in [
            (r#"{"concurrency": 3}"#, (3, 1)),
            (r#"{"queues": {"fetch": 5}}"#, (5, 1)),
            (r#"{"queues": {"fetch": "5"}}"#, (5, 1)),
            (r#"{"concurrency": 3, "queues": {"fetch": {"weight": 7}}}"#, (3, 7)),
            (r#"{"queues": {"fetch": {"concurrency": 2, "weight": 7}}}"#, (2, 7)),
        ] {
            assert_eq!(served(config), Ok(vec![expected]), "{config}");
        }
    }

    #[test]
    fn slots_that_cannot_be_are_refused_with_their_key() {
        for (config, words) in [
            (r#"{"queues": {"fetch": 0}}"#, "worker.queues.fetch: 0 jobs"),
            (r#"{"queues": {"fetch": 1001}}"#, "use 1 to 1000"),
            (r#"{"queues": {"fetch": {"weight": 0}}}"#, "worker.queues.fetch.weight: 0"),
            (r#"{"queues": {"fetch": {"wieght": 1}}}"#, "wieght"),
            (r#"{"queues": {"fetch": -1}}"#, "expected a whole number, 0 or more"),
            (r#"{"queues": {"fetch": "many"}}"#, "expected a whole number, 0 or more"),
            (r#"{"queues": {"other": 1}}"#, "worker.queues.other: no kind"),
        ] {
            let refused = served(config).expect_err(config);
            assert!(refused.contains(words), "{config}: {refused}");
        }
    }
}
