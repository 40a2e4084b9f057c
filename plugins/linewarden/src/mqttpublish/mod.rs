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
//! | `brokers` | | instead of it: several, parted by spaces, in the order in which they are tried; whichever works is stayed with |
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
//! | `version` | 3.1.1 | MQTT version, 3.1.1 or 5 |
//! | `qos` | 1 | how decisions are carried: 1, at least once, or 2, exactly once as far as a connection goes |
//! | `session-expiry` | 0 | how many seconds the broker keeps what the gate says while we are away; 0: not at all |
//! | `ack-topic`, `ack-timeout` | , 1000 | where the gate acknowledges rejects, and how many ms it may take |
//! | `outbox-capacity` | 4096 | how many messages may wait |
//! | `outbox-path` | | folder in which decisions wait on disk, also for the next run; without it they wait in memory |
//! | `outbox-fsync` | interval | when they are forced onto the disk: always, interval (each second) or never |
//! | `outbox-keep`, `outbox-keep-for` | 10000, 86400 | how many decisions whose time has passed are kept, and how many seconds |
//! | `outbox-historical-per-second` | 100 | how many of them are sent in a second, on the topic `decision/historical` |
//! | `result-expiry` | 60000 | a result is worth delivering for so many ms |
//! | `heartbeat-interval` | 1000 | ms between two heartbeats |
//! | `keep-alive` | 5 | seconds; after one and a half of it in silence the broker takes the line for lost |
//! | `connect-timeout`, `acknowledge-timeout` | 3000, 10000 | ms that connecting, and the broker's acknowledgements, may take |
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
