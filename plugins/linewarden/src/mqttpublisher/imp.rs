//! The element's inside: read the meta, say it, pass the frame on.

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::subclass::prelude::*;
use linewarden_publish::{Announcer, AnnouncerStats, BrokerUrl, PublisherConfig};

use crate::meta;

const TYPE: &str = "checked by its specification";

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "mqttpublisher",
        gst::DebugColorFlags::empty(),
        Some("Linewarden's texts on one MQTT topic"),
    )
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    publish_topic: String,
    broker: String,
    credentials_file: String,
    ca_file: String,
    cert_file: String,
    key_file: String,
    queue: u32,
    drain_timeout_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            publish_topic: "lookoutvision/anomalydetection/result".to_owned(),
            broker: "mqtt://127.0.0.1:1883".to_owned(),
            credentials_file: String::new(),
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            queue: 256,
            drain_timeout_ms: 2000,
        }
    }
}

#[derive(Default)]
pub struct MqttPublisher {
    settings: Mutex<Settings>,
    /// From `start` to `stop`.
    announcer: Mutex<Option<Announcer>>,
    /// The counters of the last run, once the element has stopped.
    last_stats: Mutex<AnnouncerStats>,
}

impl Settings {
    fn announcer(&self, element: &super::MqttPublisher) -> Result<Announcer, String> {
        let broker = self.broker.parse().map_err(|error| format!("{error}"))?;
        let mut config = PublisherConfig::new(broker, "line");
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        config.credentials_file = path(&self.credentials_file);
        config.ca_file = path(&self.ca_file);
        config.cert_file = path(&self.cert_file);
        config.key_file = path(&self.key_file);
        config.outbox_capacity = usize::try_from(self.queue).unwrap_or(usize::MAX);
        let element = element.downgrade();
        let observer = move |lost: Option<&str>| {
            let Some(element) = element.upgrade() else { return };
            match lost {
                None => gst::info!(CAT, obj = element, "connected to the broker"),
                Some(error) => gst::warning!(CAT, obj = element, "no broker: {error}"),
            }
        };
        Announcer::start(config, &self.publish_topic, Box::new(observer)).map_err(|error| error.to_string())
    }
}

/// The text of a result, as the old service's sample writes it.
fn text(is_anomalous: bool, confidence: f64) -> String {
    format!("Detect Anomaly Result - Is Anomalous? {}, Confidence: {confidence:.6}", u8::from(is_anomalous))
}

impl MqttPublisher {
    // Locks even after a panic elsewhere: the values are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announcer(&self) -> MutexGuard<'_, Option<Announcer>> {
        self.announcer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_stats(&self) -> MutexGuard<'_, AnnouncerStats> {
        self.last_stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> gst::Structure {
        let running = self.announcer().as_ref().map(Announcer::stats);
        let stats = running.unwrap_or_else(|| *self.last_stats());
        gst::Structure::builder("mqttpublisher-stats")
            .field("connected", stats.connected)
            .field("waiting", stats.waiting)
            .field("delivered", stats.delivered)
            .field("dropped", stats.dropped)
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for MqttPublisher {
    const NAME: &'static str = "LinewardenMqttPublisherElement";
    type Type = super::MqttPublisher;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for MqttPublisher {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let usual = Settings::default();
            let text = |name, nick, blurb, default: Option<&str>| {
                let builder = glib::ParamSpecString::builder(name).nick(nick).blurb(blurb);
                builder.default_value(default).mutable_ready().build()
            };
            let number = |name, nick, blurb, most, default| {
                let builder = glib::ParamSpecUInt::builder(name).nick(nick).blurb(blurb).minimum(1).maximum(most);
                builder.default_value(default).mutable_ready().build()
            };
            vec![
                text("publish-topic", "Topic", "Topic that the texts go to", Some(&usual.publish_topic)),
                text("broker", "Broker", "mqtt://[user[:password]@]host[:port] or mqtts://...", Some(&usual.broker)),
                text(
                    "credentials-file",
                    "Credentials file",
                    "File with one line user:password, when the broker's address names no user",
                    None,
                ),
                text("ca-file", "CA file", "PEM file with the authority that signed the broker's certificate", None),
                text("cert-file", "Certificate file", "PEM file with our certificate", None),
                text("key-file", "Key file", "PEM file with our private key", None),
                number("queue", "Queue", "How many texts may wait; then the oldest give way", 1_000_000, usual.queue),
                number(
                    "drain-timeout",
                    "Drain timeout",
                    "How long to wait for the broker when stopping, in ms",
                    600_000,
                    usual.drain_timeout_ms,
                ),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Whether a broker is connected, and how many texts wait, were delivered, were dropped")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = self.settings();
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        match pspec.name() {
            "publish-topic" => settings.publish_topic = text(),
            "broker" => settings.broker = text(),
            "credentials-file" => settings.credentials_file = text(),
            "ca-file" => settings.ca_file = text(),
            "cert-file" => settings.cert_file = text(),
            "key-file" => settings.key_file = text(),
            "queue" => settings.queue = value.get().expect(TYPE),
            "drain-timeout" => settings.drain_timeout_ms = value.get().expect(TYPE),
            other => gst::error!(CAT, imp = self, "property `{other}` cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats().to_value();
        }
        let settings = self.settings();
        match pspec.name() {
            "publish-topic" => settings.publish_topic.to_value(),
            // It may hold a password, which nobody reads here.
            // Shown without the password.
            "broker" => settings.broker.parse::<BrokerUrl>().ok().map(|url| url.to_string()).to_value(),
            "credentials-file" => settings.credentials_file.to_value(),
            "ca-file" => settings.ca_file.to_value(),
            "cert-file" => settings.cert_file.to_value(),
            "key-file" => settings.key_file.to_value(),
            "queue" => settings.queue.to_value(),
            "drain-timeout" => settings.drain_timeout_ms.to_value(),
            _ => pspec.default_value().clone(),
        }
    }
}

impl GstObjectImpl for MqttPublisher {}

impl ElementImpl for MqttPublisher {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Verdicts on one MQTT topic",
                "Filter/Network/Video",
                "Says each frame's verdict in the words of the old service's sample element",
                "Linewarden",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| crate::frame::pad_templates(&gst::Caps::new_any()));
        &TEMPLATES
    }
}

impl BaseTransformImpl for MqttPublisher {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = true;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = true;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings().clone();
        let started = settings.announcer(&self.obj());
        let announcer = started.map_err(|told| gst::error_msg!(gst::LibraryError::Settings, ["{told}"]))?;
        *self.announcer() = Some(announcer);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let Some(mut announcer) = self.announcer().take() else { return Ok(()) };
        let timeout = Duration::from_millis(u64::from(self.settings().drain_timeout_ms));
        if !announcer.stop(timeout) {
            gst::warning!(CAT, imp = self, "stopped with texts left over: {:?}", announcer.stats());
        }
        *self.last_stats() = announcer.stats();
        Ok(())
    }

    fn transform_ip_passthrough(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(meta) = meta::read(buffer) else { return Ok(gst::FlowSuccess::Ok) };
        let text = text(meta.result.is_anomalous, meta.result.confidence);
        let dropped = self.announcer().as_ref().and_then(|announcer| announcer.say(text));
        // The first, the second, the fourth and so on: a broker that stays away fills no bus.
        if let Some(dropped) = dropped.filter(|dropped| dropped.is_power_of_two()) {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Write,
                ["the broker does not keep up, and the queue is full: texts dropped so far: {dropped}"]
            );
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_the_sample_writes_it() {
        assert_eq!(text(true, 0.52559), "Detect Anomaly Result - Is Anomalous? 1, Confidence: 0.525590");
        assert_eq!(text(false, 1.0), "Detect Anomaly Result - Is Anomalous? 0, Confidence: 1.000000");
    }
}
