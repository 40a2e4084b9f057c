//! The file itself: SQLite, one row for each decision that is not delivered.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Transaction, params};

use super::Change;
use crate::outbox::Key;

/// Version of the table.
const VERSION: i64 = 1;
const TABLE: &str = "CREATE TABLE IF NOT EXISTS decision (
    place INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    ends_on_us INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (boot_id, seq))";

/// When what was written is also forced onto the disk. A killed process loses nothing with any of them: this is about
/// power cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// With every decision.
    Always,
    /// Once a second.
    #[default]
    Interval,
    /// When the system gets to it.
    Never,
}

impl FromStr for Fsync {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval),
            "never" => Ok(Self::Never),
            _ => Err(()),
        }
    }
}

/// A decision as the file keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) ends_on: Timestamp,
    /// The message while it was live.
    pub(crate) payload: Arc<[u8]>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{}", in_words(.0))]
    Sqlite(#[from] rusqlite::Error),
    #[error("cannot make its folder: {0}")]
    Folder(io::Error),
    #[error("is damaged: {0}")]
    Damaged(String),
    #[error("is damaged, and cannot be put aside: {0}")]
    PutAside(io::Error),
    #[error("was written by a newer version of this program (table version {0}, this one knows {VERSION})")]
    Newer(i64),
}

impl StoreError {
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
            }
            _ => false,
        }
    }
}

fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process uses it".to_owned(),
        Some(ErrorCode::ReadOnly) => "may not be written".to_owned(),
        _ => error.to_string(),
    }
}

/// The open file. Nobody else can open it meanwhile.
pub(super) struct Store {
    connection: Connection,
    fsync: Fsync,
    put_aside: Option<PathBuf>,
}

impl Store {
    /// Opens or makes the file; a damaged one is put aside, beside the new one.
    pub(super) fn open(path: &Path, fsync: Fsync) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(StoreError::Folder)?;
        }
        match Self::try_open(path, fsync) {
            Err(error) if error.is_damage() => {
                let put_aside = put_aside(path).map_err(StoreError::PutAside)?;
                Ok(Self { put_aside: Some(put_aside), ..Self::try_open(path, fsync)? })
            }
            outcome => outcome,
        }
    }

    fn try_open(path: &Path, fsync: Fsync) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        // One process, one file: its lock is then taken once, and there is no shared memory beside it.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", if fsync == Fsync::Never { "OFF" } else { "NORMAL" })?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(StoreError::Newer(version));
        }
        let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Damaged(verdict));
        }
        let change = connection.transaction()?;
        change.execute(TABLE, [])?;
        change.pragma_update(None, "user_version", VERSION)?;
        change.commit()?;
        Ok(Self { connection, fsync, put_aside: None })
    }

    /// Where a damaged file is now, when there was one.
    pub(super) fn take_put_aside(&mut self) -> Option<PathBuf> {
        self.put_aside.take()
    }

    /// Everything that is kept, oldest first.
    pub(super) fn read(&self) -> Result<Vec<Entry>, StoreError> {
        let mut statement =
            self.connection.prepare("SELECT boot_id, seq, ends_on_us, payload FROM decision ORDER BY place")?;
        let entries = statement.query_map([], |row| {
            let boot_id: String = row.get(0)?;
            let seq: i64 = row.get(1)?;
            let ends_on_us: i64 = row.get(2)?;
            let payload: Vec<u8> = row.get(3)?;
            Ok(Entry {
                key: Key { boot_id: boot_id.into(), seq: seq.cast_unsigned() },
                ends_on: Timestamp::from_microsecond(ends_on_us).unwrap_or(Timestamp::MIN),
                payload: payload.into(),
            })
        })?;
        Ok(entries.collect::<Result<_, _>>()?)
    }

    /// Writes changes, all or none; false when they cancel each other out, as those of a decision do that was acknowledged
    /// at once. `may_be_there`: the file may hold what the changes add.
    pub(super) fn apply(&mut self, changes: &[Change], may_be_there: bool) -> Result<bool, StoreError> {
        let removed: HashSet<&Key> = changes.iter().filter_map(Change::removed).collect();
        let added: HashSet<&Key> = changes.iter().filter_map(Change::added).map(|entry| &entry.key).collect();
        let adds: Vec<&Entry> =
            changes.iter().filter_map(Change::added).filter(|entry| !removed.contains(&entry.key)).collect();
        let removes: Vec<&Key> = removed.iter().copied().filter(|key| may_be_there || !added.contains(key)).collect();
        if adds.is_empty() && removes.is_empty() {
            return Ok(false);
        }
        // A decision that comes up again after a power cut is sent a second time under its old number, and harms nobody:
        // only what is new is worth waiting for the disk.
        let change = self.begin(!adds.is_empty())?;
        adds.into_iter().try_for_each(|entry| insert(&change, entry))?;
        {
            let mut delete = change.prepare("DELETE FROM decision WHERE boot_id = ?1 AND seq = ?2")?;
            for key in removes {
                delete.execute(params![&*key.boot_id, key.seq.cast_signed()])?;
            }
        }
        change.commit()?;
        Ok(true)
    }

    /// Writes everything anew.
    pub(super) fn replace(&mut self, entries: &[Entry]) -> Result<bool, StoreError> {
        let change = self.begin(true)?;
        change.execute("DELETE FROM decision", [])?;
        entries.iter().try_for_each(|entry| insert(&change, entry))?;
        change.commit()?;
        Ok(true)
    }

    /// Forces everything onto the disk, and the log beside the file back to nothing.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        // It answers with a row, whose numbers tell nothing new with a single user.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    fn begin(&mut self, is_worth_waiting: bool) -> Result<Transaction<'_>, StoreError> {
        if self.fsync == Fsync::Always {
            let mode = if is_worth_waiting { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", mode)?;
        }
        Ok(self.connection.transaction()?)
    }
}

fn insert(change: &Transaction<'_>, entry: &Entry) -> Result<(), StoreError> {
    let Entry { key, ends_on, payload } = entry;
    change.execute(
        "INSERT OR IGNORE INTO decision (boot_id, seq, ends_on_us, payload) VALUES (?1, ?2, ?3, ?4)",
        params![&*key.boot_id, key.seq.cast_signed(), ends_on.as_microsecond(), &**payload],
    )?;
    Ok(())
}

/// One is kept: a file that is damaged again and again must not fill the disk.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let target = beside(".damaged");
    std::fs::rename(path, &target)?;
    match std::fs::remove_file(beside("-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(target),
    }
}

impl Change {
    fn added(&self) -> Option<&Entry> {
        match self {
            Self::Add(entry) => Some(entry),
            Self::Remove(_) => None,
        }
    }

    fn removed(&self) -> Option<&Key> {
        match self {
            Self::Add(_) => None,
            Self::Remove(key) => Some(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> Key {
        Key { boot_id: "boot".into(), seq }
    }

    fn entry(seq: u64) -> Entry {
        let payload = format!("{{\"seq\":{seq}}}").into_bytes().into();
        Entry { key: key(seq), ends_on: Timestamp::from_microsecond(1_000_000).unwrap(), payload }
    }

    fn seqs(store: &Store) -> Vec<u64> {
        store.read().unwrap().into_iter().map(|entry| entry.key.seq).collect()
    }

    fn adds(range: std::ops::Range<u64>) -> Vec<Change> {
        range.map(|seq| Change::Add(entry(seq))).collect()
    }

    #[test]
    fn what_is_added_and_not_removed_is_there_after_the_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox/line1.sqlite");
        for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
            let mut store = Store::open(&path, fsync).unwrap();
            store.replace(&[]).unwrap();
            assert!(store.apply(&adds(1..6), false).unwrap());
            assert!(store.apply(&[Change::Remove(key(2)), Change::Remove(key(77))], false).unwrap());
            assert!(!store.apply(&[Change::Add(entry(9)), Change::Remove(key(9))], false).unwrap(), "never on disk");
            assert!(store.apply(&adds(5..7), false).unwrap(), "a second time changes nothing");
            assert!(store.apply(&[Change::Add(entry(5)), Change::Remove(key(5))], true).unwrap());
            drop(store);
            let store = Store::open(&path, fsync).unwrap();
            assert_eq!(seqs(&store), [1, 3, 4, 6]);
            assert_eq!(store.read().unwrap()[0], entry(1));
        }
    }

    #[test]
    fn a_file_in_use_one_that_is_damaged_and_one_from_the_future_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line1.sqlite");
        let refused = |path: &Path| Store::open(path, Fsync::Never).err().map(|error| error.to_string());
        let store = Store::open(&path, Fsync::Always).unwrap();
        assert_eq!(refused(&path).as_deref(), Some("another process uses it"));
        drop(store);
        std::fs::write(&path, "this is no database, and was never meant to be one").unwrap();
        let mut store = Store::open(&path, Fsync::Always).unwrap();
        let put_aside = store.take_put_aside().unwrap();
        assert_eq!(std::fs::read_to_string(put_aside).unwrap().len(), 50);
        assert!(seqs(&store).is_empty());
        store.connection.pragma_update(None, "user_version", 7).unwrap();
        drop(store);
        assert!(refused(&path).unwrap().contains("newer version of this program (table version 7"));
        assert!(refused(Path::new("/dev/null/line1.sqlite")).unwrap().starts_with("cannot make its folder: "));
    }

    #[test]
    fn torn_pages_are_found_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line1.sqlite");
        let mut store = Store::open(&path, Fsync::Always).unwrap();
        store.apply(&adds(0..2000), false).unwrap();
        store.sync().unwrap();
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[length / 2..length / 2 + 8192].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        let mut store = Store::open(&path, Fsync::Always).unwrap();
        assert!(store.take_put_aside().is_some());
        assert!(seqs(&store).is_empty());
    }

    #[test]
    fn a_full_disk_takes_all_of_a_batch_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("line1.sqlite"), Fsync::Never).unwrap();
        store.apply(&adds(0..10), false).unwrap();
        let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        store.connection.pragma_update(None, "max_page_count", pages).unwrap();
        let error = store.apply(&adds(10..1000), false).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!(seqs(&store), Vec::from_iter(0..10));
    }
}
