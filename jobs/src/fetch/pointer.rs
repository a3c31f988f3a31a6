//! JSON pointers (RFC 6901): where something is in a document.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// A JSON pointer: `""` is the document, `/data/items` the member `items` of the member `data`, `/0` a list's first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer {
    text: String,
    segments: Vec<String>,
}

/// A text that is no JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no JSON pointer: write \"\" for the whole document, or /name/name with at most 16 names")]
pub struct InvalidPointer {
    given: String,
}

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// When it does not begin with `/`, has more than 16 segments or more than 256 bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidPointer> {
        let text = text.into();
        let segments: Vec<_> = text.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        if !(text.is_empty() || text.starts_with('/')) || segments.len() > 16 || text.len() > 256 {
            return Err(InvalidPointer { given: text.chars().take(80).collect() });
        }
        Ok(Self { text, segments })
    }

    /// What it points at.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.pointer(&self.text)
    }

    /// What it points at in a document that is not decoded: only the way there is read, nothing is built.
    pub(super) fn find_raw<'a>(&self, document: &'a RawValue) -> Result<Option<&'a RawValue>, serde_json::Error> {
        let mut found = document;
        for segment in &self.segments {
            match Pick(segment).deserialize(&mut serde_json::Deserializer::from_str(found.get()))? {
                Some(next) => found = next,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Pointer {
    type Error = InvalidPointer;
    fn try_from(text: String) -> Result<Self, InvalidPointer> {
        Self::new(text)
    }
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> Self {
        pointer.text
    }
}

/// Picks one member of an object, or one item of a list.
struct Pick<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut skip = self.0.parse::<usize>().ok();
        let mut found = None;
        loop {
            match skip {
                Some(0) => {
                    found = list.next_element()?;
                    skip = None;
                }
                Some(more) => skip = list.next_element::<IgnoredAny>()?.map(|_| more - 1),
                None if list.next_element::<IgnoredAny>()?.is_some() => {}
                None => return Ok(found),
            }
        }
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_finds_the_same_in_raw_and_decoded_json() {
        let text = r#"{"a": [10, {"b/c": "x", "~": null}], "a2": 1.5, "": {"": true}, "s": "\u0041"}"#;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        for pointer in
            ["", "/a", "/a/0", "/a/1/b~1c", "/a/1/~0", "/a/2", "/a/x", "/a/0/y", "/missing", "/", "//", "/s/0", "/a2/0"]
        {
            let pointer = Pointer::new(pointer).unwrap();
            let found = pointer.find_raw(raw).unwrap().map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap());
            assert_eq!(found.as_ref(), pointer.find(&value), "{pointer}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_refused_with_its_text() {
        for bad in ["items", "data/items", &"/x".repeat(17), &format!("/{}", "x".repeat(300))] {
            let error = Pointer::new(bad).unwrap_err().to_string();
            assert!(error.contains(&bad[..4]), "{error}");
        }
    }
}
