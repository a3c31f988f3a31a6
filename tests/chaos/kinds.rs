//! The kinds of a chaos run: one for each promise.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use windrow_queue::{Catalog, JobArgs, Kind, Policy, QueueName};

/// Journaled jobs.
pub(crate) const JOURNALED: QueueName = QueueName::from_static("chaos");
/// Journaled jobs that are executed set by set.
pub(crate) const SETS: QueueName = QueueName::from_static("chaos-sets");
/// Fast jobs.
pub(crate) const FAST: QueueName = QueueName::from_static("chaos-fast");

/// Attempts that count are the job's own faults, and these jobs have none but those that they are told to have: no number of
/// crashes around them may condemn them.
const POLICY: Policy = Policy::DEFAULT
    .with_max_attempts(10)
    .with_timeout(Duration::from_secs(30))
    .with_backoff(Duration::from_millis(100), Duration::from_secs(2))
    .with_rescue_limit(200);

/// One effect; perhaps a follow-up in the same transaction.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Put {
    /// Milliseconds before the transaction, and within it.
    pub(crate) hold_ms: u64,
    pub(crate) open_ms: u64,
    /// Whether a `Put` without a child follows.
    pub(crate) child: bool,
}

/// Fails at its first attempt.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stumble {}

/// Buries itself, unless it was redriven.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Doom {}

/// Kills its worker, each time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Poison {}

/// Parks until somebody outside calls back, who may keep silent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Park {
    pub(crate) answer: bool,
}

/// Runs when a batch is over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Follow {}

/// One effect of many in one transaction.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tally {}

/// So many effects, one a step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Steps {
    pub(crate) steps: u32,
}

/// Runs at most once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Once {}

/// The job of a schedule.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fired {}

/// A fast job that counts its runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fast {
    pub(crate) hold_ms: u64,
}

impl JobArgs for Put {
    const KIND: Kind = Kind::from_static("chaos.put");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Stumble {
    const KIND: Kind = Kind::from_static("chaos.stumble");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Doom {
    const KIND: Kind = Kind::from_static("chaos.doom");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Poison {
    const KIND: Kind = Kind::from_static("chaos.poison");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled().with_rescue_limit(1);
}

impl JobArgs for Park {
    const KIND: Kind = Kind::from_static("chaos.park");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Follow {
    const KIND: Kind = Kind::from_static("chaos.follow");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Tally {
    const KIND: Kind = Kind::from_static("chaos.tally");
    const QUEUE: QueueName = SETS;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Steps {
    const KIND: Kind = Kind::from_static("chaos.steps");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Once {
    const KIND: Kind = Kind::from_static("chaos.once");
    const QUEUE: QueueName = JOURNALED;
    const POLICY: Policy = POLICY.journaled().at_most_once();
}

impl JobArgs for Fired {
    const KIND: Kind = Kind::from_static("chaos.fired");
    const QUEUE: QueueName = SETS;
    const POLICY: Policy = POLICY.journaled();
}

impl JobArgs for Fast {
    const KIND: Kind = Kind::from_static("chaos.fast");
    const QUEUE: QueueName = FAST;
    const POLICY: Policy = POLICY;
}

/// What schedulers know.
pub(crate) fn catalog() -> Catalog {
    Catalog::default()
        .with::<Put>()
        .with::<Stumble>()
        .with::<Doom>()
        .with::<Poison>()
        .with::<Park>()
        .with::<Follow>()
        .with::<Tally>()
        .with::<Steps>()
        .with::<Once>()
        .with::<Fired>()
        .with::<Fast>()
}

/// The schedules of a run. Every due time of those that catch up has a job, whatever was down when it came.
pub(crate) const SCHEDULES: &str = r#"
generation = 1

[[schedule]]
name = "every-second"
kind = "chaos.fired"
every = "1s"
overlap = "allow"
missed = { catch_up = 500 }

[[schedule]]
name = "every-second-at-a-share"
kind = "chaos.fired"
every = "1s"
jitter = "700ms"
overlap = "allow"
missed = { catch_up = 500 }

[[schedule]]
name = "by-cron-every-other-second"
kind = "chaos.fired"
cron = "*/2 * * * * *"
time_zone = "Australia/Lord_Howe"
overlap = "allow"
missed = { catch_up = 500 }

[[schedule]]
name = "for-each-tenant"
kind = "chaos.fired"
every = "3s"
each_tenant = true
overlap = "allow"
missed = { catch_up = 500 }

[[schedule]]
name = "one-at-a-time"
kind = "chaos.fired"
every = "1s"
overlap = "queue_one"
missed = "run_once"

[[schedule]]
name = "on-time-or-not-at-all"
kind = "chaos.fired"
every = "1s"
overlap = "skip"
missed = "skip"
"#;

/// Whom work is done for.
pub(crate) const TENANTS: [&str; 4] = ["north", "south", "east", "west"];
