//! `anomalyoverlay`: draws what `anomalydetect` attached onto the frames: tint and contours in the labels' colours, and the
//! verdict with its score and areas. Frames without the meta pass untouched.
//!
//! ```text
//! gst-launch-1.0 videotestsrc ! video/x-raw,width=640,height=480 ! anomalydetect model=MODEL_DIR ! anomalyoverlay ! videoconvert ! autovideosink
//! ```
//!
//! | property | default | meaning |
//! |---|---|---|
//! | `alpha` | 0.5 | how strongly the tint covers the picture, 0 to 1 |
//! | `text` | true | whether to write the verdict |
//!
//! Behind a `tee`, the branch that draws copies the picture; the other branches stay clean.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element.
    pub struct AnomalyOverlay(ObjectSubclass<imp::AnomalyOverlay>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "anomalyoverlay", gst::Rank::NONE, AnomalyOverlay::static_type())
}
