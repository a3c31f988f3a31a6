//! What a command works with, made when it is first needed.

use sqlx::PgPool;
use windrow_queue::{Vault, database, store::Store};

use crate::{output::Output, settings::Loaded};

/// Settings, and the way to say something.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) loaded: Loaded,
    pub(crate) output: Output,
}

impl Context {
    /// Redis. Does not connect yet.
    ///
    /// # Errors
    /// The setting that is missing or wrong.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let redis = &self.loaded.settings.redis;
        self.loaded.required("redis.url", &redis.url, "redis://localhost:6379/0")?;
        self.loaded.in_range("redis")?;
        let store = Store::new(redis).map_err(|error| match error {
            windrow_queue::store::StoreError::Config { key, reason } => {
                self.loaded.refuse(&format!("redis.{key}"), reason).into()
            }
            other => anyhow::Error::new(other),
        })?;
        Ok(store.with_vault(self.vault()?))
    }

    /// The keys for the args of encrypted kinds; none may be configured.
    ///
    /// # Errors
    /// The setting that is wrong.
    pub(crate) fn vault(&self) -> anyhow::Result<Vault> {
        Ok(self.loaded.vault()?)
    }

    /// Postgres. Does not connect yet.
    ///
    /// # Errors
    /// The setting that is missing or wrong.
    pub(crate) fn database(&self) -> anyhow::Result<PgPool> {
        let config = &self.loaded.settings.database;
        self.loaded.required("database.url", &config.url, "postgres://windrow@localhost/windrow")?;
        self.loaded.in_range("database")?;
        // The parser takes any scheme.
        if !["postgres://", "postgresql://"].iter().any(|scheme| config.url.starts_with(scheme)) {
            return Err(self.loaded.refuse("database.url", DATABASE_URL).into());
        }
        database::pool(config).map_err(|error| self.bad_database("database.url", error))
    }

    /// Postgres for LISTEN: one connection, past a pooler. `None`: there is no way past it.
    ///
    /// # Errors
    /// The setting that is wrong.
    pub(crate) fn direct_database(&self) -> anyhow::Result<Option<PgPool>> {
        let config = &self.loaded.settings.database;
        let name = if config.direct_url.is_empty() { "database.url" } else { "database.direct_url" };
        windrow_scheduler::listen_pool(config).map_err(|error| self.bad_database(name, error))
    }

    /// Postgres for migrations, which take a lock of their session: past a pooler.
    ///
    /// # Errors
    /// The setting that is missing or wrong.
    pub(crate) fn migrating_database(&self) -> anyhow::Result<PgPool> {
        self.database()?;
        self.direct_database()?.ok_or_else(|| {
            let advice = "is needed to migrate: database.prepared is off, so database.url leads through a pooler, which does not \
                          keep the session whose lock a migration holds";
            self.loaded.refuse("database.direct_url", advice).into()
        })
    }

    fn bad_database(&self, name: &str, error: sqlx::Error) -> anyhow::Error {
        match error {
            sqlx::Error::Configuration(error) if error.is::<database::Unbridged>() => {
                self.loaded.refuse(name, error.to_string()).into()
            }
            // Not the error's words: they may quote a part of the URL.
            _ => self.loaded.refuse(name, DATABASE_URL).into(),
        }
    }
}

const DATABASE_URL: &str = "is no address of a database: write postgres://user:password@host:5432/database (percent-encode special characters of the password; ?sslmode=verify-full&sslrootcert=/path for TLS)";
