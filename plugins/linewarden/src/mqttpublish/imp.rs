//! The element's inside: read the meta, decide, hand both to the publisher, pass the frame on.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use jiff::{SignedDuration, Timestamp};
use linewarden_core::{ClockSource, Decision, DecisionRules, ScoredFrame};
use linewarden_publish::{
    BrokerUrl, GateStats, KindStats, MqttVersion, Observer, PublishEvent, Publisher, PublisherConfig, PublisherStats,
    Qos, check_name,
};

use crate::meta;

const TYPE: &str = "checked by its specification";

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("mqttpublish", gst::DebugColorFlags::empty(), Some("Linewarden MQTT publisher"))
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    broker: String,
    brokers: String,
    credentials_file: String,
    topic_prefix: String,
    line: String,
    camera: String,
    client_id: String,
    confidence_limit: f64,
    coverage_limit: String,
    /// -1 is no limit.
    anomaly_types_limit: i32,
    decision_expiry_ms: u32,
    drain_timeout_ms: u32,
    ca_file: String,
    cert_file: String,
    key_file: String,
    delivery: Delivery,
}

/// How messages are carried, and what becomes of those that cannot be.
#[derive(Debug, Clone)]
struct Delivery {
    version: String,
    qos: u32,
    /// 0 is a session that begins anew with each connection.
    session_expiry_s: u32,
    ack_topic: String,
    ack_timeout_ms: u32,
    outbox_capacity: u32,
    outbox_path: String,
    outbox_fsync: String,
    outbox_keep: u32,
    outbox_keep_for_s: u32,
    outbox_historical_per_second: u32,
    result_expiry_ms: u32,
    heartbeat_interval_ms: u32,
    keep_alive_s: u32,
    connect_timeout_ms: u32,
    acknowledge_timeout_ms: u32,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            version: "3.1.1".to_owned(),
            qos: 1,
            session_expiry_s: 0,
            ack_topic: String::new(),
            ack_timeout_ms: 1000,
            outbox_capacity: 4096,
            outbox_path: String::new(),
            outbox_fsync: "interval".to_owned(),
            outbox_keep: 10_000,
            outbox_keep_for_s: 24 * 3600,
            outbox_historical_per_second: 100,
            result_expiry_ms: 60_000,
            heartbeat_interval_ms: 1000,
            keep_alive_s: 5,
            connect_timeout_ms: 3000,
            acknowledge_timeout_ms: 10_000,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker: String::new(),
            brokers: String::new(),
            credentials_file: String::new(),
            topic_prefix: "linewarden".to_owned(),
            line: "line1".to_owned(),
            camera: "camera1".to_owned(),
            client_id: String::new(),
            confidence_limit: 0.5,
            coverage_limit: String::new(),
            anomaly_types_limit: -1,
            decision_expiry_ms: 2000,
            drain_timeout_ms: 5000,
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            delivery: Delivery::default(),
        }
    }
}

/// What a running element needs. Exists from READY to PAUSED and back.
struct State {
    publisher: Publisher,
    desk: Arc<Desk>,
    drain_timeout: Duration,
}

/// What turns a result into a decision.
struct Desk {
    camera: String,
    rules: DecisionRules,
    decision_expiry: SignedDuration,
}

pub struct MqttPublish {
    sink_pad: gst::Pad,
    src_pad: gst::Pad,
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    /// The counters of the last run, once the element has stopped.
    last_stats: Mutex<PublisherStats>,
}

impl Settings {
    fn publisher_config(&self) -> Result<PublisherConfig, String> {
        let mut brokers = self.broker_urls()?.into_iter();
        let first = brokers.next().ok_or("property `broker` is not set, such as `broker=mqtt://127.0.0.1:1883`")?;
        let mut config = PublisherConfig::new(first, self.line.clone());
        config.other_brokers = brokers.collect();
        config.credentials_file = path(&self.credentials_file);
        config.topic_prefix.clone_from(&self.topic_prefix);
        config.client_id = Some(self.client_id.clone()).filter(|id| !id.is_empty());
        config.ca_file = path(&self.ca_file);
        config.cert_file = path(&self.cert_file);
        config.key_file = path(&self.key_file);
        self.delivery.configure(&mut config)?;
        Ok(config)
    }

    /// Never quotes an address: it may hold a password.
    fn broker_urls(&self) -> Result<Vec<BrokerUrl>, String> {
        if !self.broker.is_empty() && !self.brokers.trim().is_empty() {
            return Err("`brokers` takes the place of `broker`: set one of the two".to_owned());
        }
        let addresses = Some(self.broker.as_str()).filter(|broker| !broker.is_empty());
        let addresses = addresses.into_iter().chain(self.brokers.split_whitespace());
        addresses.map(|address| address.parse().map_err(|error| format!("{error}"))).collect()
    }

    fn desk(&self) -> Result<Desk, String> {
        check_name("camera", &self.camera).map_err(|error| error.to_string())?;
        let coverage = DecisionRules::parse_coverage(&self.coverage_limit).map_err(|error| error.to_string())?;
        let types = u32::try_from(self.anomaly_types_limit).ok();
        let rules = DecisionRules::new(self.confidence_limit, coverage, types).map_err(|error| error.to_string())?;
        let decision_expiry = SignedDuration::from_millis(i64::from(self.decision_expiry_ms));
        Ok(Desk { camera: self.camera.clone(), rules, decision_expiry })
    }
}

impl Delivery {
    fn configure(&self, config: &mut PublisherConfig) -> Result<(), String> {
        config.version = match self.version.as_str() {
            "3.1.1" => MqttVersion::V3_1_1,
            "5" => MqttVersion::V5,
            other => return Err(format!("`version` must be 3.1.1 or 5, got `{other}`")),
        };
        config.qos = if self.qos == 2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        config.session_expiry = Some(seconds(self.session_expiry_s)).filter(|expiry| !expiry.is_zero());
        config.ack_topic = Some(self.ack_topic.clone()).filter(|topic| !topic.is_empty());
        config.ack_timeout = milliseconds(self.ack_timeout_ms);
        config.outbox.path = path(&self.outbox_path);
        let unknown = |()| format!("`outbox-fsync` must be always, interval or never, got `{}`", self.outbox_fsync);
        config.outbox.fsync = self.outbox_fsync.parse().map_err(unknown)?;
        config.outbox.keep = as_count(self.outbox_keep);
        config.outbox.keep_for = seconds(self.outbox_keep_for_s);
        config.outbox.historical_per_second = self.outbox_historical_per_second;
        config.outbox_capacity = as_count(self.outbox_capacity);
        config.result_expiry = milliseconds(self.result_expiry_ms);
        config.heartbeat_interval = milliseconds(self.heartbeat_interval_ms);
        config.keep_alive = seconds(self.keep_alive_s);
        config.connect_timeout = milliseconds(self.connect_timeout_ms);
        config.acknowledge_timeout = milliseconds(self.acknowledge_timeout_ms);
        Ok(())
    }

    /// Sets the property of this name; whether it is one of these.
    fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        let number = || value.get::<u32>().expect(TYPE);
        match name {
            "version" => self.version = text(),
            "qos" => self.qos = number(),
            "session-expiry" => self.session_expiry_s = number(),
            "ack-topic" => self.ack_topic = text(),
            "ack-timeout" => self.ack_timeout_ms = number(),
            "outbox-capacity" => self.outbox_capacity = number(),
            "outbox-path" => self.outbox_path = text(),
            "outbox-fsync" => self.outbox_fsync = text(),
            "outbox-keep" => self.outbox_keep = number(),
            "outbox-keep-for" => self.outbox_keep_for_s = number(),
            "outbox-historical-per-second" => self.outbox_historical_per_second = number(),
            "result-expiry" => self.result_expiry_ms = number(),
            "heartbeat-interval" => self.heartbeat_interval_ms = number(),
            "keep-alive" => self.keep_alive_s = number(),
            "connect-timeout" => self.connect_timeout_ms = number(),
            "acknowledge-timeout" => self.acknowledge_timeout_ms = number(),
            _ => return false,
        }
        true
    }

    fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "version" => self.version.to_value(),
            "qos" => self.qos.to_value(),
            "session-expiry" => self.session_expiry_s.to_value(),
            "ack-topic" => self.ack_topic.to_value(),
            "ack-timeout" => self.ack_timeout_ms.to_value(),
            "outbox-capacity" => self.outbox_capacity.to_value(),
            "outbox-path" => self.outbox_path.to_value(),
            "outbox-fsync" => self.outbox_fsync.to_value(),
            "outbox-keep" => self.outbox_keep.to_value(),
            "outbox-keep-for" => self.outbox_keep_for_s.to_value(),
            "outbox-historical-per-second" => self.outbox_historical_per_second.to_value(),
            "result-expiry" => self.result_expiry_ms.to_value(),
            "heartbeat-interval" => self.heartbeat_interval_ms.to_value(),
            "keep-alive" => self.keep_alive_s.to_value(),
            "connect-timeout" => self.connect_timeout_ms.to_value(),
            "acknowledge-timeout" => self.acknowledge_timeout_ms.to_value(),
            _ => return None,
        })
    }

    /// Their ranges are the publisher's own, so that nothing out of range comes in.
    fn properties() -> Vec<glib::ParamSpec> {
        const HOUR_S: u32 = 3600;
        const HOUR_MS: u32 = HOUR_S * 1000;
        const YEAR_S: u32 = 365 * 24 * HOUR_S;
        let text = |name, nick, blurb, default: Option<&str>| {
            let builder = glib::ParamSpecString::builder(name).nick(nick).blurb(blurb);
            builder.default_value(default).mutable_ready().build()
        };
        let number = |name, nick, blurb, (least, most), default| {
            let builder = glib::ParamSpecUInt::builder(name).nick(nick).blurb(blurb);
            builder.minimum(least).maximum(most).default_value(default).mutable_ready().build()
        };
        let usual = Self::default();
        vec![
            text("version", "MQTT version", "3.1.1 or 5", Some(&usual.version)),
            number(
                "qos",
                "Quality of service",
                "How decisions are carried: 1, at least once, or 2, exactly once as far as a connection goes",
                (1, 2),
                usual.qos,
            ),
            number(
                "session-expiry",
                "Session expiry",
                "How long the broker keeps what the gate says while we are away, in seconds; 0: not at all",
                (0, YEAR_S),
                usual.session_expiry_s,
            ),
            text(
                "ack-topic",
                "Acknowledgement topic",
                "Where the gate acknowledges rejects, such as {prefix}/{line}/gate; counted in `stats`",
                None,
            ),
            number(
                "ack-timeout",
                "Acknowledgement timeout",
                "How long the gate may take to acknowledge a reject, in ms",
                (10, HOUR_MS),
                usual.ack_timeout_ms,
            ),
            number(
                "outbox-capacity",
                "Outbox capacity",
                "How many messages may wait",
                (1, 1_000_000),
                usual.outbox_capacity,
            ),
            text(
                "outbox-path",
                "Outbox path",
                "Folder in which decisions wait on disk, as LINE.sqlite; without it they wait in memory",
                None,
            ),
            text(
                "outbox-fsync",
                "Outbox fsync",
                "When they are forced onto the disk: always, interval (each second) or never",
                Some(&usual.outbox_fsync),
            ),
            number(
                "outbox-keep",
                "Outbox keep",
                "How many decisions whose time has passed are kept for the topic decision/historical",
                (0, 1_000_000),
                usual.outbox_keep,
            ),
            number(
                "outbox-keep-for",
                "Outbox keep for",
                "How long they are kept, in seconds",
                (1, YEAR_S),
                usual.outbox_keep_for_s,
            ),
            number(
                "outbox-historical-per-second",
                "Outbox historical per second",
                "How many of them are sent in a second",
                (1, 10_000),
                usual.outbox_historical_per_second,
            ),
            number(
                "result-expiry",
                "Result expiry",
                "How long a result is worth delivering, in ms",
                (1, 24 * HOUR_MS),
                usual.result_expiry_ms,
            ),
            number(
                "heartbeat-interval",
                "Heartbeat interval",
                "Time between two heartbeats, in ms",
                (100, HOUR_MS),
                usual.heartbeat_interval_ms,
            ),
            number(
                "keep-alive",
                "Keep alive",
                "The broker takes the line for lost after one and a half of this in silence, in seconds; at least 5 with version 5",
                (1, 18 * HOUR_S),
                usual.keep_alive_s,
            ),
            number(
                "connect-timeout",
                "Connect timeout",
                "How long an attempt to connect may take, in ms",
                (100, 60_000),
                usual.connect_timeout_ms,
            ),
            number(
                "acknowledge-timeout",
                "Acknowledge timeout",
                "A connection on which nothing is acknowledged for so long is built anew, in ms",
                (100, HOUR_MS),
                usual.acknowledge_timeout_ms,
            ),
        ]
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(u64::from(count))
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

fn as_count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Desk {
    /// One decision a frame: the part is the frame.
    fn decide(&self, frame: &ScoredFrame, now: Timestamp) -> Decision {
        let (verdict, reason) = self.rules.decide(&frame.result);
        Decision {
            part: frame.frame,
            trigger: None,
            verdict,
            reason,
            frames: vec![format!("{}/{}", frame.camera, frame.frame)],
            captured_at: frame.captured_at,
            decided_at: now,
            reject_at: None,
            expires_at: frame.captured_at.checked_add(self.decision_expiry).unwrap_or(Timestamp::MAX),
            action: verdict.into(),
            clock: ClockSource::Arrival,
            encoder: None,
            last_captured_at: frame.captured_at,
        }
    }
}

impl MqttPublish {
    // Locks even after a panic elsewhere: the values are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_stats(&self) -> MutexGuard<'_, PublisherStats> {
        self.last_stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<State, String> {
        let settings = self.settings().clone();
        let desk = Arc::new(settings.desk()?);
        let publisher = Publisher::start(settings.publisher_config()?, self.observer());
        let publisher = publisher.map_err(|error| error.to_string())?;
        let drain_timeout = milliseconds(settings.drain_timeout_ms);
        Ok(State { publisher, desk, drain_timeout })
    }

    /// Tells GStreamer's log what happens at the broker.
    fn observer(&self) -> Observer {
        let element = self.obj().downgrade();
        Arc::new(move |event| {
            let Some(element) = element.upgrade() else { return };
            match event {
                PublishEvent::Connected { broker, reconnects } => {
                    gst::info!(CAT, obj = element, "connected to {broker}, reconnects: {reconnects}");
                }
                PublishEvent::ConnectFailed { error } => {
                    gst::warning!(CAT, obj = element, "cannot connect to the broker: {error}");
                }
                PublishEvent::Disconnected { error } => {
                    gst::warning!(CAT, obj = element, "lost the broker: {error}");
                }
                PublishEvent::Rebuilt { reason } => {
                    gst::warning!(CAT, obj = element, "gave the connection up: {reason}");
                }
                PublishEvent::JournalOpened { restored } => {
                    gst::info!(CAT, obj = element, "decisions wait on disk, left by an earlier run: {restored}");
                }
                PublishEvent::JournalFailed { error } => {
                    gst::warning!(CAT, obj = element, "decisions wait in memory only: {error}");
                }
                PublishEvent::GateUnacknowledged { id } => {
                    gst::warning!(CAT, obj = element, "the gate has not acknowledged the reject of decision {id}");
                }
                other => gst::log!(CAT, obj = element, "{other:?}"),
            }
        })
    }

    /// Delivers what is left, without a lock: readers of `stats` do not wait for the broker.
    fn close(&self) {
        let Some(State { publisher, drain_timeout, .. }) = self.state().take() else { return };
        if !publisher.stop(drain_timeout) {
            gst::warning!(CAT, imp = self, "stopped with messages left over: {:?}", publisher.stats());
        }
        *self.last_stats() = publisher.stats();
    }

    fn publish(&self, buffer: &gst::BufferRef) {
        let Some(meta) = meta::read(buffer) else { return };
        let running = self.state().as_ref().map(|state| (state.publisher.clone(), Arc::clone(&state.desk)));
        let Some((publisher, desk)) = running else { return };
        let frame = meta.into_scored_frame(&desk.camera);
        publisher.result(&frame);
        let decision = desk.decide(&frame, Timestamp::now());
        gst::debug!(CAT, imp = self, "frame {}: {}", frame.frame, decision.verdict.as_str());
        publisher.decision(&decision);
    }

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.publish(&buffer);
        match self.src_pad.push(buffer) {
            // The end of the pipeline: the frame has done its duty.
            Err(gst::FlowError::NotLinked) => Ok(gst::FlowSuccess::Ok),
            outcome => outcome,
        }
    }

    /// Without a sink behind it, the element tells the pipeline itself when its stream starts and ends.
    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        let element = self.obj();
        if self.src_pad.is_linked() {
            return gst::Pad::event_default(pad, Some(&*element), event);
        }
        let message = match event.view() {
            gst::EventView::StreamStart(start) => {
                let message = gst::message::StreamStart::builder().src(&*element).seqnum(event.seqnum());
                Some(message.group_id(start.group_id().unwrap_or_else(gst::GroupId::next)).build())
            }
            gst::EventView::Eos(_) => Some(gst::message::Eos::builder().src(&*element).seqnum(event.seqnum()).build()),
            _ => None,
        };
        // Remembered by the source pad for whatever is linked later; there is nobody yet to refuse it.
        gst::Pad::event_default(pad, Some(&*element), event);
        if let Some(message) = message {
            // Without a bus there is nobody to tell.
            let _ = element.post_message(message);
        }
        true
    }

    fn stats_structure(&self) -> gst::Structure {
        let running = self.state().as_ref().map(|state| state.publisher.clone());
        let stats = running.map_or_else(|| *self.last_stats(), |publisher| publisher.stats());
        gst::Structure::builder("mqttpublish-stats")
            .field("connected", stats.connected)
            .field("outbox-messages", as_u64(stats.outbox_messages))
            .field("historical-messages", as_u64(stats.historical_messages))
            .field("on-disk", stats.is_journalled)
            .field("kept", stats.kept)
            .field("reconnects", stats.reconnects)
            .field("rebuilds", stats.rebuilds)
            .field("results", kind_structure("results", &stats.results))
            .field("decisions", kind_structure("decisions", &stats.decisions))
            .field("historical", kind_structure("historical", &stats.historical))
            .field_if_some("gate", stats.gate.as_ref().map(gate_structure))
            .build()
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn gate_structure(stats: &GateStats) -> gst::Structure {
    gst::Structure::builder("gate")
        .field("acknowledged", stats.acknowledged)
        .field("unacknowledged", stats.unacknowledged)
        .field("waiting", as_u64(stats.waiting))
        .field("alarm", stats.alarm)
        .build()
}

fn without_password(broker: &str) -> Option<String> {
    broker.parse::<BrokerUrl>().map(|url| url.to_string()).ok()
}

fn kind_structure(name: &str, stats: &KindStats) -> gst::Structure {
    gst::Structure::builder(name)
        .field("sent", stats.sent)
        .field("acknowledged", stats.acknowledged)
        .field("expired", stats.expired)
        .field("dropped", stats.dropped)
        .build()
}

/// An element of which nothing follows is a sink: the pipeline's end waits for it.
fn follow_links(element: &super::MqttPublish, src_pad: &gst::Pad) {
    element.set_element_flags(gst::ElementFlags::SINK);
    let weak = element.downgrade();
    src_pad.connect_linked(move |_, _| {
        if let Some(element) = weak.upgrade() {
            element.unset_element_flags(gst::ElementFlags::SINK);
        }
    });
    let weak = element.downgrade();
    src_pad.connect_unlinked(move |_, _| {
        if let Some(element) = weak.upgrade() {
            element.set_element_flags(gst::ElementFlags::SINK);
        }
    });
}

#[glib::object_subclass]
impl ObjectSubclass for MqttPublish {
    const NAME: &'static str = "LinewardenMqttPublish";
    type Type = super::MqttPublish;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let template = |name| class.pad_template(name).expect("pad_templates() has it");
        let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION | gst::PadFlags::PROXY_SCHEDULING;
        let sink_pad = gst::Pad::builder_from_template(&template("sink"))
            .flags(flags)
            .chain_function(|_pad, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.sink_chain(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(pad, event))
            })
            .build();
        let src_pad = gst::Pad::builder_from_template(&template("src")).flags(flags).build();
        Self { sink_pad, src_pad, settings: Mutex::default(), state: Mutex::default(), last_stats: Mutex::default() }
    }
}

impl ObjectImpl for MqttPublish {
    fn constructed(&self) {
        self.parent_constructed();
        let element = self.obj();
        for pad in [&self.sink_pad, &self.src_pad] {
            element.add_pad(pad).expect("a new element has no pad of this name");
        }
        follow_links(&element, &self.src_pad);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let text = |name, nick, blurb| {
                glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).mutable_ready().build()
            };
            let name = |name, nick, blurb, default| {
                let builder = glib::ParamSpecString::builder(name).nick(nick).blurb(blurb);
                builder.default_value(Some(default)).mutable_ready().build()
            };
            let milliseconds = |name, nick, blurb, default| {
                let builder = glib::ParamSpecUInt::builder(name).nick(nick).blurb(blurb);
                builder.default_value(default).mutable_ready().build()
            };
            let own = vec![
                text("broker", "Broker", "mqtt://[user[:password]@]host[:port] or mqtts://..."),
                text("brokers", "Brokers", "Several brokers in the order in which they are tried, parted by spaces"),
                text("credentials-file", "Credentials file", "File with one line user:password"),
                name("topic-prefix", "Topic prefix", "First part of every topic", "linewarden"),
                name("line", "Line", "Name of the line in topics and messages", "line1"),
                name("camera", "Camera", "Name of the camera in topics and messages", "camera1"),
                text("client-id", "Client ID", "MQTT client id; made from the line's name when empty"),
                glib::ParamSpecDouble::builder("confidence-limit")
                    .nick("Confidence limit")
                    .blurb("Anomalous frames of at least this confidence are rejected")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(0.5)
                    .mutable_ready()
                    .build(),
                text("coverage-limit", "Coverage limit", "label=0.01,...: reject when a label covers more"),
                glib::ParamSpecInt::builder("anomaly-types-limit")
                    .nick("Anomaly types limit")
                    .blurb("Reject when more kinds of anomaly are found; -1: no limit")
                    .minimum(-1)
                    .default_value(-1)
                    .mutable_ready()
                    .build(),
                milliseconds("decision-expiry", "Decision expiry", "Life of a decision after the capture, in ms", 2000),
                milliseconds(
                    "drain-timeout",
                    "Drain timeout",
                    "How long to wait for the broker when stopping, in ms",
                    5000,
                ),
                text("ca-file", "CA file", "Certificate authorities to trust, PEM"),
                text("cert-file", "Certificate file", "Our own certificate, PEM"),
                text("key-file", "Key file", "Private key of our own certificate, PEM"),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Connection, and what became of results and decisions")
                    .read_only()
                    .build(),
            ];
            own.into_iter().chain(Delivery::properties()).collect()
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        let mut settings = self.settings();
        match pspec.name() {
            "broker" => settings.broker = text(),
            "brokers" => settings.brokers = text(),
            "credentials-file" => settings.credentials_file = text(),
            "topic-prefix" => settings.topic_prefix = text(),
            "line" => settings.line = text(),
            "camera" => settings.camera = text(),
            "client-id" => settings.client_id = text(),
            "confidence-limit" => settings.confidence_limit = value.get().expect(TYPE),
            "coverage-limit" => settings.coverage_limit = text(),
            "anomaly-types-limit" => settings.anomaly_types_limit = value.get().expect(TYPE),
            "decision-expiry" => settings.decision_expiry_ms = value.get().expect(TYPE),
            "drain-timeout" => settings.drain_timeout_ms = value.get().expect(TYPE),
            "ca-file" => settings.ca_file = text(),
            "cert-file" => settings.cert_file = text(),
            "key-file" => settings.key_file = text(),
            name if settings.delivery.set(name, value) => {}
            other => gst::error!(CAT, imp = self, "property `{other}` cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats_structure().to_value();
        }
        let settings = self.settings();
        match pspec.name() {
            // Whoever may look at a pipeline may not see its passwords.
            "broker" => without_password(&settings.broker).to_value(),
            "brokers" => {
                let shown: Vec<String> = settings.brokers.split_whitespace().filter_map(without_password).collect();
                shown.join(" ").to_value()
            }
            "credentials-file" => settings.credentials_file.to_value(),
            "topic-prefix" => settings.topic_prefix.to_value(),
            "line" => settings.line.to_value(),
            "camera" => settings.camera.to_value(),
            "client-id" => settings.client_id.to_value(),
            "confidence-limit" => settings.confidence_limit.to_value(),
            "coverage-limit" => settings.coverage_limit.to_value(),
            "anomaly-types-limit" => settings.anomaly_types_limit.to_value(),
            "decision-expiry" => settings.decision_expiry_ms.to_value(),
            "drain-timeout" => settings.drain_timeout_ms.to_value(),
            "ca-file" => settings.ca_file.to_value(),
            "cert-file" => settings.cert_file.to_value(),
            "key-file" => settings.key_file.to_value(),
            name => settings.delivery.get(name).unwrap_or_else(|| pspec.default_value().clone()),
        }
    }
}

impl GstObjectImpl for MqttPublish {}

impl ElementImpl for MqttPublish {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "MQTT publisher",
                "Sink/Network/Video",
                "Publishes what anomalydetect found, and a decision on it, over MQTT",
                "Linewarden",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        // The meta survives encoding and scaling, so whatever carries it is welcome.
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| crate::frame::pad_templates(&gst::Caps::new_any()));
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            let state = self.open().map_err(|error| {
                gst::element_imp_error!(self, gst::ResourceError::Settings, ["{error}"]);
                gst::StateChangeError
            })?;
            *self.state() = Some(state);
        }
        let changed = self.parent_change_state(transition);
        // The pads are inactive now: nothing more comes in.
        let is_stopped = transition == gst::StateChange::PausedToReady;
        if is_stopped || (changed.is_err() && transition == gst::StateChange::ReadyToPaused) {
            self.close();
        }
        changed
    }
}
