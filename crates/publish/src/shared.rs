//! What the callers' handles and the publisher's thread have in common: the outbox, the counters, and what is told of them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use linewarden_core::Sequence;
use serde::Serialize;
use tokio::sync::Notify;

use crate::gate::{Answered, Gate, GateStats};
use crate::journal::{Change, Entry, Journal};
use crate::outbox::{Fallen, Key, Message, MessageKind, Outbox, Room, Ticket};
use crate::payload::{self, Speaker};

/// A longer message would break every connection that it is sent on, until it expires.
pub(crate) const LONGEST_PAYLOAD: usize = 1 << 20;

/// The furthest end of a message's life that is told apart from "never": keeps clock arithmetic in range.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What happened to the connection or to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishEvent {
    /// A broker accepted the connection.
    Connected {
        /// Which one; never holds a password.
        broker: String,
        /// How many connections there were before this one.
        reconnects: u64,
    },
    /// An attempt to connect failed; the next one follows by itself.
    ConnectFailed {
        /// Why; never holds a password.
        error: String,
    },
    /// The connection is gone; the next attempt follows by itself.
    Disconnected {
        /// Why.
        error: String,
    },
    /// The connection was silent for too long and was given up. `Disconnected` follows.
    Rebuilt {
        /// What was missed.
        reason: String,
    },
    /// The broker has a message.
    Acknowledged {
        /// Which kind.
        kind: MessageKind,
        /// The run that wrote it: an earlier one, for what that one left in the outbox's file.
        boot_id: Arc<str>,
        /// Its number in that run.
        seq: u64,
        /// Since it was handed to the publisher.
        latency: Duration,
    },
    /// A message was not delivered in time, and will not be.
    Expired {
        /// Which kind.
        kind: MessageKind,
    },
    /// A message fell out of a full outbox, was refused by the broker, or was left over at the end.
    Dropped {
        /// Which kind.
        kind: MessageKind,
    },
    /// The outbox's file is open, from the start or again.
    JournalOpened {
        /// Decisions that an earlier run had left in it.
        restored: usize,
    },
    /// The outbox's file cannot be used; decisions wait in memory, and the file is tried again.
    JournalFailed {
        /// What is wrong, with the file's name.
        error: String,
    },
    /// The gate has acknowledged a reject.
    GateAcknowledged {
        /// The decision's `id`.
        id: String,
        /// Since the reject was handed to the publisher.
        latency: Duration,
    },
    /// The gate has not acknowledged a reject in time.
    GateUnacknowledged {
        /// The decision's `id`.
        id: String,
    },
}

/// Is told of every event, on the thread where it happens: it must return quickly.
pub type Observer = Arc<dyn Fn(&PublishEvent) + Send + Sync>;

/// What became of one kind of message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindStats {
    /// Handed to a broker; a message that is sent again after a lost connection counts again.
    pub sent: u64,
    /// Acknowledged by the broker.
    pub acknowledged: u64,
    /// Too old to be sent.
    pub expired: u64,
    /// Fallen out of a full outbox, refused by the broker, or left over at the end.
    pub dropped: u64,
}

/// A publisher at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Whether there is a connection.
    pub connected: bool,
    /// Results and decisions that wait or are not acknowledged yet.
    pub outbox_messages: usize,
    /// Decisions whose time has passed, which wait for the topic `decision/historical`.
    pub historical_messages: usize,
    /// What became of the results.
    pub results: KindStats,
    /// What became of the decisions.
    pub decisions: KindStats,
    /// What became of the decisions that were not delivered in time: a second count, of their way as historical ones.
    pub historical: KindStats,
    /// Decisions that were left at the end, and wait on disk for the next run.
    pub kept: u64,
    /// Whether decisions are on disk until they are delivered.
    pub is_journalled: bool,
    /// What was said beside results and decisions.
    pub asides: KindStats,
    /// What the gate has acknowledged, if it does.
    pub gate: Option<GateStats>,
    /// Connections after the first.
    pub reconnects: u64,
    /// Connections given up because they were silent.
    pub rebuilds: u64,
}

/// A message on its way out of the outbox.
pub(crate) struct Outgoing {
    pub(crate) kind: MessageKind,
    pub(crate) ticket: Ticket,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// What is left of its life.
    pub(crate) life: Duration,
    /// The message's `id`.
    pub(crate) id: String,
}

/// A message that a caller hands over.
pub(crate) struct Draft {
    pub(crate) kind: MessageKind,
    pub(crate) topic: Arc<str>,
    pub(crate) expires_at: Instant,
    pub(crate) ends_on: Timestamp,
    /// A gate that acknowledges is to acknowledge this one.
    pub(crate) asks_gate: bool,
}

/// How what is shared is set up.
pub(crate) struct Setup {
    pub(crate) room: Room,
    /// How long a decision is worth keeping after its time.
    pub(crate) keep_for: Duration,
    pub(crate) decision_topic: Arc<str>,
    pub(crate) historical_topic: Arc<str>,
    pub(crate) journal: Option<Arc<Journal>>,
    /// The file of the journal, for messages.
    pub(crate) journal_name: String,
    pub(crate) gate: Option<Gate>,
}

pub(crate) struct Shared {
    pub(crate) speaker: Speaker,
    pub(crate) wake: Notify,
    boot_id: Arc<str>,
    keep_for: Duration,
    decision_topic: Arc<str>,
    historical_topic: Arc<str>,
    journal: Option<Arc<Journal>>,
    journal_name: String,
    observer: Observer,
    inner: Mutex<Inner>,
    /// Told whenever the outbox may have become idle, and at the end.
    settled: Condvar,
}

struct Inner {
    outbox: Outbox,
    result_seq: Sequence,
    decision_seq: Sequence,
    aside_seq: Sequence,
    /// What others know better is filled in when asked for.
    stats: PublisherStats,
    gate: Option<Gate>,
    was_connected: bool,
    /// The outage's first dropped message is a warning, the others are not.
    warned_of_drops: bool,
    last_connect_error: Option<String>,
    last_journal_error: Option<String>,
    line_state: Option<String>,
    /// What is wrong with the line though it runs.
    alarms: Vec<&'static str>,
    line_state_changed: bool,
    /// Set once: until then the outbox may still empty itself.
    drain_until: Option<Instant>,
    /// What was in the outbox when the publisher gave it up, and waits on disk for the next run.
    kept: Vec<Entry>,
    ended: bool,
}

impl Inner {
    fn counts(&mut self, kind: MessageKind) -> &mut KindStats {
        match kind {
            MessageKind::Result => &mut self.stats.results,
            MessageKind::Decision => &mut self.stats.decisions,
            MessageKind::Historical => &mut self.stats.historical,
            MessageKind::Aside => &mut self.stats.asides,
        }
    }
}

impl Shared {
    pub(crate) fn new(speaker: Speaker, setup: Setup, observer: Observer) -> Self {
        let Setup { room, keep_for, decision_topic, historical_topic, journal, journal_name, gate } = setup;
        let inner = Inner {
            outbox: Outbox::new(room),
            result_seq: Sequence::default(),
            decision_seq: Sequence::default(),
            aside_seq: Sequence::default(),
            stats: PublisherStats::default(),
            gate,
            was_connected: false,
            warned_of_drops: false,
            last_connect_error: None,
            last_journal_error: None,
            line_state: None,
            alarms: Vec::new(),
            line_state_changed: false,
            drain_until: None,
            kept: Vec::new(),
            ended: false,
        };
        Self {
            boot_id: speaker.boot_id.as_str().into(),
            speaker,
            wake: Notify::new(),
            keep_for,
            decision_topic,
            historical_topic,
            journal,
            journal_name,
            observer,
            inner: Mutex::new(inner),
            settled: Condvar::new(),
        }
    }

    /// Locks even after a panic elsewhere: every change below leaves a valid state behind.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a message and puts it in the outbox. `None` when the publisher is stopping.
    ///
    /// The payload is written under the lock, some microseconds, so that messages lie in the order of their numbers.
    pub(crate) fn enqueue(&self, draft: Draft, payload: impl FnOnce(u64) -> Vec<u8>) -> Option<u64> {
        let Draft { kind, topic, expires_at, ends_on, asks_gate } = draft;
        let queued_at = Instant::now();
        let mut inner = self.lock();
        if inner.drain_until.is_some() {
            return None;
        }
        let seq = match kind {
            MessageKind::Result => inner.result_seq.next(),
            MessageKind::Aside => inner.aside_seq.next(),
            MessageKind::Decision | MessageKind::Historical => inner.decision_seq.next(),
        };
        let payload = payload(seq);
        if payload.len() > LONGEST_PAYLOAD {
            drop(inner);
            self.refuse(kind);
            return Some(seq);
        }
        let key = Key { boot_id: Arc::clone(&self.boot_id), seq };
        let message = Message { kind, key, topic, payload: payload.into(), queued_at, expires_at, ends_on };
        if kind == MessageKind::Decision {
            self.note(|| Change::Add(message.entry()));
        }
        let mut given_up = None;
        let mut fallen = Fallen::default();
        if expires_at <= queued_at {
            fallen.expired.push(message);
        } else {
            if let Some(gate) = inner.gate.as_mut().filter(|_| asks_gate) {
                given_up = gate.expect(message.key.clone(), queued_at);
            }
            fallen.dropped.extend(inner.outbox.push(message));
        }
        self.tell_fallen(inner, fallen);
        self.tell_gate_missed(given_up.as_slice());
        self.wake.notify_one();
        Some(seq)
    }

    /// A message that cannot be sent at all is counted like one for which there is no room.
    pub(crate) fn refuse(&self, kind: MessageKind) {
        let mut inner = self.lock();
        inner.counts(kind).dropped += 1;
        self.warn_of_drops(inner);
        self.tell(&PublishEvent::Dropped { kind });
    }

    /// What an earlier run left: what is still alive is sent as if it were of this run, the rest is historical.
    pub(crate) fn restore(&self, entries: Vec<Entry>) {
        let (now, today) = (Instant::now(), Timestamp::now());
        let messages = entries.into_iter().map(|Entry { key, ends_on, payload }| {
            let left = Duration::try_from(ends_on.duration_since(today)).unwrap_or_default().min(LONGEST_LIFE);
            let message = Message {
                kind: MessageKind::Decision,
                key,
                topic: Arc::clone(&self.decision_topic),
                payload,
                queued_at: now,
                expires_at: now + left,
                ends_on,
            };
            if left.is_zero() { self.turned_historical(message) } else { message }
        });
        let messages: Vec<Message> = messages.collect();
        let mut inner = self.lock();
        let dropped = inner.outbox.restore(messages);
        self.tell_fallen(inner, Fallen { expired: Vec::new(), dropped });
        self.wake.notify_one();
    }

    /// Everything that must outlive this process, also when the outbox has been given up: the file may be written anew after
    /// that.
    pub(crate) fn undelivered(&self) -> Vec<Entry> {
        let inner = self.lock();
        inner.kept.iter().cloned().chain(inner.outbox.decisions().map(Message::entry)).collect()
    }

    /// A decision of the past: it keeps its number and loses its claim on the gate.
    fn turned_historical(&self, message: Message) -> Message {
        let (now, today) = (Instant::now(), Timestamp::now());
        let age = Duration::try_from(today.duration_since(message.ends_on)).unwrap_or_default();
        Message {
            kind: MessageKind::Historical,
            topic: Arc::clone(&self.historical_topic),
            expires_at: now + self.keep_for.saturating_sub(age),
            ..message
        }
    }

    /// Tells the journal. Nothing is waited for.
    fn note(&self, change: impl FnOnce() -> Change) {
        if let Some(journal) = &self.journal {
            journal.note(change());
        }
    }

    fn is_journalled(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.is_open())
    }

    /// The next message to send, if one waits and the window is open.
    pub(crate) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut fallen = Fallen::default();
        let mut inner = self.lock();
        let now = Instant::now();
        let taken = inner.outbox.take(now, &mut fallen.expired);
        let outgoing = taken.map(|(ticket, message)| Outgoing {
            kind: message.kind,
            ticket,
            topic: message.topic.to_string(),
            payload: match message.kind {
                MessageKind::Historical => payload::historical(&message.payload),
                MessageKind::Result | MessageKind::Aside | MessageKind::Decision => message.payload.to_vec(),
            },
            life: message.expires_at.saturating_duration_since(now),
            id: message.id(),
        });
        if let Some(outgoing) = &outgoing {
            inner.counts(outgoing.kind).sent += 1;
        }
        self.tell_fallen(inner, fallen);
        outgoing
    }

    /// Live messages that are not on their way yet.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().outbox.waiting()
    }

    pub(crate) fn acknowledged(&self, ticket: Ticket) {
        let mut inner = self.lock();
        let Some(message) = inner.outbox.acknowledge(ticket) else { return };
        inner.counts(message.kind).acknowledged += 1;
        self.settle(inner, &message);
        let Message { kind, key, queued_at, .. } = message;
        self.tell(&PublishEvent::Acknowledged {
            kind,
            boot_id: key.boot_id,
            seq: key.seq,
            latency: queued_at.elapsed(),
        });
    }

    /// The broker does not want a message, and would not want it a second time.
    pub(crate) fn refused(&self, ticket: Ticket, reason: &str) {
        let mut inner = self.lock();
        let Some(message) = inner.outbox.acknowledge(ticket) else { return };
        inner.counts(message.kind).dropped += 1;
        self.settle(inner, &message);
        tracing::error!(line = self.speaker.line, topic = &*message.topic, reason, "the broker refuses a message");
        self.tell(&PublishEvent::Dropped { kind: message.kind });
    }

    /// A message is done with.
    fn settle(&self, inner: MutexGuard<'_, Inner>, message: &Message) {
        if message.kind.is_decision() {
            self.note(|| Change::Remove(message.key.clone()));
        }
        if inner.outbox.is_live_idle() {
            self.settled.notify_all();
        }
    }

    /// Counts what has become too old while waiting, and the rejects that no gate has acknowledged in time.
    pub(crate) fn look_at_clock(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        let missed = inner.gate.as_mut().map_or(Vec::new(), |gate| gate.overdue(now));
        // The state tells it at once.
        inner.line_state_changed |= !missed.is_empty();
        let expired = inner.outbox.expire(now);
        self.tell_fallen(inner, Fallen { expired, dropped: Vec::new() });
        self.tell_gate_missed(&missed);
    }

    fn tell_gate_missed(&self, missed: &[Key]) {
        for key in missed {
            let id = id(MessageKind::Decision, key);
            tracing::warn!(line = self.speaker.line, id, "the gate has not acknowledged a reject");
            self.tell(&PublishEvent::GateUnacknowledged { id });
        }
    }

    /// The gate says that it has heard of a decision.
    pub(crate) fn gate_answered(&self, payload: &[u8]) {
        let Some(key) = crate::gate::parse_answer(payload) else {
            tracing::warn!(line = self.speaker.line, "the gate's acknowledgement cannot be understood");
            return;
        };
        let mut inner = self.lock();
        let was_alarmed = inner.gate.as_ref().is_some_and(|gate| gate.stats().alarm);
        let Some(answered) = inner.gate.as_mut().map(|gate| gate.answer(&key, Instant::now())) else { return };
        inner.line_state_changed |= was_alarmed && answered != Answered::Unknown;
        drop(inner);
        let id = id(MessageKind::Decision, &key);
        match answered {
            Answered::Reject(latency) => self.tell(&PublishEvent::GateAcknowledged { id, latency }),
            Answered::Unknown => {
                tracing::debug!(line = self.speaker.line, id, "acknowledged by the gate, and not waited for");
            }
        }
    }

    pub(crate) fn subscription_refused(&self, reason: &str) {
        tracing::error!(line = self.speaker.line, reason, "the broker refuses the gate's acknowledgements to us");
    }

    pub(crate) fn journal_opened(&self, restored: usize) {
        self.lock().last_journal_error = None;
        tracing::info!(line = self.speaker.line, file = self.journal_name, restored, "outbox on disk");
        self.tell(&PublishEvent::JournalOpened { restored });
    }

    pub(crate) fn journal_failed(&self, problem: &str) {
        let error = format!("`{}`: {problem}", self.journal_name);
        let mut inner = self.lock();
        let is_news = inner.last_journal_error.as_ref() != Some(&error);
        inner.last_journal_error = Some(error.clone());
        drop(inner);
        match is_news {
            true => tracing::error!(line = self.speaker.line, error, "the outbox is in memory only, retrying its file"),
            false => tracing::debug!(line = self.speaker.line, error, "the outbox is still in memory only"),
        }
        self.tell(&PublishEvent::JournalFailed { error });
    }

    /// Gives up what waits; what is in flight may still be acknowledged. What is on disk stays there for the next run.
    pub(crate) fn discard_waiting(&self) {
        let mut inner = self.lock();
        let left = inner.outbox.discard_waiting();
        self.tell_left(inner, left);
    }

    pub(crate) fn connected(&self, broker: &str) {
        let mut inner = self.lock();
        if inner.was_connected {
            inner.stats.reconnects += 1;
        }
        inner.was_connected = true;
        inner.stats.connected = true;
        inner.warned_of_drops = false;
        inner.last_connect_error = None;
        let reconnects = inner.stats.reconnects;
        let stats = self.stats_of(&inner);
        drop(inner);
        tracing::info!(
            line = self.speaker.line,
            broker,
            reconnects,
            waiting = stats.outbox_messages,
            expired_results = stats.results.expired,
            expired_decisions = stats.decisions.expired,
            dropped_results = stats.results.dropped,
            dropped_decisions = stats.decisions.dropped,
            historical = stats.historical_messages,
            "broker connected"
        );
        (self.observer)(&PublishEvent::Connected { broker: broker.to_owned(), reconnects });
    }

    pub(crate) fn connect_failed(&self, error: String) {
        let mut inner = self.lock();
        let is_news = inner.last_connect_error.as_ref() != Some(&error);
        if is_news {
            inner.last_connect_error = Some(error.clone());
        }
        drop(inner);
        // A broker that stays away is told once, not at every attempt.
        match is_news {
            true => tracing::warn!(line = self.speaker.line, error, "cannot connect to the broker, retrying"),
            false => tracing::debug!(line = self.speaker.line, error, "still cannot connect to the broker"),
        }
        (self.observer)(&PublishEvent::ConnectFailed { error });
    }

    /// The connection is gone; what was in flight waits again.
    pub(crate) fn disconnected(&self, error: String) {
        let mut inner = self.lock();
        inner.stats.connected = false;
        let fallen = inner.outbox.requeue(Instant::now());
        self.tell_fallen(inner, fallen);
        tracing::warn!(line = self.speaker.line, error, "broker connection lost, retrying");
        (self.observer)(&PublishEvent::Disconnected { error });
    }

    pub(crate) fn rebuilt(&self, reason: String) {
        self.lock().stats.rebuilds += 1;
        tracing::warn!(line = self.speaker.line, reason, "broker connection is silent, building it anew");
        (self.observer)(&PublishEvent::Rebuilt { reason });
    }

    /// The thread ends: whatever is left is given up, and whoever waits is told.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.stats.connected = false;
        inner.drain_until.get_or_insert_with(Instant::now);
        let Fallen { expired, dropped } = inner.outbox.requeue(Instant::now());
        self.tell_fallen(inner, Fallen { expired, dropped });
        let mut inner = self.lock();
        let left = inner.outbox.discard_waiting();
        self.tell_left(inner, left);
        self.lock().ended = true;
        self.settled.notify_all();
    }

    /// What is left at the end waits on disk for the next run, or is lost.
    fn tell_left(&self, mut inner: MutexGuard<'_, Inner>, left: Vec<Message>) {
        let is_journalled = self.is_journalled();
        let mut dropped = Vec::new();
        for message in left {
            if is_journalled && message.kind.is_decision() {
                inner.stats.kept += 1;
                inner.kept.push(message.entry());
            } else {
                inner.counts(message.kind).dropped += 1;
                dropped.push(message.kind);
            }
        }
        self.settled.notify_all();
        if !dropped.is_empty() {
            self.warn_of_drops(inner);
        } else {
            drop(inner);
        }
        dropped.into_iter().for_each(|kind| self.tell(&PublishEvent::Dropped { kind }));
    }

    pub(crate) fn set_line_state(&self, word: &str) {
        let mut inner = self.lock();
        if inner.line_state.as_deref() != Some(word) {
            inner.line_state = Some(word.to_owned());
            inner.line_state_changed = true;
            drop(inner);
            self.wake.notify_one();
        }
    }

    pub(crate) fn set_alarms(&self, alarms: &[&'static str]) {
        let mut inner = self.lock();
        if inner.alarms != alarms {
            inner.alarms = alarms.to_vec();
            inner.line_state_changed = true;
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// What the line does, and what is wrong with it all the same.
    pub(crate) fn line_state(&self) -> (Option<String>, Vec<&'static str>) {
        let inner = self.lock();
        (inner.line_state.clone(), inner.alarms.clone())
    }

    pub(crate) fn take_line_state_change(&self) -> bool {
        std::mem::take(&mut self.lock().line_state_changed)
    }

    /// Nothing more is accepted; what waits has until then to be delivered. The first call decides.
    pub(crate) fn request_stop(&self, drain_until: Instant) {
        let mut inner = self.lock();
        inner.drain_until.get_or_insert(drain_until);
        inner.outbox.hurry();
        drop(inner);
        self.wake.notify_one();
    }

    /// Whether a stop was asked for, and there is nothing left to wait for: what is historical waits on disk just as well.
    pub(crate) fn is_stop_due(&self) -> bool {
        let is_journalled = self.is_journalled();
        let inner = self.lock();
        let is_done = || if is_journalled { inner.outbox.is_live_idle() } else { inner.outbox.is_idle() };
        inner.drain_until.is_some_and(|until| is_done() || Instant::now() >= until)
    }

    pub(crate) fn is_live_idle(&self) -> bool {
        self.lock().outbox.is_live_idle()
    }

    /// Waits until nothing is in the outbox; false when it took too long.
    pub(crate) fn wait_idle(&self, timeout: Duration) -> bool {
        self.wait_for(timeout, |inner| inner.outbox.is_idle())
    }

    /// Waits until the thread has nothing more to do; false when it took too long.
    pub(crate) fn wait_ended(&self, timeout: Duration) -> bool {
        self.wait_for(timeout, |inner| inner.ended)
    }

    fn wait_for(&self, timeout: Duration, is_reached: impl Fn(&Inner) -> bool) -> bool {
        let waited = self.settled.wait_timeout_while(self.lock(), timeout, |inner| !is_reached(inner));
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        is_reached(&inner)
    }

    pub(crate) fn stats(&self) -> PublisherStats {
        self.stats_of(&self.lock())
    }

    fn stats_of(&self, inner: &Inner) -> PublisherStats {
        PublisherStats {
            outbox_messages: inner.outbox.len(),
            historical_messages: inner.outbox.historical_len(),
            is_journalled: self.is_journalled(),
            gate: inner.gate.as_ref().map(Gate::stats),
            ..inner.stats
        }
    }

    /// Counts and tells what left the outbox undelivered. A decision among it becomes historical.
    fn tell_fallen(&self, mut inner: MutexGuard<'_, Inner>, fallen: Fallen) {
        let Fallen { expired, mut dropped } = fallen;
        if expired.is_empty() && dropped.is_empty() {
            return;
        }
        let mut events = Vec::with_capacity(expired.len() + dropped.len());
        for message in expired {
            inner.counts(message.kind).expired += 1;
            events.push(PublishEvent::Expired { kind: message.kind });
            dropped.extend(self.bury(&mut inner, message));
        }
        let mut any_dropped = false;
        // What it pushes out of its room is historical already, and goes no further.
        while let Some(message) = dropped.pop() {
            any_dropped = true;
            inner.counts(message.kind).dropped += 1;
            events.push(PublishEvent::Dropped { kind: message.kind });
            dropped.extend(self.bury(&mut inner, message));
        }
        if inner.outbox.is_live_idle() {
            self.settled.notify_all();
        }
        match any_dropped {
            true => self.warn_of_drops(inner),
            false => drop(inner),
        }
        events.iter().for_each(|event| self.tell(event));
    }

    /// A decision that was not delivered waits among the historical ones; a historical one is gone. Gives what has no room.
    fn bury(&self, inner: &mut Inner, message: Message) -> Option<Message> {
        match message.kind {
            MessageKind::Result | MessageKind::Aside => None,
            MessageKind::Decision => inner.outbox.push(self.turned_historical(message)),
            MessageKind::Historical => {
                self.note(|| Change::Remove(message.key));
                None
            }
        }
    }

    fn warn_of_drops(&self, mut inner: MutexGuard<'_, Inner>) {
        let is_first = !std::mem::replace(&mut inner.warned_of_drops, true);
        drop(inner);
        if is_first {
            tracing::warn!(line = self.speaker.line, "messages for the broker are dropped: see the counters");
        }
    }

    fn tell(&self, event: &PublishEvent) {
        // An observer that has just panicked on the publisher's thread is not called while the thread unwinds.
        if std::thread::panicking() {
            return;
        }
        tracing::trace!(line = self.speaker.line, ?event);
        (self.observer)(event);
    }
}

/// The `id` in a message.
fn id(kind: MessageKind, key: &Key) -> String {
    let letter = match kind {
        MessageKind::Result => 'r',
        MessageKind::Decision | MessageKind::Historical => 'd',
        MessageKind::Aside => 'a',
    };
    format!("{}-{letter}-{}", key.boot_id, key.seq)
}

impl Message {
    fn id(&self) -> String {
        id(self.kind, &self.key)
    }

    fn entry(&self) -> Entry {
        Entry { key: self.key.clone(), ends_on: self.ends_on, payload: Arc::clone(&self.payload) }
    }
}
