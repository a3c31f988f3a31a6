//! Parts of statements that several statements share.

/// CTEs `outbox` and `wake`: puts the rows of another CTE, which returns what [`ROW`](row) names, into the outbox, and wakes
/// the relay if it sleeps.
macro_rules! to_outbox {
    ($rows:literal) => {
        concat!(
            "outbox AS (
                 INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
                 SELECT band, now(), id, gen, queue, coalesce(tenant, ''), kind, run_at, rescue_limit, at_most_once
                 FROM ",
            $rows,
            " RETURNING id
             ), wake AS (
                 SELECT pg_notify('windrow_outbox', '') FROM relay_flag WHERE idle AND EXISTS (SELECT FROM outbox)
             )"
        )
    };
}
pub(super) use to_outbox;
