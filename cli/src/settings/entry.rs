//! Values of settings, each with its origin, and how a later source covers an earlier one.

use std::{collections::BTreeMap, sync::Arc};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, SettingError};

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value, typed as far as its source has types.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    /// From the environment: it is what the setting wants it to be.
    Untyped(String),
    List(Vec<Entry>),
    Table(BTreeMap<String, Entry>),
}

impl Entry {
    /// A tree in which all has one origin.
    pub(super) fn of_json(value: serde_json::Value, origin: &Origin) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Signed(number),
                (None, Some(number)) => Value::Unsigned(number),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text),
            Json::Array(list) => Value::List(list.into_iter().map(|value| Self::of_json(value, origin)).collect()),
            Json::Object(table) => {
                Value::Table(table.into_iter().map(|(key, value)| (key, Self::of_json(value, origin))).collect())
            }
        };
        Self { value, origin: origin.clone() }
    }

    /// A file's text. `path` is what errors call it.
    pub(super) fn of_toml(path: &str, text: &str) -> Result<Self, SettingError> {
        let path: Arc<str> = path.into();
        let at = |offset: usize| {
            let before = text.as_bytes().iter().take(offset);
            Origin::File { path: Arc::clone(&path), line: 1 + before.filter(|&&byte| byte == b'\n').count() }
        };
        // Not the error's Display: it quotes the line, which may hold a password.
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            SettingError::new("", Some(at(offset)), format!("is not TOML: {}", error.message()))
        })?;
        let start = table.span().start;
        of_table(table.into_inner(), at(start), &at)
    }

    /// Puts `later` over this: tables are merged, all else is replaced.
    pub(super) fn cover(&mut self, later: Self) {
        match (&mut self.value, later.value) {
            (Value::Table(table), Value::Table(over)) => {
                for (key, entry) in over {
                    match table.get_mut(&key) {
                        Some(standing) => standing.cover(entry),
                        None => drop(table.insert(key, entry)),
                    }
                }
            }
            (standing, value) => {
                *standing = value;
                self.origin = later.origin;
            }
        }
    }

    /// The origin of what stands at a path, if anything does.
    pub(super) fn origin_of(&self, name: &str) -> Option<&Origin> {
        let mut entry = self;
        for key in name.split('.').filter(|key| !key.is_empty()) {
            match &entry.value {
                Value::Table(table) => entry = table.get(key)?,
                _ => return Some(&entry.origin),
            }
        }
        Some(&entry.origin)
    }
}

fn of_table(table: DeTable<'_>, origin: Origin, at: &impl Fn(usize) -> Origin) -> Result<Entry, SettingError> {
    let mut entries = BTreeMap::new();
    for (key, value) in table {
        let origin = at(key.span().start);
        let key = key.into_inner().into_owned();
        let entry = of_value(value, origin, at).map_err(|error| error.at(key.clone()))?;
        entries.insert(key, entry);
    }
    Ok(Entry { value: Value::Table(entries), origin })
}

fn of_value(value: Spanned<DeValue<'_>>, origin: Origin, at: &impl Fn(usize) -> Origin) -> Result<Entry, SettingError> {
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Integer(number) => {
            let signed = i64::from_str_radix(number.as_str(), number.radix());
            let refuse = |_| SettingError::new("", Some(origin.clone()), "is too large a number");
            Value::Signed(signed.map_err(refuse)?)
        }
        DeValue::Float(number) => {
            let refuse = |_| SettingError::new("", Some(origin.clone()), "is not a number that can be read");
            Value::Float(number.as_str().parse().map_err(refuse)?)
        }
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(list) => Value::List(
            list.into_iter()
                .map(|value| {
                    let origin = at(value.span().start);
                    of_value(value, origin, at)
                })
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => return of_table(table, origin, at),
    };
    Ok(Entry { value, origin })
}
