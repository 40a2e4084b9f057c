//! The thread that writes: pictures first, then the record that names them, then whatever must go.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::chain::{Head, Kind};
use crate::files::{self, Picture, PictureFormat};
use crate::key::Key;
use crate::log::{Fsync, Log, LogError, disk};
use crate::moment;
use crate::retention::{Inventory, Keep, Kept};

/// Parts with their pictures that may wait for the disk.
const QUEUE_PARTS: usize = 32;
/// Everything that may wait: acknowledgements and notes are small, and not to be lost because pictures are large.
const QUEUE_ORDERS: usize = 4096;
/// Parts whose acknowledgement is still of interest.
const OPEN_PARTS: usize = 4096;
/// Acknowledgements that may come before their part is written.
const EARLY: usize = 256;
/// How often age is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Ending of a part's folder until its record is written.
pub(crate) const UNRECORDED: &str = ".new";
/// Folder of the log, and of the pictures.
pub(crate) const LOG: &str = "log";
pub(crate) const PARTS: &str = "parts";

/// Where and how evidence is kept.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder; made when it is not there.
    pub folder: PathBuf,
    /// Secret of the chain.
    pub key: Option<Key>,
    /// When the log is forced to disk.
    pub fsync: Fsync,
    /// How pictures are kept.
    pub format: PictureFormat,
    /// How much and how long.
    pub keep: Keep,
}

/// A decided part.
pub struct Item {
    /// Name of its line.
    pub line: String,
    /// Id of its decision, as in the message.
    pub id: String,
    /// When it was decided.
    pub at: Timestamp,
    /// Why it is kept: `reject`, `uncertain`, `sample`, `unknown`, `challenge`.
    pub cause: &'static str,
    /// Decision, results and models, as the record shall hold them.
    pub record: Value,
    /// Gives the pixels, on the store's thread.
    pub pictures: Box<dyn FnOnce() -> Vec<Result<Picture, String>> + Send>,
}

/// What happened to evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A part is kept.
    Stored {
        /// Its line.
        line: String,
        /// What its pictures take.
        bytes: u64,
    },
    /// The disk does not keep up: a part was not kept.
    Dropped {
        /// Its line.
        line: String,
    },
    /// A picture or a record could not be written.
    Failed {
        /// Why.
        error: String,
    },
    /// Pictures of a part went, as configured.
    Removed,
}

/// Is told of every event, on the thread where it happens: it must return quickly.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The log is not to be continued.
    #[error(transparent)]
    Log(#[from] LogError),
    /// No thread.
    #[error("cannot start the thread that writes evidence: {0}")]
    Thread(std::io::Error),
}

enum Order {
    Keep(Box<Item>),
    Acknowledged { id: String, by: &'static str, at: Timestamp },
    Note(Value),
}

/// The handle: never waits. The last one to be dropped ends the thread after what waits was written.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    orders: Mutex<Option<SyncSender<Order>>>,
    /// Parts among the orders.
    waiting_parts: Arc<AtomicUsize>,
    observer: Observer,
    head: Arc<Mutex<Head>>,
    bytes: Arc<Mutex<u64>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Writer {
    config: StoreConfig,
    waiting_parts: Arc<AtomicUsize>,
    log: Log,
    inventory: Inventory,
    open: VecDeque<String>,
    /// The broker can be faster than the disk.
    early: VecDeque<(String, &'static str, Timestamp)>,
    observer: Observer,
    head: Arc<Mutex<Head>>,
    bytes: Arc<Mutex<u64>>,
}

impl Store {
    /// Opens the folder and starts the thread.
    ///
    /// # Errors
    /// When the folder cannot be written, is in use, or its log was changed at its end.
    pub fn open(config: StoreConfig, observer: Observer) -> Result<Self, StoreError> {
        let mut log = Log::open(&config.folder.join(LOG), config.key.clone(), config.fsync)?;
        let parts = config.folder.join(PARTS);
        fs::create_dir_all(&parts).map_err(disk("make", &parts))?;
        settle(&parts, &log).map_err(disk("settle", &parts))?;
        let inventory = Inventory::new(inventory(&parts).map_err(disk("read", &parts))?);
        let open = still_open(&log.current_text().map_err(disk("read", &config.folder.join(LOG)))?);
        log.append(Kind::Opened, &json!({"version": env!("CARGO_PKG_VERSION"), "is_keyed": config.key.is_some()}))?;
        log.sync()?;
        let head = Arc::new(Mutex::new(log.head().clone()));
        let bytes = Arc::new(Mutex::new(inventory.bytes()));
        let (sender, orders) = mpsc::sync_channel(QUEUE_ORDERS);
        let waiting_parts = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            config,
            waiting_parts: Arc::clone(&waiting_parts),
            log,
            inventory,
            open,
            early: VecDeque::new(),
            observer: Arc::clone(&observer),
            head: Arc::clone(&head),
            bytes: Arc::clone(&bytes),
        };
        let thread = thread::Builder::new().name("lw-evidence".to_owned()).spawn(move || writer.run(&orders));
        let thread = Mutex::new(Some(thread.map_err(StoreError::Thread)?));
        let orders = Mutex::new(Some(sender));
        Ok(Self { shared: Arc::new(Shared { orders, waiting_parts, observer, head, bytes, thread }) })
    }

    /// Keeps a part. False when the disk does not keep up: then it is counted and forgotten.
    pub fn keep(&self, item: Item) -> bool {
        let line = item.line.clone();
        let waiting = &self.shared.waiting_parts;
        let has_room = waiting.fetch_add(1, Ordering::Relaxed) < QUEUE_PARTS;
        let taken = has_room && self.shared.order(Order::Keep(Box::new(item)));
        if !taken {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if !taken {
            (self.shared.observer)(&Event::Dropped { line });
        }
        taken
    }

    /// The broker or the gate has the decision `id`; written down when the part was kept.
    pub fn acknowledged(&self, id: &str, by: &'static str, at: Timestamp) -> bool {
        self.shared.order(Order::Acknowledged { id: id.to_owned(), by, at })
    }

    /// Writes down something that is no part: another model, a challenge.
    pub fn note(&self, body: Value) -> bool {
        let taken = self.shared.order(Order::Note(body));
        if !taken {
            (self.shared.observer)(&Event::Failed {
                error: "a record found no room: the disk does not keep up".to_owned(),
            });
        }
        taken
    }

    /// The last record that was written; whoever keeps it elsewhere can prove that the log was not cut.
    pub fn head(&self) -> Head {
        self.shared.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What all pictures take.
    pub fn bytes(&self) -> u64 {
        *self.shared.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, closes the log, and ends the thread. Later calls do nothing.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("head", &self.head().n).finish_non_exhaustive()
    }
}

impl Shared {
    fn order(&self, order: Order) -> bool {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        match orders.as_ref().map(|orders| orders.try_send(order)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }

    fn close(&self) {
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.thread().id() != thread::current().id() && thread.join().is_err()) {
            tracing::error!("the thread that writes evidence panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            let due = self.log.sync_due().map_or(next_look, |sync| sync.min(next_look));
            match orders.recv_timeout(due.saturating_duration_since(now)) {
                Ok(Order::Keep(item)) => {
                    self.waiting_parts.fetch_sub(1, Ordering::Relaxed);
                    self.keep(*item);
                    self.make_room();
                }
                Ok(Order::Acknowledged { id, by, at }) => self.acknowledged(id, by, at),
                Ok(Order::Note(body)) => self.append(Kind::Note, &body),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.log.sync_due().is_some_and(|due| due <= Instant::now()) {
                self.sync();
            }
            if next_look <= Instant::now() {
                next_look = Instant::now() + LOOK_EVERY;
                self.make_room();
                self.retire();
            }
        }
        self.append(Kind::Closed, &json!({}));
        self.sync();
    }

    fn keep(&mut self, item: Item) {
        let Item { line, id, at, cause, record, pictures } = item;
        let folder = format!("{}/{}-{id}", at.strftime("%Y-%m-%d"), line);
        let unrecorded = self.config.folder.join(PARTS).join(format!("{folder}{UNRECORDED}"));
        let (files, bytes) = self.write_pictures(&unrecorded, pictures());
        if bytes > 0 {
            self.inventory.add(Kept { folder: folder.clone(), at, bytes });
        }
        self.append(
            Kind::Part,
            &json!({"line": line, "id": id, "cause": cause, "folder": folder, "files": files, "part": record}),
        );
        let recorded = self.config.folder.join(PARTS).join(&folder);
        if unrecorded.is_dir()
            && let Err(error) = fs::rename(&unrecorded, &recorded)
        {
            self.failed(&format!("cannot rename `{}`: {error}", unrecorded.display()));
        }
        if self.open.len() == OPEN_PARTS {
            self.open.pop_front();
        }
        let early = self.early.iter().position(|(early, ..)| *early == id).and_then(|place| self.early.remove(place));
        self.open.push_back(id);
        if let Some((id, by, at)) = early {
            self.acknowledged(id, by, at);
        }
        self.tell(&Event::Stored { line, bytes });
    }

    /// What the record says of the files, and what they take. A picture that cannot be written is named with its reason.
    fn write_pictures(&self, path: &Path, pictures: Vec<Result<Picture, String>>) -> (Vec<Value>, u64) {
        if !pictures.is_empty()
            && let Err(error) = fs::create_dir_all(path)
        {
            self.failed(&format!("cannot make `{}`: {error}", path.display()));
        }
        let (mut files, mut bytes) = (Vec::new(), 0);
        for picture in pictures {
            let written = picture.and_then(|picture| files::write(path, &picture, self.config.format));
            match written {
                Ok(written) => {
                    bytes += written.bytes;
                    let name = written.path.file_name().map(|name| name.to_string_lossy().into_owned());
                    files.push(json!({"file": name, "bytes": written.bytes, "sha256": written.sha256}));
                }
                Err(error) => {
                    self.failed(&error);
                    files.push(json!({"error": error}));
                }
            }
        }
        (files, bytes)
    }

    /// Of a part that is kept, or may still come.
    fn acknowledged(&mut self, id: String, by: &'static str, at: Timestamp) {
        if self.open.iter().rev().any(|open| *open == id) {
            self.append(Kind::Acknowledged, &json!({"id": id, "by": by, "at": moment::text(at)}));
            return;
        }
        if self.early.len() == EARLY {
            self.early.pop_front();
        }
        self.early.push_back((id, by, at));
    }

    fn make_room(&mut self) {
        while let Some(gone) = self.inventory.next_to_go(&self.config.keep, Timestamp::now()) {
            // The record first: a picture without its record would look like one that somebody took away.
            self.append(Kind::Removed, &json!({"folder": gone.folder, "bytes": gone.bytes}));
            let path = self.config.folder.join(PARTS).join(&gone.folder);
            match fs::remove_dir_all(&path) {
                Ok(()) => self.tell(&Event::Removed),
                Err(error) => self.failed(&format!("cannot remove `{}`: {error}", path.display())),
            }
            // The day's folder, once it is empty.
            let _ = path.parent().map(fs::remove_dir);
        }
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = self.inventory.bytes();
    }

    fn retire(&mut self) {
        let before = Timestamp::now().checked_sub(self.config.keep.log_age).unwrap_or(Timestamp::MIN);
        if let Err(error) = self.log.retire(before) {
            self.failed(&error.to_string());
        }
    }

    fn append(&mut self, kind: Kind, body: &Value) {
        if let Err(error) = self.log.append(kind, body) {
            self.failed(&error.to_string());
        }
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = self.log.head().clone();
    }

    fn sync(&mut self) {
        if let Err(error) = self.log.sync() {
            self.failed(&error.to_string());
        }
    }

    fn failed(&self, error: &str) {
        self.tell(&Event::Failed { error: error.to_owned() });
    }

    fn tell(&self, event: &Event) {
        (self.observer)(event);
    }
}

/// The parts of an earlier opening: their decisions may have waited on disk, and be acknowledged only now.
fn still_open(text: &str) -> VecDeque<String> {
    let id = |line: &str| {
        let record: Value = serde_json::from_str(line).ok()?;
        record["body"]["id"].as_str().map(str::to_owned)
    };
    let parts = text.lines().rev().filter(|line| line.contains("\"kind\":\"part\""));
    let mut open: VecDeque<String> = parts.filter_map(id).take(OPEN_PARTS).collect();
    open.make_contiguous().reverse();
    open
}

/// What a crash left between pictures and record: with a record it gets its name, without one it never was.
fn settle(parts: &Path, log: &Log) -> std::io::Result<()> {
    let mut recorded = None;
    for day in fs::read_dir(parts)?.flatten().filter(|entry| entry.path().is_dir()) {
        for part in fs::read_dir(day.path())?.flatten() {
            let path = part.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(UNRECORDED)) else {
                continue;
            };
            if recorded.is_none() {
                recorded = Some(log.current_text()?);
            }
            let quoted = format!("\"folder\":\"{}/{name}\"", day.file_name().to_string_lossy());
            match recorded.as_ref().is_some_and(|text| text.contains(&quoted)) {
                true => fs::rename(&path, path.with_file_name(name))?,
                false => fs::remove_dir_all(&path)?,
            }
        }
    }
    Ok(())
}

/// The parts that are kept already: `DATE/PART/files`.
fn inventory(parts: &Path) -> std::io::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for day in fs::read_dir(parts)?.flatten().filter(|entry| entry.path().is_dir()) {
        for part in fs::read_dir(day.path())?.flatten().filter(|entry| entry.path().is_dir()) {
            let mut bytes = 0;
            let mut at = None;
            for file in fs::read_dir(part.path())?.flatten() {
                let about = file.metadata()?;
                bytes += about.len();
                at = about.modified().ok();
            }
            let at = at.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
            let folder = format!("{}/{}", day.file_name().to_string_lossy(), part.file_name().to_string_lossy());
            kept.push(Kept { folder, at, bytes });
        }
    }
    Ok(kept)
}
