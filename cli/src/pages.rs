//! Walking over pages: lists that go on until they have what was asked for, and acts on journaled jobs, page by page.

use sqlx::PgPool;
use windrow_api::list::{self, JobPage, ListQuery};
use windrow_queue::{
    JobId,
    store::{Pace, Store, Walk, Walked},
};

use crate::{kinds, operate::Progress};

/// Journaled jobs in one statement.
pub(crate) const BATCH: usize = 500;
/// Pages of which one list is put together, at most: a filter that fits next to nothing ends then, and says where.
const PAGES: usize = 100;

/// Jobs in a state: a page looks at a bounded part of a queue, so with a filter there may be more behind a short one.
///
/// # Errors
/// When a store is away, or the query is none.
pub(crate) async fn list(store: &Store, database: &PgPool, mut query: ListQuery) -> anyhow::Result<JobPage> {
    let (catalog, limit) = (kinds::catalog(), query.limit);
    let mut all = JobPage::default();
    for _ in 0..PAGES {
        query.limit = limit - all.jobs.len();
        let page = list::list(store, database, &catalog, &query).await?;
        all.jobs.extend(page.jobs);
        all.unreadable.extend(page.unreadable);
        all.next.clone_from(&page.next);
        query.cursor = page.next;
        if query.cursor.is_none() || all.jobs.len() >= limit {
            break;
        }
    }
    Ok(all)
}

/// Finds journaled jobs page by page, behind the place where the page before ended, and decides about those of each, at the pace of
/// the walk; a dry run only counts them. Ends softly between two pages.
///
/// # Errors
/// When Postgres is away: `walked` says how far it came.
pub(crate) async fn each_journaled<C>(
    walk: &Walk,
    walked: &mut Walked,
    progress: &Progress,
    find: impl AsyncFn(Option<C>, usize) -> anyhow::Result<(Vec<JobId>, Option<C>)>,
    decide: impl AsyncFn(&[JobId], &mut Walked) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut pace, mut after) = (Pace::new(walk), None);
    loop {
        let (ids, next) = find(after, pace.batch(BATCH)).await?;
        if !ids.is_empty() {
            if !pace.next(ids.len()).await {
                walked.stopped = true;
                return Ok(());
            }
            walked.matched += ids.len() as u64;
            if !walk.dry_run {
                decide(&ids, walked).await?;
            }
            progress.tell(walked);
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
        if walk.stop.is_cancelled() {
            walked.stopped = true;
            return Ok(());
        }
    }
}
