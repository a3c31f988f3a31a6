//! `windrow payments`.

use clap::{Subcommand, ValueEnum};
use sqlx::PgPool;
use uuid::Uuid;
use windrow_jobs::payments::{
    BookError, LedgerReport, PaymentState, list_accounts, list_recurring, recurring, verify_ledger,
};
use windrow_queue::Tenant;

use crate::{
    context::Context,
    exit::Failure,
    output::{cell, time},
};

/// Recurring payments and the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum PaymentCommand {
    /// Recurring payments.
    List {
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// In this state.
        #[arg(long)]
        state: Option<State>,
        /// How many, at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Accounts and their balances.
    Accounts {
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// How many, at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Leaves a payment out until it is resumed.
    Pause {
        /// Its id.
        id: Uuid,
    },
    /// Takes a paused or failed payment in again; its missed dates are posted.
    Resume {
        /// Its id.
        id: Uuid,
    },
    /// Adds the whole ledger up. Fails when it does not balance.
    Verify,
}

/// Where a recurring payment stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Active,
    Paused,
    Failed,
    Finished,
}

impl From<State> for PaymentState {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Paused => Self::Paused,
            State::Failed => Self::Failed,
            State::Finished => Self::Finished,
        }
    }
}

pub(crate) async fn run(context: &Context, command: PaymentCommand) -> anyhow::Result<()> {
    let database = context.database()?;
    match command {
        PaymentCommand::List { tenant, state, limit } => {
            let rows = list_recurring(&database, tenant.as_ref(), state.map(PaymentState::from), None, limit).await?;
            context.output.list(
                &rows,
                ["payment", "tenant", "description", "amount", "next due", "state", "error"],
                |row| {
                    [
                        row.id.to_string(),
                        row.tenant.clone(),
                        row.description.clone(),
                        format!("{} {}", row.amount, row.currency),
                        time(row.next_due_at),
                        format!("{:?}", row.state).to_lowercase(),
                        cell(row.error.as_ref()),
                    ]
                },
            )
        }
        PaymentCommand::Accounts { tenant, limit } => accounts(context, &database, tenant.as_ref(), limit).await,
        PaymentCommand::Pause { id } => {
            recurring::pause(&database, id).await.map_err(refusal)?;
            context.output.show(&serde_json::json!({ "id": id, "state": "paused" }), || format!("{id} is paused"))
        }
        PaymentCommand::Resume { id } => {
            recurring::resume(&database, id).await.map_err(refusal)?;
            context.output.show(&serde_json::json!({ "id": id, "state": "active" }), || format!("{id} is active"))
        }
        PaymentCommand::Verify => verify(context, &database).await,
    }
}

fn refusal(error: BookError) -> anyhow::Error {
    match error {
        BookError::UnknownPayment { .. } => Failure::not_found(error.to_string()),
        other => other.into(),
    }
}

async fn accounts(context: &Context, database: &PgPool, tenant: Option<&Tenant>, limit: u32) -> anyhow::Result<()> {
    let rows = list_accounts(database, tenant, None, limit).await?;
    context.output.list(&rows, ["account", "tenant", "name", "kind", "balance", "active"], |row| {
        [
            row.id.to_string(),
            row.tenant.clone(),
            row.name.clone(),
            format!("{:?}", row.kind).to_lowercase(),
            format!("{} {}", row.balance, row.currency),
            if row.active { "yes".into() } else { "closed".into() },
        ]
    })
}

async fn verify(context: &Context, database: &PgPool) -> anyhow::Result<()> {
    let report: LedgerReport = verify_ledger(database).await?;
    context.output.record(
        &report,
        &[
            ("transactions", report.transactions.to_string()),
            ("entries", report.entries.to_string()),
            ("unbalanced transactions", report.unbalanced.to_string()),
            ("accounts that differ from their entries", report.drifting.to_string()),
            ("runs without their transaction", report.unmatched.to_string()),
        ],
    )?;
    anyhow::ensure!(report.is_sound(), "the ledger does not balance: the figures above say where");
    Ok(())
}
