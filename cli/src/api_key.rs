//! `windrow api-keys`.

use clap::Subcommand;
use windrow_api::key::{ApiKey, NewKey};
use windrow_queue::Tenant;

use crate::{context::Context, settings::variable_of};

/// Keys for the API.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Makes a key, and shows it this once, with the hash that goes into the settings.
    New {
        /// What logs call it.
        name: String,
        /// Bind it to one tenant; without, it may act for all.
        #[arg(long)]
        tenant: Option<Tenant>,
    },
}

pub(crate) fn run(context: &Context, command: ApiKeyCommand) -> anyhow::Result<()> {
    let ApiKeyCommand::New { name, tenant } = command;
    let NewKey { secret, sha256 } = NewKey::generate(&mut rand::rng());
    let configured = ApiKey { name, sha256, tenant };
    // Settings are refused when a key in them is no good: find out now.
    windrow_api::key::Keys::new(std::slice::from_ref(&configured))?;
    let entry = serde_json::to_value(&configured)?;
    let shown = serde_json::json!({ "key": secret, "setting": entry });
    context.output.show(&shown, || {
        let tables = toml::to_string(&configured).unwrap_or_default();
        format!(
            "key, for the client, shown only now:\n\n  {secret}\n\nhash, for the server, at the end of windrow.toml:\n\n[[api.keys]]\n{tables}\nor in the environment:\n\n{}='[{entry}]'",
            variable_of("api.keys")
        )
    })
}
