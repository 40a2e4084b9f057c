//! `mqttpublish`: publishes each frame's result, and a decision on it, from the meta that `anomalydetect` attached.
//!
//! ```text
//! gst-launch-1.0 videotestsrc num-buffers=30 ! video/x-raw,width=640,height=480 ! anomalydetect model=MODEL_DIR ! mqttpublish broker=mqtt://127.0.0.1:1883
//! ```
//!
//! Frames pass through unchanged. The element may also end a pipeline: with its source pad unlinked it is a sink, which
//! drops the frames and tells of the stream's end. Such a sink neither waits for the clock nor holds the first frame back
//! in PAUSED. The stream never waits for the broker: results and decisions go to a
//! bounded outbox, from which a thread of its own delivers them; what comes too late is counted, not sent. When the element
//! stops, it waits up to `drain-timeout` for the broker to acknowledge the rest.
//!
//! A frame without meta was not scored (`interval` of `anomalydetect`, or late): nothing is published of it.
//!
//! | property | default | meaning |
//! |---|---|---|
//! | `broker` | | `mqtt://[user[:password]@]host[:port]` or `mqtts://...` |
//! | `credentials-file` | | file with one line `user:password`, when `broker` names no user |
//! | `topic-prefix` | `linewarden` | first part of every topic |
//! | `line`, `camera` | `line1`, `camera1` | names in topics and messages |
//! | `client-id` | | MQTT client id; made from the line's name when empty |
//! | `confidence-limit` | 0.5 | anomalous frames of at least this confidence are rejected |
//! | `coverage-limit` | | `label=0.01,...`: reject when a label covers more than its share of the picture |
//! | `anomaly-types-limit` | -1 | reject when more kinds of anomaly are found; -1: no limit |
//! | `decision-expiry` | 2000 | a decision is worthless so many ms after its frame's capture |
//! | `drain-timeout` | 5000 | how many ms to wait for the broker when stopping |
//! | `ca-file`, `cert-file`, `key-file` | | PEM files for `mqtts://` |
//! | `stats` | | read-only: connection, and what became of results and decisions |

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element.
    pub struct MqttPublish(ObjectSubclass<imp::MqttPublish>) @extends gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "mqttpublish", gst::Rank::NONE, MqttPublish::static_type())
}
