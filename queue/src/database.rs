//! Postgres: pool, migrations, and the settings without which a stopped worker could hold a job's row for ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// All migrations, forward only.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// The oldest PostgreSQL that Windrow runs on, as `server_version_num` counts.
pub const MIN_SERVER_VERSION: i32 = 150_000;

/// Where Postgres is and how many connections this process may have.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `postgres://user:password@host:port/database?sslmode=verify-full`.
    pub url: String,
    /// A direct connection for LISTEN, where `url` leads through pgbouncer in transaction mode. Empty: the same as `url`.
    pub direct_url: String,
    /// Connections of this process, at most. Many small pools keep the dead-row horizon short.
    pub max_connections: u32,
    /// How long to wait for a free connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            direct_url: String::new(),
            max_connections: 8,
            acquire_timeout: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for Config {
    /// Leaves the URLs out: they carry a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// A pool that connects when it is first used: a Postgres that is down delays work and stops no process.
///
/// # Errors
/// When the URL is not one.
pub fn pool(config: &Config) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = config.url.parse()?;
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .connect_lazy_with(options.application_name("windrow")))
}

/// Brings the schema up to date, and sets for this role in this database what keeps a stopped process from holding locks:
/// an idle transaction ends before a lease does, a lock is waited for 2 s, a dead peer is noticed within seconds.
///
/// # Errors
/// When a migration fails; those before it stand.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATOR.run(pool).await?;
    let settings = "
        DO $$
        DECLARE setting text;
        BEGIN
            FOREACH setting IN ARRAY ARRAY[
                'idle_in_transaction_session_timeout = ''8s''', 'lock_timeout = ''2s''', 'tcp_keepalives_idle = 5',
                'tcp_keepalives_interval = 2', 'tcp_keepalives_count = 3', 'tcp_user_timeout = ''10s''']
            LOOP
                EXECUTE format('ALTER ROLE %I IN DATABASE %I SET ', current_user, current_database()) || setting;
            END LOOP;
        END $$";
    sqlx::raw_sql(settings).execute(pool).await?;
    Ok(())
}
