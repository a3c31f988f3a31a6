//! `windrow keys`.

use clap::Subcommand;
use windrow_queue::vault::{KeyId, NewKey};

use crate::{context::Context, settings::variable_of};

/// Keys with which args are encrypted.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key, and shows it this once.
    New {
        /// Its id, which stands beside what it sealed; a random one if left out.
        id: Option<KeyId>,
    },
}

pub(crate) fn run(context: &Context, command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::New { id } = command;
    let NewKey { id, line } = NewKey::generate(id, &mut rand::rng());
    let variable = variable_of("encryption.keys");
    context.output.show(&serde_json::json!({ "id": id, "key": line }), || {
        format!(
            "key {id}, shown only now:\n\n  {line}\n\nfor all processes, in front of the keys that are there:\n\n{variable}='{line}'\n\nFirst behind them, where it only opens, until every process has it: OPERATIONS.md, \"Encryption\"."
        )
    })
}
