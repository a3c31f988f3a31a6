//! One transaction of postings.

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;
use windrow_queue::{JobError, error::is_transient};

use super::{
    Config,
    due::{DuePayment, Plan, lock_accounts, lock_due},
};

/// What one transaction did. Counts only once it is committed.
#[derive(Debug, Default)]
pub(super) struct Posted {
    /// Due dates posted.
    pub(super) posted: u64,
    /// Payments that became failed.
    pub(super) failed: u64,
    /// More is due than fitted.
    pub(super) more: bool,
    /// How late each payment was, in seconds.
    pub(super) lags: Vec<f64>,
}

/// Posts up to a batch of what is due, within the caller's transaction.
pub(super) async fn post_batch(tx: &mut PgConnection, config: &Config) -> Result<Posted, JobError> {
    let payments = lock_due(&mut *tx, config).await?;
    if payments.is_empty() {
        return Ok(Posted::default());
    }
    let accounts = lock_accounts(&mut *tx, &payments).await?;
    let mut done = Posted { more: payments.len() >= usize::from(config.batch), ..Posted::default() };
    let mut room = usize::from(config.batch);
    let mut plans = Vec::with_capacity(payments.len());
    let mut defects = Vec::new();
    for payment in &payments {
        if room == 0 {
            done.more = true;
            break;
        }
        let planned = payment.plan(room.min(usize::from(config.catch_up)));
        match planned.and_then(|plan| payment.defect(&accounts).map_or(Ok(plan), Err)) {
            Ok(plan) => {
                room -= plan.dates.len();
                done.more |= plan.more;
                plans.push(plan);
            }
            Err(reason) => defects.push(Failure::of(payment, reason)),
        }
    }
    defects.extend(post_all(&mut *tx, plans, &mut done).await?);
    done.failed = u64::try_from(defects.len()).unwrap_or(u64::MAX);
    record_failures(tx, &defects).await?;
    Ok(done)
}

/// A payment that cannot be posted, the date at which it stopped, and why.
#[derive(Debug)]
struct Failure {
    id: Uuid,
    due_on: NaiveDate,
    reason: String,
}

impl Failure {
    fn of(payment: &DuePayment, reason: String) -> Self {
        Self { id: payment.id, due_on: payment.next_due_on, reason }
    }
}

/// Posts all plans, or all but those that are refused: a group that is refused is halved until the bad payment stands alone.
/// What holds the others up is then at most a few statements.
async fn post_all(tx: &mut PgConnection, plans: Vec<Plan>, done: &mut Posted) -> Result<Vec<Failure>, JobError> {
    let mut failures = Vec::new();
    let mut groups = vec![plans];
    while let Some(mut group) = groups.pop() {
        if group.is_empty() {
            continue;
        }
        match try_post(&mut *tx, &group).await? {
            Ok(posted) => {
                done.posted += posted;
                done.lags.extend(group.iter().filter(|plan| !plan.dates.is_empty()).map(|plan| plan.lag));
            }
            Err(reason) => match group.as_slice() {
                [plan] => failures.extend(post_one_by_one(&mut *tx, plan, reason, done).await?),
                _ => {
                    let half = group.split_off(group.len() / 2);
                    groups.extend([half, group]);
                }
            },
        }
    }
    Ok(failures)
}

/// Posts the dates of a refused payment up to the first that is refused by itself too.
async fn post_one_by_one(
    tx: &mut PgConnection,
    plan: &Plan,
    reason: String,
    done: &mut Posted,
) -> Result<Option<Failure>, JobError> {
    if plan.dates.is_empty() {
        return Err(JobError::retry("payment_not_advanced", anyhow::anyhow!("payment {}: {reason}", plan.id)));
    }
    let mut rest = plan.clone();
    while let Some(due_on) = rest.dates.first().copied() {
        match try_post(&mut *tx, std::slice::from_ref(&rest.first(1))).await? {
            Ok(posted) => done.posted += posted,
            Err(reason) => return Ok(Some(Failure { id: plan.id, due_on, reason })),
        }
        rest = rest.rest();
    }
    Ok(None)
}

/// Posts a group inside a savepoint, with its balance checked before the savepoint is let go. The inner error is why
/// Postgres refused it, with nothing of it done; the outer one ends the whole transaction.
async fn try_post(tx: &mut PgConnection, group: &[Plan]) -> Result<Result<u64, String>, JobError> {
    sqlx::raw_sql("SAVEPOINT postings; SET CONSTRAINTS ALL DEFERRED").execute(&mut *tx).await?;
    match post(&mut *tx, group).await {
        Ok(posted) => {
            sqlx::raw_sql("RELEASE SAVEPOINT postings").execute(tx).await?;
            Ok(Ok(posted))
        }
        Err(error) if error.as_database_error().is_some() && !is_transient(&error) => {
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT postings; RELEASE SAVEPOINT postings").execute(tx).await?;
            Ok(Err(error.as_database_error().map_or_else(String::new, |error| error.message().to_owned())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs, transactions and entries in one statement. A date whose run is posted already makes no transaction, whatever made
/// the payment come back to it: the run's primary key is what counts.
const POST: &str = "
WITH due AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('ledger_transaction', 'id')) AS id, d.due_on, p.id AS payment_id, p.tenant,
           p.description, p.currency, p.amount, p.debit_account, p.credit_account
    FROM unnest($1::uuid[], $2::date[]) WITH ORDINALITY AS d (payment_id, due_on, position)
    JOIN recurring_payment p ON p.id = d.payment_id
    ORDER BY d.position
), run AS (
    INSERT INTO payment_run AS known (recurring_payment_id, due_on, outcome, transaction_id)
    SELECT payment_id, due_on, 'posted', id FROM due
    ON CONFLICT (recurring_payment_id, due_on) DO UPDATE
        SET outcome = 'posted', transaction_id = excluded.transaction_id, error = NULL, at = excluded.at
        WHERE known.outcome = 'failed'
    RETURNING transaction_id
), posting AS (
    INSERT INTO ledger_transaction (id, tenant, description, occurred_on, entries, recurring_payment_id)
    SELECT id, tenant, description, due_on, 2, payment_id FROM due WHERE id IN (SELECT transaction_id FROM run)
    RETURNING id
)
INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
SELECT due.id, side.position, side.account_id, due.currency, side.amount
FROM due JOIN posting USING (id)
CROSS JOIN LATERAL (VALUES (1, due.debit_account, due.amount), (2, due.credit_account, -due.amount))
    AS side (position, account_id, amount)";

async fn post(tx: &mut PgConnection, group: &[Plan]) -> Result<u64, sqlx::Error> {
    let mut dates: Vec<(NaiveDate, Uuid)> =
        group.iter().flat_map(|plan| plan.dates.iter().map(|date| (*date, plan.id))).collect();
    // Ids of transactions ascend with their dates.
    dates.sort_unstable();
    let mut posted = 0;
    if !dates.is_empty() {
        let entries = sqlx::query(POST)
            .bind(dates.iter().map(|(_, id)| *id).collect::<Vec<_>>())
            .bind(dates.iter().map(|(date, _)| *date).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        posted = entries.rows_affected() / 2;
        let asked = u64::try_from(dates.len()).unwrap_or(u64::MAX);
        if posted < asked {
            tracing::warn!(asked, posted, "some due dates had been posted before: they are left as they are");
        }
    }
    advance(&mut *tx, group).await?;
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(tx).await?;
    Ok(posted)
}

async fn advance(tx: &mut PgConnection, group: &[Plan]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE recurring_payment p
         SET next_due_on = n.due_on, next_due_at = n.due_at,
             state = CASE WHEN n.due_on IS NULL THEN 'finished' ELSE p.state END
         FROM unnest($1::uuid[], $2::date[], $3::timestamptz[]) AS n (id, due_on, due_at) WHERE p.id = n.id",
    )
    .bind(group.iter().map(|plan| plan.id).collect::<Vec<_>>())
    .bind(group.iter().map(|plan| plan.next.map(|(date, _)| date)).collect::<Vec<_>>())
    .bind(group.iter().map(|plan| plan.next.map(|(_, instant)| instant)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Leaves failed payments out until somebody resumes them, with the reason on the payment and on the date's run.
async fn record_failures(tx: &mut PgConnection, failures: &[Failure]) -> Result<(), JobError> {
    if failures.is_empty() {
        return Ok(());
    }
    for failure in failures {
        tracing::warn!(payment_id = %failure.id, due_on = %failure.due_on, reason = failure.reason,
            "a recurring payment cannot be posted; it is left out until it is resumed");
    }
    sqlx::query(
        "WITH failed AS (
             SELECT * FROM unnest($1::uuid[], $2::date[], $3::text[]) AS f (id, due_on, error)
         ), run AS (
             INSERT INTO payment_run AS known (recurring_payment_id, due_on, outcome, error)
             SELECT id, due_on, 'failed', error FROM failed
             ON CONFLICT (recurring_payment_id, due_on) DO UPDATE SET error = excluded.error, at = excluded.at
                 WHERE known.outcome = 'failed'
         )
         UPDATE recurring_payment p SET state = 'failed', error = failed.error, failed_at = now(),
                next_due_on = failed.due_on
         FROM failed WHERE p.id = failed.id",
    )
    .bind(failures.iter().map(|failure| failure.id).collect::<Vec<_>>())
    .bind(failures.iter().map(|failure| failure.due_on).collect::<Vec<_>>())
    .bind(failures.iter().map(|failure| &*failure.reason).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
