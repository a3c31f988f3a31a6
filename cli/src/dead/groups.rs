//! What jobs died of: those of both stores, grouped by kind and fingerprint.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use windrow_queue::{
    Kind, Tenant, journal,
    store::{Filter, Store},
};

use super::digits;
use crate::{context::Context, kinds, output::time};

/// Groups that are counted at a time; beyond it, what is new is not told apart.
const MAX_GROUPS: usize = 10_000;

/// What they died of.
#[derive(Debug, Serialize)]
struct Group {
    fingerprint: String,
    kind: String,
    jobs: u64,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    sample: String,
}

impl Group {
    fn add(&mut self, jobs: u64, first: Option<DateTime<Utc>>, last: Option<DateTime<Utc>>, sample: String) {
        self.jobs += jobs;
        self.first = [self.first, first].into_iter().flatten().min();
        if last > self.last {
            (self.last, self.sample) = (last, sample);
        }
    }
}

pub(super) async fn groups(
    context: &Context,
    store: &Store,
    database: &PgPool,
    kind: Option<&Kind>,
    tenant: Option<&Tenant>,
    limit: usize,
) -> anyhow::Result<()> {
    let mut groups: HashMap<(String, String), Group> = HashMap::new();
    let mut untold = 0;
    let mut add = |fingerprint: String, kind: String, jobs: u64, first, last, sample: String| {
        let key = (fingerprint, kind);
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&key) {
            untold += jobs;
            return;
        }
        let (fingerprint, kind) = key.clone();
        let new = Group { fingerprint, kind, jobs: 0, first: None, last: None, sample: String::new() };
        groups.entry(key).or_insert(new).add(jobs, first, last, sample);
    };
    for group in journal::dead_groups(database, kind, tenant, i64::try_from(MAX_GROUPS)?).await? {
        let print = <[u8; 16]>::try_from(&*group.fingerprint).map(|print| digits(&print)).unwrap_or_default();
        let jobs = u64::try_from(group.jobs).unwrap_or(0);
        add(print, group.kind, jobs, Some(group.first), Some(group.last), group.sample);
    }
    let filter = Filter { kind: kind.cloned(), tenant: tenant.cloned(), ..Filter::default() };
    for queue in kinds::catalog().queues() {
        let mut after = None;
        loop {
            let page = store.dead(&queue, &filter, after.as_ref(), windrow_queue::store::MAX_PAGE).await?;
            for dead in page.items {
                let print = digits(&dead.fingerprint());
                let sample = dead.error.map(|error| format!("{}: {}", error.class, error.message));
                add(print, dead.kind.into(), 1, dead.died_at, dead.died_at, sample.unwrap_or_default());
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| (std::cmp::Reverse((group.jobs, group.last)), group.fingerprint.clone()));
    groups.truncate(limit);
    if untold > 0 {
        eprintln!(
            "windrow: {untold} jobs are in none of the {MAX_GROUPS} groups that are told apart: filter by kind or tenant"
        );
    }
    context.output.list(&groups, ["fingerprint", "kind", "jobs", "first", "last", "the last said"], |group| {
        let sample: String = group.sample.chars().take(100).collect();
        let (first, last) = (time(group.first), time(group.last));
        [group.fingerprint.clone(), group.kind.clone(), group.jobs.to_string(), first, last, sample]
    })
}
