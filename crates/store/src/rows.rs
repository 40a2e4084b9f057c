//! From rows to values.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::StoreError;

pub(crate) fn text(row: &AnyRow, column: &str) -> Result<String, StoreError> {
    Ok(row.try_get(column)?)
}

pub(crate) fn optional_text(row: &AnyRow, column: &str) -> Result<Option<String>, StoreError> {
    Ok(row.try_get(column)?)
}

pub(crate) fn count(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| StoreError::Damaged(number.to_string()))
}

pub(crate) fn optional_count(row: &AnyRow, column: &str) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = row.try_get(column)?;
    number.map(|number| u64::try_from(number).map_err(|_| StoreError::Damaged(number.to_string()))).transpose()
}

pub(crate) fn time(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    let micros: i64 = row.try_get(column)?;
    Timestamp::from_microsecond(micros).map_err(|_| StoreError::Damaged(micros.to_string()))
}

pub(crate) fn json(row: &AnyRow, column: &str) -> Result<Value, StoreError> {
    let text = text(row, column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::Damaged(text))
}

/// The word of a state, as one of `all`.
pub(crate) fn word<T: Copy>(
    row: &AnyRow,
    column: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, StoreError> {
    let text = text(row, column)?;
    all.iter().copied().find(|one| name(*one) == text).ok_or(StoreError::Damaged(text))
}

/// The present, as the database keeps it.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A number of ours as the database takes it.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
