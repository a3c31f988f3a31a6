//! Work of all kinds for a [`Place`], and what must be true when it is done.

use std::{collections::BTreeMap, fmt::Write as _};

use chrono::{Days, NaiveDate};
use rust_decimal::Decimal;
use uuid::Uuid;
use windrow_jobs::{
    fetch::{Format, SourceSpec, put_source},
    import::create_project,
    payments::{AccountKind, NewAccount, NewRecurringPayment, Rhythm, create_account, create_recurring},
    scoring::{Profile, ScoreVacancy, Scorer, put_profile},
};
use windrow_queue::{Due, NewJob, Tenant, journal};

use crate::{MAPPING, Page, Place, Site};

/// Whom the work is done for.
pub const TENANT: Tenant = Tenant::from_static("acme");

impl Place {
    /// The tenant, whose vacancies the site scores.
    pub async fn tenant(&self, site: &Site) {
        self.json(&["tenants", "add", TENANT.as_str()]).await;
        let profile = Profile { scorer: Scorer::Webhook, webhook_url: Some(site.url("/score")), ..Profile::default() };
        put_profile(&self.database, &TENANT, &profile).await.unwrap();
    }

    /// A JSON source at the path of its name.
    pub async fn source(&self, site: &Site, name: &str, page: Page) -> Uuid {
        self.source_of(site, name, Format::Json, page).await
    }

    /// A source of any format.
    pub async fn source_of(&self, site: &Site, name: &str, format: Format, page: Page) -> Uuid {
        let path = format!("/{name}");
        site.put(&path, page);
        let spec = SourceSpec {
            name: name.to_owned(),
            format,
            url: site.url(&path),
            mapping: (format == Format::Json).then(|| serde_json::from_str(MAPPING).unwrap()),
            paging: None,
            headers: BTreeMap::new(),
        };
        put_source(&self.database, &TENANT, &spec).await.unwrap()
    }

    /// Daily payments of which each has been due four times.
    pub async fn payments(&self, count: usize) {
        let mut tx = self.database.begin().await.unwrap();
        let today: NaiveDate =
            sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::date").fetch_one(&mut *tx).await.unwrap();
        let mut accounts = Vec::new();
        for (name, kind) in [("Bank", AccountKind::Asset), ("Rent", AccountKind::Expense)] {
            let new = NewAccount { tenant: TENANT, name: name.to_owned(), kind, currency: "EUR".to_owned() };
            accounts.push(create_account(&mut tx, &new).await.unwrap().id);
        }
        for number in 0..count {
            let payment = NewRecurringPayment {
                tenant: TENANT,
                debit_account: accounts[1],
                credit_account: accounts[0],
                amount: Decimal::new(1001, 2),
                currency: "EUR".to_owned(),
                description: format!("rent {number}"),
                rhythm: Rhythm::Daily,
                start_on: today - Days::new(3),
                end_on: None,
            };
            create_recurring(&mut tx, &payment).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// So many new vacancies, each with a job that scores it by the built-in rules.
    pub async fn enqueue_scoring(&self, count: i64, due: Due) {
        for from in (0..count).step_by(1000) {
            let mut tx = self.database.begin().await.unwrap();
            let ids: Vec<Uuid> = sqlx::query_scalar(
                "INSERT INTO vacancy (tenant, url, title, status, score_jobs, queued_at)
                 SELECT $1, 'https://example.org/' || gen_random_uuid(), 'Work', 'queued', 1, now()
                 FROM generate_series(1, $2) RETURNING id",
            )
            .bind(TENANT.as_str())
            .bind(i32::try_from((count - from).min(1000)).unwrap())
            .fetch_all(&mut *tx)
            .await
            .unwrap();
            let jobs: Vec<NewJob> = ids.iter().map(|id| ScoreVacancy::job(&TENANT, *id).unwrap().due(due)).collect();
            journal::enqueue_in(&mut tx, &jobs).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    /// A project, and a file of so many numbers for it, each twice, in the import folder.
    pub async fn numbers(&self, count: usize) {
        let mut file = String::from("phone\n");
        for number in (0..count).chain(0..count) {
            writeln!(file, "+1415{}", 2_000_000 + number).unwrap();
        }
        std::fs::write(self.path("import/numbers.csv"), file).unwrap();
        let mut connection = self.database.acquire().await.unwrap();
        create_project(&mut connection, &TENANT, "Spring").await.unwrap();
    }

    /// Asserts that so many vacancies are scored, each once for each of its jobs, and nothing is left over or dead.
    pub async fn assert_scored(&self, vacancies: i64) {
        let scored = self.count("SELECT count(*) FROM vacancy WHERE status = 'scored'").await;
        let all = self.count("SELECT count(*) FROM vacancy").await;
        assert_eq!((scored, all), (vacancies, vacancies));
        let rows = self.count("SELECT count(*) FROM scoring_history").await;
        let jobs = self.count("SELECT count(DISTINCT job_id) FROM scoring_history").await;
        let made = self.count("SELECT sum(score_jobs)::bigint FROM vacancy").await;
        assert_eq!((rows, jobs), (made, made), "rows, distinct jobs, and the jobs that were made");
        assert_eq!(self.count("SELECT count(*) FROM job_closed").await, 0, "something died");
        assert!(self.is_idle().await);
    }

    /// Asserts that so many numbers of a file of so many rows are there, each once, and that the import's figures add up.
    pub async fn assert_imported(&self, numbers: i64, rows: i64) {
        // A second copy of a number is impossible; a row counted twice would show in the figures.
        assert_eq!(self.count("SELECT count(*) FROM phone_number").await, numbers);
        let done =
            "SELECT count(*) FROM import WHERE finished_at IS NOT NULL AND bytes_done = bytes_total AND rejected = 0";
        assert_eq!(self.count(done).await, 1);
        let figures: (i64, i64, i64) = sqlx::query_as("SELECT rows_read, inserted, duplicates FROM import")
            .fetch_one(&self.database)
            .await
            .unwrap();
        assert_eq!(figures, (rows, numbers, rows - numbers));
    }

    /// Asserts that so many payments are posted, each due date once, and that the ledger balances.
    pub async fn assert_posted(&self, runs: i64) {
        let due = "SELECT sum((now() AT TIME ZONE 'UTC')::date - start_on + 1)::bigint FROM recurring_payment";
        let posted = self.count("SELECT count(*) FROM payment_run WHERE outcome = 'posted'").await;
        let transactions = self.count("SELECT count(*) FROM ledger_transaction").await;
        // A run over midnight has one more date each.
        let due = self.count(due).await;
        assert!((posted, transactions) == (due, due) && due >= runs, "{posted} {transactions} {due} {runs}");
        self.json(&["payments", "verify"]).await;
    }
}
