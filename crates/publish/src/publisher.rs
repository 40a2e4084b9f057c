//! The handle that callers hold.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use linewarden_core::{Action, BootId, Decision, ScoredFrame};

use crate::config::{PublisherConfig, check_name};
use crate::error::PublishError;
use crate::gate::Gate;
use crate::journal::{Journal, Writer};
use crate::outbox::{MessageKind, Room};
use crate::payload::Speaker;
use crate::session::{FAREWELL, Session};
use crate::shared::{Draft, LONGEST_LIFE, Observer, PublisherStats, Setup, Shared};

/// What a connected publisher gets to deliver the rest when its last handle is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a disk gets to take the rest at the end.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Delivers the messages of one line. Clones share one outbox and one connection; dropping the last one stops it.
#[derive(Clone)]
pub struct Publisher {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    journal: Option<Arc<Journal>>,
    boot_id: BootId,
    topic_root: String,
    decision_topic: Arc<str>,
    result_expiry: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
}

impl Publisher {
    /// Starts the publisher's threads: one connects and reconnects by itself, so that an absent broker is no error; one
    /// keeps the outbox's file, when there is to be one.
    ///
    /// # Errors
    /// When the configuration is wrong or one of its files cannot be used.
    pub fn start(config: PublisherConfig, observer: Observer) -> Result<Self, PublishError> {
        let connections = config.checked()?;
        let boot_id = BootId::random();
        let topic_root = format!("{}/{}", config.topic_prefix, config.line);
        let decision_topic: Arc<str> = format!("{topic_root}/decision").into();
        let speaker = Speaker { line: config.line.clone(), boot_id: boot_id.to_string() };
        let file = config.outbox.path.as_ref().map(|folder| folder.join(format!("{}.sqlite", config.line)));
        let journal = file.as_ref().map(|_| Arc::<Journal>::default());
        let setup = Setup {
            room: Room {
                live: config.outbox_capacity,
                historical: config.outbox.keep,
                historical_per_second: config.outbox.historical_per_second,
            },
            keep_for: config.outbox.keep_for,
            decision_topic: Arc::clone(&decision_topic),
            historical_topic: format!("{decision_topic}/historical").into(),
            journal: journal.clone(),
            journal_name: file.as_ref().map_or_else(String::new, |file| file.display().to_string()),
            gate: config.ack_topic.is_some().then(|| Gate::new(config.ack_timeout)),
        };
        let shared = Arc::new(Shared::new(speaker, setup, observer));
        if let (Some(file), Some(journal)) = (file, &journal) {
            let writer = Writer::new(file, config.outbox.fsync, Arc::clone(journal), Arc::clone(&shared));
            let spawned = thread::Builder::new().name("lw-outbox".to_owned()).spawn(move || writer.run());
            spawned.map_err(PublishError::Thread)?;
        }
        let result_expiry = config.result_expiry;
        let session = Session::new(config, connections, boot_id, topic_root.clone(), Arc::clone(&shared));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Thread)?;
        let spawned = thread::Builder::new().name("lw-publish".to_owned()).spawn(move || {
            runtime.block_on(session.run());
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
        });
        let thread = spawned.map_err(PublishError::Thread)?;
        let thread_id = thread.thread().id();
        let thread = Mutex::new(Some(thread));
        let handle = Handle { shared, journal, boot_id, topic_root, decision_topic, result_expiry, thread, thread_id };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Which run of the line this is, as in every message.
    pub fn boot_id(&self) -> BootId {
        self.handle.boot_id
    }

    /// Publishes a frame's result. Never waits.
    ///
    /// Gives the message's number, or `None` when the publisher is stopping or the camera's name cannot be part of a
    /// topic. A number that never reaches the broker was expired or dropped, and counted as such.
    pub fn result(&self, frame: &ScoredFrame) -> Option<u64> {
        let Handle { shared, topic_root, result_expiry, .. } = &*self.handle;
        if let Err(error) = check_name("camera", &frame.camera) {
            tracing::error!(line = shared.speaker.line, %error, "cannot publish a result");
            shared.refuse(MessageKind::Result);
            return None;
        }
        let draft = Draft {
            kind: MessageKind::Result,
            topic: format!("{topic_root}/{}/result", frame.camera).into(),
            expires_at: Instant::now() + *result_expiry,
            ends_on: Timestamp::MAX,
            asks_gate: false,
        };
        shared.enqueue(draft, |seq| shared.speaker.result(seq, frame))
    }

    /// Publishes a decision, unless its `expires_at` comes first: then it is published as a historical one. Never waits.
    /// Gives what [`Publisher::result`] gives.
    pub fn decision(&self, decision: &Decision) -> Option<u64> {
        let Handle { shared, decision_topic, .. } = &*self.handle;
        let life = decision.expires_at.duration_since(Timestamp::now());
        let life = Duration::try_from(life).unwrap_or_default().min(LONGEST_LIFE);
        let draft = Draft {
            kind: MessageKind::Decision,
            topic: Arc::clone(decision_topic),
            expires_at: Instant::now() + life,
            ends_on: decision.expires_at,
            asks_gate: matches!(decision.action, Action::Reject | Action::Stop),
        };
        shared.enqueue(draft, |seq| shared.speaker.decision(seq, decision))
    }

    /// Publishes something beside results and decisions on `<prefix>/<line>/<topic>`, unless it is too old first. Never
    /// waits. Its numbers are its own; gives what [`Publisher::result`] gives.
    pub fn aside(&self, topic: &str, payload: &[u8], expiry: Duration) -> Option<u64> {
        let Handle { shared, topic_root, .. } = &*self.handle;
        let draft = Draft {
            kind: MessageKind::Aside,
            topic: format!("{topic_root}/{topic}").into(),
            expires_at: Instant::now() + expiry.min(LONGEST_LIFE),
            ends_on: Timestamp::MAX,
            asks_gate: false,
        };
        shared.enqueue(draft, |_| payload.to_vec())
    }

    /// Says in the retained state what the line does, as `line_state`: `running`, `camera_lost` and so on. Whether the
    /// line is `online` is not the caller's to say.
    pub fn set_state(&self, word: &str) {
        self.handle.shared.set_line_state(word);
    }

    /// Says in the retained state what is wrong with the line though it runs, as `alarms`: `score_drift` and so on.
    pub fn set_alarms(&self, alarms: &[&'static str]) {
        self.handle.shared.set_alarms(alarms);
    }

    /// Counters and connection at this moment.
    pub fn stats(&self) -> PublisherStats {
        self.handle.shared.stats()
    }

    /// Waits until every message is acknowledged, expired or dropped, those of the past too; false when that took longer
    /// than `timeout`.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.handle.shared.wait_idle(timeout)
    }

    /// Accepts nothing more, delivers what it can within `timeout`, says `offline` when there is a connection, and ends
    /// the thread. True when nothing was left over. Later calls wait for the first one's end.
    pub fn stop(&self, timeout: Duration) -> bool {
        self.handle.stop(timeout)
    }
}

impl Handle {
    fn stop(&self, timeout: Duration) -> bool {
        let timeout = timeout.min(LONGEST_LIFE);
        let dropped_before = self.dropped();
        self.shared.request_stop(Instant::now() + timeout);
        if thread::current().id() == self.thread_id {
            // An observer stops its own publisher: the thread ends after the observer returned.
            return false;
        }
        let ended = self.stop_session(timeout);
        if let Some(journal) = &self.journal
            && !journal.stop(LAST_WRITES)
        {
            tracing::error!(line = self.shared.speaker.line, "the outbox's file did not take the rest in time");
        }
        ended && self.dropped() == dropped_before
    }

    fn stop_session(&self, timeout: Duration) -> bool {
        let grace = 2 * FAREWELL + Duration::from_secs(1);
        if !self.shared.wait_ended(timeout + grace) {
            // Only an observer that does not return can bring us here; waiting longer would hang the caller too.
            tracing::error!(line = self.shared.speaker.line, "the publisher's thread did not end in time");
            return false;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(line = self.shared.speaker.line, "the publisher's thread panicked");
            return false;
        }
        true
    }

    fn dropped(&self) -> u64 {
        let stats = self.shared.stats();
        stats.results.dropped + stats.decisions.dropped + stats.historical.dropped
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let patience = if self.shared.stats().connected { LAST_WORDS } else { Duration::ZERO };
        self.stop(patience);
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Publisher").field("topic_root", &self.handle.topic_root).finish_non_exhaustive()
    }
}
