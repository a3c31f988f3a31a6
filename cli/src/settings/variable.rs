//! Settings from the environment: `WINDROW_SECTION__KEY`.

use std::collections::BTreeMap;

use super::{
    entry::{Entry, Value},
    error::{Origin, SettingError},
};

const PREFIX: &str = "WINDROW_";

/// Short names of what everybody sets.
const ALIASES: [(&str, &str); 4] = [
    ("WINDROW_REDIS_URL", "WINDROW_REDIS__URL"),
    ("WINDROW_DATABASE_URL", "WINDROW_DATABASE__URL"),
    ("WINDROW_ENCRYPTION_KEYS", "WINDROW_ENCRYPTION__KEYS"),
    ("WINDROW_ENCRYPTION_KEYS_FILE", "WINDROW_ENCRYPTION__KEYS_FILE"),
];

/// Variables with our prefix that are no settings: the file to read, where `windrow dev` and the tests find servers, how long
/// tests may be, the port in docker-compose.yml.
const OTHERS: [&str; 5] =
    ["WINDROW_CONFIG", "WINDROW_REDIS_SERVER", "WINDROW_POSTGRES_BIN", "WINDROW_TEST_ALL", "WINDROW_API_PORT"];

/// The variable that sets a setting.
pub(crate) fn variable_of(name: &str) -> String {
    let full = format!("{PREFIX}{}", name.to_uppercase().replace('.', "__"));
    ALIASES.iter().find(|(_, long)| *long == full).map_or(full, |(short, _)| (*short).to_owned())
}

/// The settings among these variables.
pub(super) fn entries(variables: impl IntoIterator<Item = (String, String)>) -> Result<Vec<Entry>, SettingError> {
    let ours: BTreeMap<String, String> =
        variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX) && !OTHERS.contains(&&**name)).collect();
    for (short, long) in ALIASES {
        if ours.contains_key(short) && ours.contains_key(long) {
            let origin = Origin::Variable(long.into());
            return Err(SettingError::new("", Some(origin), format!("{short} is set as well, and means the same")));
        }
    }
    ours.into_iter().map(|(name, text)| entry(&name, text)).collect()
}

fn entry(name: &str, text: String) -> Result<Entry, SettingError> {
    let origin = Origin::Variable(name.into());
    let long = ALIASES.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
    let path: Vec<String> = long.strip_prefix(PREFIX).unwrap_or(long).split("__").map(str::to_lowercase).collect();
    if path.len() < 2 || path.iter().any(String::is_empty) {
        let expected = "is not a setting: variables are named WINDROW_SECTION__KEY, with two underscores";
        return Err(SettingError::new("", Some(origin), expected));
    }
    let innermost = Entry { value: Value::Untyped(text), origin: origin.clone() };
    Ok(path
        .into_iter()
        .rev()
        .fold(innermost, |entry, key| Entry { value: Value::Table([(key, entry)].into()), origin: origin.clone() }))
}
