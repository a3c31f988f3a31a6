//! What came of it: a table for people, one line of JSON for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::FromRow;
use windrow_jobs::payments::{LedgerReport, verify_ledger};

use super::{
    figures::{Books, Figures},
    seed::TENANTS,
};

/// The figures at the end, with the ledger looked through.
#[derive(Debug)]
pub(super) struct Report {
    figures: Figures,
    ledger: LedgerReport,
    currencies: Vec<Currency>,
    elapsed: Duration,
}

/// The demo's entries in one currency.
#[derive(Debug, FromRow)]
struct Currency {
    currency: String,
    debits: Decimal,
    credits: Decimal,
}

/// The last line of `windrow dev --once`. Fields are added, never renamed: programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    sources: i64,
    sources_fetched: i64,
    /// Items in the sources' documents: new, updated, duplicates and skipped.
    fetched: i64,
    inserted: i64,
    updated: i64,
    duplicates: i64,
    skipped: i64,
    /// Answers 304.
    not_modified: i64,
    /// Stored, by this run or before.
    vacancies: i64,
    scored: i64,
    /// How many have the score 1, 2, … 10.
    scores: [i64; 10],
    /// Rows of the sample file: imported, known already and rejected.
    imported: i64,
    import_duplicates: i64,
    rejected: i64,
    posted: i64,
    /// Payments with a due date that is not posted.
    due: i64,
    failed: i64,
    /// Transactions and accounts that are out of balance.
    unbalanced: i64,
    retried: u64,
    dead: u64,
    elapsed_s: f64,
}

impl Report {
    pub(super) async fn make(books: &Books, figures: Figures, elapsed: Duration) -> anyhow::Result<Self> {
        let ledger = verify_ledger(&books.database).await?;
        let currencies = sqlx::query_as(
            "SELECT e.currency, coalesce(sum(e.amount) FILTER (WHERE e.amount > 0), 0) AS debits,
                 coalesce(-sum(e.amount) FILTER (WHERE e.amount < 0), 0) AS credits
             FROM ledger_entry e JOIN ledger_transaction t ON t.id = e.transaction_id
             WHERE t.tenant = ANY($1) GROUP BY e.currency ORDER BY e.currency",
        )
        .bind(&TENANTS[..])
        .fetch_all(&books.database)
        .await?;
        Ok(Self { figures, ledger, currencies, elapsed })
    }

    /// Whether the ledger is as it must be.
    pub(super) fn ledger_is_sound(&self) -> bool {
        self.ledger.is_sound()
    }

    fn unbalanced(&self) -> i64 {
        self.ledger.unbalanced + self.ledger.drifting + self.ledger.unmatched
    }

    /// For programs.
    pub(super) fn summary(&self) -> Summary {
        let Figures { sources, vacancies, payments, jobs, .. } = &self.figures;
        let import = self.figures.import.unwrap_or_default();
        Summary {
            sources: sources.sources,
            sources_fetched: sources.reached,
            fetched: sources.fetched,
            inserted: sources.inserted,
            updated: sources.updated,
            duplicates: sources.duplicates,
            skipped: sources.skipped,
            not_modified: sources.not_modified,
            vacancies: vacancies.stored,
            scored: vacancies.scored(),
            scores: vacancies.scores,
            imported: import.imported,
            import_duplicates: import.duplicates,
            rejected: import.rejected,
            posted: payments.posted,
            due: payments.due,
            failed: payments.failed,
            unbalanced: self.unbalanced(),
            retried: jobs.retried,
            dead: jobs.dead,
            elapsed_s: (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }

    /// A table.
    pub(super) fn table(&self) -> String {
        let Figures { sources, vacancies, payments, jobs, .. } = &self.figures;
        let import = self.figures.import.unwrap_or_default();
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["", "count", "what"]);
        let mut row = |name: &str, count: &dyn ToString, what: String| {
            table.add_row([name.to_owned(), count.to_string(), what]);
        };
        row("vacancies", &sources.fetched, format!("fetched from {} of {} sources", sources.reached, sources.sources));
        row("", &sources.inserted, "new".into());
        if sources.updated > 0 {
            row("", &sources.updated, "changed".into());
        }
        row("", &sources.duplicates, "duplicates: known already, or listed twice".into());
        row("", &sources.skipped, "skipped: without a title or a URL".into());
        if sources.not_modified > 0 {
            row("", &sources.not_modified, "sources unchanged, not read again".into());
        }
        row("scores", &vacancies.scored(), format!("scored of {} vacancies", vacancies.stored));
        let most = vacancies.scores.iter().copied().max().unwrap_or(0).max(1);
        for (index, count) in vacancies.scores.iter().enumerate().rev().filter(|(_, count)| **count > 0) {
            let width = usize::try_from(count * 24 / most).unwrap_or(0).max(1);
            row("", count, format!("score {:>2}  {}", index + 1, "▇".repeat(width)));
        }
        row("phone numbers", &import.imported, "imported".into());
        row("", &import.duplicates, "duplicates".into());
        row("", &import.rejected, "rejected: the error file has line and reason".into());
        row("payments", &payments.posted, "due dates posted, each once".into());
        for Currency { currency, debits, credits } in &self.currencies {
            row("", &"", format!("{currency}: debits {debits:.2}, credits {credits:.2}"));
        }
        row("", &self.unbalanced(), "transactions or accounts out of balance".into());
        row("jobs", &jobs.retried, "attempts put off and tried again".into());
        row("", &jobs.dead, "dead".into());
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\nin {:.1} s", self.elapsed.as_secs_f64())
    }
}
