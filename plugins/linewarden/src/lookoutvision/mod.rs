//! `lookoutvision`: has each frame judged by an Edge Agent, ours or another's, as the old service's sample element did.
//!
//! ```text
//! gst-launch-1.0 v4l2src ! videoconvert ! video/x-raw,format=RGB ! lookoutvision model-component=cap ! mqttpublisher ! fakesink
//! ```
//!
//! At its first frame the element asks the agent to start the model, unless it runs already, and waits for it. Then each frame
//! goes to the agent through shared memory, and passes on with the meta of `anomalydetect`; for each a line such as
//! `Is Anomalous? 1, Confidence: 0.52559` is printed. A frame that the agent has no time for passes on without, with a
//! warning on the bus; whatever else keeps a frame from being judged is an error. Where shared memory cannot be made, frames
//! go by bytes.
//!
//! `anomalydetect` does the same without an agent, in the pipeline's own process.
//!
//! | property | default | meaning |
//! |---|---|---|
//! | `server-socket` | `unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock` | where the agent listens |
//! | `model-component` | | name of the model component; must be set |
//! | `model-status-timeout` | 180 | how many seconds the agent may take to answer and the model to run |

use gst::glib;
use gst::prelude::*;

mod agent;
mod imp;
mod memory;

glib::wrapper! {
    /// The element.
    pub struct LookoutVision(ObjectSubclass<imp::LookoutVision>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "lookoutvision", gst::Rank::NONE, LookoutVision::static_type())
}
