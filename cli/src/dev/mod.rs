//! `windrow dev`: everything in one process, with private servers and sample data.
//!
//! ```text
//! servers (private, or those of the settings) -> schema -> sample sources served, tenants, payments, file put in place
//! -> scheduler, worker and API, each through its own `run`
//! -> schedules fire fetches and postings; the import is posted to the API
//! -> figures are read from the stores until nothing is missing -> a report; with --once the end, else until Ctrl-C
//! ```

mod args;
mod figures;
mod folder;
mod goal;
mod guide;
mod log;
mod phones;
mod platform;
mod progress;
mod report;
mod request;
mod round;
mod sample;
mod schedules;
mod screen;
mod seed;
mod servers;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use windrow_queue::shutdown::Shutdown;

pub(crate) use args::DevArgs;

use self::{
    figures::{Books, Figures},
    folder::{Folder, PHONES},
    guide::Guide,
    platform::Platform,
    round::{Ended, Round},
    sample::SampleServer,
    screen::Screen,
    servers::Servers,
};
use crate::{context::Context, kinds, output, signal};

/// What the sample sources, and those of a developer, are served from.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// How often figures are read, until the report and after it.
const POLL: Duration = Duration::from_millis(150);
const IDLE_POLL: Duration = Duration::from_secs(1);

/// `windrow dev`.
pub(crate) async fn run(mut context: Context, args: DevArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let screen = Screen::new();
    log::start(&context.loaded, args.verbose, &screen)?;
    let extra = args.sources()?;
    let shutdown = Shutdown::new();
    signal::watch(shutdown.clone())?;

    screen.line("starting servers");
    let servers = Servers::start(&mut context, args.data.as_deref(), &screen).await?;
    let folder = Folder::prepare(args.data.as_deref().or(servers.folder()))?;
    adjust(&mut context, &args, &folder);
    let dev = Dev { context, args, screen, started, shutdown };
    let ended =
        if dev.shutdown.soft.is_cancelled() { dev.interrupted() } else { dev.with(&servers, &extra, &folder).await };
    dev.screen.show(&[]);
    servers.stop().await?;
    ended
}

/// Settings that the demonstration needs otherwise.
fn adjust(context: &mut Context, args: &DevArgs, folder: &Folder) {
    let settings = &mut context.loaded.settings;
    settings.api.listen = args.listen;
    settings.import.directory = folder.path().to_owned();
    settings.import.error_directory = folder.path().to_owned();
    settings
        .outward
        .allow_networks
        .extend(LOOPBACK.iter().map(|network| network.parse::<IpNet>().expect("it is a network")));
}

struct Dev {
    context: Context,
    args: DevArgs,
    screen: Screen,
    started: Instant,
    shutdown: Shutdown,
}

impl Dev {
    /// With --once an end before the goal is a failure; otherwise it is what was asked for.
    fn interrupted(&self) -> anyhow::Result<()> {
        if self.args.once { Err(anyhow::anyhow!("ended by a signal before everything was done")) } else { Ok(()) }
    }

    async fn with(&self, servers: &Servers, extra: &[seed::ExtraSource], folder: &Folder) -> anyhow::Result<()> {
        servers::prepare(&self.context).await?;
        if let Some(fault) = self.context.loaded.faults().into_iter().next() {
            return Err(fault.into());
        }
        let database = self.context.database()?;
        let since: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&database).await?;
        // The vacancies' dates count back from Postgres' day.
        let samples = SampleServer::bind(since).await?;
        let project = seed::put(&database, &samples, extra).await?;
        // They end after the roles: a fetch that is being drained still needs its source.
        let sources_stop = Shutdown { soft: Default::default(), hard: self.shutdown.hard.clone() };
        let sources = tokio::spawn(samples.serve(sources_stop.clone()));

        let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&database).await?;
        let schedules = schedules::read(&self.context, &database, servers.is_database_private(), now).await?;
        let mut platform = Platform::start(&self.context, schedules, self.shutdown.clone()).await?;
        let books = Books {
            store: platform.store.clone(),
            database: platform.database.clone(),
            registry: platform.process.registry.clone(),
            queues: kinds::catalog().queues(),
            since,
        };
        let guide = Guide {
            api: platform.api,
            key: platform.key.clone(),
            variables: servers.variables(),
            folder: folder.path(),
        };
        let ended = tokio::select! {
            ended = self.rounds(&books, &guide, project) => ended,
            failure = platform.failure() => Err(failure),
        };
        self.screen.show(&[]);
        if !self.args.once {
            self.screen.line("stopping");
        }
        let stopped = platform.stop().await;
        sources_stop.stop();
        sources.await.context("the sample sources' server crashed")?;
        ended.and(stopped)
    }

    async fn rounds(&self, books: &Books, guide: &Guide<'_>, project: uuid::Uuid) -> anyhow::Result<()> {
        let before = Figures::read(books, None).await?;
        let import = request::import(guide.api, &guide.key, project, PHONES).await?;
        let mut round =
            Round { books, before, import, screen: &self.screen, started: self.started, shutdown: &self.shutdown };
        match round.until_over(POLL, self.args.deadline()).await? {
            Ended::Interrupted => return self.interrupted(),
            Ended::Over(figures) => self.conclude(books, guide, &figures).await?,
        }
        if !self.args.once {
            round.until_stopped(IDLE_POLL).await;
        }
        Ok(())
    }

    /// Says what came of it. An error is what is missing.
    async fn conclude(&self, books: &Books, guide: &Guide<'_>, figures: &Figures) -> anyhow::Result<()> {
        let report = report::Report::make(books, figures.clone(), self.started.elapsed()).await?;
        let mut missing = goal::missing(figures);
        if !report.ledger_is_sound() {
            missing.push("the ledger is out of balance".into());
        }
        let lacking = if missing.is_empty() { None } else { Some(self.lacking(books, &missing).await?) };
        self.screen.show(&[]);
        if self.args.once {
            self.screen.line(&report.table());
            output::line(&serde_json::to_string(&report.summary())?)?;
            return lacking.map_or(Ok(()), |words| Err(anyhow::Error::msg(words)));
        }
        output::line(&report.table())?;
        if let Some(words) = lacking {
            self.screen.line(&format!("\n{words}"));
        }
        output::line(&guide.to_string())
    }

    async fn lacking(&self, books: &Books, missing: &[String]) -> anyhow::Result<String> {
        let mut lines = vec![format!("not everything is done after {:.0} s:", self.started.elapsed().as_secs_f64())];
        lines.extend(missing.iter().map(|what| format!("  {what}")));
        lines.extend(goal::particulars(books).await?.iter().map(|what| format!("  - {what}")));
        Ok(lines.join("\n"))
    }
}
