//! Settings out of their tree. What comes from the environment is text, and becomes what the setting wants.

use std::collections::btree_map;

use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::{MapAccessDeserializer, StringDeserializer},
};

use super::{
    entry::{Entry, Value},
    error::{Origin, SettingError},
};

type Outcome<T> = Result<T, SettingError>;

/// Text of the environment as JSON, or as TOML writes values in a line.
fn structured(text: &str, origin: &Origin) -> Option<Entry> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(Entry::of_json(value, origin));
    }
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    let value = serde_json::to_value(table.get("value").filter(|_| table.len() == 1)?).ok()?;
    Some(Entry::of_json(value, origin))
}

macro_rules! numbers {
    ($($method:ident => $parse:ty, $visit:ident, $words:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
            match self.value {
                Value::Untyped(text) => {
                    let number: Outcome<$parse> = text.trim().parse().map_err(|_| SettingError::custom($words));
                    number.and_then(|number| visitor.$visit(number)).map_err(|error| error.from(&self.origin))
                }
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Entry {
    type Error = SettingError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        let Self { value, origin } = self;
        let outcome = match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::Signed(number) => visitor.visit_i64(number),
            Value::Unsigned(number) => visitor.visit_u64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Text(text) | Value::Untyped(text) => visitor.visit_string(text),
            Value::List(list) => visitor.visit_seq(List { entries: list.into_iter(), index: 0 }),
            Value::Table(table) => visitor.visit_map(Table { entries: table.into_iter(), next: None }),
        };
        outcome.map_err(|error| error.from(&origin))
    }

    numbers! {
        deserialize_i8 => i64, visit_i64, "expected a whole number";
        deserialize_i16 => i64, visit_i64, "expected a whole number";
        deserialize_i32 => i64, visit_i64, "expected a whole number";
        deserialize_i64 => i64, visit_i64, "expected a whole number";
        deserialize_u8 => u64, visit_u64, "expected a whole number, 0 or more";
        deserialize_u16 => u64, visit_u64, "expected a whole number, 0 or more";
        deserialize_u32 => u64, visit_u64, "expected a whole number, 0 or more";
        deserialize_u64 => u64, visit_u64, "expected a whole number, 0 or more";
        deserialize_f32 => f64, visit_f64, "expected a number";
        deserialize_f64 => f64, visit_f64, "expected a number";
        deserialize_bool => bool, visit_bool, "expected true or false";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::Untyped(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        let Value::Untyped(text) = &self.value else { return self.deserialize_any(visitor) };
        let text = text.trim();
        if text.starts_with('[') {
            let wrong = || SettingError::custom("expected a list, as JSON or TOML writes it").from(&self.origin);
            return structured(text, &self.origin).ok_or_else(wrong)?.deserialize_any(visitor);
        }
        let part = |part: &str| Self { value: Value::Untyped(part.trim().to_owned()), origin: self.origin.clone() };
        let list = text.split(',').filter(|part| !part.trim().is_empty()).map(part).collect();
        Self { value: Value::List(list), origin: self.origin.clone() }.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        let Value::Untyped(text) = &self.value else { return self.deserialize_any(visitor) };
        let wrong = || SettingError::custom("expected a table, as JSON or TOML writes it").from(&self.origin);
        structured(text.trim(), &self.origin).ok_or_else(wrong)?.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Outcome<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Outcome<V::Value> {
        let Self { value, origin } = self;
        let outcome = match value {
            Value::Text(text) | Value::Untyped(text) => {
                let name: StringDeserializer<SettingError> = text.into_deserializer();
                visitor.visit_enum(name)
            }
            Value::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Table { entries: table.into_iter(), next: None }))
            }
            _ => Err(SettingError::unknown_variant("", variants)),
        };
        outcome.map_err(|error| error.from(&origin))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Outcome<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, SettingError> for Entry {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct List {
    entries: std::vec::IntoIter<Entry>,
    index: usize,
}

impl<'de> SeqAccess<'de> for List {
    type Error = SettingError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Outcome<Option<T::Value>> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.index += 1;
        seed.deserialize(entry).map(Some).map_err(|error| error.at(format!("number {}", self.index)))
    }
}

struct Table {
    entries: btree_map::IntoIter<String, Entry>,
    next: Option<(String, Entry)>,
}

impl<'de> MapAccess<'de> for Table {
    type Error = SettingError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Outcome<Option<K::Value>> {
        let Some((key, entry)) = self.entries.next() else { return Ok(None) };
        let name: StringDeserializer<SettingError> = key.clone().into_deserializer();
        let outcome = seed.deserialize(name).map_err(|error| error.from(&entry.origin).at(key.clone()));
        self.next = Some((key, entry));
        outcome.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Outcome<V::Value> {
        let (key, entry) =
            self.next.take().ok_or_else(|| SettingError::custom("a value was asked for before its key"))?;
        let origin = entry.origin.clone();
        seed.deserialize(entry).map_err(|error| error.from(&origin).at(key))
    }
}
