//! Reads a store again and proves it untouched, or says where it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::chain::{self, Head, Kind, Record};
use crate::key::{Key, sha256};
use crate::log::{HEAD, LogError, segments};
use crate::store::{LOG, PARTS, UNRECORDED};

/// Faults beyond this are counted, not listed.
const MOST_FAULTS: usize = 100;
/// A longer line is no record of ours, and reading it would take memory for nothing.
const LONGEST_LINE_BYTES: u64 = 64 << 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Parts whose files were held against their hashes.
    pub parts: u64,
    /// Files that are as they were.
    pub files: u64,
    /// Parts whose files were removed as configured, and whose record says so.
    pub removed: u64,
    /// The last record, as `number:hash`.
    pub head: String,
    /// When the first and the last record were written.
    #[serde(serialize_with = "crate::moment::option::serialize")]
    pub from: Option<Timestamp>,
    /// See `from`.
    #[serde(serialize_with = "crate::moment::option::serialize")]
    pub to: Option<Timestamp>,
    /// What is wrong; none when nothing was touched. At most 100 are listed.
    pub faults: Vec<Fault>,
    /// How many are wrong.
    pub fault_count: u64,
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, below the store's folder.
    pub file: PathBuf,
    /// Its line, from 1, for a file of the log.
    pub line: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// Why a store cannot be looked at at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no log.
    #[error("`{}` holds no evidence: there is no file `{LOG}/000001.jsonl` or later", .0.display())]
    NoLog(PathBuf),
    /// The disk says no.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The disk says no.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Report {
    /// Whether everything is as it was written.
    pub fn is_untouched(&self) -> bool {
        self.fault_count == 0
    }

    fn fault(&mut self, file: &Path, line: Option<u64>, problem: impl fmt::Display) {
        self.fault_count += 1;
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { file: file.to_owned(), line, problem: problem.to_string() });
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        write!(formatter, ": {}", self.problem)
    }
}

/// What the walk along the chain remembers.
#[derive(Default)]
struct Walk {
    report: Report,
    first: Option<(Head, PathBuf)>,
    head: Option<Head>,
    /// Heads that retired files ended with.
    retired: Vec<Head>,
    /// Heads that the chain must have passed.
    wanted: Vec<(Head, String)>,
    /// Folder of a part to its files, until they are removed.
    parts: BTreeMap<String, (PathBuf, u64, Value)>,
    /// Folders that may still be there: the record is written before the folder goes.
    going: BTreeSet<String>,
}

/// Checks every record and every file. `head` is one that was written down elsewhere: the chain must hold it.
///
/// # Errors
/// When there is nothing to check or the disk cannot be read; what is wrong with the evidence is in the report.
pub fn verify(folder: &Path, key: Option<&Key>, head: Option<&Head>) -> Result<Report, VerifyError> {
    let log = folder.join(LOG);
    let files = if log.is_dir() { segments(&log)? } else { Vec::new() };
    if files.is_empty() {
        return Err(VerifyError::NoLog(folder.to_owned()));
    }
    let mut walk = Walk::default();
    walk.wanted.extend(head.map(|head| (head.clone(), "the given head".to_owned())));
    walk.want_own_head(&log);
    for path in &files {
        walk.read_segment(folder, path, key)?;
    }
    walk.judge_beginning();
    walk.judge_wanted(&log);
    walk.judge_files(folder)?;
    walk.report.head = walk.head.map(|head| head.to_string()).unwrap_or_default();
    Ok(walk.report)
}

impl Walk {
    fn want_own_head(&mut self, log: &Path) {
        let path = log.join(HEAD);
        let Ok(text) = fs::read_to_string(&path) else {
            return self.report.fault(Path::new("log/head"), None, "is missing");
        };
        match text.parse() {
            Ok(head) => self.wanted.push((head, "the head in `log/head`".to_owned())),
            Err(error) => self.report.fault(Path::new("log/head"), None, error),
        }
    }

    fn read_segment(&mut self, folder: &Path, path: &Path, key: Option<&Key>) -> Result<(), VerifyError> {
        let unreadable = |error| VerifyError::Read { path: path.to_owned(), error };
        let name = path.strip_prefix(folder).unwrap_or(path).to_owned();
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let (mut number, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let mut limited = std::io::Read::take(&mut reader, LONGEST_LINE_BYTES);
            if limited.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
                return Ok(());
            }
            number += 1;
            if line.pop() != Some(b'\n') {
                self.report.fault(&name, Some(number), "was cut off");
                return Ok(());
            }
            let record = std::str::from_utf8(&line).map_err(|_| "is no text".to_owned());
            let record = record.and_then(|line| chain::read(key, line).map_err(|error| error.to_string()));
            match record {
                Ok(record) => self.record(&name, number, record),
                Err(problem) => {
                    self.report.fault(&name, Some(number), problem);
                    // What follows is judged from the next whole record on.
                    self.head = None;
                }
            }
        }
    }

    fn record(&mut self, file: &Path, line: u64, record: Record) {
        let report = &mut self.report;
        report.records += 1;
        report.from.get_or_insert(record.at);
        report.to = Some(record.at);
        match &self.head {
            Some(head) => {
                if let Err(problem) = chain::follows(head, &record) {
                    report.fault(file, Some(line), problem);
                }
            }
            None if self.first.is_none() => {
                let before = Head { n: record.n.saturating_sub(1), hash: record.prev.clone() };
                self.first = Some((before, file.to_owned()));
            }
            None => {}
        }
        let head = record.head();
        self.wanted.retain(|(wanted, _)| *wanted != head);
        self.head = Some(head);
        let text = |key: &str| record.body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match record.kind {
            Kind::Part => {
                let files = record.body.get("files").cloned().unwrap_or_default();
                self.parts.insert(text("folder"), (file.to_owned(), line, files));
            }
            Kind::Removed => {
                self.parts.remove(&text("folder"));
                self.going.insert(text("folder"));
                self.report.removed += 1;
            }
            Kind::Retired => self.retired.extend(text("last").parse::<Head>()),
            _ => {}
        }
    }

    /// The chain begins with its first record, or after one that the log itself says to have retired.
    fn judge_beginning(&mut self) {
        let Some((before, file)) = self.first.take() else { return };
        if before != Head::genesis() && !self.retired.contains(&before) {
            let problem = format!("begins with record {}: those before it are missing", before.n + 1);
            self.report.fault(&file, Some(1), problem);
        }
    }

    fn judge_wanted(&mut self, log: &Path) {
        let name = log.file_name().map_or_else(PathBuf::new, PathBuf::from);
        for (head, whose) in std::mem::take(&mut self.wanted) {
            // A record that was retired is not there to be seen.
            if self.retired.iter().any(|retired| retired.n >= head.n) {
                continue;
            }
            let problem = format!("does not hold record {} as {whose} names it: cut off, or written anew", head.n);
            self.report.fault(&name, None, problem);
        }
    }

    fn judge_files(&mut self, folder: &Path) -> Result<(), VerifyError> {
        self.judge_folders(folder)?;
        for (part, (log, line, files)) in std::mem::take(&mut self.parts) {
            let listed = files.as_array().into_iter().flatten();
            let mut names = Vec::new();
            for entry in listed {
                let Some(name) = entry.get("file").and_then(Value::as_str) else { continue };
                names.push(name.to_owned());
                let below = Path::new(PARTS).join(&part).join(name);
                if below.components().any(|part| !matches!(part, Component::Normal(_))) {
                    self.report.fault(&log, Some(line), format!("names `{}`, outside the folder", below.display()));
                    continue;
                }
                self.judge_file(folder, &below, entry);
            }
            if !names.is_empty() {
                self.report.parts += 1;
                self.judge_strangers(folder, &part, &names);
            }
        }
        Ok(())
    }

    /// A part's folder without a record was put in by somebody.
    fn judge_folders(&mut self, folder: &Path) -> Result<(), VerifyError> {
        let parts = folder.join(PARTS);
        let unreadable = |error| VerifyError::Read { path: parts.clone(), error };
        for day in fs::read_dir(&parts).map_err(unreadable)?.flatten() {
            for part in fs::read_dir(day.path()).map_err(unreadable)?.flatten() {
                let name = format!("{}/{}", day.file_name().to_string_lossy(), part.file_name().to_string_lossy());
                let is_known = self.parts.contains_key(&name) || self.going.contains(&name);
                if !is_known && !name.ends_with(UNRECORDED) {
                    self.report.fault(&Path::new(PARTS).join(&name), None, "is in no record");
                }
            }
        }
        Ok(())
    }

    fn judge_file(&mut self, folder: &Path, below: &Path, entry: &Value) {
        match fs::read(folder.join(below)) {
            Ok(content) if entry.get("sha256").and_then(Value::as_str) == Some(&sha256(&content)) => {
                self.report.files += 1;
            }
            Ok(_) => self.report.fault(below, None, "was changed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.report.fault(below, None, "is missing, and no record says that it was removed");
            }
            Err(error) => self.report.fault(below, None, format!("cannot be read: {error}")),
        }
    }

    fn judge_strangers(&mut self, folder: &Path, part: &str, names: &[String]) {
        let Ok(entries) = fs::read_dir(folder.join(PARTS).join(part)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !names.contains(&name) {
                self.report.fault(&Path::new(PARTS).join(part).join(name), None, "is in no record");
            }
        }
    }
}
