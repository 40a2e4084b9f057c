//! What the callers' handles and the publisher's thread have in common: the outbox, the counters, and what is told of them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use linewarden_core::Sequence;
use serde::Serialize;
use tokio::sync::Notify;

use crate::outbox::{Fallen, Message, MessageKind, Outbox, Ticket};
use crate::payload::Speaker;

/// A longer message would break every connection that it is sent on, until it expires.
pub(crate) const LONGEST_PAYLOAD: usize = 1 << 20;

/// What happened to the connection or to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishEvent {
    /// The broker accepted the connection.
    Connected {
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
        /// Since it was handed to the publisher.
        latency: Duration,
    },
    /// A message was not delivered in time, and will not be.
    Expired {
        /// Which kind.
        kind: MessageKind,
    },
    /// A message fell out of a full outbox, or was left over at the end.
    Dropped {
        /// Which kind.
        kind: MessageKind,
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
    /// Fallen out of a full outbox, or left over at the end.
    pub dropped: u64,
}

/// A publisher at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Whether there is a connection.
    pub connected: bool,
    /// Messages that wait or are not acknowledged yet.
    pub outbox_messages: usize,
    /// What became of the results.
    pub results: KindStats,
    /// What became of the decisions.
    pub decisions: KindStats,
    /// Connections after the first.
    pub reconnects: u64,
    /// Connections given up because they were silent.
    pub rebuilds: u64,
}

/// A message on its way out of the outbox.
pub(crate) struct Outgoing {
    kind: MessageKind,
    pub(crate) ticket: Ticket,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Shared {
    pub(crate) speaker: Speaker,
    pub(crate) wake: Notify,
    observer: Observer,
    inner: Mutex<Inner>,
    /// Told whenever the outbox may have become idle, and at the end.
    settled: Condvar,
}

struct Inner {
    outbox: Outbox,
    result_seq: Sequence,
    decision_seq: Sequence,
    /// `outbox_messages` is filled in when asked for.
    stats: PublisherStats,
    was_connected: bool,
    /// The outage's first dropped message is a warning, the others are not.
    warned_of_drops: bool,
    last_connect_error: Option<String>,
    line_state: Option<String>,
    line_state_changed: bool,
    /// Set once: until then the outbox may still empty itself.
    drain_until: Option<Instant>,
    ended: bool,
}

impl Inner {
    fn counts(&mut self, kind: MessageKind) -> &mut KindStats {
        match kind {
            MessageKind::Result => &mut self.stats.results,
            MessageKind::Decision => &mut self.stats.decisions,
        }
    }

    fn count_expired(&mut self, kinds: &[MessageKind]) {
        kinds.iter().for_each(|&kind| self.counts(kind).expired += 1);
    }

    fn count_dropped(&mut self, kinds: &[MessageKind]) {
        kinds.iter().for_each(|&kind| self.counts(kind).dropped += 1);
    }
}

impl Shared {
    pub(crate) fn new(speaker: Speaker, outbox_capacity: usize, observer: Observer) -> Self {
        let inner = Inner {
            outbox: Outbox::new(outbox_capacity),
            result_seq: Sequence::default(),
            decision_seq: Sequence::default(),
            stats: PublisherStats::default(),
            was_connected: false,
            warned_of_drops: false,
            last_connect_error: None,
            line_state: None,
            line_state_changed: false,
            drain_until: None,
            ended: false,
        };
        Self { speaker, wake: Notify::new(), observer, inner: Mutex::new(inner), settled: Condvar::new() }
    }

    /// Locks even after a panic elsewhere: every change below leaves a valid state behind.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a message and puts it in the outbox. `None` when the publisher is stopping.
    ///
    /// The payload is written under the lock, some microseconds, so that messages lie in the order of their numbers.
    pub(crate) fn enqueue(
        &self,
        kind: MessageKind,
        topic: String,
        expires_at: Instant,
        payload: impl FnOnce(u64) -> Vec<u8>,
    ) -> Option<u64> {
        let queued_at = Instant::now();
        let mut inner = self.lock();
        if inner.drain_until.is_some() {
            return None;
        }
        let seq = match kind {
            MessageKind::Result => inner.result_seq.next(),
            MessageKind::Decision => inner.decision_seq.next(),
        };
        let mut fallen = Fallen::default();
        let payload = payload(seq);
        if expires_at <= queued_at {
            fallen.expired.push(kind);
        } else if payload.len() > LONGEST_PAYLOAD {
            fallen.dropped.push(kind);
        } else {
            fallen.dropped.extend(inner.outbox.push(Message { kind, topic, payload, queued_at, expires_at }));
        }
        self.tell_fallen(inner, fallen);
        self.wake.notify_one();
        Some(seq)
    }

    /// A message that cannot be sent at all is counted like one for which there is no room.
    pub(crate) fn refuse(&self, kind: MessageKind) {
        self.tell_fallen(self.lock(), Fallen { expired: Vec::new(), dropped: vec![kind] });
    }

    /// The next message to send, if one waits and the window is open.
    pub(crate) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut fallen = Fallen::default();
        let mut inner = self.lock();
        let taken = inner.outbox.take(Instant::now(), &mut fallen.expired);
        let outgoing = taken.map(|(ticket, message)| Outgoing {
            kind: message.kind,
            ticket,
            topic: message.topic.clone(),
            payload: message.payload.clone(),
        });
        if let Some(outgoing) = &outgoing {
            inner.counts(outgoing.kind).sent += 1;
        }
        self.tell_fallen(inner, fallen);
        outgoing
    }

    /// Messages that are not on their way yet.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().outbox.waiting()
    }

    pub(crate) fn acknowledged(&self, ticket: Ticket) {
        let mut inner = self.lock();
        let Some(message) = inner.outbox.acknowledge(ticket) else { return };
        inner.counts(message.kind).acknowledged += 1;
        if inner.outbox.is_idle() {
            self.settled.notify_all();
        }
        drop(inner);
        self.tell(&PublishEvent::Acknowledged { kind: message.kind, latency: message.queued_at.elapsed() });
    }

    /// Counts what has become too old while waiting.
    pub(crate) fn expire(&self) {
        let mut inner = self.lock();
        let expired = inner.outbox.expire(Instant::now());
        self.tell_fallen(inner, Fallen { expired, dropped: Vec::new() });
    }

    /// Gives up what waits; what is in flight may still be acknowledged.
    pub(crate) fn discard_waiting(&self) {
        let mut inner = self.lock();
        let dropped = inner.outbox.discard_waiting();
        self.tell_fallen(inner, Fallen { expired: Vec::new(), dropped });
    }

    pub(crate) fn connected(&self) {
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
            reconnects,
            waiting = stats.outbox_messages,
            expired_results = stats.results.expired,
            expired_decisions = stats.decisions.expired,
            dropped_results = stats.results.dropped,
            dropped_decisions = stats.decisions.dropped,
            "broker connected"
        );
        (self.observer)(&PublishEvent::Connected { reconnects });
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
        let Fallen { expired, mut dropped } = inner.outbox.requeue(Instant::now());
        dropped.extend(inner.outbox.discard_waiting());
        inner.ended = true;
        self.tell_fallen(inner, Fallen { expired, dropped });
        self.settled.notify_all();
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

    pub(crate) fn line_state(&self) -> Option<String> {
        self.lock().line_state.clone()
    }

    pub(crate) fn take_line_state_change(&self) -> bool {
        std::mem::take(&mut self.lock().line_state_changed)
    }

    /// Nothing more is accepted; what waits has until then to be delivered. The first call decides.
    pub(crate) fn request_stop(&self, drain_until: Instant) {
        self.lock().drain_until.get_or_insert(drain_until);
        self.wake.notify_one();
    }

    /// Whether a stop was asked for, and there is nothing left to wait for.
    pub(crate) fn is_stop_due(&self) -> bool {
        let inner = self.lock();
        inner.drain_until.is_some_and(|until| inner.outbox.is_idle() || Instant::now() >= until)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lock().outbox.is_idle()
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
        PublisherStats { outbox_messages: inner.outbox.len(), ..inner.stats }
    }

    /// Counts and tells what left the outbox undelivered.
    fn tell_fallen(&self, mut inner: MutexGuard<'_, Inner>, fallen: Fallen) {
        let Fallen { expired, dropped } = fallen;
        if expired.is_empty() && dropped.is_empty() {
            return;
        }
        inner.count_expired(&expired);
        inner.count_dropped(&dropped);
        let is_first_drop = !dropped.is_empty() && !std::mem::replace(&mut inner.warned_of_drops, true);
        if inner.outbox.is_idle() {
            self.settled.notify_all();
        }
        drop(inner);
        if is_first_drop {
            tracing::warn!(line = self.speaker.line, "messages for the broker are dropped: see the counters");
        }
        expired.into_iter().for_each(|kind| self.tell(&PublishEvent::Expired { kind }));
        dropped.into_iter().for_each(|kind| self.tell(&PublishEvent::Dropped { kind }));
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
