#![allow(clippy::unwrap_used, reason = "tests")]

mod creating;
mod faults;
mod ledger;
mod posting;

use chrono::NaiveDate;
use prometheus::Registry;
use rust_decimal::Decimal;
use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::{Handler, JobId, JobResult, Tenant};

use super::*;
use crate::testing::{attempt, attempt_of, count, database, standing, tenant};

/// A tenant with a few accounts in euros.
struct Books {
    pool: PgPool,
    tenant: Tenant,
    rent: Uuid,
    bank: Uuid,
}

impl Books {
    async fn open() -> Self {
        let pool = database().await;
        let tenant = tenant(&pool, "acme").await;
        let rent = account(&pool, &tenant, "rent", "EUR").await;
        let bank = account(&pool, &tenant, "bank", "EUR").await;
        Self { pool, tenant, rent, bank }
    }

    /// A daily payment that began so many days ago by Postgres' clock, today included.
    async fn daily(&self, days_ago: i32) -> RecurringPayment {
        let today: NaiveDate =
            sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::date").fetch_one(&self.pool).await.unwrap();
        self.payment(Rhythm::Daily, today - chrono::TimeDelta::days(days_ago.into()), None).await
    }

    async fn payment(&self, rhythm: Rhythm, start_on: NaiveDate, end_on: Option<NaiveDate>) -> RecurringPayment {
        let new = NewRecurringPayment { rhythm, start_on, end_on, ..self.wanted() };
        create_recurring(&mut self.pool.acquire().await.unwrap(), &new).await.unwrap()
    }

    fn wanted(&self) -> NewRecurringPayment {
        NewRecurringPayment {
            tenant: self.tenant.clone(),
            debit_account: self.rent,
            credit_account: self.bank,
            amount: Decimal::new(1250, 2),
            currency: "EUR".into(),
            description: "office".into(),
            rhythm: Rhythm::Daily,
            start_on: "2024-01-31".parse().unwrap(),
            end_on: None,
        }
    }

    /// Many payments due today, between the two accounts.
    async fn due_today(&self, how_many: i32) {
        sqlx::query(
            "INSERT INTO recurring_payment (tenant, debit_account, credit_account, amount, currency, description, rhythm,
                 start_on, next_due_on, next_due_at)
             SELECT 'acme', $2, $3, round(1.00 + n / 100.0, 2), 'EUR', 'payment ' || n, 'daily', current_date, current_date, now()
             FROM generate_series(1, $1) AS n",
        )
        .bind(how_many)
        .bind(self.rent)
        .bind(self.bank)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    fn handler(&self, config: &Config) -> PostDueHandler {
        PostDueHandler::new(config, self.pool.clone(), PaymentMetrics::new(&Registry::new()))
    }

    /// Runs a sweep and whatever follow-ups it leaves, to the end.
    async fn sweep(&self, config: &Config) {
        let (ctx, _) = attempt(&self.pool, None, &PostDue {}).await;
        self.handler(config).run(ctx, PostDue {}).await.unwrap();
        while let Some(id) = standing::<PostDue>(&self.pool).await.first() {
            self.run(config, *id).await.unwrap();
        }
    }

    async fn run(&self, config: &Config, id: JobId) -> JobResult {
        let (ctx, args) = attempt_of::<PostDue>(&self.pool, id).await;
        self.handler(config).run(ctx, args).await
    }

    async fn posted(&self) -> i64 {
        count(&self.pool, "SELECT count(*) FROM payment_run WHERE outcome = 'posted'").await
    }

    async fn balance(&self, account: Uuid) -> Decimal {
        sqlx::query_scalar("SELECT balance FROM account WHERE id = $1")
            .bind(account)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn find(&self, id: Uuid) -> RecurringPayment {
        let all = list_recurring(&self.pool, None, None, None, 10_000).await.unwrap();
        all.into_iter().find(|payment| payment.id == id).unwrap()
    }

    async fn assert_sound(&self) {
        let report = verify_ledger(&self.pool).await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(
            count(&self.pool, "SELECT count(*) FROM (SELECT 1 FROM account HAVING sum(balance) <> 0) AS odd").await,
            0
        );
    }
}

async fn account(pool: &PgPool, tenant: &Tenant, name: &str, currency: &str) -> Uuid {
    let new =
        NewAccount { tenant: tenant.clone(), name: name.into(), kind: AccountKind::Asset, currency: currency.into() };
    create_account(&mut pool.acquire().await.unwrap(), &new).await.unwrap().id
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}
