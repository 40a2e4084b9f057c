//! `syntheticline`: a camera over a belt of rendered parts, some with defects whose place is known.
//!
//! One buffer is one part, or with `frame-rate` several are; their offset is the part's number. With `belt-start` the belt
//! follows the calendar, so that several cameras, in one process or many, look at the same part at the same moment. `linewarden_synthetic::defect_of` tells for the same seed and
//! number what is wrong with it, so a line that watches this camera can be scored against the truth.
//!
//! ```text
//! gst-launch-1.0 syntheticline rate=2 parts=20 defect-rate=0.3 ! videoconvert ! autovideosink
//! ```

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element.
    pub struct SyntheticLine(ObjectSubclass<imp::SyntheticLine>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// Makes the element known to GStreamer.
pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "syntheticline", gst::Rank::NONE, SyntheticLine::static_type())
}
