//! The load: jobs of all kinds, asked for as an application would, over connections that break.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;
use windrow_queue::{BatchId, Due, Enqueued, JobArgs, NewJob, Tenant, journal, store::NewBatch};

use crate::{
    book::{Answer, FastSent},
    kinds::{Doom, FAST, Fast, Follow, JOURNALED, Once, Park, Poison, Put, Steps, Stumble, TENANTS, Tally},
    sent::{Expect, Sent, record},
    stage::Stage,
};

/// Producers that work side by side.
pub(crate) const PRODUCERS: u64 = 4;

/// An enqueue that takes longer is given up: what came of it is not known.
const PATIENCE: Duration = Duration::from_secs(15);

/// A transaction of the application.
struct Order {
    jobs: Vec<NewJob>,
    sent: Vec<Sent>,
    batch: Option<NewBatch>,
    /// Whether the application changes its mind.
    roll_back: bool,
}

/// Asks for work until the time is up.
pub(crate) async fn produce(stage: &Stage, seed: u64, number: u64, until: Instant, poison: bool) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
    while Instant::now() < until {
        match random.random_range(0..100) {
            0..25 => fast(stage, &mut random).await?,
            25..28 => idempotent(stage, &mut random).await?,
            28..31 => withdraw(stage, &mut random).await?,
            // One in some minutes: each costs several workers.
            31 if poison && random.random_ratio(1, 40) => {
                send(stage, expecting(&Poison {}, Expect::Dead)?).await;
            }
            _ => {
                let order = order(&mut random)?;
                send(stage, order).await;
            }
        }
        sleep(Duration::from_millis(random.random_range(60..220))).await;
    }
    Ok(())
}

fn put(random: &mut impl Rng) -> Put {
    // Most are quick; some are in the middle of something whenever a fault comes.
    let slow = random.random_ratio(1, 6);
    let hold_ms = random.random_range(if slow { 100..1500 } else { 0..30 });
    let open_ms = if random.random_ratio(1, 10) { random.random_range(50..400) } else { 0 };
    Put { hold_ms, open_ms, child: random.random_ratio(1, 4) }
}

fn new<A: JobArgs>(args: &A, random: &mut impl Rng) -> anyhow::Result<NewJob> {
    let job = NewJob::new(args)?;
    let tenant = TENANTS.get(random.random_range(0..TENANTS.len() + 1));
    Ok(match tenant {
        Some(tenant) => job.tenant(Tenant::new((*tenant).to_owned())?),
        None => job,
    })
}

fn expecting<A: JobArgs>(args: &A, expect: Expect) -> anyhow::Result<Order> {
    let job = NewJob::new(args)?;
    let sent = vec![Sent::expecting(&job, expect)];
    Ok(Order { jobs: vec![job], sent, batch: None, roll_back: false })
}

/// Draws what to ask for.
fn order(random: &mut impl Rng) -> anyhow::Result<Order> {
    let mut order = Order { jobs: Vec::new(), sent: Vec::new(), batch: None, roll_back: false };
    match random.random_range(0..70) {
        0..28 => {
            for _ in 0..random.random_range(1..4) {
                order.jobs.push(new(&put(random), random)?);
            }
            // Some change their minds, and some want it later.
            order.roll_back = random.random_ratio(1, 12);
        }
        28..32 => order.jobs.push(new(&Stumble {}, random)?),
        32..35 => {
            order.jobs.push(new(&Doom {}, random)?);
            order.sent.push(Sent::expecting(&order.jobs[0], Expect::Dead));
        }
        35..40 => order.jobs.push(new(&Park { answer: random.random_ratio(2, 3) }, random)?),
        40..44 => return batch(random),
        44..54 => {
            for _ in 0..random.random_range(2..12) {
                order.jobs.push(new(&Tally {}, random)?);
            }
        }
        54..58 => {
            let steps = random.random_range(2..8);
            order.jobs.push(new(&Steps { steps }, random)?);
            order.sent.push(Sent { steps: i32::try_from(steps)?, ..Sent::effect(&order.jobs[0]) });
        }
        58..60 => {
            order.jobs.push(new(&Once {}, random)?);
            order.sent.push(Sent::expecting(&order.jobs[0], Expect::Once));
        }
        60..66 => {
            let key = random.random_range(0..6).to_string();
            let job = new(&put(random), random)?.unique(&key);
            let tenant = job.tenant.as_ref().map_or("", Tenant::as_str);
            order.sent.push(Sent { unique_key: Some(format!("{tenant}/{key}")), ..Sent::effect(&job) });
            order.jobs.push(job);
        }
        _ => {
            let delay_ms = random.random_range(500..6000);
            let job = new(&put(random), random)?.due(Due::In(Duration::from_millis(delay_ms)));
            order.sent.push(Sent { delay_ms: i64::try_from(delay_ms)?, ..Sent::effect(&job) });
            order.jobs.push(job);
        }
    }
    if order.sent.is_empty() {
        order.sent = order.jobs.iter().map(Sent::effect).collect();
    }
    Ok(order)
}

/// A batch whose follow-up knows how its members ended.
fn batch(random: &mut impl Rng) -> anyhow::Result<Order> {
    let id = BatchId(Uuid::from_u128(random.random()));
    let follow_up = new(&Follow {}, random)?;
    let (mut jobs, mut sent) = (Vec::new(), Vec::new());
    let (members, doomed) = (random.random_range(2..8), random.random_ratio(1, 3));
    for _ in 0..members {
        let job = new(&put(random), random)?.batch(id);
        sent.push(Sent::effect(&job));
        jobs.push(job);
    }
    if doomed {
        let job = new(&Doom {}, random)?.batch(id);
        sent.push(Sent::expecting(&job, Expect::Dead));
        jobs.push(job);
    }
    let dead = usize::from(doomed);
    let note = format!("{} members, {members} completed, {dead} dead", members + dead);
    sent.push(Sent { note, batch: Some(id.0), ..Sent::effect(&follow_up) });
    Ok(Order { jobs, sent, batch: Some(NewBatch { id, follow_up }), roll_back: false })
}

/// Carries out a transaction, and writes down what is known of it.
async fn send(stage: &Stage, order: Order) -> Answer {
    let committing = AtomicBool::new(false);
    let done = timeout(PATIENCE, transact(stage, &order, &committing)).await;
    let ids = order.jobs.iter().map(|job| job.id.0);
    let mut book = stage.book.open();
    match done {
        Ok(Ok(Done::Committed(created))) => {
            book.committed.extend(created);
            Answer::Accepted
        }
        Ok(Ok(Done::RolledBack)) => {
            book.rolled_back.extend(ids);
            Answer::Refused
        }
        // Whatever was sent before COMMIT is not committed when the connection is gone.
        Ok(Err(_)) | Err(_) if !committing.load(Ordering::Relaxed) => {
            book.rolled_back.extend(ids);
            Answer::Refused
        }
        Ok(Err(_)) | Err(_) => {
            book.unknown += 1;
            Answer::Unknown
        }
    }
}

enum Done {
    /// With the jobs that were created: others had their keys.
    Committed(Vec<Uuid>),
    RolledBack,
}

async fn transact(stage: &Stage, order: &Order, committing: &AtomicBool) -> anyhow::Result<Done> {
    let mut tx = stage.database.begin().await?;
    if let Some(batch) = &order.batch {
        journal::open_batch_in(&mut tx, batch).await?;
    }
    let answers = journal::enqueue_in(&mut tx, &order.jobs).await?;
    let taken: Vec<Uuid> =
        answers.iter().zip(&order.jobs).filter(|(answer, _)| !answer.is_created()).map(|(_, job)| job.id.0).collect();
    let sent: Vec<Sent> = order.sent.iter().filter(|sent| !taken.contains(&sent.id)).cloned().collect();
    record(&mut tx, &sent).await?;
    if let Some(batch) = &order.batch {
        journal::seal_batch_in(&mut tx, batch.id).await?;
    }
    if order.roll_back {
        tx.rollback().await?;
        return Ok(Done::RolledBack);
    }
    committing.store(true, Ordering::Relaxed);
    tx.commit().await?;
    Ok(Done::Committed(sent.into_iter().map(|sent| sent.id).collect()))
}

/// The same request until it is answered: one job comes of it.
async fn idempotent(stage: &Stage, random: &mut StdRng) -> anyhow::Result<()> {
    let key = Uuid::from_u128(random.random()).to_string();
    let args = put(random);
    for _ in 0..20 {
        let job = NewJob::new(&args)?.idempotent(&key);
        let attempt = async {
            let mut tx = stage.database.begin().await?;
            let answer = journal::enqueue_idempotent(&mut tx, &job).await?;
            if answer.is_created() {
                let sent = Sent { unique_key: Some(format!("{IDEMPOTENT}{key}")), ..Sent::effect(&job) };
                record(&mut tx, &[sent]).await?;
            }
            tx.commit().await?;
            anyhow::Ok(answer)
        };
        if let Ok(Ok(answer)) = timeout(PATIENCE, attempt).await {
            stage.book.open().committed.insert(answer.id().0);
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    stage.book.open().unknown += 1;
    Ok(())
}

/// What keys begin with that stand for a request and not for a job that is going on.
pub(crate) const IDEMPOTENT: &str = "request ";

/// A job that is wanted later, and then perhaps not any more.
async fn withdraw(stage: &Stage, random: &mut StdRng) -> anyhow::Result<()> {
    let delay_ms = random.random_range(200..2000);
    let job = new(&put(random), random)?.due(Due::In(Duration::from_millis(delay_ms)));
    let id = job.id;
    let sent = Sent { delay_ms: i64::try_from(delay_ms)?, ..Sent::expecting(&job, Expect::EffectOrCancelled) };
    let order = Order { jobs: vec![job], sent: vec![sent], batch: None, roll_back: false };
    if send(stage, order).await != Answer::Accepted {
        return Ok(());
    }
    sleep(Duration::from_millis(random.random_range(0..2500))).await;
    let cancelled = timeout(PATIENCE, journal::cancel(&stage.database, &[id], "not wanted any more")).await;
    if let Ok(Ok(answers)) = cancelled
        && let [journal::Cancelled::Done { member, .. }] = answers[..]
    {
        // Redis is told so that it does not run for nothing; that it cannot be told does not matter.
        let _ = timeout(PATIENCE, stage.store.cancel(&JOURNALED, &[member])).await;
    }
    Ok(())
}

/// Fast jobs, a few at once.
async fn fast(stage: &Stage, random: &mut StdRng) -> anyhow::Result<()> {
    let mut jobs = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let hold_ms = if random.random_ratio(1, 8) { random.random_range(50..1000) } else { 0 };
        let job = new(&Fast { hold_ms }, random)?;
        let delay = Duration::from_millis(random.random_range(300..3000));
        jobs.push(if random.random_ratio(1, 5) { job.due(Due::In(delay)) } else { job });
    }
    debug_assert!(jobs.iter().all(|job| job.queue == FAST));
    let begin_ms = stage.clock.now_ms();
    let answers = timeout(PATIENCE, stage.store.enqueue(&jobs)).await;
    let end_ms = stage.clock.now_ms();
    let answer = |place: usize| match &answers {
        Ok(Ok(answers)) => match answers[place] {
            Ok(Enqueued::Created(_) | Enqueued::Exists(_) | Enqueued::Replaced(_) | Enqueued::Rescheduled(_)) => {
                Answer::Accepted
            }
            Err(_) => Answer::Refused,
        },
        Ok(Err(_)) | Err(_) => Answer::Unknown,
    };
    let mut book = stage.book.open();
    for (place, job) in jobs.iter().enumerate() {
        let sent = FastSent { begin_ms, end_ms, answer: answer(place), missing_at_ms: None };
        book.fast.insert(job.id.0, sent);
    }
    Ok(())
}
