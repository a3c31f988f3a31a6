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
        // Not the error's words: they may quote a part of the URL.
        Ok(database::pool(config).map_err(|_| self.loaded.refuse("database.url", DATABASE_URL))?)
    }

    /// Postgres for LISTEN: one connection, past a pooler.
    ///
    /// # Errors
    /// The setting that is wrong.
    pub(crate) fn direct_database(&self) -> anyhow::Result<PgPool> {
        let config = &self.loaded.settings.database;
        let name = if config.direct_url.is_empty() { "database.url" } else { "database.direct_url" };
        Ok(windrow_scheduler::listen_pool(config).map_err(|_| self.loaded.refuse(name, DATABASE_URL))?)
    }
}

const DATABASE_URL: &str = "is no address of a database: write postgres://user:password@host:5432/database (percent-encode special characters of the password; ?sslmode=verify-full&sslrootcert=/path for TLS)";
