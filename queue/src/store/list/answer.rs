//! The parts of which scripts make their answers to lists.

use redis::Value;

use crate::store::{
    StoreError,
    session::{bytes, int},
};

/// An answer that no script gives.
pub(super) const ODD: StoreError = StoreError::Unreadable("an answer to a list");

/// The parts of an answer, as many as are expected.
pub(in crate::store) fn parts<const N: usize>(answer: &[Value]) -> Result<&[Value; N], StoreError> {
    answer.try_into().map_err(|_| ODD)
}

pub(in crate::store) fn array(value: &Value) -> Result<&[Value], StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(ODD),
    }
}

/// A whole number, whether it came as one or as text (scores and cursors of scans do).
pub(in crate::store) fn whole(value: &Value) -> Option<u64> {
    if let Some(number) = int(value) {
        return u64::try_from(number).ok();
    }
    let text = std::str::from_utf8(bytes(value)?).ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "scores are times in milliseconds")]
    text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|score| score as u64))
}

pub(super) fn field(value: &Value) -> &[u8] {
    bytes(value).unwrap_or_default()
}
