//! Postgres: pool, migrations, and the settings without which a stopped worker could hold a job's row for ever.

mod bridge;

use std::time::Duration;

pub use bridge::Unbridged;
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
    /// The same database past pgbouncer, where `url` leads through it: for LISTEN and migrations. Empty: the same as `url`.
    pub direct_url: String,
    /// Whether `url` leads to something that knows prepared statements: PostgreSQL itself, or pgbouncer from 1.21 on. Off for
    /// an older pgbouncer in transaction mode; then each statement is planned whenever it is executed.
    pub prepared: bool,
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
            prepared: true,
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
/// When the URL is not one, or goes not together with `prepared = false` ([`Unbridged`], as `Configuration`).
pub fn pool(config: &Config) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = config.url.parse()?;
    // Floats come in binary: the driver's wish for more digits in texts is one that pgbouncer does not know.
    let options = options.application_name("windrow").extra_float_digits(None);
    let pool = PgPoolOptions::new().max_connections(config.max_connections).acquire_timeout(config.acquire_timeout);
    if config.prepared { Ok(pool.connect_lazy_with(options)) } else { bridge::pool(pool, options) }
}

/// A pool past the pooler, of so many connections. `None`: there is a pooler, and no way past it.
///
/// # Errors
/// When the URL is not one.
pub fn direct_pool(config: &Config, max_connections: u32) -> Result<Option<PgPool>, sqlx::Error> {
    let url = match (&config.direct_url, config.prepared) {
        (url, true) if url.is_empty() => &config.url,
        (url, false) if url.is_empty() => return Ok(None),
        (url, _) => url,
    };
    pool(&Config { url: url.clone(), prepared: true, max_connections, ..config.clone() }).map(Some)
}

/// Brings the schema up to date, and sets for this role in this database what keeps a stopped process from holding locks:
/// an idle transaction ends before a lease does, a lock is waited for 2 s, a dead peer is noticed within seconds.
///
/// It holds a lock of its session: not through a pooler in transaction mode, see [`direct_pool`].
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
