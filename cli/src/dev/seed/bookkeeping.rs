//! Accounts, and recurring payments of which most are due: some since days, some for the first time, one not yet.

use chrono::{Datelike, Days, Months, NaiveDate};
use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use windrow_jobs::payments::{
    AccountKind, MonthDay, NewAccount, NewRecurringPayment, Rhythm, create_account, create_recurring,
};
use windrow_queue::Tenant;

use super::{HARBOUR, LANTERN};

/// One tenant's books, all or nothing; left alone if they were kept before.
pub(super) async fn put(database: &PgPool) -> anyhow::Result<()> {
    for tenant in [HARBOUR, LANTERN] {
        let mut tx = database.begin().await?;
        let (has_books, today): (bool, NaiveDate) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM account WHERE tenant = $1), (now() AT TIME ZONE time_zone)::date
             FROM tenant WHERE id = $1",
        )
        .bind(tenant.as_str())
        .fetch_one(&mut *tx)
        .await?;
        if has_books {
            continue;
        }
        if tenant == HARBOUR {
            harbour(&mut tx, today).await?
        } else {
            lantern(&mut tx, today).await?
        }
        tx.commit().await?;
    }
    Ok(())
}

struct Books<'a> {
    connection: &'a mut PgConnection,
    tenant: Tenant,
    currency: &'static str,
}

impl Books<'_> {
    async fn account(&mut self, name: &str, kind: AccountKind) -> anyhow::Result<Uuid> {
        let new = NewAccount { tenant: self.tenant.clone(), name: name.into(), kind, currency: self.currency.into() };
        Ok(create_account(self.connection, &new).await?.id)
    }

    /// A payment from one account to another, by a rhythm, from a day on.
    async fn pay(
        &mut self,
        text: &str,
        cents: i64,
        from: Uuid,
        to: Uuid,
        when: (Rhythm, NaiveDate),
    ) -> anyhow::Result<()> {
        let (rhythm, start_on) = when;
        let payment = NewRecurringPayment {
            tenant: self.tenant.clone(),
            debit_account: to,
            credit_account: from,
            amount: Decimal::new(cents, 2),
            currency: self.currency.into(),
            description: text.into(),
            rhythm,
            start_on,
            end_on: None,
        };
        create_recurring(self.connection, &payment).await?;
        Ok(())
    }
}

async fn harbour(connection: &mut PgConnection, today: NaiveDate) -> anyhow::Result<()> {
    let mut books = Books { connection, tenant: HARBOUR, currency: "EUR" };
    let bank = books.account("Bank", AccountKind::Asset).await?;
    let rent = books.account("Rent", AccountKind::Expense).await?;
    let services = books.account("Services", AccountKind::Expense).await?;
    let subscriptions = books.account("Subscriptions", AccountKind::Income).await?;

    let weekly = Rhythm::Weekly { weekday: today.weekday() };
    let last_day = Rhythm::Monthly { day: MonthDay::LAST };
    let first_day = Rhythm::Monthly { day: MonthDay::try_from(1)? };
    let months_ago = |months| today - Months::new(months);
    books.pay("Subscriptions of the members", 189_000, subscriptions, bank, (first_day, months_ago(4))).await?;
    books.pay("Office rent", 142_050, bank, rent, (last_day, months_ago(4))).await?;
    books.pay("Cleaning", 8_640, bank, services, (weekly, today - Days::new(21))).await?;
    // Nobody looked for six days: each of them is posted, in order.
    books.pay("Servers, by the day", 1_423, bank, services, (Rhythm::Daily, today - Days::new(6))).await?;
    books.pay("Insurance, from next week on", 5_175, bank, services, (weekly, today + Days::new(7))).await
}

async fn lantern(connection: &mut PgConnection, today: NaiveDate) -> anyhow::Result<()> {
    let mut books = Books { connection, tenant: LANTERN, currency: "USD" };
    let bank = books.account("Checking", AccountKind::Asset).await?;
    let fees = books.account("Placement fees", AccountKind::Income).await?;
    let tools = books.account("Software", AccountKind::Expense).await?;

    let monthly = Rhythm::Monthly { day: MonthDay::try_from(31)? };
    let weekly = Rhythm::Weekly { weekday: today.weekday().pred() };
    books.pay("Retainer", 240_000, fees, bank, (monthly, today - Months::new(3))).await?;
    books.pay("Design tool", 2_900, bank, tools, (weekly, today - Days::new(15))).await?;
    books.pay("Text messages, by the day", 317, bank, tools, (Rhythm::Daily, today - Days::new(1))).await
}
