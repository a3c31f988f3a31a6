//! Every key of a queue, in one place. All share one hash tag, so that a queue lives on one slot of a Redis Cluster.

use crate::name::QueueName;

/// The fixed keys, in the order in which every script takes them (see `lua/prelude.lua`).
const FIXED: [&str; 30] = [
    "meta", "jobs", "mut", "err", "act", "sched", "sess", "uq", "dead", "deadrec", "tobury", "suspect", "wake",
    "ring:0", "ring:1", "ring:2", "ring:3", "use", "lim", "tat", "due", "cancel", "parked", "tok", "cb", "ckpt",
    "prog", "tl", "fin", "never",
];

/// The keys of one queue.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) prefix: String,
    pub(crate) fixed: Vec<String>,
}

impl Keys {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let prefix = Self::prefix_of(queue);
        let fixed = FIXED.iter().map(|name| format!("{prefix}{name}")).collect();
        Self { prefix, fixed }
    }

    pub(crate) fn prefix_of(queue: &QueueName) -> String {
        format!("windrow:{{{queue}}}:")
    }

    pub(crate) fn meta(&self) -> &str {
        &self.fixed[0]
    }

    pub(crate) fn sched(&self) -> &str {
        &self.fixed[5]
    }

    pub(crate) fn wake(&self) -> &str {
        &self.fixed[12]
    }

    pub(crate) fn session(&self, sid: &str) -> String {
        format!("{}s:{sid}", self.prefix)
    }

    pub(crate) fn running(&self, sid: &str) -> String {
        format!("{}run:{sid}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_queue_share_its_hash_tag() {
        let keys = Keys::new(&QueueName::from_static("fetch"));
        assert!(keys.fixed.iter().all(|key| key.starts_with("windrow:{fetch}:")));
        assert_eq!(keys.session("ab"), "windrow:{fetch}:s:ab");
        assert_eq!(keys.wake(), "windrow:{fetch}:wake");
        assert_eq!(keys.sched(), "windrow:{fetch}:sched");
    }
}
