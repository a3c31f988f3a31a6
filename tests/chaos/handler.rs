//! What the kinds do. Every effect says which attempt of which process had it.

use std::{process, time::Duration};

use sqlx::{PgConnection, PgPool};
use tokio::time::sleep;
use uuid::Uuid;
use windrow_queue::{
    BatchHandler, BatchJob, Batched, Handler, JobContext, JobError, JobResult, NewJob, Outcome, journal::BatchTx,
    store::CalledBack,
};
use windrow_worker::Registry;

use crate::{
    kinds::{Doom, Fast, Fired, Follow, Once, Park, Poison, Put, Steps, Stumble, Tally},
    sent::{Expect, Sent, record},
};

/// How long a callback is waited for.
const PARKED: Duration = Duration::from_secs(3);

/// All handlers of a process.
pub(crate) fn handlers(node: &str, database: &PgPool) -> Registry {
    let by = || By { node: node.to_owned(), database: database.clone() };
    Registry::new()
        .with(Putting(by()))
        .with(Stumbling(by()))
        .with(Dooming(by()))
        .with(Poisoning)
        .with(Parking(by()))
        .with(Following(by()))
        .with(Batched::new(Tallying(by())))
        .with(Stepping(by()))
        .with(OnceOnly(by()))
        .with(Batched::new(Firing(by())))
        .with(Running(by()))
}

/// Which process, and its pool.
struct By {
    node: String,
    database: PgPool,
}

impl By {
    async fn effect(&self, tx: &mut PgConnection, ctx: &JobContext, note: &str) -> Result<(), JobError> {
        sqlx::query(
            "INSERT INTO chaos_effect (job_id, note, node, attempt, tenant, schedule_id, fire_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(ctx.id().0)
        .bind(note)
        .bind(&self.node)
        .bind(i32::try_from(ctx.attempt()).unwrap_or(i32::MAX))
        .bind(ctx.tenant().map(|tenant| tenant.as_str()))
        .bind(ctx.fire().map(|fire| fire.schedule_id))
        .bind(ctx.fire().map(|fire| fire.fire_at))
        .execute(tx)
        .await?;
        Ok(())
    }

    /// The effects of a batch in one statement.
    async fn effects<A>(&self, jobs: &[BatchJob<A>], tx: &mut BatchTx) -> Result<(), JobError> {
        sqlx::query(
            "INSERT INTO chaos_effect (job_id, note, node, attempt, tenant, schedule_id, fire_at)
             SELECT id, 'done', $2, attempt, tenant, schedule_id, fire_at
             FROM unnest($1::uuid[], $3::int[], $4::text[], $5::uuid[], $6::timestamptz[])
                 AS job (id, attempt, tenant, schedule_id, fire_at)",
        )
        .bind(jobs.iter().map(|job| job.ctx.id().0).collect::<Vec<_>>())
        .bind(&self.node)
        .bind(jobs.iter().map(|job| i32::try_from(job.ctx.attempt()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.ctx.tenant().map(|tenant| tenant.as_str())).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.ctx.fire().map(|fire| fire.schedule_id)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.ctx.fire().map(|fire| fire.fire_at)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Done, with one effect.
    async fn complete(&self, ctx: &JobContext, note: &str) -> JobResult {
        let mut tx = ctx.begin().await?;
        self.effect(&mut tx, ctx, note).await?;
        Ok(tx.commit().await?.into())
    }

    /// Notes that a handler started; stands for a call to the outside.
    async fn run(&self, job: Uuid) -> Result<(), JobError> {
        sqlx::query("INSERT INTO chaos_run (job_id, node) VALUES ($1, $2)")
            .bind(job)
            .bind(&self.node)
            .execute(&self.database)
            .await?;
        Ok(())
    }
}

struct Putting(By);

impl Handler for Putting {
    type Args = Put;

    async fn run(&self, ctx: JobContext, args: Put) -> JobResult {
        sleep(Duration::from_millis(args.hold_ms)).await;
        let mut tx = ctx.begin().await?;
        self.0.effect(&mut tx, &ctx, "done").await?;
        if args.child {
            let mut job = NewJob::new(&Put { child: false, ..args }).map_err(|error| JobError::bury("child", error))?;
            job.tenant = ctx.tenant().cloned();
            tx.enqueue(std::slice::from_ref(&job)).await?;
            record(&mut tx, &[Sent::effect(&job)]).await?;
        }
        // A crash here rolls back what was done above.
        sleep(Duration::from_millis(args.open_ms)).await;
        Ok(tx.commit().await?.into())
    }
}

struct Stumbling(By);

impl Handler for Stumbling {
    type Args = Stumble;

    async fn run(&self, ctx: JobContext, _: Stumble) -> JobResult {
        if ctx.attempt() == 1 {
            return Err(JobError::retry("stumbled", anyhow::anyhow!("the first attempt fails")));
        }
        self.0.complete(&ctx, "done").await
    }
}

struct Dooming(By);

impl Handler for Dooming {
    type Args = Doom;

    async fn run(&self, ctx: JobContext, _: Doom) -> JobResult {
        let expect: String = sqlx::query_scalar("SELECT expect FROM chaos_sent WHERE job_id = $1")
            .bind(ctx.id().0)
            .fetch_one(&self.0.database)
            .await?;
        if expect == Expect::Dead.as_str() {
            return Err(JobError::bury("doomed", anyhow::anyhow!("dead on purpose")));
        }
        self.0.complete(&ctx, "done").await
    }
}

struct Poisoning;

impl Handler for Poisoning {
    type Args = Poison;

    async fn run(&self, _: JobContext, _: Poison) -> JobResult {
        process::abort()
    }
}

struct Parking(By);

impl Handler for Parking {
    type Args = Park;

    async fn run(&self, ctx: JobContext, args: Park) -> JobResult {
        match ctx.called_back() {
            None => {
                let token = ctx.callback().await?;
                sqlx::query("INSERT INTO chaos_token (digest, job_id, answer) VALUES ($1, $2, $3)")
                    .bind(token.digest().0.as_slice())
                    .bind(ctx.id().0)
                    .bind(args.answer)
                    .execute(&self.0.database)
                    .await?;
                Ok(Outcome::Park { deadline: PARKED })
            }
            Some(CalledBack::Payload(_) | CalledBack::TimedOut) => self.0.complete(&ctx, "done").await,
        }
    }
}

struct Following(By);

impl Handler for Following {
    type Args = Follow;

    async fn run(&self, ctx: JobContext, _: Follow) -> JobResult {
        let Some(status) = ctx.batch().await? else {
            return Err(JobError::bury("no_batch", anyhow::anyhow!("it follows no batch")));
        };
        let note = format!("{} members, {} completed, {} dead", status.members, status.completed, status.dead);
        self.0.complete(&ctx, &note).await
    }
}

struct Tallying(By);

impl BatchHandler for Tallying {
    type Args = Tally;

    async fn run_batch(&self, jobs: &[BatchJob<Tally>], tx: &mut BatchTx) -> Result<(), JobError> {
        self.0.effects(jobs, tx).await
    }
}

struct Firing(By);

impl BatchHandler for Firing {
    type Args = Fired;

    async fn run_batch(&self, jobs: &[BatchJob<Fired>], tx: &mut BatchTx) -> Result<(), JobError> {
        self.0.effects(jobs, tx).await
    }
}

struct Stepping(By);

impl Handler for Stepping {
    type Args = Steps;

    async fn run(&self, ctx: JobContext, args: Steps) -> JobResult {
        let mut done: Option<u32> = ctx.checkpoint()?;
        while done.unwrap_or(0) + 1 < args.steps {
            let next = done.unwrap_or(0) + 1;
            let mut tx = ctx.step(done.as_ref(), &next).await?;
            self.0.effect(&mut tx, &ctx, &format!("step {next}")).await?;
            tx.commit().await?;
            done = Some(next);
            sleep(Duration::from_millis(20)).await;
        }
        self.0.complete(&ctx, "done").await
    }
}

struct OnceOnly(By);

impl Handler for OnceOnly {
    type Args = Once;

    async fn run(&self, ctx: JobContext, _: Once) -> JobResult {
        self.0.run(ctx.id().0).await?;
        self.0.complete(&ctx, "done").await
    }
}

struct Running(By);

impl Handler for Running {
    type Args = Fast;

    async fn run(&self, ctx: JobContext, args: Fast) -> JobResult {
        sleep(Duration::from_millis(args.hold_ms)).await;
        self.0.run(ctx.id().0).await?;
        Ok(Outcome::Done)
    }
}
