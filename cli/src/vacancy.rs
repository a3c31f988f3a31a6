//! `windrow vacancies`.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;
use windrow_queue::Tenant;

use crate::{context::Context, output::cell};

/// What was found, and how it was scored.
#[derive(Debug, Subcommand)]
pub(crate) enum VacancyCommand {
    /// The best first, then the newest.
    List(VacancyFilter),
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct VacancyFilter {
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// In this state.
    #[arg(long)]
    status: Option<Status>,
    /// Scored at least so high.
    #[arg(long, value_name = "1-10", value_parser = clap::value_parser!(i16).range(1..=10))]
    min_score: Option<i16>,
    /// How many, at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(0..=100_000))]
    limit: i64,
}

/// Where a vacancy stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    New,
    Queued,
    Scored,
}

#[derive(Debug, Serialize, FromRow)]
struct Row {
    id: Uuid,
    tenant: String,
    source: Option<String>,
    url: String,
    title: String,
    company: Option<String>,
    location: Option<String>,
    salary_min: Option<Decimal>,
    salary_max: Option<Decimal>,
    tags: Vec<String>,
    published_at: Option<DateTime<Utc>>,
    status: String,
    score: Option<i16>,
    reason: Option<String>,
    first_seen_at: DateTime<Utc>,
}

pub(crate) async fn run(context: &Context, command: VacancyCommand) -> anyhow::Result<()> {
    let VacancyCommand::List(filter) = command;
    let status = filter.status.and_then(|status| status.to_possible_value());
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT v.id, v.tenant, s.name AS source, v.url, v.title, v.company, v.location, v.salary_min, v.salary_max,
                v.tags, v.published_at, v.status, v.score, v.reason, v.first_seen_at
         FROM vacancy v LEFT JOIN source s ON s.id = v.source_id
         WHERE ($1::text IS NULL OR v.tenant = $1) AND ($2::text IS NULL OR v.status = $2)
           AND ($3::smallint IS NULL OR v.score >= $3)
         ORDER BY v.score DESC NULLS LAST, v.first_seen_at DESC, v.id DESC LIMIT $4",
    )
    .bind(filter.tenant.as_ref().map(Tenant::as_str))
    .bind(status.as_ref().map(|status| status.get_name()))
    .bind(filter.min_score)
    .bind(filter.limit)
    .fetch_all(&context.database()?)
    .await?;
    context.output.list(&rows, ["score", "status", "tenant", "title", "company", "url", "reason"], |row| {
        let short = |text: &str| text.chars().take(60).collect::<String>();
        [
            cell(row.score.as_ref()),
            row.status.clone(),
            row.tenant.clone(),
            short(&row.title),
            short(row.company.as_deref().unwrap_or_default()),
            short(&row.url),
            short(row.reason.as_deref().unwrap_or_default()),
        ]
    })
}
