//! From a [`Capture`] to a bin with one source pad.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use gst::prelude::*;
use jiff::Timestamp;

use crate::config::{Capture, QueueDrop};

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

const QUEUE: &str = "capture-queue";

/// Parses the launch line, puts a bounded queue behind it, and sets the properties.
///
/// The queue is parsed with the line, so that one may end in caps or in an element whose pads come later.
pub(crate) fn build(capture: &Capture) -> Result<gst::Bin, SourceError> {
    let leaky = match (capture.queue.drop, capture.live) {
        // A live source's old frames give way to new ones; a file waits until its frames were scored.
        (Some(QueueDrop::Oldest), _) | (None, true) => "downstream",
        (Some(QueueDrop::None), _) | (None, false) => "no",
        (Some(QueueDrop::Newest), _) => "upstream",
    };
    let frames = capture.queue.frames;
    let launch = format!(
        "{} ! queue name={QUEUE} leaky={leaky} max-size-buffers={frames} max-size-bytes=0 max-size-time=0",
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

/// Ends what the source's first elements send, and waits until none of their threads is in what comes behind them.
///
/// `decodebin` adds elements from those threads whenever caps change, which noise makes them do at any time. One that is
/// added while the pipeline goes to `Null` stays as it was, and `decodebin` aborts the process when it is freed with a thread
/// still in it (GStreamer 1.22): so they come to rest first.
pub(crate) fn silence(bin: &gst::Bin) {
    let firsts = bin.iterate_elements().into_iter().flatten();
    for first in firsts.filter(|element| element.element_flags().contains(gst::ElementFlags::SOURCE)) {
        // Whoever waits further down wakes up, and nothing more is taken.
        first.src_pads().iter().for_each(|pad| _ = pad.push_event(gst::event::FlushStart::new()));
        first.set_locked_state(true);
        if first.set_state(gst::State::Null).is_err() {
            tracing::error!(element = %first.name(), "a source does not stop");
        }
    }
}

/// Stops what the stopped source left behind running, if anything.
pub(crate) fn stop_stragglers(bin: &gst::Bin) {
    for element in bin.iterate_recurse().into_iter().flatten() {
        if element.current_state() != gst::State::Null {
            tracing::warn!(element = %element.name(), "an element did not stop with its pipeline");
            element.set_locked_state(true);
            // It is told of above, and there is nothing else to do with it.
            let _ = element.set_state(gst::State::Null);
        }
    }
}

/// What the camera said of the time: how far its clock is ahead of its frames' time stamps.
#[derive(Debug, Default)]
pub(crate) struct CameraTime(Mutex<Option<i128>>);

impl CameraTime {
    /// When the camera took the frame with this time stamp; none before its first sender report.
    pub(crate) fn at(&self, stamp: gst::ClockTime) -> Option<Timestamp> {
        let ahead_ns = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Timestamp::from_nanosecond(i128::from(stamp.nseconds()) + ahead_ns).ok()
    }

    fn tell(&self, ahead_ns: i128) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead_ns);
    }
}

/// Hears the time of a network camera.
pub(crate) fn hear_time(bin: &gst::Bin) -> Arc<CameraTime> {
    let time = Arc::new(CameraTime::default());
    let of_later = Arc::clone(&time);
    for_each_element(bin, move |element| {
        if element.factory().is_some_and(|factory| factory.name() == "rtspsrc") {
            let time = Arc::clone(&of_later);
            // The session exists from the first answer of the camera on.
            element.connect("new-manager", false, move |values| {
                hear_reports(&values.get(1)?.get::<gst::Element>().ok()?, &time);
                None
            });
        }
    });
    time
}

/// Does this with every element of the source: those that are there, and those that come when the camera has answered.
pub(crate) fn for_each_element(bin: &gst::Bin, of_element: impl Fn(&gst::Element) + Clone + Send + Sync + 'static) {
    let of_later = of_element.clone();
    bin.connect_deep_element_added(move |_, _, element| of_later(element));
    bin.iterate_recurse().into_iter().flatten().for_each(|element| of_element(&element));
}

/// Follows the camera's sender reports. Not through `add-reference-timestamp-meta`, which every parser and decoder on the way
/// would have to carry on.
fn hear_reports(session: &gst::Element, time: &Arc<CameraTime>) {
    let time = Arc::clone(time);
    session.connect("new-jitterbuffer", false, move |values| {
        let buffer = values.get(1)?.get::<gst::Element>().ok()?;
        let time = Arc::clone(&time);
        buffer.connect("handle-sync", false, move |values| {
            if let Some(ahead_ns) = ahead(&values.get(1)?.get::<gst::Structure>().ok()?) {
                time.tell(ahead_ns);
            }
            None
        });
        None
    });
}

/// How far the camera's clock, in nanoseconds since 1970, is ahead of the time stamps that its packets get here.
fn ahead(sync: &gst::Structure) -> Option<i128> {
    let number = |name: &str| sync.get::<u64>(name).ok().map(i128::from);
    let rate = i128::from(sync.get::<u32>("clock-rate").ok()?);
    let ticks = number("sr-ext-rtptime")? - number("base-rtptime")?;
    let stamp_ns = number("base-time")? + (ticks * 1_000_000_000).checked_div(rate)?;
    let report = sync.get::<gst::Buffer>("sr-buffer").ok()?;
    let camera_ns = report_time(&report.map_readable().ok()?)?;
    Some(camera_ns - stamp_ns)
}

/// The time of a sender report (RFC 3550, 6.4.1), in nanoseconds since 1970.
fn report_time(packet: &[u8]) -> Option<i128> {
    const SENDER_REPORT: u8 = 200;
    const UNIX_BEGINS: i128 = 2_208_988_800;
    let word = |at: usize| Some(i128::from(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?)));
    if *packet.get(1)? != SENDER_REPORT {
        return None;
    }
    let (seconds, fraction) = (word(8)?, word(12)?);
    Some((seconds - UNIX_BEGINS) * 1_000_000_000 + ((fraction * 1_000_000_000) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_report_tells_how_far_the_cameras_clock_is_ahead() {
        gst::init().unwrap();
        let mut packet = vec![0x80, 200, 0, 6, 0, 0, 0, 1];
        packet.extend(2_208_988_900_u32.to_be_bytes());
        // A quarter of a second.
        packet.extend(0x4000_0000_u32.to_be_bytes());
        packet.extend([0; 12]);
        assert_eq!(report_time(&packet), Some(100_250_000_000));
        assert_eq!(report_time(&packet[..15]), None);
        let sync = |packet: &[u8], rate: u32| {
            let report = gst::Buffer::from_slice(packet.to_vec());
            let sync = gst::Structure::builder("application/x-rtp-sync")
                .field("clock-rate", rate)
                .field("sr-ext-rtptime", 4_294_967_296_u64 + 90_000)
                .field("base-rtptime", 4_294_967_296_u64)
                .field("base-time", 5_000_000_000_u64)
                .field("sr-buffer", report);
            ahead(&sync.build())
        };
        // The report's packet has the time stamp of six seconds.
        assert_eq!(sync(&packet, 90_000), Some(94_250_000_000));
        assert_eq!(sync(&packet, 0), None);
        let time = CameraTime::default();
        assert_eq!(time.at(gst::ClockTime::from_seconds(6)), None);
        time.tell(94_250_000_000);
        let at = time.at(gst::ClockTime::from_seconds(6)).unwrap();
        assert_eq!(at.as_millisecond(), 100_250);
        packet[1] = 201;
        assert_eq!(sync(&packet, 90_000), None);
    }
}
