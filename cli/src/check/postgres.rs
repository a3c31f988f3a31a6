//! Postgres: version, schema, and the settings that keep a stopped process from holding locks.

use std::collections::BTreeMap;

use sqlx::{ConnectOptions, PgConnection, Row};
use windrow_queue::database::{MIGRATOR, MIN_SERVER_VERSION};

use super::finding::{Finding, Looked};
use crate::context::Context;

const PART: &str = "postgres";
const SECTION: &str = "database";

pub(super) async fn check(context: &Context) -> Looked {
    let database = match context.database() {
        Ok(database) => database,
        // Said among the settings.
        Err(_) if context.loaded.settings.database.url.is_empty() || context.loaded.in_range(SECTION).is_err() => {
            return Looked::default();
        }
        Err(error) => return Finding::error(PART, format!("{error:#}"), "correct the setting").into(),
    };
    // Without the pool, which tries again until its time is over and then does not say why.
    let looked = async { look(&mut database.connect_options().connect().await?).await };
    let patience = context.loaded.settings.database.acquire_timeout;
    let found = match tokio::time::timeout(patience, looked).await {
        Ok(Ok(looked)) => return looked,
        Ok(Err(error)) if has_no_prepared_statements(&error) => {
            return Finding::error(
                PART,
                format!("database.url leads through a pooler that knows nothing of prepared statements: {error}"),
                "set database.prepared = false, or pgbouncer (1.21 or newer) max_prepared_statements",
            )
            .into();
        }
        Ok(Err(error)) => format!("Postgres does not answer: {error}"),
        Err(_) => format!("Postgres does not answer within {patience:?} (database.acquire_timeout)"),
    };
    let advice = "start Postgres, or correct database.url (address, user, password, database, TLS)";
    Finding::error(PART, found, advice).into()
}

/// What was prepared in one connection is looked for in another, or is there already.
fn has_no_prepared_statements(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["26000", "42P05"].contains(&&*code))
}

async fn look(database: &mut PgConnection) -> Result<Looked, sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, current_setting('fsync') = 'on',
                current_setting('idle_in_transaction_session_timeout') <> '0', pg_is_in_recovery()",
    )
    .fetch_one(&mut *database)
    .await?;
    let (number, version, clock): (i32, String, i64) = (row.get(0), row.get(1), row.get(2));
    let (is_durable, has_timeout, is_replica): (bool, bool, bool) = (row.get(3), row.get(4), row.get(5));
    let mut findings = vec![if number >= MIN_SERVER_VERSION {
        Finding::ok(PART, format!("PostgreSQL {version} answers"))
    } else {
        let advice = format!("install PostgreSQL {} or newer", MIN_SERVER_VERSION / 10_000);
        Finding::error(PART, format!("PostgreSQL {version} is too old"), advice)
    }];
    if is_replica {
        findings.push(Finding::error(
            PART,
            "it is a replica, which takes no writes",
            "give database.url the primary's address",
        ));
    }
    if !is_durable {
        findings.push(Finding::warning(
            PART,
            "fsync is off: what was committed may be lost when the machine fails",
            "set fsync = on in postgresql.conf",
        ));
    }
    findings.push(migrations(&applied(database).await?));
    if !has_timeout {
        findings.push(Finding::warning(
            PART,
            "idle_in_transaction_session_timeout is not set for this user: a stopped process could hold a job's row for ever",
            "run `windrow migrate` as this user, or ALTER ROLE … IN DATABASE … SET idle_in_transaction_session_timeout = '8s'",
        ));
    }
    Ok(Looked { findings, clock: Some(clock) })
}

/// Versions with their checksums, and whether they succeeded.
type Applied = BTreeMap<i64, (Vec<u8>, bool)>;

/// None where there is no such table yet.
async fn applied(database: &mut PgConnection) -> Result<Applied, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *database).await?;
    if !exists {
        return Ok(Applied::new());
    }
    let rows = sqlx::query("SELECT version, checksum, success FROM _sqlx_migrations").fetch_all(database).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

fn migrations(applied: &Applied) -> Finding {
    let known: BTreeMap<i64, &[u8]> =
        MIGRATOR.iter().map(|migration| (migration.version, &*migration.checksum)).collect();
    let list = |versions: Vec<String>| versions.join(", ");
    let named =
        |versions: &mut dyn Iterator<Item = &i64>| list(versions.map(|version| format!("{version:04}")).collect());
    let unknown = named(&mut applied.keys().filter(|version| !known.contains_key(version)));
    if !unknown.is_empty() {
        return Finding::error(
            PART,
            format!("migrations were applied that this program does not know: {unknown}"),
            "the database belongs to a newer windrow: use that one",
        );
    }
    let failed = named(&mut applied.iter().filter(|(_, (_, success))| !success).map(|(version, _)| version));
    if !failed.is_empty() {
        let advice =
            "see what it left half done, undo that and its row in _sqlx_migrations, then run `windrow migrate`";
        return Finding::error(PART, format!("a migration failed midway: {failed}"), advice);
    }
    let changed = |(version, checksum): &(&i64, &&[u8])| {
        applied.get(version).is_some_and(|(applied, _)| applied.as_slice() != **checksum)
    };
    let changed = named(&mut known.iter().filter(changed).map(|(version, _)| version));
    if !changed.is_empty() {
        return Finding::error(
            PART,
            format!("migrations were applied in another form than this program's: {changed}"),
            "use the program that made this database, or a new database",
        );
    }
    let missing = named(&mut known.keys().filter(|version| !applied.contains_key(version)));
    if !missing.is_empty() {
        return Finding::error(PART, format!("migrations are missing: {missing}"), "run `windrow migrate`");
    }
    Finding::ok(PART, format!("all {} migrations are applied", known.len()))
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn each_way_in_which_a_schema_can_be_wrong_is_told_apart() {
        let good: Applied =
            MIGRATOR.iter().map(|migration| (migration.version, (migration.checksum.to_vec(), true))).collect();
        assert_eq!(migrations(&good).level, Level::Ok);
        let with = |change: &dyn Fn(&mut Applied)| {
            let mut applied = good.clone();
            change(&mut applied);
            migrations(&applied)
        };
        let cases = [
            (with(&|applied| drop(applied.insert(9999, (vec![1], true)))), "does not know: 9999"),
            (with(&|applied| drop(applied.insert(2, (good[&2].0.clone(), false)))), "failed midway: 0002"),
            (with(&|applied| drop(applied.insert(1, (vec![1], true)))), "in another form than this program's: 0001"),
            (with(&|applied| drop(applied.remove(&3))), "missing: 0003"),
        ];
        for (finding, words) in cases {
            assert!(finding.level == Level::Error && finding.found.contains(words), "{finding:?}");
            assert!(finding.advice.is_some());
        }
        assert!(migrations(&Applied::new()).found.contains("0001"));
    }
}
