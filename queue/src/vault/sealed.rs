//! What a sealed text looks like, and what of it is shown.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::key::KeyId;
use crate::name::{Kind, Tenant};

/// The one name in a sealed object.
const NAME: &str = "$sealed";
/// How [`Vault`](super::Vault) writes it, and how PostgreSQL prints it.
const BEGIN: &str = r#"{"$sealed":"#;

/// A sealed text, taken apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker<'a> {
    #[serde(rename = "$sealed", borrow)]
    text: Cow<'a, str>,
}

impl<'a> Marker<'a> {
    /// `None`: it is none. Ends at the first byte that is not as it must be.
    pub(super) fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    pub(super) fn key_id(&self) -> &str {
        self.text.split_once('.').map_or("", |(id, _)| id)
    }

    pub(super) fn body(&self) -> &str {
        self.text.split_once('.').map_or("", |(_, body)| body)
    }
}

/// Whether a JSON text is an object with the name `$sealed` and a text, whoever made it.
#[must_use]
pub fn looks_sealed(args: &RawValue) -> bool {
    Marker::parse(args.get()).is_some()
}

/// The same at a glance, for texts that a vault or PostgreSQL wrote.
pub(super) fn begins_sealed(json: &str) -> bool {
    json.starts_with(BEGIN)
}

/// A key's id as it may be shown: a text that somebody else made may have anything in its place.
pub(super) fn printable_id(id: &str) -> &str {
    if KeyId::is_valid(id) { id } else { "?" }
}

fn shown_text(marker: &Marker<'_>) -> String {
    format!(r#"{BEGIN}"{}"}}"#, printable_id(marker.key_id()))
}

/// Args as people and programs may see them: of sealed ones the key's id only, `{"$sealed":"2026b"}`.
#[must_use]
pub fn shown(args: Box<RawValue>) -> Box<RawValue> {
    match Marker::parse(args.get()) {
        Some(marker) => RawValue::from_string(shown_text(&marker)).expect("an id needs no escapes"),
        None => args,
    }
}

/// The same for a value that was parsed.
pub fn shown_value(value: &mut Value) {
    let text = match value {
        Value::Object(object) if object.len() == 1 => object.get_mut(NAME),
        _ => None,
    };
    if let Some(Value::String(text)) = text {
        *text = printable_id(text.split_once('.').map_or("", |(id, _)| id)).to_owned();
    }
}

/// What is wrong with a text that does not decode, for whoever looks at the job. Serde quotes what it found; of what is encrypted
/// only the place is said.
#[must_use]
pub fn decode_error(encrypted: bool, error: serde_json::Error) -> anyhow::Error {
    if encrypted {
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!(
            "it is not what the handler reads, at line {line}, column {column} of the plain text, which is not shown"
        )
    } else {
        error.into()
    }
}

/// The mark of a job whose args were sealed. It holds for the kind, the tenant and the args that it was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seal(Option<[u8; 32]>);

impl Seal {
    pub(crate) fn of(kind: &Kind, tenant: Option<&Tenant>, args: &RawValue) -> Self {
        let mut hash = Sha256::new();
        for part in [kind.as_str(), tenant.map_or("", Tenant::as_str), args.get()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(Some(hash.finalize().into()))
    }
}
