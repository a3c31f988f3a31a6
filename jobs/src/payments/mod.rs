//! Recurring payments, and the double-entry ledger into which they are posted.
//!
//! # What is promised
//!
//! - Every due date of an active payment is posted exactly once, missed ones too, in the order of their dates. The primary
//!   key of `payment_run` (payment, due date) makes a posting unique; the journal makes a job's effects happen once; a
//!   payment's row is locked while it is worked on, and other posters skip it.
//! - The database balances the ledger itself (`migrations/0006_ledger.sql`), whoever writes to it.
//! - A payment that cannot be posted does not hold up others: it becomes `failed` with its reason, stays at the date that
//!   failed, and is left out until somebody [resumes](recurring::resume) it.
//!
//! # How
//!
//! ```text
//! payment.post_due -> step: up to `batch` due postings in one transaction, checkpoint advanced with them
//!                     ... while more are due, up to `batches_per_job`
//!                  -> last transaction: what is still due; more left: a follow-up job; the job's own row deleted
//! ```
//!
//! One transaction posts a whole batch with a handful of statements: the payments are locked (`SKIP LOCKED`), their accounts
//! are locked in the order of their ids, one statement writes runs, transactions and entries, the trigger on entries updates
//! each account once, and `SET CONSTRAINTS ALL IMMEDIATE` has the balance checked inside of a savepoint. If anything is
//! refused, the batch is halved until the bad payment stands alone.
//!
//! A day begins where the tenant is: at the first instant of the date in its time zone ([`day::begin_of_day`]). The clock is
//! Postgres'.

pub mod account;
mod batch;
mod config;
pub mod day;
mod due;
mod error;
mod handler;
mod metrics;
pub mod recurring;
pub mod rhythm;
pub mod verify;

#[cfg(test)]
mod tests;

pub use account::{Account, AccountKind, NewAccount, create_account, list_accounts};
pub use config::Config;
pub use error::BookError;
pub use handler::{PostDue, PostDueHandler};
pub use metrics::PaymentMetrics;
pub use recurring::{NewRecurringPayment, PaymentState, RecurringPayment, create_recurring, list_recurring};
pub use rhythm::{DueDates, MonthDay, Rhythm};
pub use verify::{LedgerReport, verify_ledger};
