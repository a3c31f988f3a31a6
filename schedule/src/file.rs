//! `schedules.toml`.
//!
//! ```toml
//! # Raise it with every change that must win over running processes which still have an older file.
//! generation = 1
//!
//! [[schedule]]
//! name = "fetch-all"
//! kind = "vacancy.fetch_all"
//! cron = "*/15 * * * *"        # or every = "15m"
//! time_zone = "Europe/Berlin"  # UTC when left out
//! jitter = "30s"
//! overlap = "skip"             # allow | skip | queue_one
//! missed = "run_once"          # skip | run_once | { catch_up = 5 }
//! args = {}
//! ```

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use windrow_queue::Catalog;

use super::definition::{Declared, Definition, InvalidSchedule};

/// The checked contents of `schedules.toml`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedules {
    /// The file with the highest one is in force, whoever starts last.
    pub generation: i64,
    /// The schedules.
    pub list: Vec<Definition>,
}

/// A file that was refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or a key at its top is wrong.
    #[error("{file}: {reason}")]
    Malformed {
        /// Its path.
        file: String,
        /// What is wrong, with line and column as far as they are known.
        reason: String,
    },
    /// One schedule is wrong.
    #[error("{file}: {source}")]
    Schedule {
        /// Its path.
        file: String,
        /// Which, and what is wrong with it.
        source: InvalidSchedule,
    },
    /// A key of one schedule is unknown or has a value of the wrong sort.
    #[error("{file}: schedule {schedule:?}: {key}: {reason}")]
    Key {
        /// Its path.
        file: String,
        /// The schedule's name, or its number when it has none.
        schedule: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl Schedules {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// What is wrong, with file, schedule and key.
    pub fn load(path: &Path, catalog: &Catalog) -> Result<Self, FileError> {
        let file = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| FileError::Unreadable { file: file.clone(), source })?;
        Self::parse(&file, &text, catalog)
    }

    /// Checks a file's text; `file` is for error messages.
    ///
    /// # Errors
    /// What is wrong, with file, schedule and key.
    pub fn parse(file: &str, text: &str, catalog: &Catalog) -> Result<Self, FileError> {
        let malformed = |reason: String| FileError::Malformed { file: file.to_owned(), reason };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| malformed(error.to_string()))?;
        let mut schedules = Self::default();
        let mut names = BTreeSet::new();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("generation", toml::Value::Integer(generation)) if generation >= 0 => {
                    schedules.generation = generation;
                }
                ("generation", _) => return Err(malformed("generation: must be a whole number, 0 or more".into())),
                ("schedule", toml::Value::Array(entries)) => {
                    for (index, entry) in entries.into_iter().enumerate() {
                        let declared = declared(file, index, json(entry))?;
                        let definition = Definition::check(declared, catalog)
                            .map_err(|source| FileError::Schedule { file: file.to_owned(), source })?;
                        if !names.insert((definition.tenant().cloned(), definition.name.clone())) {
                            let reason = "stands in the file twice: give each schedule a name of its own".to_owned();
                            let source = InvalidSchedule { schedule: definition.name, key: "name".into(), reason };
                            return Err(FileError::Schedule { file: file.to_owned(), source });
                        }
                        schedules.list.push(definition);
                    }
                }
                ("schedule", _) => return Err(malformed("schedule: write [[schedule]] above each of them".into())),
                (other, _) => {
                    return Err(malformed(format!("{other}: is not known here: use generation and [[schedule]]")));
                }
            }
        }
        Ok(schedules)
    }
}

/// One entry, with the key named that does not fit: each key is read alone first.
fn declared(file: &str, index: usize, entry: Value) -> Result<Declared, FileError> {
    let named = entry.get("name").and_then(Value::as_str).map(str::to_owned);
    let schedule = named.unwrap_or_else(|| format!("number {}", index + 1));
    let refuse = |key: &str, reason: String| FileError::Key {
        file: file.to_owned(),
        schedule: schedule.clone(),
        key: key.to_owned(),
        reason,
    };
    if let Value::Object(keys) = &entry {
        for (key, value) in keys {
            let alone = Value::Object([(key.clone(), value.clone())].into_iter().collect());
            if let Err(error) = serde_json::from_value::<Declared>(alone) {
                return Err(refuse(key, error.to_string()));
            }
        }
    }
    serde_json::from_value(entry).map_err(|error| refuse("schedule", error.to_string()))
}

/// TOML as JSON; dates as text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(json).collect()),
        toml::Value::Table(table) => Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect()),
    }
}
