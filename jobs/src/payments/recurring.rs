//! Recurring payments: create, list, pause, resume.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool, Row};
use uuid::Uuid;
use windrow_queue::Tenant;

use super::{BookError, DueDates, Rhythm, day::begin_of_day, due::RhythmColumns};

/// A recurring payment to be created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRecurringPayment {
    /// Whose it is; both accounts are the same tenant's.
    pub tenant: Tenant,
    /// The account debited.
    pub debit_account: Uuid,
    /// The account credited.
    pub credit_account: Uuid,
    /// Exact; no finer than the currency's smallest unit. A string in JSON.
    pub amount: Decimal,
    /// ISO 4217, the currency of both accounts.
    pub currency: String,
    /// What stands in the books.
    pub description: String,
    /// How often.
    pub rhythm: Rhythm,
    /// None falls due before this day. If it is past, the missed dates are posted.
    pub start_on: NaiveDate,
    /// None falls due after this day.
    #[serde(default)]
    pub end_on: Option<NaiveDate>,
}

/// Where a recurring payment stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PaymentState {
    /// Posted when due.
    Active,
    /// Left out until somebody resumes it; then its missed dates are posted.
    Paused,
    /// Could not be posted: left out until somebody resumes it; then its missed dates are posted.
    Failed,
    /// Its last date is posted.
    Finished,
}

/// A recurring payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct RecurringPayment {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// The account debited.
    pub debit_account: Uuid,
    /// The account credited.
    pub credit_account: Uuid,
    /// Each time.
    pub amount: Decimal,
    /// ISO 4217.
    pub currency: String,
    /// What stands in the books.
    pub description: String,
    /// How often.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub rhythm: RhythmColumns,
    /// Its first day.
    pub start_on: NaiveDate,
    /// Its last day.
    pub end_on: Option<NaiveDate>,
    /// The first due date that has not been posted.
    pub next_due_on: Option<NaiveDate>,
    /// When that day begins at the tenant's.
    pub next_due_at: Option<DateTime<Utc>>,
    /// Where it stands.
    pub state: PaymentState,
    /// Why it is failed.
    pub error: Option<String>,
}

const COLUMNS: &str =
    "id, tenant, debit_account, credit_account, amount, currency, description, rhythm, weekday, month_day,
    start_on, end_on, next_due_on, next_due_at, state, error";

pub(super) fn check_length(what: &'static str, text: &str, longest: usize) -> Result<(), BookError> {
    let length = text.chars().count();
    if (1..=longest).contains(&length) { Ok(()) } else { Err(BookError::Length { what, longest, length }) }
}

/// Creates a recurring payment. What is due already is posted by the next `payment.post_due`.
///
/// # Errors
/// Whatever would keep it from being posted, said now: accounts, currency, amount, dates.
pub async fn create_recurring(
    connection: &mut PgConnection,
    new: &NewRecurringPayment,
) -> Result<RecurringPayment, BookError> {
    check_length("the description", &new.description, 500)?;
    for date in [Some(new.start_on), new.end_on].into_iter().flatten() {
        if !(NaiveDate::from_ymd_opt(1970, 1, 1)..=NaiveDate::from_ymd_opt(9999, 12, 31)).contains(&Some(date)) {
            return Err(BookError::DateRange(date));
        }
    }
    check_accounts(&mut *connection, new).await?;
    let amount = check_amount(&mut *connection, new).await?;
    let dates = DueDates { rhythm: new.rhythm, start_on: new.start_on, end_on: new.end_on };
    let first = dates
        .on_or_after(new.start_on)
        .ok_or(BookError::NeverDue { start_on: new.start_on, end_on: new.end_on.unwrap_or(NaiveDate::MAX) })?;
    let zone = zone_of(&mut *connection, &new.tenant).await?;
    let columns = RhythmColumns::from(new.rhythm);
    let sql = format!(
        "INSERT INTO recurring_payment (tenant, debit_account, credit_account, amount, currency, description, rhythm,
             weekday, month_day, start_on, end_on, next_due_on, next_due_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING {COLUMNS}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(new.tenant.as_str())
        .bind(new.debit_account)
        .bind(new.credit_account)
        .bind(amount)
        .bind(&new.currency)
        .bind(&new.description)
        .bind(columns.rhythm)
        .bind(columns.weekday)
        .bind(columns.month_day)
        .bind(new.start_on)
        .bind(new.end_on)
        .bind(first)
        .bind(begin_of_day(first, zone))
        .fetch_one(connection)
        .await?)
}

async fn zone_of(connection: &mut PgConnection, tenant: &Tenant) -> Result<Tz, BookError> {
    let zone: Option<String> = sqlx::query_scalar("SELECT time_zone FROM tenant WHERE id = $1")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    let zone = zone.ok_or_else(|| BookError::UnknownTenant(tenant.to_string()))?;
    zone.parse().map_err(|_| BookError::UnknownZone { tenant: tenant.to_string(), zone })
}

async fn check_accounts(connection: &mut PgConnection, new: &NewRecurringPayment) -> Result<(), BookError> {
    if new.debit_account == new.credit_account {
        return Err(BookError::SameAccount(new.debit_account));
    }
    for id in [new.debit_account, new.credit_account] {
        let account = sqlx::query("SELECT name, currency, active FROM account WHERE id = $1 AND tenant = $2")
            .bind(id)
            .bind(new.tenant.as_str())
            .fetch_optional(&mut *connection)
            .await?
            .ok_or_else(|| BookError::UnknownAccount { tenant: new.tenant.to_string(), account: id })?;
        let currency: String = account.try_get("currency")?;
        if currency != new.currency {
            return Err(BookError::WrongCurrency {
                account: account.try_get("name")?,
                kept_in: currency,
                asked_for: new.currency.clone(),
            });
        }
        if !account.try_get::<bool, _>("active")? {
            return Err(BookError::InactiveAccount(account.try_get("name")?));
        }
    }
    Ok(())
}

/// The amount with exactly the currency's decimals.
async fn check_amount(connection: &mut PgConnection, new: &NewRecurringPayment) -> Result<Decimal, BookError> {
    if new.amount <= Decimal::ZERO || new.amount >= Decimal::from(1_000_000_000_000_000_i64) {
        return Err(BookError::AmountRange(new.amount));
    }
    let scale: Option<i16> = sqlx::query_scalar("SELECT scale FROM currency WHERE code = $1")
        .bind(&new.currency)
        .fetch_optional(connection)
        .await?;
    let scale = scale
        .and_then(|scale| u32::try_from(scale).ok())
        .ok_or_else(|| BookError::UnknownCurrency(new.currency.clone()))?;
    if new.amount.normalize().scale() > scale {
        return Err(BookError::TooFine { amount: new.amount, currency: new.currency.clone(), scale });
    }
    let mut amount = new.amount;
    amount.rescale(scale);
    Ok(amount)
}

/// Recurring payments in the order of their ids, of one tenant or of all, in one state or in any, from behind the id given
/// last.
///
/// # Errors
/// When Postgres is away.
pub async fn list_recurring(
    pool: &PgPool,
    tenant: Option<&Tenant>,
    state: Option<PaymentState>,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<RecurringPayment>, sqlx::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM recurring_payment
         WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR state = $2) AND ($3::uuid IS NULL OR id > $3)
         ORDER BY id LIMIT $4"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(tenant.map(Tenant::as_str))
        .bind(state)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
}

/// Takes a payment out until it is resumed.
///
/// # Errors
/// When there is no such payment that is active.
pub async fn pause(pool: &PgPool, id: Uuid) -> Result<(), BookError> {
    change(
        pool,
        id,
        "active",
        "UPDATE recurring_payment SET state = 'paused' WHERE id = $1 AND state = 'active' RETURNING id",
    )
    .await
}

/// Has a paused or failed payment posted again, from the date at which it stopped.
///
/// # Errors
/// When there is no such payment that is paused or failed.
pub async fn resume(pool: &PgPool, id: Uuid) -> Result<(), BookError> {
    change(
        pool,
        id,
        "paused or failed",
        "UPDATE recurring_payment SET state = 'active', error = NULL, failed_at = NULL
         WHERE id = $1 AND state IN ('paused', 'failed') RETURNING id",
    )
    .await
}

async fn change(pool: &PgPool, id: Uuid, expected: &'static str, sql: &'static str) -> Result<(), BookError> {
    let changed: Option<Uuid> = sqlx::query_scalar(sql).bind(id).fetch_optional(pool).await?;
    changed.map(drop).ok_or(BookError::UnknownPayment { id, expected })
}
