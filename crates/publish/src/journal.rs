//! Decisions on disk until they are delivered: written by a thread of its own, so that neither a streaming thread nor the
//! way to the broker waits for the disk.
//!
//! The outbox in memory is what counts; the file follows it. Whenever the file may have fallen behind (a full disk that is
//! free again, a burst that was too much for it) it is written anew from memory, so that no fault of the disk is more than
//! a gap in time. What is found in the file at the start is what an earlier run had left.

mod store;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::outbox::Key;
use crate::shared::Shared;
pub(crate) use store::Entry;
pub use store::Fsync;
use store::{Store, StoreError};

/// Changes that wait for the disk. With more, the file is written anew once the disk has caught up.
const MOST_CHANGES: usize = 8192;
/// After a fault the file is tried again this much later.
const RETRY: Duration = Duration::from_secs(5);
/// How much a power cut may cost with [`Fsync::Interval`].
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What happens to a decision, as far as the file is concerned.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Add(Entry),
    Remove(Key),
}

/// What the outbox tells, and the journal's thread has not written yet.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    desk: Mutex<Desk>,
    wake: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    changes: Vec<Change>,
    /// The changes do not tell everything any more.
    is_behind: bool,
    /// The file is open; while it is not, nothing is gathered.
    is_open: bool,
    is_stopping: bool,
    is_ended: bool,
}

/// What the thread does next.
struct Batch {
    changes: Vec<Change>,
    is_behind: bool,
    is_last: bool,
}

impl Journal {
    /// Locks even after a panic elsewhere: every change leaves a valid desk behind.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a change. Never waits for the disk.
    pub(crate) fn note(&self, change: Change) {
        let mut desk = self.desk();
        if !desk.is_open {
            return;
        }
        if desk.changes.len() >= MOST_CHANGES {
            desk.changes.clear();
            desk.is_behind = true;
        }
        if !desk.is_behind {
            desk.changes.push(change);
        }
        drop(desk);
        self.wake.notify_one();
    }

    /// Whether what is noted will be written.
    pub(crate) fn is_open(&self) -> bool {
        self.desk().is_open
    }

    /// Writes what is left and ends the thread; false when the disk took longer than `timeout`.
    pub(crate) fn stop(&self, timeout: Duration) -> bool {
        let mut desk = self.desk();
        desk.is_stopping = true;
        self.wake.notify_one();
        let waited = self.ended.wait_timeout_while(desk, timeout, |desk| !desk.is_ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_ended
    }

    fn opened(&self) {
        let mut desk = self.desk();
        (desk.is_open, desk.is_behind) = (true, true);
    }

    fn closed(&self) {
        let mut desk = self.desk();
        desk.is_open = false;
        desk.changes = Vec::new();
    }

    fn next(&self, until: Option<Instant>) -> Batch {
        let mut desk = self.desk();
        while desk.changes.is_empty() && !desk.is_behind && !desk.is_stopping {
            desk = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.wake.wait(desk).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.wake.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        Batch {
            changes: std::mem::take(&mut desk.changes),
            is_behind: std::mem::take(&mut desk.is_behind),
            is_last: desk.is_stopping,
        }
    }
}

/// Tells whoever waits that the thread is gone, even if it panicked.
struct EndGuard<'a>(&'a Journal);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.closed();
        self.0.desk().is_ended = true;
        self.0.ended.notify_all();
    }
}

/// The thread that writes.
pub(crate) struct Writer {
    path: PathBuf,
    fsync: Fsync,
    journal: Arc<Journal>,
    shared: Arc<Shared>,
    store: Option<Store>,
    was_read: bool,
    /// The file was written from memory, which may hold what the changes of that moment tell once more.
    was_replaced: bool,
    next_attempt: Instant,
    sync_at: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(path: PathBuf, fsync: Fsync, journal: Arc<Journal>, shared: Arc<Shared>) -> Self {
        let next_attempt = Instant::now();
        Self {
            path,
            fsync,
            journal,
            shared,
            store: None,
            was_read: false,
            was_replaced: false,
            next_attempt,
            sync_at: None,
        }
    }

    pub(crate) fn run(mut self) {
        let journal = Arc::clone(&self.journal);
        let _guard = EndGuard(&journal);
        loop {
            if self.store.is_none() && Instant::now() >= self.next_attempt {
                let opened = self.open();
                self.told(opened);
            }
            let until = if self.store.is_none() { Some(self.next_attempt) } else { self.sync_at };
            let batch = journal.next(until);
            let is_last = batch.is_last;
            let written = self.write(batch);
            self.told(written);
            if is_last {
                // Whoever waits for the end may open the file at once.
                self.store = None;
                return;
            }
        }
    }

    /// Opens the file and hands over what an earlier run left in it. It is then written anew from memory.
    fn open(&mut self) -> Result<(), StoreError> {
        let mut store = Store::open(&self.path, self.fsync)?;
        if let Some(put_aside) = store.take_put_aside() {
            self.shared.journal_failed(&format!("was damaged and is now `{}`: a new one begins", put_aside.display()));
        }
        let mut restored = 0;
        if !self.was_read {
            let left = store.read()?;
            restored = left.len();
            self.was_read = true;
            self.shared.restore(left);
        }
        self.store = Some(store);
        self.journal.opened();
        self.shared.journal_opened(restored);
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let was_replaced = std::mem::replace(&mut self.was_replaced, batch.is_behind);
        let changed = match batch.is_behind {
            true => store.replace(&self.shared.undelivered())?,
            false => store.apply(&batch.changes, was_replaced)?,
        };
        if self.fsync == Fsync::Interval && changed {
            self.sync_at.get_or_insert(Instant::now() + SYNC_EVERY);
        }
        if batch.is_last || self.sync_at.is_some_and(|at| Instant::now() >= at) {
            self.sync_at = None;
            store.sync()?;
        }
        Ok(())
    }

    /// A fault closes the file; memory goes on, and the file is tried again.
    fn told(&mut self, outcome: Result<(), StoreError>) {
        let Err(error) = outcome else { return };
        self.store = None;
        self.sync_at = None;
        self.journal.closed();
        self.next_attempt = Instant::now() + RETRY;
        self.shared.journal_failed(&error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::outbox::{MessageKind, Room};
    use crate::payload::Speaker;
    use crate::shared::{Draft, Setup};

    fn shared(journal: &Arc<Journal>) -> Shared {
        let speaker = Speaker { line: "line1".to_owned(), boot_id: "boot".to_owned() };
        let setup = Setup {
            room: Room { live: 16, historical: 16, historical_per_second: 100 },
            keep_for: Duration::from_secs(60),
            decision_topic: "decision".into(),
            historical_topic: "historical".into(),
            journal: Some(Arc::clone(journal)),
            journal_name: "line1.sqlite".to_owned(),
            gate: None,
        };
        Shared::new(speaker, setup, Arc::new(|_: &_| {}))
    }

    /// It is so just after it was opened, and after a burst: what it is written anew from must not be an outbox that has been
    /// given up meanwhile.
    #[test]
    fn a_file_that_is_behind_when_the_publisher_ends_keeps_what_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line1.sqlite");
        let journal = Arc::<Journal>::default();
        let shared = Arc::new(shared(&journal));
        let mut writer = Writer::new(path.clone(), Fsync::Interval, Arc::clone(&journal), Arc::clone(&shared));
        writer.open().unwrap();
        for lives in [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(60)] {
            let draft = Draft {
                kind: MessageKind::Decision,
                topic: "decision".into(),
                expires_at: Instant::now() + lives,
                ends_on: Timestamp::now() + lives,
                asks_gate: false,
            };
            shared.enqueue(draft, |seq| seq.to_string().into_bytes()).unwrap();
        }
        shared.end();
        journal.desk().is_stopping = true;
        assert!(journal.desk().is_behind);
        writer.run();
        let left = Store::open(&path, Fsync::Never).unwrap().read().unwrap();
        let seqs: Vec<u64> = left.iter().map(|entry| entry.key.seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert_eq!(shared.stats().kept, 3);
    }
}
