//! `mqttpublisher`: says each frame's verdict on one MQTT topic, in the words of the old service's sample element.
//!
//! ```text
//! gst-launch-1.0 videotestsrc ! video/x-raw,format=RGB ! lookoutvision model-component=cap ! mqttpublisher ! fakesink
//! ```
//!
//! A frame with a result, of `lookoutvision` or of `anomalydetect`, gives the text
//! `Detect Anomaly Result - Is Anomalous? 1, Confidence: 0.525590`; one without gives none. Frames pass through unchanged and
//! never wait: what the broker does not take in time waits in a bounded queue, whose oldest texts give way. Those are
//! counted in `stats`, and told by warnings on the bus: the first, the second, the fourth and so on.
//!
//! For decisions that work a gate there is `mqttpublish`: these texts have no sequence, no expiry and no heartbeat.
//!
//! | property | default | meaning |
//! |---|---|---|
//! | `publish-topic` | `lookoutvision/anomalydetection/result` | the topic |
//! | `broker` | `mqtt://127.0.0.1:1883` | `mqtt://[user[:password]@]host[:port]` or `mqtts://...` |
//! | `credentials-file` | | file with one line `user:password`, when `broker` names no user |
//! | `ca-file`, `cert-file`, `key-file` | | PEM files for `mqtts://` |
//! | `queue` | 256 | how many texts may wait |
//! | `drain-timeout` | 2000 | how many ms to wait for the broker when stopping |
//! | `stats` | | read-only: connection, and what became of the texts |

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element.
    pub struct MqttPublisher(ObjectSubclass<imp::MqttPublisher>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "mqttpublisher", gst::Rank::NONE, MqttPublisher::static_type())
}
