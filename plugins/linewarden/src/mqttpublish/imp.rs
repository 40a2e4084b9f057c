//! The element's inside: read the meta, decide, hand both to the publisher, pass the frame on.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use jiff::{SignedDuration, Timestamp};
use linewarden_core::{Decision, DecisionRules, ScoredFrame};
use linewarden_publish::{
    BrokerUrl, KindStats, Observer, PublishEvent, Publisher, PublisherConfig, PublisherStats, check_name,
};

use crate::meta;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("mqttpublish", gst::DebugColorFlags::empty(), Some("Linewarden MQTT publisher"))
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    broker: String,
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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker: String::new(),
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
        if self.broker.is_empty() {
            return Err("property `broker` is not set, such as `broker=mqtt://127.0.0.1:1883`".to_owned());
        }
        let broker: BrokerUrl = self.broker.parse().map_err(|error| format!("{error}"))?;
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let mut config = PublisherConfig::new(broker, self.line.clone());
        config.credentials_file = path(&self.credentials_file);
        config.topic_prefix.clone_from(&self.topic_prefix);
        config.client_id = Some(self.client_id.clone()).filter(|id| !id.is_empty());
        config.ca_file = path(&self.ca_file);
        config.cert_file = path(&self.cert_file);
        config.key_file = path(&self.key_file);
        Ok(config)
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
        let drain_timeout = Duration::from_millis(u64::from(settings.drain_timeout_ms));
        Ok(State { publisher, desk, drain_timeout })
    }

    /// Tells GStreamer's log what happens at the broker.
    fn observer(&self) -> Observer {
        let element = self.obj().downgrade();
        Arc::new(move |event| {
            let Some(element) = element.upgrade() else { return };
            match event {
                PublishEvent::Connected { reconnects } => {
                    gst::info!(CAT, obj = element, "connected to the broker, reconnects: {reconnects}");
                }
                PublishEvent::ConnectFailed { error } => {
                    gst::warning!(CAT, obj = element, "cannot connect to the broker: {error}");
                }
                PublishEvent::Disconnected { error } => {
                    gst::warning!(CAT, obj = element, "lost the broker: {error}");
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
            .field("outbox-messages", u64::try_from(stats.outbox_messages).unwrap_or(u64::MAX))
            .field("reconnects", stats.reconnects)
            .field("rebuilds", stats.rebuilds)
            .field("results", kind_structure("results", &stats.results))
            .field("decisions", kind_structure("decisions", &stats.decisions))
            .build()
    }
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
            vec![
                text("broker", "Broker", "mqtt://[user[:password]@]host[:port] or mqtts://..."),
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
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const TYPE: &str = "checked by its specification";
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        let mut settings = self.settings();
        match pspec.name() {
            "broker" => settings.broker = text(),
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
            "broker" => settings.broker.parse::<BrokerUrl>().map(|url| url.to_string()).ok().to_value(),
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
            _ => pspec.default_value().clone(),
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
