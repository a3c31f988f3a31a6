//! In a Redis Cluster: which node owns which slot.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use redis::{ConnectionInfo, RedisError, Value};
use tokio::time::sleep;

use super::{Address, Lost, ask, slot::SLOTS};

/// A node that does not answer at once is not waited for before the next one is asked.
const STAGGER: Duration = Duration::from_millis(100);
/// Stands for a slot that no node owns.
const NOBODY: u16 = u16::MAX;

/// Who owns what.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Slots {
    masters: Vec<Address>,
    owners: Vec<u16>,
}

impl Slots {
    /// The node of a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Address> {
        self.masters.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// The nodes that own slots, or did when they were last heard of.
    pub(crate) fn masters(&self) -> &[Address] {
        &self.masters
    }

    /// Writes down what a node said with MOVED.
    pub(crate) fn moved(&mut self, slot: u16, to: Address) {
        let index = self.index(to);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = index;
        }
    }

    fn index(&mut self, address: Address) -> u16 {
        let at = self.masters.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.masters.push(address);
            self.masters.len() - 1
        });
        u16::try_from(at).unwrap_or(NOBODY)
    }

    /// Reads an answer to CLUSTER SLOTS. Nobody's slots stay so.
    fn read(answer: &[Value], asked: &Address) -> Option<Self> {
        let mut slots = Self { masters: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] };
        for range in answer {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else { return None };
            let [host, Value::Int(port), ..] = &master[..] else { return None };
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                _ => "",
            };
            let index = slots.index(Address::named(host, u16::try_from(*port).ok()?, asked));
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            slots.owners.get_mut(first..=last)?.fill(index);
        }
        (!slots.masters.is_empty()).then_some(slots)
    }
}

/// The nodes that the settings name.
pub(crate) struct Nodes {
    pub(crate) seeds: Vec<Address>,
    /// Counts searches, each of which begins with another node: one that was cut off does not have the first word for ever.
    pub(crate) searches: AtomicUsize,
}

impl Nodes {
    /// Asks one node after the other until one says who owns what.
    pub(crate) async fn search(&self, redis: &ConnectionInfo, known: &[Address]) -> Result<Slots, Lost> {
        let mut nodes: Vec<&Address> = known.iter().collect();
        nodes.extend(self.seeds.iter().filter(|seed| !known.contains(seed)));
        let first = self.searches.fetch_add(1, Ordering::Relaxed) % nodes.len();
        nodes.rotate_left(first);
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .zip(0..)
            .map(async |(node, before)| {
                sleep(STAGGER * before).await;
                let answer: Result<Vec<Value>, RedisError> =
                    ask(&node.on(redis), redis::cmd("CLUSTER").arg("SLOTS")).await;
                (node, answer)
            })
            .collect();
        let mut lost = Lost::default();
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(answer) => match Slots::read(&answer, node) {
                    Some(slots) => return Ok(slots),
                    None => lost.blame(node, "knows no owner of any slot"),
                },
                Err(error) if error.detail().is_some_and(|detail| detail.contains("cluster support disabled")) => {
                    lost.blame_setting("cluster", node, "is no node of a Redis Cluster");
                }
                Err(error) => lost.blame(node, error),
            }
        }
        Err(lost)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |port| Value::Array(vec![text(host), Value::Int(port), text("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(port), node(port + 1)])
    }

    fn owner(slots: &Slots, slot: u16) -> Option<String> {
        slots.owner(slot).map(ToString::to_string)
    }

    #[test]
    fn an_answer_to_cluster_slots_is_read_and_moved_is_written_down() {
        let asked = Address { host: "seed".into(), port: 1 };
        let answer = [range(0, 99, "a", 1), range(100, 100, "", 7000), range(200, 16383, "a", 1)];
        let mut slots = Slots::read(&answer, &asked).unwrap();
        assert_eq!(owner(&slots, 99).as_deref(), Some("a:1"));
        assert_eq!(owner(&slots, 100).as_deref(), Some("seed:7000"), "a node that does not know its own name");
        assert_eq!(owner(&slots, 101), None);
        assert_eq!(owner(&slots, 16383).as_deref(), Some("a:1"));
        slots.moved(99, Address { host: "b".into(), port: 2 });
        assert_eq!((owner(&slots, 99).as_deref(), owner(&slots, 98).as_deref()), (Some("b:2"), Some("a:1")));
        assert_eq!(slots.masters().len(), 3);
        for wrong in [vec![], vec![Value::Int(1)], vec![range(0, 16384, "a", 1)], vec![range(-1, 5, "a", 1)]] {
            assert_eq!(Slots::read(&wrong, &asked), None, "{wrong:?}");
        }
    }
}
