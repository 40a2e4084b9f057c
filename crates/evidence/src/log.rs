//! The audit log on disk: files of records, one after the other, of which only the last one grows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::chain::{self, Head, Kind};
use crate::key::Key;

/// A file of the log is closed when it has grown to this.
const SEGMENT_BYTES: u64 = 16 << 20;
/// The last record known to be on disk; rewritten as a whole.
pub(crate) const HEAD: &str = "head";

/// When what was appended is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// After every record.
    Always,
    /// At most this long after it.
    Every(Duration),
    /// When the system likes: a power cut loses some seconds.
    Never,
}

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk says no.
    #[error("cannot {what} `{}`: {error}", path.display())]
    Disk {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The last file's last whole record is not one of this chain: continuing would hide that.
    #[error("`{}`: the last record {problem}; check it with `linewarden evidence verify`, then move the folder away to begin a new log", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another process writes here.
    #[error("`{}` is in use by another process", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
}

pub(crate) fn disk<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |error| LogError::Disk { what, path: path.to_owned(), error }
}

/// The log, open for appending by this process alone.
pub(crate) struct Log {
    folder: PathBuf,
    key: Option<Key>,
    fsync: Fsync,
    segment_bytes: u64,
    file: File,
    path: PathBuf,
    length_bytes: u64,
    head: Head,
    unsynced_since: Option<Instant>,
    /// Held for as long as the log is open.
    _lock: File,
}

impl Log {
    /// Opens the log in `folder`, which is made when it is not there. A last line that was cut off by a crash is put aside.
    pub(crate) fn open(folder: &Path, key: Option<Key>, fsync: Fsync) -> Result<Self, LogError> {
        Self::open_sized(folder, key, fsync, SEGMENT_BYTES)
    }

    fn open_sized(folder: &Path, key: Option<Key>, fsync: Fsync, segment_bytes: u64) -> Result<Self, LogError> {
        fs::create_dir_all(folder).map_err(disk("make", folder))?;
        let lock_path = folder.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(disk("open", &lock_path))?;
        lock.try_lock().map_err(|_| LogError::Busy { path: folder.to_owned() })?;

        let path = segments(folder)?.pop().unwrap_or_else(|| segment(folder, 1));
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path).map_err(disk("open", &path))?;
        let head = Head::genesis();
        let mut log = Self {
            folder: folder.to_owned(),
            key,
            fsync,
            segment_bytes,
            file,
            path,
            length_bytes: 0,
            head,
            unsynced_since: None,
            _lock: lock,
        };
        let torn = log.find_end()?;
        if let Some(torn) = torn {
            let (bytes, file) = (torn.len(), log.put_aside(&torn)?);
            log.append(Kind::Repaired, &json!({"bytes": bytes, "put_aside": file}))?;
        }
        Ok(log)
    }

    /// Reads the last file to its last whole record; gives what was cut off behind it.
    fn find_end(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        let mut content = Vec::new();
        self.file.read_to_end(&mut content).map_err(disk("read", &self.path))?;
        let whole = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        self.length_bytes = whole as u64;
        let broken = |problem: String| LogError::Broken { path: self.path.clone(), problem };
        if let Some(line) = content[..whole].trim_ascii_end().rsplit(|&byte| byte == b'\n').next()
            && !line.is_empty()
        {
            let line = std::str::from_utf8(line).map_err(|_| broken("is no text".to_owned()))?;
            self.head = chain::read(self.key.as_ref(), line).map_err(|error| broken(error.to_string()))?.head();
        } else if let Some(before) = self.last_of_the_file_before()? {
            self.head = before;
        }
        Ok(Some(content.split_off(whole)).filter(|torn| !torn.is_empty()))
    }

    /// A file that was begun and got no record continues the one before it.
    fn last_of_the_file_before(&self) -> Result<Option<Head>, LogError> {
        let before = segments(&self.folder)?.into_iter().rev().find(|path| *path != self.path);
        let Some(path) = before else { return Ok(None) };
        let content = fs::read_to_string(&path).map_err(disk("read", &path))?;
        let line = content.lines().next_back().unwrap_or_default();
        let record = chain::read(self.key.as_ref(), line);
        let record = record.map_err(|error| LogError::Broken { path, problem: error.to_string() })?;
        Ok(Some(record.head()))
    }

    /// Half a record is evidence too: it is kept beside the log.
    fn put_aside(&mut self, torn: &[u8]) -> Result<String, LogError> {
        let name = format!("torn-after-{}", self.head.n);
        let path = self.folder.join(&name);
        fs::write(&path, torn).map_err(disk("write", &path))?;
        self.file.set_len(self.length_bytes).map_err(disk("shorten", &self.path))?;
        Ok(name)
    }

    /// The last record.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Everything in the file that grows.
    pub(crate) fn current_text(&self) -> io::Result<String> {
        fs::read_to_string(&self.path)
    }

    /// Adds a record. When the disk is full nothing of it stays behind, and the next one is tried again.
    pub(crate) fn append(&mut self, kind: Kind, body: &Value) -> Result<(), LogError> {
        if self.length_bytes >= self.segment_bytes {
            self.begin_segment()?;
        }
        let (mut line, head) = chain::write(self.key.as_ref(), &self.head, Timestamp::now(), kind, body);
        line.push('\n');
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // What was written of it is cut off again; if even that fails, the next opening does it.
            let _ = self.file.set_len(self.length_bytes);
            return Err(disk("append to", &self.path)(error));
        }
        self.length_bytes += line.len() as u64;
        self.head = head;
        match self.fsync {
            Fsync::Always => self.sync(),
            Fsync::Every(_) | Fsync::Never => {
                self.unsynced_since.get_or_insert_with(Instant::now);
                Ok(())
            }
        }
    }

    /// When [`Log::sync`] is due, if something waits for it.
    pub(crate) fn sync_due(&self) -> Option<Instant> {
        match self.fsync {
            Fsync::Every(interval) => Some(self.unsynced_since? + interval),
            Fsync::Always | Fsync::Never => None,
        }
    }

    /// Forces everything to disk, then says in `head` how far that is.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        if self.fsync != Fsync::Never {
            self.file.sync_data().map_err(disk("sync", &self.path))?;
        }
        self.unsynced_since = None;
        let (new, path) = (self.folder.join("head.new"), self.folder.join(HEAD));
        fs::write(&new, format!("{}\n", self.head)).map_err(disk("write", &new))?;
        fs::rename(&new, &path).map_err(disk("replace", &path))
    }

    fn begin_segment(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let path = segment(&self.folder, number(&self.path).unwrap_or(0) + 1);
        let file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(disk("make", &path))?;
        (self.file, self.path, self.length_bytes) = (file, path, 0);
        Ok(())
    }

    /// Removes closed files whose last record is older than `before`; what they held is told in the log first.
    pub(crate) fn retire(&mut self, before: Timestamp) -> Result<(), LogError> {
        for path in segments(&self.folder)? {
            if path == self.path {
                break;
            }
            let content = fs::read_to_string(&path).map_err(disk("read", &path))?;
            let last = content.lines().next_back().unwrap_or_default();
            let last = chain::read(self.key.as_ref(), last)
                .map_err(|error| LogError::Broken { path: path.clone(), problem: error.to_string() })?;
            if last.at >= before {
                break;
            }
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
            self.append(Kind::Retired, &json!({"file": file, "last": last.head().to_string()}))?;
            self.sync()?;
            fs::remove_file(&path).map_err(disk("remove", &path))?;
        }
        Ok(())
    }
}

/// The files of a log, in their order.
pub(crate) fn segments(folder: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(disk("read", folder))? {
        let path = entry.map_err(disk("read", folder))?.path();
        if number(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort_by_key(|path| number(path));
    Ok(paths)
}

fn segment(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:06}.jsonl"))
}

fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Log {
        Log::open_sized(folder, None, Fsync::Always, 300).unwrap()
    }

    fn heads(folder: &Path) -> Vec<u64> {
        let lines = segments(folder).unwrap().into_iter().flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        lines.map(|line| chain::read(None, &line).unwrap().n).collect()
    }

    #[test]
    fn a_log_goes_on_where_it_ended_over_files_and_openings() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let mut log = open(folder.path());
            assert_eq!(log.head().n, 3 * round);
            for number in 0..3 {
                log.append(Kind::Note, &json!(number)).unwrap();
            }
        }
        assert_eq!(heads(folder.path()), (1..=9).collect::<Vec<_>>());
        assert!(segments(folder.path()).unwrap().len() > 1, "300 bytes are one or two records");
    }

    #[test]
    fn half_a_record_is_put_aside_and_told() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).append(Kind::Note, &json!("whole")).unwrap();
        let path = segments(folder.path()).unwrap().remove(0);
        let mut content = fs::read(&path).unwrap();
        content.extend_from_slice(b"{\"n\":2,\"at\"");
        fs::write(&path, &content).unwrap();
        let log = open(folder.path());
        assert_eq!(log.head().n, 2);
        assert_eq!(fs::read(folder.path().join("torn-after-1")).unwrap(), b"{\"n\":2,\"at\"");
        assert_eq!(heads(folder.path()), [1, 2]);
    }

    #[test]
    fn a_file_that_got_no_record_continues_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).append(Kind::Note, &json!(1)).unwrap();
        fs::write(segment(folder.path(), 2), "").unwrap();
        open(folder.path()).append(Kind::Note, &json!(2)).unwrap();
        assert_eq!(heads(folder.path()), [1, 2]);
    }

    #[test]
    fn a_changed_end_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).append(Kind::Note, &json!("good")).unwrap();
        let path = segments(folder.path()).unwrap().remove(0);
        let text = fs::read_to_string(&path).unwrap().replace("good", "evil");
        fs::write(&path, text).unwrap();
        let error = Log::open(folder.path(), None, Fsync::Never).err().unwrap().to_string();
        assert!(error.contains("the last record was changed") && error.contains("evidence verify"), "{error}");
    }

    #[test]
    fn two_processes_do_not_write_one_log() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path());
        assert!(matches!(Log::open(folder.path(), None, Fsync::Never), Err(LogError::Busy { .. })));
    }

    #[test]
    fn old_files_are_retired_with_a_record_that_names_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        for number in 0..6 {
            log.append(Kind::Note, &json!(number)).unwrap();
        }
        let before = segments(folder.path()).unwrap().len();
        log.retire(Timestamp::MIN).unwrap();
        assert_eq!(segments(folder.path()).unwrap().len(), before, "nothing is that old");
        log.retire(Timestamp::MAX).unwrap();
        let left = heads(folder.path());
        assert!(left[0] > 1 && left.windows(2).all(|pair| pair[1] == pair[0] + 1), "{left:?}");
    }
}
