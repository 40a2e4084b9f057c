//! Identity of what is published: who was running (`boot_id`) and the how-manieth message it was (`seq`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// Names one run of one line. A consumer that remembers `(boot_id, seq)` of each topic never acts on a message twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(Uuid);

impl BootId {
    /// A new random id (UUID version 4).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// A given id, for tests and replays.
    pub const fn from_u128(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Counts messages of one kind from 1, without gaps, from any thread.
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// The next number.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many numbers were handed out.
    pub fn handed_out(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
