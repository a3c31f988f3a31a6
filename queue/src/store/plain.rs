//! The short way in, for calls whose jobs are all plain: ready at once, with no key and no batch. Everything that can be done
//! before Redis is asked is done here: jobs are sorted by lane, weighed, and their envelopes finished with the time that Redis'
//! clock will show. What the short way cannot decide it leaves alone, and `enqueue.lua` is asked.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    sync::{Mutex, PoisonError},
};

use redis::{RedisWrite, ToRedisArgs};
use tokio::time::Instant;

use super::{Store, StoreError, enqueue::Item, envelope, script::ENQUEUE_PLAIN};
use crate::name::QueueName;

/// What the clocks of queues showed last, by which their time now is reckoned. A queue has the clock of its server.
pub(super) struct Clocks {
    /// The manual clock of tests stands still.
    stand_still: bool,
    last: Mutex<HashMap<QueueName, (Instant, i64)>>,
}

impl Clocks {
    /// `key`: empty, or that of a manual clock.
    pub(super) fn new(key: &str) -> Self {
        Self { stand_still: !key.is_empty(), last: Mutex::default() }
    }

    /// The time in milliseconds: behind what the clock shows by the way of the last answer, never ahead as long as the clock
    /// runs evenly. A clock that was never seen reads 0.
    fn reckon(&self, queue: &QueueName, now: Instant) -> i64 {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(at, shown)) = last.get(queue) else { return 0 };
        let since = if self.stand_still { 0 } else { i64::try_from((now - at).as_millis()).unwrap_or(i64::MAX) };
        shown.saturating_add(since)
    }

    fn showed(&self, queue: &QueueName, at: Instant, shown: i64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(queue) {
            Some(known) => *known = (at, shown),
            None => drop(last.insert(queue.clone(), (at, shown))),
        }
    }
}

/// A part with the two times before it.
struct Stamped<'a> {
    times: [u8; envelope::TIMES],
    part: &'a [u8],
}

impl ToRedisArgs for Stamped<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let mut arg = out.writer_for_next_arg();
        // It writes into memory.
        let written = arg.write_all(&self.times).and_then(|()| arg.write_all(self.part));
        debug_assert!(written.is_ok());
    }
}

/// How many jobs and bytes.
#[derive(Clone, Copy, Default)]
struct Weight {
    jobs: usize,
    bytes: usize,
}

impl Weight {
    fn add(&mut self, part: &[u8]) {
        self.jobs += 1;
        self.bytes += envelope::TIMES + part.len();
    }
}

/// Jobs by their lanes, in the order in which a lane was first met; within a lane in their own.
struct Sorted<'a> {
    lanes: Vec<(&'a [u8], Vec<&'a Item>)>,
    tenants: Vec<(&'a [u8], Weight)>,
    all: Weight,
}

impl<'a> Sorted<'a> {
    fn new(items: &'a [Item]) -> Self {
        let mut sorted = Self { lanes: Vec::new(), tenants: Vec::new(), all: Weight::default() };
        let (mut lane_at, mut tenant_at) = (HashMap::new(), HashMap::new());
        let mut last: Option<(&[u8], usize, usize)> = None;
        for item in items {
            let lane = envelope::lane_of(&item.part);
            let (to_lane, to_tenant) = match last {
                Some((known, to_lane, to_tenant)) if known == lane => (to_lane, to_tenant),
                _ => {
                    let to_lane = *lane_at.entry(lane).or_insert_with(|| {
                        sorted.lanes.push((lane, Vec::new()));
                        sorted.lanes.len() - 1
                    });
                    let tenant = envelope::tenant_of(lane);
                    let to_tenant = *tenant_at.entry(tenant).or_insert_with(|| {
                        sorted.tenants.push((tenant, Weight::default()));
                        sorted.tenants.len() - 1
                    });
                    last = Some((lane, to_lane, to_tenant));
                    (to_lane, to_tenant)
                }
            };
            sorted.lanes[to_lane].1.push(item);
            sorted.tenants[to_tenant].1.add(&item.part);
            sorted.all.add(&item.part);
        }
        sorted
    }
}

/// Ids mostly rise, and then none comes twice.
fn all_differ(items: &[Item]) -> bool {
    items.is_sorted_by(|a, b| a.member < b.member)
        || items.iter().map(|item| &item.member).collect::<HashSet<_>>().len() == items.len()
}

impl Store {
    /// Puts jobs in if all are plain and nothing needs a closer look. If not, nothing was done.
    ///
    /// # Errors
    /// When Redis is away: they may be in.
    pub(super) async fn enqueue_plain(&self, queue: &QueueName, items: &[Item]) -> Result<bool, StoreError> {
        if items.is_empty() || !items.iter().all(Item::is_plain) || !all_differ(items) {
            return Ok(false);
        }
        let clocks = &self.inner.clocks;
        let time = clocks.reckon(queue, Instant::now());
        let times = envelope::times(time);
        let sorted = Sorted::new(items);

        let config = self.config();
        let mut call = ENQUEUE_PLAIN.call_with(
            queue,
            &["jobs", "use", "act", "meta", "wake", "tomb", "tl", "never"],
            &self.inner.clock,
        );
        call.arg(config.max_jobs).arg(config.max_bytes).arg(config.max_tenant_jobs).arg(config.max_tenant_bytes);
        call.arg(time).arg(sorted.tenants.len()).arg(sorted.lanes.len()).arg(items.len());
        call.arg(b"\0");
        for (tenant, _) in &sorted.tenants {
            call.arg(tenant);
        }
        for Weight { jobs, bytes } in
            std::iter::once(&sorted.all).chain(sorted.tenants.iter().map(|(_, weight)| weight))
        {
            call.arg(jobs).arg(bytes);
        }
        for (lane, _) in &sorted.lanes {
            call.arg(lane);
        }
        for (_, items) in &sorted.lanes {
            call.arg(items.len());
        }
        for item in sorted.lanes.iter().flat_map(|(_, items)| items) {
            call.arg(&item.member).arg(Stamped { times, part: &item.part });
        }
        let shown: i64 = self.link().run(&ENQUEUE_PLAIN, &call).await?;
        clocks.showed(queue, Instant::now(), shown.abs());
        Ok(shown > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_is_reckoned_from_what_it_showed_last() {
        let (clocks, queue, start) = (Clocks::new(""), QueueName::from_static("q"), Instant::now());
        assert_eq!(clocks.reckon(&queue, start), 0);
        clocks.showed(&queue, start, 5000);
        assert_eq!(clocks.reckon(&queue, start + Duration::from_micros(1500)), 5001);
        clocks.showed(&queue, start + Duration::from_secs(1), 4000);
        assert_eq!(clocks.reckon(&queue, start + Duration::from_secs(2)), 5000);
        assert_eq!(clocks.reckon(&QueueName::from_static("other"), start), 0);
    }
}
