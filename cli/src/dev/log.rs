//! Logs, above the block that is redrawn.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer as _,
    filter::filter_fn,
    fmt,
    layer::{Filter, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use super::screen::Screen;
use crate::{log::Config, settings::Loaded};

/// Starts logging: what `log.level` says if it says something, or if all is asked for; else warnings and errors.
pub(super) fn start(loaded: &Loaded, is_verbose: bool, screen: &Screen) -> anyhow::Result<()> {
    let config = &loaded.settings.log;
    let refuse = |error| loaded.refuse("log.level", format!("is no filter: {error}"));
    let filter = if is_verbose || config.level != Config::default().level {
        boxed(config.filter().map_err(refuse)?)
    } else {
        boxed(filter_fn(is_worth_a_line))
    };
    let lines = fmt::layer().compact().with_target(false).with_ansi(screen.is_terminal()).with_writer(screen.clone());
    let started = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    started.map_err(|error| anyhow::anyhow!("logging does not start: {error}"))
}

/// A warning, or what tells whose warning it is.
fn is_worth_a_line(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= if metadata.is_span() { Level::INFO } else { Level::WARN }
}

fn boxed<S>(filter: impl Filter<S> + Send + Sync + 'static) -> Box<dyn Filter<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    Box::new(filter)
}
