//! From a [`Capture`] to a bin with one source pad.

use anyhow::Context as _;
use gst::prelude::*;

use crate::config::Capture;

/// Makes GStreamer and this project's elements ready; may be called again.
pub(crate) fn init() -> anyhow::Result<()> {
    gst::init().context("cannot initialise GStreamer; run `make setup`")?;
    gstlinewarden::plugin_register_static().context("cannot register the elements of Linewarden")
}

/// Why a source cannot be built. Never quotes the launch line or a value: either may hold a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("cannot parse the launch line: {0}")]
    Parse(#[from] gst::glib::Error),
    #[error("cannot bring the frames out of the launch line: {0}")]
    Out(#[from] gst::glib::BoolError),
    #[error("the launch line has no element `{0}`")]
    Element(String),
    #[error("element `{element}` has no property `{property}` for a text")]
    Property { element: String, property: String },
    #[error("a fed shape needs `appsrc name=source`")]
    NotFed,
}

/// Frames that may wait for the element.
const QUEUE_FRAMES: u32 = 2;
const QUEUE: &str = "capture-queue";

/// Parses the launch line, puts a bounded queue behind it, and sets the properties.
///
/// The queue is parsed with the line, so that one may end in caps or in an element whose pads come later.
pub(crate) fn build(capture: &Capture) -> Result<gst::Bin, SourceError> {
    // A live source's old frames give way to new ones; a file waits until its frames were scored.
    let leaky = if capture.live { "downstream" } else { "no" };
    let launch = format!(
        "{} ! queue name={QUEUE} leaky={leaky} max-size-buffers={QUEUE_FRAMES} max-size-bytes=0 max-size-time=0",
        capture.launch
    );
    // Not with pads made by the parser: it would also take the pads that wait for a camera's or decoder's.
    let bin = gst::parse::bin_from_description_with_name(&launch, false, "source-bin")?;
    for written in &capture.properties {
        let element = bin.by_name(&written.element).ok_or_else(|| SourceError::Element(written.element.clone()))?;
        let is_text = |spec: gst::glib::ParamSpec| spec.value_type() == String::static_type();
        if !element.find_property(&written.property).is_some_and(is_text) {
            let (element, property) = (written.element.clone(), written.property.clone());
            return Err(SourceError::Property { element, property });
        }
        element.set_property(&written.property, &written.value);
    }
    if capture.folder.is_some() {
        feed(&bin)?;
    }
    let out = bin.by_name(QUEUE).and_then(|queue| queue.static_pad("src"));
    let out = out.ok_or_else(|| SourceError::Element(QUEUE.to_owned()))?;
    bin.add_pad(&gst::GhostPad::builder_with_target(&out)?.name("src").build())?;
    Ok(bin)
}

/// Where captured frames come in: in front of the queue.
pub(crate) fn capture_pad(bin: &gst::Bin) -> Option<gst::Pad> {
    bin.by_name(QUEUE)?.static_pad("sink")
}

/// The element that a fed shape's pictures go into.
pub(crate) fn feed(bin: &gst::Bin) -> Result<gst_app::AppSrc, SourceError> {
    let source = bin.by_name("source").and_then(|element| element.downcast().ok());
    source.ok_or(SourceError::NotFed)
}
