//! The publisher's thread: connects, hands over what waits, counts what is acknowledged, and starts over when it fails,
//! with the next broker if there are several.
//!
//! Client and event loop are built anew for every connection: the client library's own queue would send again what has
//! expired since. Only the outbox knows what is still to be sent.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use linewarden_core::{Backoff, BootId};
use tokio::time::{Interval, MissedTickBehavior};

use crate::config::{Connection, PublisherConfig};
use crate::outbox::{Ticket, WINDOW};
use crate::payload::LineState;
use crate::shared::{LONGEST_PAYLOAD, Shared};
use crate::wire::{Client, Dial, Heard, Publication, Qos, Wire};

/// What `offline` and the farewell to the broker may take together.
pub(crate) const FAREWELL: Duration = Duration::from_millis(500);
/// Deadlines are looked at this often, whatever happens or does not.
const TICK: Duration = Duration::from_millis(100);
/// The retained state is written again this often: its counters stay fresh, and the will of an earlier run of this line,
/// which a broker may send long after a power cut, is overwritten.
const STATE_REFRESH: Duration = Duration::from_secs(10);
/// A connection that held this long was a good one: the next attempt comes quickly.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);
/// The library's default of 10 KiB is less than a result with many labels. Leaves room for the topic.
const LONGEST_PACKET: usize = 2 * LONGEST_PAYLOAD;
/// At most one message, one state, one heartbeat and one subscription are in the library's channel.
const CHANNEL: usize = 8;
/// While fewer messages than this wait, one is sent when the one before it is acknowledged. Brokers that gather small packets,
/// as mosquitto does unless told otherwise, hold the second of two acknowledgements back until the first is confirmed on
/// the network, which takes our side 40 ms unless it has something to send. More waiting means that the way is long, and
/// then the window counts.
const BACKLOG: usize = 16;
/// More than the window and the states sent meanwhile, so that a packet id is never taken twice.
const PACKET_IDS: u16 = 4 * WINDOW as u16;

pub(crate) struct Session {
    config: PublisherConfig,
    connections: Vec<Connection>,
    /// Which of them is the one.
    current: usize,
    client_id: String,
    topic_root: String,
    ack_topic: Option<String>,
    shared: Arc<Shared>,
    started_at: Instant,
    heartbeats: u64,
}

/// Why a connection ended.
enum End {
    Stopped,
    Failed(String),
    /// The watchdog gave it up.
    Silent(String),
}

/// What an acknowledgement is for.
#[derive(Clone, Copy)]
enum Sent {
    Message(Ticket),
    State,
    Farewell,
}

/// How far the goodbye has come.
#[derive(Clone, Copy, PartialEq)]
enum Goodbye {
    NotYet,
    Saying {
        until: Instant,
    },
    /// The broker closes the connection next.
    Said {
        until: Instant,
    },
}

/// One connection, from the attempt to its end.
struct Link {
    client: Client,
    opened_at: Instant,
    connected_at: Option<Instant>,
    last_event_at: Instant,
    /// When an acknowledgement came last, or when something began to wait for one.
    last_progress_at: Instant,
    /// Handed to the library, not on the wire yet.
    handed_over: VecDeque<Sent>,
    heartbeat_handed_over: bool,
    unacknowledged: VecDeque<(u16, Sent)>,
    next_state_at: Instant,
    next_heartbeat_at: Instant,
    /// Once the backlog is delivered, the state says so.
    report_when_idle: bool,
    goodbye: Goodbye,
}

/// Tells callers that wait that the thread is gone, even if it panicked.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Session {
    pub(crate) fn new(
        config: PublisherConfig,
        connections: Vec<Connection>,
        boot_id: BootId,
        topic_root: String,
        shared: Arc<Shared>,
    ) -> Self {
        let client_id = config.client_id(boot_id);
        let ack_topic = config.ack_topic();
        for Connection { broker, credentials, .. } in &connections {
            if credentials.is_some() && !broker.is_tls() && !is_loopback(broker.host()) {
                tracing::warn!(line = config.line, %broker, "the password travels unencrypted: use `mqtts://`");
            }
        }
        let started_at = Instant::now();
        Self { config, connections, current: 0, client_id, topic_root, ack_topic, shared, started_at, heartbeats: 0 }
    }

    pub(crate) async fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.shared));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::of_peer();
        let mut failed = 0;
        loop {
            let (mut link, wire) = self.open();
            let end = self.drive(&mut link, wire, &mut tick).await;
            let is_silent = matches!(end, End::Silent(_));
            match end {
                End::Stopped => return,
                End::Failed(error) if link.connected_at.is_none() => self.connect_failed(&error),
                End::Failed(error) => self.shared.disconnected(error),
                End::Silent(reason) => {
                    self.shared.rebuilt(reason.clone());
                    self.shared.disconnected(reason);
                }
            }
            if !is_silent && link.connected_at.is_some_and(|at| at.elapsed() >= GOOD_CONNECTION) {
                // It was a good one: it is tried again before the others.
                backoff.reset();
                failed = 0;
            } else {
                failed += 1;
                self.current = (self.current + 1) % self.connections.len();
            }
            // The library's event loop fails at once while a broker refuses connections, so every failure waits; but not
            // while there is another broker to ask.
            let is_round_over = failed % self.connections.len() == 0;
            if is_round_over && !self.pause(backoff.next_delay(), &mut tick).await {
                return;
            }
        }
    }

    fn connect_failed(&self, error: &str) {
        let error = match self.connection() {
            Some(Connection { broker, .. }) if self.connections.len() > 1 => format!("{broker}: {error}"),
            _ => error.to_owned(),
        };
        self.shared.connect_failed(error);
    }

    fn connection(&self) -> Option<&Connection> {
        self.connections.get(self.current)
    }

    /// Waits for the next attempt; false when a stop comes first.
    async fn pause(&self, delay: Duration, tick: &mut Interval) -> bool {
        let mut delay = pin!(tokio::time::sleep(delay));
        loop {
            if self.shared.is_stop_due() {
                return false;
            }
            tokio::select! {
                () = &mut delay => return true,
                () = self.shared.wake.notified() => {}
                _ = tick.tick() => self.shared.look_at_clock(),
            }
        }
    }

    fn open(&self) -> (Link, Wire) {
        let config = &self.config;
        let connection =
            self.connection().expect("`current` is below the number of brokers, of which there is one at least");
        let will = self.shared.speaker.state(LineState::Lost, Timestamp::now(), &self.shared.stats());
        let dial = Dial {
            version: config.version,
            client_id: &self.client_id,
            connection,
            keep_alive: config.keep_alive,
            connect_timeout: config.connect_timeout,
            session_expiry: config.session_expiry,
            will: Some((self.topic("state"), will)),
            packet_ids: PACKET_IDS,
            longest_packet: LONGEST_PACKET,
            channel: CHANNEL,
        };
        let (client, wire) = dial.open();
        let now = Instant::now();
        let link = Link {
            client,
            opened_at: now,
            connected_at: None,
            last_event_at: now,
            last_progress_at: now,
            handed_over: VecDeque::new(),
            heartbeat_handed_over: false,
            unacknowledged: VecDeque::new(),
            next_state_at: now,
            next_heartbeat_at: now,
            report_when_idle: false,
            goodbye: Goodbye::NotYet,
        };
        (link, wire)
    }

    /// Moves one connection until it ends. A poll that has begun is never given up half way while the connection is to be
    /// kept: the library would forget what it was writing.
    async fn drive(&mut self, link: &mut Link, mut wire: Wire, tick: &mut Interval) -> End {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut poll = pin!(wire.poll());
            let event = loop {
                if let Some(end) = self.attend(link) {
                    return end;
                }
                tokio::select! {
                    biased;
                    event = &mut poll => break event,
                    () = shared.wake.notified() => {}
                    _ = tick.tick() => shared.look_at_clock(),
                }
            };
            match event {
                Ok(heard) => self.heard(link, heard),
                Err(_) if link.goodbye != Goodbye::NotYet => return End::Stopped,
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Everything that is due now, whoever asked for it.
    fn attend(&mut self, link: &mut Link) -> Option<End> {
        let now = Instant::now();
        if link.connected_at.is_none() {
            return self.attend_attempt(link, now);
        }
        match link.goodbye {
            Goodbye::Saying { until } | Goodbye::Said { until } if now >= until => return Some(End::Stopped),
            Goodbye::Saying { .. } | Goodbye::Said { .. } => return None,
            Goodbye::NotYet => {}
        }
        if let Some(reason) = self.silence(link, now) {
            return Some(End::Silent(reason));
        }
        if self.shared.is_stop_due() {
            self.say_goodbye(link, now);
            return None;
        }
        if self.shared.take_line_state_change() {
            link.next_state_at = now;
        }
        if link.report_when_idle && link.next_state_at > now && self.shared.is_live_idle() {
            link.report_when_idle = false;
            link.next_state_at = now;
        }
        if now >= link.next_heartbeat_at && !link.heartbeat_handed_over {
            self.send_heartbeat(link, now);
        }
        // One at a time: a message that must still wait here can still expire.
        let is_clear = link.unacknowledged.is_empty() || self.shared.waiting() >= BACKLOG;
        if link.handed_over.is_empty() && is_clear {
            if now >= link.next_state_at {
                self.send_state(link, now);
            } else {
                self.send_next(link);
            }
        }
        None
    }

    fn attend_attempt(&self, link: &Link, now: Instant) -> Option<End> {
        if self.shared.is_stop_due() {
            return Some(End::Stopped);
        }
        let limit = self.config.connect_timeout;
        (now >= link.opened_at + limit).then(|| End::Failed(format!("no answer within {limit:?}")))
    }

    /// What has been missing for too long, if anything.
    fn silence(&self, link: &Link, now: Instant) -> Option<String> {
        let waits_for_broker = !link.unacknowledged.is_empty() || !link.handed_over.is_empty();
        let limit = self.config.acknowledge_timeout;
        if waits_for_broker && now >= link.last_progress_at + limit {
            return Some(format!("nothing was acknowledged for {limit:?}"));
        }
        let limit = 2 * self.config.keep_alive;
        (now >= link.last_event_at + limit).then(|| format!("nothing was heard for {limit:?}"))
    }

    fn heard(&mut self, link: &mut Link, heard: Heard) {
        let now = Instant::now();
        link.last_event_at = now;
        match heard {
            Heard::Connected => self.heard_connected(link, now),
            Heard::Acknowledged(packet_id) => self.heard_acknowledgement(link, packet_id, None, now),
            Heard::Refused(packet_id, reason) => self.heard_acknowledgement(link, packet_id, Some(&reason), now),
            Heard::HalfAcknowledged => link.last_progress_at = now,
            Heard::Sent(0) => link.heartbeat_handed_over = false,
            Heard::Sent(packet_id) => {
                if let Some(sent) = link.handed_over.pop_front() {
                    link.unacknowledged.push_back((packet_id, sent));
                }
            }
            Heard::Message { topic, payload, .. } if self.ack_topic.as_ref() == Some(&topic) => {
                self.shared.gate_answered(&payload)
            }
            Heard::SubscriptionRefused(reason) => self.shared.subscription_refused(&reason),
            Heard::Message { .. } | Heard::Subscribed | Heard::Other => {}
        }
    }

    fn heard_connected(&self, link: &mut Link, now: Instant) {
        link.connected_at = Some(now);
        link.report_when_idle = !self.shared.is_live_idle();
        if let Some(topic) = &self.ack_topic
            && let Err(error) = link.client.subscribe(topic, self.config.qos)
        {
            tracing::error!(line = self.config.line, error, "cannot subscribe to the gate's acknowledgements");
        }
        let broker = self.connection().map_or_else(String::new, |connection| connection.broker.to_string());
        self.shared.connected(&broker);
    }

    /// The broker has a message for good, or does not want it.
    fn heard_acknowledgement(&self, link: &mut Link, packet_id: u16, refusal: Option<&str>, now: Instant) {
        let Some(place) = link.unacknowledged.iter().position(|&(id, _)| id == packet_id) else { return };
        link.last_progress_at = now;
        match (link.unacknowledged.remove(place), refusal) {
            (Some((_, Sent::Message(ticket))), None) => self.shared.acknowledged(ticket),
            (Some((_, Sent::Message(ticket))), Some(reason)) => self.shared.refused(ticket, reason),
            (Some((_, Sent::Farewell)), _) => {
                // Until the broker has closed the connection, or shortly after if it does not.
                link.goodbye = Goodbye::Said { until: now + FAREWELL };
                link.client.disconnect();
            }
            (Some((_, Sent::State)) | None, _) => {}
        }
    }

    fn send_next(&self, link: &mut Link) {
        let Some(message) = self.shared.next_outgoing() else { return };
        let qos = if message.kind.is_decision() { self.config.qos } else { Qos::AtLeastOnce };
        let publication = Publication {
            topic: message.topic,
            qos: Some(qos),
            retain: false,
            payload: message.payload,
            life: Some(message.life),
            id: Some(message.id),
        };
        self.hand_over(link, Sent::Message(message.ticket), publication);
    }

    fn send_state(&self, link: &mut Link, now: Instant) {
        link.next_state_at = now + STATE_REFRESH;
        let (line_state, alarms) = self.shared.line_state();
        let state = LineState::Online { line_state: line_state.as_deref(), alarms: &alarms };
        self.hand_over(link, Sent::State, self.state(state));
    }

    fn say_goodbye(&self, link: &mut Link, now: Instant) {
        self.shared.discard_waiting();
        link.goodbye = Goodbye::Saying { until: now + FAREWELL };
        self.hand_over(link, Sent::Farewell, self.state(LineState::Stopped));
    }

    fn state(&self, state: LineState<'_>) -> Publication {
        let payload = self.shared.speaker.state(state, Timestamp::now(), &self.shared.stats());
        let (topic, qos) = (self.topic("state"), Some(Qos::AtLeastOnce));
        Publication { topic, qos, retain: true, payload, life: None, id: None }
    }

    /// The channel cannot be full, see `CHANNEL`; were it, the watchdog would build the connection anew.
    fn hand_over(&self, link: &mut Link, sent: Sent, publication: Publication) {
        if link.unacknowledged.is_empty() && link.handed_over.is_empty() {
            link.last_progress_at = Instant::now();
        }
        link.handed_over.push_back(sent);
        if let Err(error) = link.client.publish(publication) {
            tracing::error!(line = self.config.line, error, "cannot hand a message to the MQTT client");
        }
    }

    fn send_heartbeat(&mut self, link: &mut Link, now: Instant) {
        link.next_heartbeat_at = now + self.config.heartbeat_interval;
        self.heartbeats += 1;
        let uptime_s = self.started_at.elapsed().as_secs_f64();
        let payload = self.shared.speaker.heartbeat(self.heartbeats, Timestamp::now(), uptime_s, &self.shared.stats());
        // One that a broker keeps longer than its time would look like life.
        let life = Some(2 * self.config.heartbeat_interval);
        let heartbeat =
            Publication { topic: self.topic("heartbeat"), qos: None, retain: false, payload, life, id: None };
        link.heartbeat_handed_over = link.client.publish(heartbeat).is_ok();
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.topic_root)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
