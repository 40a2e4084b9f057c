//! What tells the versions of an object apart: a stamp that orders them, names them, and says which of them are markers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::file::Known;

/// The id of objects that were written while their bucket gave no ids.
const NULL: &str = "null";
const NULL_MARK: &str = "-null";
const DELETED_MARK: &str = "-deleted";
/// A UUID without its hyphens.
const ORDER_DIGITS: usize = 32;

/// Whether a bucket keeps the earlier versions of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// Each write makes a version with an id, and the earlier ones stay.
    Enabled,
    /// Writes replace the version `null`; those with an id stay.
    Suspended,
}

impl Versioning {
    /// As S3 calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Suspended => "Suspended",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Enabled, Self::Suspended].into_iter().find(|versioning| versioning.name() == name)
    }
}

/// What a version is told apart by. It is written into the version's file, and is the name of that of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Stamp {
    /// A UUIDv7: versions of a key ascend. What was there before its bucket had versions goes by its time.
    pub(crate) order: u128,
    pub(crate) is_null: bool,
    pub(crate) is_marker: bool,
}

impl Stamp {
    /// Behind all of `others`, also when the clock was set back.
    pub(crate) fn behind(others: impl Iterator<Item = Self>, is_null: bool, is_marker: bool) -> Self {
        let newest = others.map(|stamp| stamp.order).max();
        let after = newest.map_or(0, |order| order.saturating_add(1));
        Self { order: Uuid::now_v7().as_u128().max(after), is_null, is_marker }
    }

    /// That of an object in a bucket with versions; one from before has none in its file.
    pub(crate) fn of(known: &Known) -> Self {
        known.stamp.unwrap_or_else(|| {
            let microseconds = u128::try_from(known.modified_us).unwrap_or_default();
            // A UUIDv7 begins with milliseconds, in 48 bits.
            let order = ((microseconds / 1000) << 80) | ((microseconds % 1000) << 64);
            Self { order, is_null: true, is_marker: false }
        })
    }

    /// As clients are told.
    pub(crate) fn id(self) -> String {
        if self.is_null { NULL.to_owned() } else { format!("{:032x}", self.order) }
    }

    pub(crate) fn is_behind(self, other: Self) -> bool {
        self.order > other.order
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let null = if self.is_null { NULL_MARK } else { "" };
        let deleted = if self.is_marker { DELETED_MARK } else { "" };
        write!(formatter, "{:032x}{null}{deleted}", self.order)
    }
}

/// The text is none that we wrote.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a version")]
pub(crate) struct NoStamp;

impl FromStr for Stamp {
    type Err = NoStamp;

    fn from_str(name: &str) -> Result<Self, NoStamp> {
        let (rest, is_marker) = without(name, DELETED_MARK);
        let (order, is_null) = without(rest, NULL_MARK);
        Ok(Self { order: order_of(order).ok_or(NoStamp)?, is_null, is_marker })
    }
}

impl TryFrom<String> for Stamp {
    type Error = NoStamp;

    fn try_from(name: String) -> Result<Self, NoStamp> {
        name.parse()
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> Self {
        stamp.to_string()
    }
}

fn without<'n>(name: &'n str, mark: &str) -> (&'n str, bool) {
    match name.strip_suffix(mark) {
        Some(rest) => (rest, true),
        None => (name, false),
    }
}

fn order_of(digits: &str) -> Option<u128> {
    let is_ours = digits.len() == ORDER_DIGITS && digits.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    if is_ours { u128::from_str_radix(digits, 16).ok() } else { None }
}

/// A version that somebody names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Null,
    Order(u128),
}

impl Wanted {
    /// `None` for what cannot be the id of a version.
    pub(crate) fn from_id(id: &str) -> Option<Self> {
        if id == NULL { Some(Self::Null) } else { order_of(id).map(Self::Order) }
    }

    pub(crate) fn is(self, stamp: Stamp) -> bool {
        match self {
            Self::Null => stamp.is_null,
            Self::Order(order) => !stamp.is_null && stamp.order == order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for (is_null, is_marker) in [(false, false), (false, true), (true, false), (true, true)] {
            let stamp = Stamp::behind(std::iter::empty(), is_null, is_marker);
            assert_eq!(stamp.to_string().parse::<Stamp>().unwrap(), stamp);
            assert!(Wanted::from_id(&stamp.id()).unwrap().is(stamp));
        }
        for other in ["", "null", "0", "-null", &"g".repeat(32), &"F".repeat(32), &format!("{}-other", "0".repeat(32))]
        {
            assert!(other.parse::<Stamp>().is_err(), "{other:?}");
        }
        assert_eq!(Wanted::from_id("../../etc"), None);
    }

    #[test]
    fn stamps_ascend_though_the_clock_was_set_back() {
        let future = Stamp { order: u128::MAX >> 4, is_null: false, is_marker: false };
        let next = Stamp::behind([future].into_iter(), false, false);
        assert!(next.is_behind(future));
        let old = Known { modified_us: 1_700_000_000_123_456, ..Known::default() };
        let (old, new) = (Stamp::of(&old), Stamp::behind(std::iter::empty(), false, false));
        assert!(old.is_null && new.is_behind(old) && new.id() != old.id());
    }
}
