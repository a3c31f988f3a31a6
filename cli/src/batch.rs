//! `windrow batches`.

use clap::Subcommand;
use uuid::Uuid;
use windrow_api::find_batch;
use windrow_queue::BatchId;

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    output::{cell, time},
};

/// Sets of jobs with a follow-up.
#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// How far one is.
    Show {
        /// Its id.
        id: Uuid,
    },
}

pub(crate) async fn run(context: &Context, command: BatchCommand) -> anyhow::Result<()> {
    let BatchCommand::Show { id } = command;
    let (store, database) = (context.store()?, context.database()?);
    let found = find_batch(&store, &database, &kinds::catalog(), BatchId(id)).await?;
    let view = found.ok_or_else(|| {
        Failure::not_found(format!("there is no batch {id}: it was never opened, or fired more than seven days ago"))
    })?;
    context.output.record(
        &view,
        &[
            ("batch", view.id.to_string()),
            ("queue", cell(view.queue.as_ref())),
            ("journaled", view.journaled.to_string()),
            ("tenant", cell(view.tenant.as_ref())),
            ("members", view.members.to_string()),
            ("pending", view.pending.to_string()),
            ("completed", view.completed.to_string()),
            ("dead", view.dead.to_string()),
            ("cancelled", view.cancelled.to_string()),
            ("sealed", view.sealed.to_string()),
            ("follow-up", view.follow_up.to_string()),
            ("fired", time(view.fired_at)),
        ],
    )
}
