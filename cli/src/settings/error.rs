//! A setting that was refused: which, where it came from, and what is expected. Never its value, which may be a secret.

use std::{fmt, sync::Arc};

use serde::de::{Error, Expected, Unexpected};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is compiled in.
    Default,
    /// A file, and the line.
    File { path: Arc<str>, line: usize },
    /// A variable of the environment.
    Variable(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "{path}, line {line}"),
            Self::Variable(name) => write!(f, "{name} in the environment"),
        }
    }
}

/// One refused setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettingError {
    /// Its name, from the inside out while it is being built.
    path: Vec<String>,
    origin: Option<Origin>,
    message: String,
}

impl SettingError {
    pub(crate) fn new(name: &str, origin: Option<Origin>, message: impl Into<String>) -> Self {
        Self { path: name.rsplit('.').map(str::to_owned).collect(), origin, message: message.into() }
    }

    /// Puts it inside the table or list in which `key` stands.
    pub(super) fn at(mut self, key: impl Into<String>) -> Self {
        self.path.push(key.into());
        self
    }

    /// The innermost value that has an origin is the one at fault.
    pub(super) fn from(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.iter().rev().map(String::as_str).collect::<Vec<_>>().join(".");
        match &self.origin {
            Some(origin) if name.is_empty() => write!(f, "{origin}: {}", self.message),
            Some(origin) => write!(f, "{name} ({origin}): {}", self.message),
            None if name.is_empty() => f.write_str(&self.message),
            None => write!(f, "{name}: {}", self.message),
        }
    }
}

impl std::error::Error for SettingError {}

impl Error for SettingError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), origin: None, message: message.to_string() }
    }

    /// Without the value.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}", plain(&expected.to_string())))
    }

    /// Without the value.
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(Unexpected::Unit, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("is not a setting; here there are {}", expected.join(", ")))
    }
}

/// What serde expects, in words for who writes the file.
fn plain(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "string" | "path string" => "text".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "a duration" => "a duration such as 500ms, 30s or 2h 15m".into(),
        "socket address" => "an address with its port, such as 127.0.0.1:8080".into(),
        other if other.starts_with("struct ") => "a table of settings".into(),
        other => other.into(),
    }
}
