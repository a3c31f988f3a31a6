//! What all services share: one bounded batch a call, and the loop that calls it.

use std::{fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::FutureExt;
use rand::RngExt;
use tokio::time::Instant;
use windrow_queue::{health::HealthPart, shutdown::Shutdown};

use crate::metrics::Metrics;

/// A service that does something all the time says so in one line this often; one that seldom does, at once.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// When a service wants to be called again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// There is more to do.
    Again,
    /// At this moment and no other: a fire time.
    Sharp(Duration),
    /// After about so long; jittered, so that processes which started together do not stay together.
    After(Duration),
}

/// What one batch did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// What was counted, by name; logged when anything was.
    pub counts: Vec<(&'static str, u64)>,
    /// When to go on.
    pub pace: Pace,
    /// A part that is out of order while the rest goes on; shown in `/readyz`.
    pub degraded: Option<String>,
}

impl Done {
    /// A batch with these counts.
    pub fn new(counts: impl IntoIterator<Item = (&'static str, u64)>, pace: Pace) -> Self {
        Self { counts: counts.into_iter().filter(|(_, count)| *count > 0).collect(), pace, degraded: None }
    }

    /// Adds what another batch did.
    fn add(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            match self.counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => self.counts.push((name, *count)),
            }
        }
    }

    /// Whether anything was done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many of this.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.iter().filter(|(known, _)| *known == name).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{count} {name}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// A maintenance loop. Every one is safe to run in several processes at once.
pub trait Service: Send + 'static {
    /// Its name in logs, metrics and `/readyz`.
    const NAME: &'static str;

    /// Does one bounded batch.
    ///
    /// # Errors
    /// When nothing could be done. The loop says so, waits, and calls again.
    fn run_once(&mut self) -> impl Future<Output = anyhow::Result<Done>> + Send;

    /// Waits until the pause is over, or until the service knows of something to do.
    fn wait(&mut self, pause: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(pause)
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Calls a service until the shutdown asks for its end; what is being done then is finished first. Errors and panics are
/// logged here, and nowhere else, and waited out.
pub(crate) async fn keep_running(mut service: impl Service, metrics: Metrics, health: HealthPart, shutdown: Shutdown) {
    run_loop(&mut service, &metrics, &health, &shutdown).await;
}

async fn run_loop<S: Service>(service: &mut S, metrics: &Metrics, health: &HealthPart, shutdown: &Shutdown) {
    let name = S::NAME;
    let mut delays = backoff();
    let mut failures = 0_u32;
    let mut unsaid = Unsaid { done: Done::new([], Pace::Again), said: None };
    while !shutdown.soft.is_cancelled() {
        let started = Instant::now();
        let result = AssertUnwindSafe(service.run_once()).catch_unwind().await;
        metrics.service_seconds.with_label_values(&[name]).observe(started.elapsed().as_secs_f64());
        let result = result.unwrap_or_else(|panic| Err(anyhow::anyhow!("panicked: {}", panic_text(&*panic))));
        metrics.service_runs.with_label_values(&[name, if result.is_ok() { "ok" } else { "error" }]).inc();
        let pause = match result {
            Ok(done) => {
                if failures > 0 {
                    tracing::info!(service = name, failures, "works again");
                    failures = 0;
                    delays = backoff();
                }
                match &done.degraded {
                    Some(reason) => health.failing(reason.clone()),
                    None => health.ok(),
                }
                unsaid.add(name, &done);
                match done.pace {
                    Pace::Again => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Pace::Sharp(pause) => pause,
                    Pace::After(pause) => pause.mul_f64(rand::rng().random_range(0.9..1.1)),
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let pause = delays.next().unwrap_or(Duration::from_secs(5));
                tracing::warn!(service = name, failures, ?pause, error = format!("{error:#}"), "failed; tried again");
                health.failing(format!("{error:#}"));
                pause
            }
        };
        tokio::select! {
            () = shutdown.soft.cancelled() => {}
            () = service.wait(pause) => {}
        }
    }
    unsaid.say(name);
}

/// What was done since the last line in the log.
struct Unsaid {
    done: Done,
    said: Option<Instant>,
}

impl Unsaid {
    fn add(&mut self, name: &str, done: &Done) {
        self.done.add(done);
        if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            self.say(name);
        }
    }

    fn say(&mut self, name: &str) {
        if !self.done.is_empty() {
            tracing::info!(service = name, "{}", self.done);
            self.done.counts.clear();
            self.said = Some(Instant::now());
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
