//! The schedules in force: those of the settings' file, and two of the demonstration's own that do not make anybody wait.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use windrow_schedule::{Declared, Definition, Schedules};

use crate::{context::Context, exit::Failure, kinds, role};

/// What is in force where no file is at hand.
const BUILT_IN: &str = include_str!("../../../config/schedules.toml");

/// The first fire is so long after the start: the schedules must be in force before.
const FIRST: TimeDelta = TimeDelta::seconds(2);
const EVERY: Duration = Duration::from_secs(15);
/// In a database that outlives the demonstration its schedules fire no longer than this.
const SHARED_END: TimeDelta = TimeDelta::hours(1);

/// What the scheduler is given. `now` is Postgres' clock.
pub(super) async fn read(
    context: &Context,
    database: &PgPool,
    is_private: bool,
    now: DateTime<Utc>,
) -> anyhow::Result<Schedules> {
    let file = &context.loaded.settings.scheduler.schedules;
    let mut schedules = if file.exists() {
        role::schedules(&context.loaded)?.unwrap_or_default()
    } else {
        Schedules::parse("the built-in schedules.toml", BUILT_IN, &kinds::catalog())?
    };
    let end = (!is_private).then_some(now + SHARED_END);
    for (name, kind) in [("dev-fetch-all", "vacancy.fetch_all"), ("dev-post-due", "payment.post_due")] {
        let declared = Declared {
            name: name.into(),
            kind: kind.into(),
            every: Some(EVERY),
            start: Some(now + FIRST),
            end,
            ..Declared::default()
        };
        schedules.list.push(Definition::check(declared, &kinds::catalog())?);
    }
    put_in_force(database, schedules).await
}

/// Sees to it that these are the ones that count.
async fn put_in_force(database: &PgPool, mut schedules: Schedules) -> anyhow::Result<Schedules> {
    refuse_foreign(database, &schedules).await?;
    let in_force: i64 = sqlx::query_scalar("SELECT generation FROM schedule_config").fetch_one(database).await?;
    schedules.generation = schedules.generation.max(in_force);
    Ok(schedules)
}

/// To put a file in force removes declared schedules that are not in it: never somebody else's by way of a demonstration.
async fn refuse_foreign(database: &PgPool, schedules: &Schedules) -> anyhow::Result<()> {
    let own: Vec<&str> = schedules.list.iter().map(|definition| &*definition.name).collect();
    let foreign: Option<String> = sqlx::query_scalar(
        "SELECT name FROM schedule WHERE origin = 'config' AND NOT name = ANY($1) ORDER BY name LIMIT 1",
    )
    .bind(own)
    .fetch_optional(database)
    .await?;
    match foreign {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!(
            "the database has a schedule {name:?} that is not in the file of schedules: starting here would remove it. Use \
             another database, or name the file that it comes from (scheduler.schedules)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use windrow_queue::database::{self, Config};
    use windrow_schedule::reconcile;

    use super::*;

    async fn migrated() -> PgPool {
        let url = tokio::task::spawn_blocking(|| windrow_devserver::fresh_database().unwrap()).await.unwrap();
        let pool = database::pool(&Config { url, ..Config::default() }).unwrap();
        database::migrate(&pool).await.unwrap();
        pool
    }

    #[tokio::test]
    async fn the_built_in_schedules_win_over_an_older_start_of_theirs_and_never_over_somebody_elses() {
        let (database, catalog) = (migrated().await, kinds::catalog());
        let built_in = || Schedules::parse("built in", BUILT_IN, &catalog).unwrap();
        reconcile(&database, &Schedules { generation: 7, ..built_in() }, &catalog).await.unwrap();
        assert_eq!(put_in_force(&database, built_in()).await.unwrap().generation, 7);

        let own = "[[schedule]]\nname = \"of-mine\"\nkind = \"payment.post_due\"\nevery = \"1h\"\n";
        let own = Schedules { generation: 8, ..Schedules::parse("mine", own, &catalog).unwrap() };
        reconcile(&database, &own, &catalog).await.unwrap();
        let error = put_in_force(&database, built_in()).await.unwrap_err().to_string();
        assert!(error.contains("\"of-mine\"") && error.contains("another database"), "{error}");
    }
}
