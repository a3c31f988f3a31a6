//! What operators' acts have in common: who acted is logged, many jobs are walked through at a rate, and a signal stops a walk
//! between two batches.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use windrow_api::list::some_time;
use windrow_queue::{
    Kind, QueueName, Tenant,
    shutdown::Shutdown,
    store::{Filter, Scope, Walk, Walked},
};

use crate::{context::Context, exit::Failure, kinds, log, signal};

/// Starts the log of an act, to which [`audit`] writes.
///
/// # Errors
/// When the log's settings are wrong.
pub(crate) fn begin(context: &Context) -> anyhow::Result<()> {
    log::start(&context.loaded.settings.log)
}

/// One line about what an operator did: who, what, to which jobs, how many.
pub(crate) fn audit(action: &str, filter: &str, count: u64) {
    tracing::info!(operator = who(), action, filter, count, "an operator acted");
}

/// `user@host`, as far as the system says.
pub(crate) fn who() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}")
}

/// A queue in which some kind waits: a limit on any other would limit nothing, and is a typing error.
///
/// # Errors
/// The queues that exist.
pub(crate) fn known_queue(queue: &QueueName) -> anyhow::Result<()> {
    let queues = kinds::catalog().queues();
    if queues.contains(queue) {
        return Ok(());
    }
    let known: Vec<String> = queues.iter().map(ToString::to_string).collect();
    Err(Failure::not_found(format!("there is no queue {queue}; there are: {}", known.join(", "))))
}

/// A scope in which jobs can wait: its queue is one, and its kind, if it names one, is a kind of that queue.
///
/// # Errors
/// The queues, or the queue's kinds, that exist.
pub(crate) fn known_scope(queue: &QueueName, scope: &Scope) -> anyhow::Result<()> {
    known_queue(queue)?;
    let (Scope::Kind(kind) | Scope::KindTenant(kind, _) | Scope::KindEachTenant(kind)) = scope else { return Ok(()) };
    let catalog = kinds::catalog();
    let of_queue = || catalog.iter().filter(|info| info.queue == *queue);
    if of_queue().any(|info| info.kind == *kind) {
        return Ok(());
    }
    let known: Vec<String> = of_queue().map(|info| info.kind.to_string()).collect();
    Err(Failure::not_found(format!("there is no kind {kind} in queue {queue}; there are: {}", known.join(", "))))
}

/// The words for a scope of a queue.
pub(crate) fn scope_words(queue: &QueueName, scope: &Scope) -> String {
    if *scope == Scope::Queue { format!("queue {queue}") } else { format!("{scope} of queue {queue}") }
}

/// Which jobs.
#[derive(Clone, Debug, Args)]
pub(crate) struct FilterArgs {
    /// Of this queue; else of all.
    #[arg(long)]
    pub(crate) queue: Option<QueueName>,
    /// Of this kind.
    #[arg(long)]
    pub(crate) kind: Option<Kind>,
    /// Of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<Tenant>,
    /// Not before this time, such as 2030-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// Not after this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<DateTime<Utc>>,
}

impl FilterArgs {
    /// As the queue takes it.
    pub(crate) fn filter(&self) -> Filter {
        Filter { kind: self.kind.clone(), tenant: self.tenant.clone(), since: self.since, until: self.until }
    }

    /// Checks that some time can be within its bounds.
    ///
    /// # Errors
    /// When `since` is after `until`: it would be a filter that nothing fits.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        some_time(self.since, self.until).map_err(|error| Failure::usage(error.to_string()))
    }

    /// Whether it takes every job there is.
    pub(crate) const fn is_empty(&self) -> bool {
        self.queue.is_none()
            && self.kind.is_none()
            && self.tenant.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    /// The queues that it is about.
    pub(crate) fn queues(&self) -> Vec<QueueName> {
        self.queue.clone().map_or_else(|| kinds::catalog().queues(), |queue| vec![queue])
    }

    /// In words, for the log.
    pub(crate) fn words(&self) -> String {
        let given = [
            ("queue", self.queue.as_ref().map(ToString::to_string)),
            ("kind", self.kind.as_ref().map(ToString::to_string)),
            ("tenant", self.tenant.as_ref().map(ToString::to_string)),
            ("since", self.since.map(|at| at.to_rfc3339())),
            ("until", self.until.map(|at| at.to_rfc3339())),
        ];
        let words: Vec<String> =
            given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
        if words.is_empty() { "all".to_owned() } else { words.join(" ") }
    }
}

/// How many jobs are acted on.
#[derive(Clone, Debug, Args)]
pub(crate) struct WalkArgs {
    /// Only say how many there are.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Jobs a second, at most; 0 is as fast as it goes.
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.trim_end_matches("/s").parse().map_err(|_| "use a number of jobs a second, such as 50")?;
    if (0.0..=1e6).contains(&rate) { Ok(rate) } else { Err("use 0 to 1000000 jobs a second".to_owned()) }
}

impl WalkArgs {
    /// A walk that ends softly at the first signal. `usual` is the rate if none is given.
    ///
    /// # Errors
    /// When signals cannot be watched.
    pub(crate) fn start(&self, usual: Option<f64>) -> anyhow::Result<Walk> {
        let shutdown = Shutdown::new();
        signal::watch(shutdown.clone())?;
        let rate = self.rate.or(usual).filter(|rate| *rate > 0.0);
        Ok(Walk { dry_run: self.dry_run, rate, stop: shutdown.soft })
    }
}

/// How far a walk is, redrawn in place; nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    what: &'static str,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { is_terminal: io::stderr().is_terminal(), what }
    }

    /// Shows figures. A reader of standard error that went away is no reason to stop working.
    pub(crate) fn tell(&self, walked: &Walked) {
        if self.is_terminal {
            let _ =
                write!(io::stderr().lock(), "\r\x1b[K{}: {} found, {} done", self.what, walked.matched, walked.done);
        }
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// What many jobs came to.
#[derive(Debug, Serialize)]
struct Report<'a> {
    dry_run: bool,
    #[serde(flatten)]
    walked: &'a Walked,
}

/// Says what a walk came to. Fails if it did not come to its end.
///
/// # Errors
/// When it was stopped, or there was no room for more.
pub(crate) fn report(context: &Context, walk: &Walk, walked: &Walked, done: &'static str) -> anyhow::Result<()> {
    let of = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    context.output.record(
        &Report { dry_run: walk.dry_run, walked },
        &[
            ("found", walked.matched.to_string()),
            (done, if walk.dry_run { "none: a dry run".to_owned() } else { walked.done.to_string() }),
            ("left: another job holds their unique key", of(walked.standing)),
            ("left: their tenant has as much as it may", of(walked.tenant_full)),
            ("left: somebody else dealt with them", of(walked.gone)),
            ("left: being decided at this moment", of(walked.busy)),
            ("not readable by this version", of(walked.unreadable)),
        ],
    )?;
    if let Some(refused) = walked.refused {
        return Err(Failure::failed(format!(
            "{} were {done}, then there was no room: {refused}; then run it again",
            walked.done
        )));
    }
    if walked.stopped {
        return Err(Failure::failed(format!("stopped: {} were {done}; run it again to go on", walked.done)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_names_a_kind_of_its_queue() {
        let fetch = QueueName::from_static("fetch");
        for scope in ["queue", "tenant=acme", "tenant=*", "kind=vacancy.fetch_all", "kind=vacancy.fetch_all,tenant=*"] {
            assert!(known_scope(&fetch, &scope.parse().unwrap()).is_ok(), "{scope}");
        }
        for scope in ["kind=vacancy.score", "kind=vacancy.scor,tenant=acme", "kind=vacancy.score,tenant=*"] {
            let error = known_scope(&fetch, &scope.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("in queue fetch; there are: vacancy.fetch_all"), "{error}");
        }
        assert!(known_scope(&QueueName::from_static("none"), &Scope::Queue).is_err());
    }
}
