//! Is the ledger right? Asked of all rows, not of what the triggers believe.

use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

/// How many offenders of each sort are named.
const NAMED: i64 = 20;

/// What [`verify_ledger`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerReport {
    /// Transactions in the ledger.
    pub transactions: i64,
    /// Entries in the ledger.
    pub entries: i64,
    /// Transactions that do not sum to zero in each currency, or have not the entries they declare.
    pub unbalanced: i64,
    /// Accounts whose balance is not the sum of their entries.
    pub drifting: i64,
    /// Posted runs without a transaction for their date, and recurring transactions without their run.
    pub unmatched: i64,
    /// Some of the unbalanced transactions.
    pub unbalanced_ids: Vec<i64>,
    /// Some of the drifting accounts.
    pub drifting_accounts: Vec<Drift>,
}

/// An account whose balance is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Drift {
    /// The account.
    pub account_id: Uuid,
    /// What it says.
    pub balance: Decimal,
    /// What its entries say.
    pub entries: Decimal,
    /// How many accounts drift in all.
    #[serde(skip)]
    found: i64,
}

impl LedgerReport {
    /// Whether there is nothing to complain of.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.unbalanced == 0 && self.drifting == 0 && self.unmatched == 0
    }
}

/// Reads the whole ledger. Each question is one statement, so that postings in the meantime disturb none.
///
/// # Errors
/// When Postgres is away.
pub async fn verify_ledger(pool: &PgPool) -> Result<LedgerReport, sqlx::Error> {
    let (transactions, entries): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM ledger_transaction), (SELECT count(*) FROM ledger_entry)")
            .fetch_one(pool)
            .await?;
    let unbalanced: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT t.id, count(*) OVER () FROM ledger_transaction t LEFT JOIN (
             SELECT transaction_id, sum(n)::bigint AS n, bool_and(total = 0) AS balanced FROM (
                 SELECT transaction_id, count(*) AS n, sum(amount) AS total
                 FROM ledger_entry GROUP BY transaction_id, currency) AS per_currency
             GROUP BY transaction_id) AS e ON e.transaction_id = t.id
         WHERE e.n IS DISTINCT FROM t.entries::bigint OR NOT e.balanced
         ORDER BY t.id LIMIT $1",
    )
    .bind(NAMED)
    .fetch_all(pool)
    .await?;
    let drifting: Vec<Drift> = sqlx::query_as(
        "SELECT a.id AS account_id, a.balance, coalesce(e.total, 0) AS entries, count(*) OVER () AS found
         FROM account a LEFT JOIN (SELECT account_id, sum(amount) AS total FROM ledger_entry GROUP BY account_id) AS e
             ON e.account_id = a.id
         WHERE a.balance <> coalesce(e.total, 0) ORDER BY a.id LIMIT $1",
    )
    .bind(NAMED)
    .fetch_all(pool)
    .await?;
    let unmatched = sqlx::query_scalar(
        "SELECT count(*) FROM
             (SELECT recurring_payment_id, due_on, transaction_id FROM payment_run WHERE outcome = 'posted') AS r
         FULL JOIN (SELECT id, recurring_payment_id, occurred_on FROM ledger_transaction
                    WHERE recurring_payment_id IS NOT NULL) AS t ON t.id = r.transaction_id
         WHERE t.id IS NULL OR r.transaction_id IS NULL
            OR (t.recurring_payment_id, t.occurred_on) IS DISTINCT FROM (r.recurring_payment_id, r.due_on)",
    )
    .fetch_one(pool)
    .await?;
    Ok(LedgerReport {
        transactions,
        entries,
        unbalanced: unbalanced.first().map_or(0, |(_, found)| *found),
        drifting: drifting.first().map_or(0, |drift| drift.found),
        unmatched,
        unbalanced_ids: unbalanced.into_iter().map(|(id, _)| id).collect(),
        drifting_accounts: drifting,
    })
}
