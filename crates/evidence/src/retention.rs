//! Which of the kept parts go when there are too many, or when they are too old. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

/// What may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Pictures of parts that are older than this go.
    pub age: Duration,
    /// The oldest pictures go when all of them take more.
    pub bytes: u64,
    /// Whole files of the log go when their last record is older than this.
    pub log_age: Duration,
}

impl Default for Keep {
    /// 90 days and 20 GB of pictures, two years of records.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { age: 90 * day, bytes: 20_000_000_000, log_age: 730 * day }
    }
}

/// A part's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its folder, below the store's.
    pub(crate) folder: String,
    pub(crate) at: Timestamp,
    pub(crate) bytes: u64,
}

/// Everything that is kept, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    kept: VecDeque<Kept>,
    bytes: u64,
}

impl Inventory {
    pub(crate) fn new(mut kept: Vec<Kept>) -> Self {
        kept.sort_by(|one, other| (one.at, &one.folder).cmp(&(other.at, &other.folder)));
        let bytes = kept.iter().map(|kept| kept.bytes).sum();
        Self { kept: kept.into(), bytes }
    }

    pub(crate) fn add(&mut self, kept: Kept) {
        self.bytes += kept.bytes;
        self.kept.push_back(kept);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part that must go, if one must.
    pub(crate) fn next_to_go(&mut self, keep: &Keep, now: Timestamp) -> Option<Kept> {
        let oldest = self.kept.front()?;
        let age = Duration::try_from(now.duration_since(oldest.at)).unwrap_or_default();
        if age <= keep.age && self.bytes <= keep.bytes {
            return None;
        }
        let gone = self.kept.pop_front()?;
        self.bytes -= gone.bytes;
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn kept(hour: i64, bytes: u64) -> Kept {
        Kept { folder: hour.to_string(), at: Timestamp::from_second(hour * 3600).unwrap(), bytes }
    }

    #[test]
    fn the_oldest_go_first_by_age_and_by_size_and_no_more_than_must() {
        let table = [
            // keep for hours, bytes, at hour; what goes of hours 1 to 4 with 10 bytes each
            (100, 40, 5, vec![]),
            (100, 39, 5, vec!["1"]),
            (100, 20, 5, vec!["1", "2"]),
            (2, 40, 5, vec!["1", "2"]),
            (0, 40, 5, vec!["1", "2", "3", "4"]),
            (100, 0, 5, vec!["1", "2", "3", "4"]),
            // A clock that was set back makes nothing old.
            (0, 40, 0, vec![]),
        ];
        for (hours, bytes, now, expected) in table {
            let mut inventory = Inventory::new(vec![kept(3, 10), kept(1, 10), kept(2, 10)]);
            inventory.add(kept(4, 10));
            let keep = Keep { age: HOUR * hours, bytes, log_age: HOUR };
            let now = kept(now, 0).at;
            let gone: Vec<String> =
                std::iter::from_fn(|| inventory.next_to_go(&keep, now).map(|kept| kept.folder)).collect();
            assert_eq!(gone, expected, "{hours} h, {bytes} bytes");
            assert_eq!(inventory.bytes(), 40 - 10 * gone.len() as u64);
        }
    }
}
