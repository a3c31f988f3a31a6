//! Accounts.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;
use windrow_queue::Tenant;

use super::BookError;

/// What an account stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AccountKind {
    /// What one has.
    Asset,
    /// What one owes.
    Liability,
    /// What belongs to the owners.
    Equity,
    /// What comes in.
    Income,
    /// What goes out.
    Expense,
}

/// An account to be opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Whose it is.
    pub tenant: Tenant,
    /// Unique in the tenant.
    pub name: String,
    /// What it stands for.
    pub kind: AccountKind,
    /// ISO 4217.
    pub currency: String,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Account {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Unique in the tenant.
    pub name: String,
    /// What it stands for.
    pub kind: AccountKind,
    /// ISO 4217.
    pub currency: String,
    /// The sum of its entries: debits minus credits.
    pub balance: Decimal,
    /// Nothing is posted to an account that is not.
    pub active: bool,
}

/// Opens an account, with nothing on it.
///
/// # Errors
/// When the tenant or the currency does not exist, or the name is taken or too long.
pub async fn create_account(connection: &mut PgConnection, new: &NewAccount) -> Result<Account, BookError> {
    super::recurring::check_length("the account's name", &new.name, 200)?;
    let (tenant, currency): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM tenant WHERE id = $1), EXISTS (SELECT FROM currency WHERE code = $2)",
    )
    .bind(new.tenant.as_str())
    .bind(&new.currency)
    .fetch_one(&mut *connection)
    .await?;
    if !tenant {
        return Err(BookError::UnknownTenant(new.tenant.to_string()));
    }
    if !currency {
        return Err(BookError::UnknownCurrency(new.currency.clone()));
    }
    sqlx::query_as(
        "INSERT INTO account (tenant, name, kind, currency) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, name) DO NOTHING
         RETURNING id, tenant, name, kind, currency, balance, active",
    )
    .bind(new.tenant.as_str())
    .bind(&new.name)
    .bind(new.kind)
    .bind(&new.currency)
    .fetch_optional(connection)
    .await?
    .ok_or_else(|| BookError::NameTaken { tenant: new.tenant.to_string(), name: new.name.clone() })
}

/// Opens an account for postings again, or closes it to them. False: there is no such account.
///
/// # Errors
/// When Postgres is away.
pub async fn set_account_active(pool: &PgPool, id: Uuid, active: bool) -> Result<bool, sqlx::Error> {
    let changed =
        sqlx::query("UPDATE account SET active = $2 WHERE id = $1").bind(id).bind(active).execute(pool).await?;
    Ok(changed.rows_affected() > 0)
}

/// Accounts by tenant and name, of one tenant or of all, from behind the one given last.
///
/// # Errors
/// When Postgres is away.
pub async fn list_accounts(
    pool: &PgPool,
    tenant: Option<&Tenant>,
    after: Option<&Account>,
    limit: u32,
) -> Result<Vec<Account>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, tenant, name, kind, currency, balance, active FROM account
         WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR (tenant, name) > ($2, $3))
         ORDER BY tenant, name LIMIT $4",
    )
    .bind(tenant.map(Tenant::as_str))
    .bind(after.map(|account| account.tenant.as_str()))
    .bind(after.map(|account| account.name.as_str()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
}
