//! What `docs/adding-a-job.md` shows of contexts, batches and sets of jobs: it compiles, and stands here as it stands there.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;
use windrow_queue::{
    BatchHandler, BatchId, BatchJob, JobArgs, JobContext, JobError, JobId, JobResult, Kind, NewJob, Outcome, QueueName,
    journal::{self, BatchTx},
    store::{CalledBack, NewBatch},
};

const GUIDE: &str = include_str!("../../docs/adding-a-job.md");
const HERE: &str = include_str!("guide.rs");

fn trimmed(code: &str) -> String {
    code.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_the_guide_shows_of_handlers_is_what_compiles_here() {
    let section = GUIDE.split("\n## 6. ").nth(1).unwrap().split("\n## 7. ").next().unwrap();
    let here = trimmed(HERE);
    let shown: Vec<&str> = section.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(shown.len() >= 5, "the section has moved: {} pieces of code", shown.len());
    for code in shown {
        assert!(
            here.contains(trimmed(code).trim_end()),
            "the guide shows what does not stand in jobs/tests/guide.rs:\n{code}"
        );
    }
}

#[derive(Serialize, Deserialize)]
struct Report {
    month: u8,
}

impl JobArgs for Report {
    const KIND: Kind = Kind::from_static("guide.write_report");
    const QUEUE: QueueName = QueueName::from_static("guide");
}

#[expect(dead_code, reason = "to be compiled, as the guide shows it")]
#[derive(Serialize, Deserialize)]
struct Count {
    page_id: Uuid,
}

impl JobArgs for Count {
    const KIND: Kind = Kind::from_static("guide.count_hit");
    const QUEUE: QueueName = QueueName::from_static("guide");
}

/// A handler of which the guide shows parts.
struct Asking;

impl Asking {
    async fn fetch(&self, page: u32) -> Result<Option<u32>, JobError> {
        std::future::ready(Ok((page < 3).then_some(page + 1))).await
    }

    async fn ask(&self, token: &str) -> Result<(), JobError> {
        std::future::ready(if token.is_empty() {
            Err(JobError::retry("none", anyhow::anyhow!("no token")))
        } else {
            Ok(())
        })
        .await
    }

    async fn store(&self, ctx: &JobContext, answer: &RawValue) -> JobResult {
        let error = || Err(JobError::retry("empty", anyhow::anyhow!("attempt {} was told nothing", ctx.attempt())));
        std::future::ready(if answer.get().is_empty() { error() } else { Ok(Outcome::Done) }).await
    }
}

#[rustfmt::skip]
#[expect(dead_code, reason = "to be compiled, as the guide shows it")]
impl Asking {
    #[expect(unused_variables, reason = "the guide leaves out what is done with a row")]
    fn tell(ctx: &JobContext, rows: &[u8]) {
        for (done, row) in rows.iter().enumerate() {
            ctx.progress(done as u64, rows.len() as u64);
            // …
        }
    }

    async fn go_on(&self, ctx: &JobContext) -> Result<(), JobError> {
        let mut page: u32 = ctx.checkpoint()?.unwrap_or(0);
        while let Some(next) = self.fetch(page).await? {
            page = next;
            ctx.save_checkpoint(&page).await?;
        }
        Ok(())
    }

    async fn wait(&self, ctx: &JobContext) -> JobResult {
        match ctx.called_back() {
            None => {
                let token = ctx.callback().await?;
                self.ask(token.as_str()).await?;
                Ok(Outcome::Park { deadline: Duration::from_secs(3600) })
            }
            Some(CalledBack::Payload(answer)) => self.store(ctx, answer).await,
            Some(CalledBack::TimedOut) => Err(JobError::retry("no_answer", anyhow::anyhow!("nobody called back for an hour"))),
        }
    }

    async fn follow(mut tx: sqlx::Transaction<'_, sqlx::Postgres>, members: Vec<NewJob>, month: u8) -> anyhow::Result<()> {
        let id = BatchId(JobId::new().0);
        journal::open_batch_in(&mut tx, &NewBatch { id, follow_up: NewJob::new(&Report { month })? }).await?;
        journal::enqueue_in(&mut tx, &members.into_iter().map(|job| job.batch(id)).collect::<Vec<_>>()).await?;
        journal::seal_batch_in(&mut tx, id).await?;
        Ok(())
    }
}

#[expect(dead_code, reason = "to be compiled, as the guide shows it")]
struct CountHandler;

#[rustfmt::skip]
mod counting {
    use super::*;

    impl BatchHandler for CountHandler {
        type Args = Count;

        async fn run_batch(&self, jobs: &[BatchJob<Count>], tx: &mut BatchTx) -> Result<(), JobError> {
            let pages: Vec<Uuid> = jobs.iter().map(|job| job.args.page_id).collect();
            sqlx::query("INSERT INTO hit (page_id) SELECT unnest($1::uuid[])").bind(pages).execute(&mut **tx).await?;
            Ok(())
        }
    }
}
