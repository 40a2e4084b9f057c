//! The publisher's thread: connects, hands over what waits, counts what is acknowledged, and starts over when it fails.
//!
//! Client and event loop are built anew for every connection, with a clean session: the client library's own queue would
//! send again what has expired since. Only the outbox knows what is still to be sent.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use linewarden_core::BootId;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, QoS,
    StateError,
};
use tokio::time::{Interval, MissedTickBehavior};

use crate::backoff::Backoff;
use crate::config::{Connection, PublisherConfig};
use crate::outbox::{Ticket, WINDOW};
use crate::payload::LineState;
use crate::shared::{LONGEST_PAYLOAD, Shared};

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
/// At most one message, one state and one heartbeat are in the library's channel.
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
    connection: Connection,
    client_id: String,
    topic_root: String,
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
    client: AsyncClient,
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
        connection: Connection,
        boot_id: BootId,
        topic_root: String,
        shared: Arc<Shared>,
    ) -> Self {
        let client_id = config.client_id(boot_id);
        if connection.credentials.is_some() && !config.broker.is_tls() && !is_loopback(config.broker.host()) {
            tracing::warn!(line = config.line, broker = %config.broker, "the password travels unencrypted: use `mqtts://`");
        }
        Self { config, connection, client_id, topic_root, shared, started_at: Instant::now(), heartbeats: 0 }
    }

    pub(crate) async fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.shared));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::default();
        loop {
            let (mut link, event_loop) = self.open();
            let end = self.drive(&mut link, event_loop, &mut tick).await;
            match end {
                End::Stopped => return,
                End::Failed(error) if link.connected_at.is_none() => self.shared.connect_failed(error),
                End::Failed(error) => self.shared.disconnected(error),
                End::Silent(reason) => {
                    self.shared.rebuilt(reason.clone());
                    self.shared.disconnected(reason);
                }
            }
            if link.connected_at.is_some_and(|at| at.elapsed() >= GOOD_CONNECTION) {
                backoff.reset();
            }
            // The library's event loop fails at once while a broker refuses connections, so every failure waits.
            if !self.pause(backoff.next_delay(), &mut tick).await {
                return;
            }
        }
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
                _ = tick.tick() => self.shared.expire(),
            }
        }
    }

    fn open(&self) -> (Link, EventLoop) {
        let Self { config, connection, .. } = self;
        // The library writes host and port as one text, so an IPv6 address needs its brackets back.
        let host = if config.broker.is_ipv6() {
            format!("[{}]", config.broker.host())
        } else {
            config.broker.host().to_owned()
        };
        let mut options = MqttOptions::new(&self.client_id, host, config.broker.port());
        options.set_transport(connection.transport.clone());
        options.set_keep_alive(Duration::from_secs(config.keep_alive.as_secs()));
        options.set_clean_session(true);
        options.set_inflight(PACKET_IDS);
        options.set_max_packet_size(LONGEST_PACKET, LONGEST_PACKET);
        if let Some(credentials) = &connection.credentials {
            options.set_credentials(&credentials.user, &credentials.password);
        }
        let will = self.shared.speaker.state(LineState::Lost, Timestamp::now(), &self.shared.stats());
        options.set_last_will(LastWill::new(self.topic("state"), will, QoS::AtLeastOnce, true));
        let (client, mut event_loop) = AsyncClient::new(options, CHANNEL);
        event_loop.network_options.set_tcp_nodelay(true);
        event_loop.network_options.set_connection_timeout(config.connect_timeout.as_secs().max(1));
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
        (link, event_loop)
    }

    /// Moves one connection until it ends. A poll that has begun is never given up half way while the connection is to be
    /// kept: the library would forget what it was writing.
    async fn drive(&mut self, link: &mut Link, mut event_loop: EventLoop, tick: &mut Interval) -> End {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut poll = pin!(event_loop.poll());
            let event = loop {
                if let Some(end) = self.attend(link) {
                    return end;
                }
                tokio::select! {
                    biased;
                    event = &mut poll => break event,
                    () = shared.wake.notified() => {}
                    _ = tick.tick() => shared.expire(),
                }
            };
            match event {
                Ok(event) => self.heard(link, &event),
                Err(_) if link.goodbye != Goodbye::NotYet => return End::Stopped,
                Err(error) => return End::Failed(describe(&error)),
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
        if link.report_when_idle && link.next_state_at > now && self.shared.is_idle() {
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

    fn heard(&mut self, link: &mut Link, event: &Event) {
        let now = Instant::now();
        link.last_event_at = now;
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                link.connected_at = Some(now);
                link.report_when_idle = !self.shared.is_idle();
                self.shared.connected();
            }
            Event::Incoming(Packet::PubAck(acknowledgement)) => {
                self.heard_acknowledgement(link, acknowledgement.pkid, now)
            }
            Event::Outgoing(Outgoing::Publish(0)) => link.heartbeat_handed_over = false,
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                if let Some(sent) = link.handed_over.pop_front() {
                    link.unacknowledged.push_back((*packet_id, sent));
                }
            }
            _ => {}
        }
    }

    fn heard_acknowledgement(&self, link: &mut Link, packet_id: u16, now: Instant) {
        let Some(place) = link.unacknowledged.iter().position(|&(id, _)| id == packet_id) else { return };
        link.last_progress_at = now;
        match link.unacknowledged.remove(place) {
            Some((_, Sent::Message(ticket))) => self.shared.acknowledged(ticket),
            Some((_, Sent::Farewell)) => {
                // Until the broker has closed the connection, or shortly after if it does not.
                link.goodbye = Goodbye::Said { until: now + FAREWELL };
                let _ = link.client.try_disconnect();
            }
            Some((_, Sent::State)) | None => {}
        }
    }

    fn send_next(&self, link: &mut Link) {
        if let Some(message) = self.shared.next_outgoing() {
            self.hand_over(link, Sent::Message(message.ticket), message.topic, false, message.payload);
        }
    }

    fn send_state(&self, link: &mut Link, now: Instant) {
        link.next_state_at = now + STATE_REFRESH;
        let line_state = self.shared.line_state();
        let state = LineState::Online { line_state: line_state.as_deref() };
        let payload = self.shared.speaker.state(state, Timestamp::now(), &self.shared.stats());
        self.hand_over(link, Sent::State, self.topic("state"), true, payload);
    }

    fn say_goodbye(&self, link: &mut Link, now: Instant) {
        self.shared.discard_waiting();
        link.goodbye = Goodbye::Saying { until: now + FAREWELL };
        let payload = self.shared.speaker.state(LineState::Stopped, Timestamp::now(), &self.shared.stats());
        self.hand_over(link, Sent::Farewell, self.topic("state"), true, payload);
    }

    /// The channel cannot be full, see `CHANNEL`; were it, the watchdog would build the connection anew.
    fn hand_over(&self, link: &mut Link, sent: Sent, topic: String, retain: bool, payload: Vec<u8>) {
        if link.unacknowledged.is_empty() && link.handed_over.is_empty() {
            link.last_progress_at = Instant::now();
        }
        link.handed_over.push_back(sent);
        if let Err(error) = link.client.try_publish(topic, QoS::AtLeastOnce, retain, payload) {
            tracing::error!(line = self.config.line, %error, "cannot hand a message to the MQTT client");
        }
    }

    fn send_heartbeat(&mut self, link: &mut Link, now: Instant) {
        link.next_heartbeat_at = now + self.config.heartbeat_interval;
        self.heartbeats += 1;
        let uptime_s = self.started_at.elapsed().as_secs_f64();
        let payload = self.shared.speaker.heartbeat(self.heartbeats, Timestamp::now(), uptime_s, &self.shared.stats());
        let handed_over = link.client.try_publish(self.topic("heartbeat"), QoS::AtMostOnce, false, payload);
        link.heartbeat_handed_over = handed_over.is_ok();
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.topic_root)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The library's error in words that help; holds nothing of the credentials.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => {
            "the broker refused the connection: not authorized, check user and password".to_owned()
        }
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword) => {
            "the broker refused the connection: wrong user or password".to_owned()
        }
        ConnectionError::ConnectionRefused(code) => format!("the broker refused the connection: {code:?}"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "the broker closed the connection".to_owned(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker does not answer".to_owned(),
        ConnectionError::NetworkTimeout => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}
