//! Structured logs on standard error.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// The `[log]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter by target as tracing-subscriber reads it.
    pub(crate) level: String,
    /// How lines look.
    pub(crate) format: Format,
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// For people.
    Text,
    /// An object a line, for programs.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Text }
    }
}

impl Config {
    /// The filter that the level means.
    ///
    /// # Errors
    /// When it means none.
    pub(crate) fn filter(&self) -> Result<EnvFilter, ParseError> {
        EnvFilter::builder().parse(&self.level)
    }
}

/// Starts logging. Job id, kind, attempt, tenant and trace id are fields of the worker's spans.
///
/// # Errors
/// When the level is none, or logging was started before.
pub(crate) fn start(config: &Config) -> anyhow::Result<()> {
    let lines = tracing_subscriber::fmt().with_env_filter(config.filter()?).with_writer(io::stderr);
    let started = match config.format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging does not start: {error}"))
}
