//! Settings: compiled-in defaults, covered by a file, covered by the environment.
//!
//! Each crate owns the settings of its part; here they are put together and read. `config/windrow.toml` holds every setting
//! with its default and its meaning, which a test compares with the defaults.

mod deserialize;
mod entry;
mod error;
mod range;
mod scheduler;
#[cfg(test)]
mod tests;
mod variable;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use windrow_queue::{Catalog, QueueName, Vault, vault};

pub(crate) use error::{Origin, SettingError};
pub(crate) use variable::variable_of;

use entry::Entry;

use crate::{kinds, log};

/// Where a file is looked for when none is named.
const PLACES: [&str; 2] = ["config/windrow.toml", "/etc/windrow/windrow.toml"];

/// All settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) redis: windrow_queue::store::Config,
    pub(crate) database: windrow_queue::database::Config,
    pub(crate) worker: windrow_worker::Config,
    pub(crate) scheduler: scheduler::Config,
    pub(crate) api: windrow_api::Config,
    pub(crate) encryption: windrow_queue::vault::Config,
    pub(crate) log: log::Config,
    pub(crate) outward: windrow_jobs::outward::Config,
    pub(crate) fetch: windrow_jobs::fetch::Config,
    pub(crate) scoring: windrow_jobs::scoring::Config,
    pub(crate) import: windrow_jobs::import::Config,
    pub(crate) payments: windrow_jobs::payments::Config,
}

/// Settings, and where each of them came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    entries: Entry,
}

impl Loaded {
    /// Reads the named file, else the first that is there, then the environment.
    ///
    /// # Errors
    /// The setting that is refused.
    pub(crate) fn read(
        named: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingError> {
        let file = match named {
            Some(path) => Some((path.to_owned(), read(path)?)),
            None => PLACES
                .iter()
                .map(Path::new)
                .find(|path| path.exists())
                .map_or(Ok(None), |path| read(path).map(|text| Some((path.to_owned(), text))))?,
        };
        let text = file.as_ref().map(|(path, text)| (path.display().to_string(), &**text));
        let mut loaded = Self::of(text.as_ref().map(|(path, text)| (&**path, *text)), variables)?;
        loaded.file = file.map(|(path, _)| path);
        Ok(loaded)
    }

    fn of(
        file: Option<(&str, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingError> {
        let defaults = serde_json::to_value(Settings::default()).expect("the defaults serialise");
        let mut entries = Entry::of_json(defaults, &Origin::Default);
        if let Some((path, text)) = file {
            entries.cover(Entry::of_toml(path, text)?);
        }
        for entry in variable::entries(variables)? {
            entries.cover(entry);
        }
        let settings = Settings::deserialize(entries.clone())?;
        Ok(Self { settings, file: None, entries })
    }

    /// An error about a setting whose type was right, with its origin.
    pub(crate) fn refuse(&self, name: &str, message: impl Into<String>) -> SettingError {
        let origin = self.entries.origin_of(name).filter(|origin| **origin != Origin::Default);
        SettingError::new(name, origin.cloned(), message)
    }

    /// What types cannot say, for what every role reads. Each finding has the name of its setting.
    pub(crate) fn faults(&self) -> Vec<SettingError> {
        let Settings { redis, database, worker, scheduler, log, .. } = &self.settings;
        let mut faults = Vec::new();
        let required = [
            self.required("redis.url", &redis.url, "redis://localhost:6379/0"),
            self.required("database.url", &database.url, "postgres://windrow:password@localhost/windrow"),
        ];
        faults.extend(required.into_iter().filter_map(Result::err));
        if let Err(error) = log.filter() {
            faults.push(
                self.refuse("log.level", format!("is no filter ({error}): use error, warn, info, debug or trace")),
            );
        }
        if let Err(error) = worker.listen.parse::<SocketAddr>() {
            let message = format!("{error}: expected an address with its port, such as 127.0.0.1:9464");
            faults.push(self.refuse("worker.listen", message));
        }
        match self.vault() {
            Ok(vault) => faults.extend(self.missing_key(&vault, &kinds::catalog())),
            Err(fault) => faults.push(fault),
        }
        faults.extend(range::faults(&self.settings).into_iter().map(|(name, expected)| self.refuse(name, expected)));
        for (queue, slots) in &worker.queues {
            let name = format!("worker.queues.{queue}");
            let known = kinds::catalog().queues();
            if !known.contains(queue) {
                let known: Vec<&str> = known.iter().map(QueueName::as_str).collect();
                faults.push(self.refuse(&name, format!("is no queue of a known kind; those are {}", known.join(", "))));
            } else if !slots.concurrency.is_none_or(|jobs| (1..=windrow_worker::MAX_CONCURRENCY).contains(&jobs)) {
                faults.push(self.refuse(&name, format!("must be 1 to {}", windrow_worker::MAX_CONCURRENCY)));
            } else if !(1..=windrow_worker::MAX_WEIGHT).contains(&slots.weight) {
                let name = format!("{name}.weight");
                faults.push(self.refuse(&name, format!("must be 1 to {}", windrow_worker::MAX_WEIGHT)));
            }
        }
        if let Err(reason) = scheduler.services().validate() {
            // Its first word is the key.
            let (key, reason) = reason.split_once([' ', ':']).unwrap_or(("", &reason));
            faults.push(self.refuse(format!("scheduler.{key}").trim_end_matches('.'), reason.trim()));
        }
        faults
    }

    /// The keys for the args of encrypted kinds; none may be configured.
    ///
    /// # Errors
    /// The setting that is wrong. Never a part of a key.
    pub(crate) fn vault(&self) -> Result<Vault, SettingError> {
        let name = |error: &vault::ConfigError| format!("encryption.{}", error.key);
        Vault::new(&self.settings.encryption).map_err(|error| self.refuse(&name(&error), &*error.reason))
    }

    /// Whether there is an encrypted kind and no key.
    fn missing_key(&self, vault: &Vault, catalog: &Catalog) -> Option<SettingError> {
        let encrypted = encrypted_kinds(catalog);
        (vault.is_empty() && !encrypted.is_empty()).then(|| {
            let (variable, kinds) = (variable_of("encryption.keys"), encrypted.join(", "));
            let message = format!(
                "is missing: {kinds} cannot be enqueued or executed without. Set it as {variable}, the same for all processes; `windrow keys new` makes a key"
            );
            self.refuse("encryption.keys", message)
        })
    }

    /// Refuses the first setting of a section that lies outside of its range: commands that are no role look at no other
    /// section, and a pool of no connections panics.
    pub(crate) fn in_range(&self, section: &str) -> Result<(), SettingError> {
        let of_section = |name: &str| name.split_once('.').is_some_and(|(first, _)| first == section);
        match range::faults(&self.settings).into_iter().find(|(name, _)| of_section(name)) {
            Some((name, expected)) => Err(self.refuse(name, expected)),
            None => Ok(()),
        }
    }

    /// A text that has no sensible default, and is needed for what is to be done.
    pub(crate) fn required<'a>(&self, name: &str, value: &'a str, example: &str) -> Result<&'a str, SettingError> {
        if value.is_empty() {
            let variable = variable_of(name);
            let message = format!("is missing: set it in windrow.toml or as {variable}, for example {example}");
            return Err(self.refuse(name, message));
        }
        Ok(value)
    }
}

/// The kinds whose args are encrypted.
pub(crate) fn encrypted_kinds(catalog: &Catalog) -> Vec<&str> {
    catalog.iter().filter(|info| info.policy.encrypted).map(|info| info.kind.as_str()).collect()
}

fn read(path: &Path) -> Result<String, SettingError> {
    fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::PermissionDenied => "this user may not read it",
            _ => "it cannot be read",
        };
        let shown = path.display().to_string();
        SettingError::new("", None, format!("{shown}: {advice} ({error})"))
    })
}
