//! One run of a camera's pipeline: `source ! anomalydetect ! fakesink`, with the frames followed by pad probes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gst::prelude::*;

use super::folder::Feeder;
use super::frames::Frames;
use super::source;
use crate::config::{CameraConfig, LineConfig};

/// A pipeline that was started. Dropping it stops it.
pub(crate) struct Pipeline {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    detect: gst::Element,
    feeder: Option<Feeder>,
}

/// What a bus message means to the supervisor.
pub(crate) enum Notice {
    Playing,
    Ended,
    Warned(String),
    Failed(String),
}

impl Pipeline {
    /// Builds the pipeline, loads the model and lets frames flow.
    pub(crate) fn start(line: &LineConfig, camera: &CameraConfig, frames: &Arc<Frames>) -> anyhow::Result<Self> {
        let source = source::build(&camera.capture)?;
        let fed =
            camera.capture.folder.as_ref().map(|folder| Ok::<_, source::SourceError>((folder, source::feed(&source)?)));
        let fed = fed.transpose()?;
        let detect = detector(line)?;
        // Frames leave as soon as they are decided: a gate does not wait for a clock.
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("enable-last-sample", false);
        let sink = sink.build().context("cannot make `fakesink`; run `make setup`")?;
        let pipeline = gst::Pipeline::with_name(&format!("{}-{}", line.name, camera.name));
        let elements = [source.upcast_ref(), &detect, &sink];
        pipeline.add_many(elements)?;
        gst::Element::link_many(elements).context("the source's frames cannot be scored: no common format")?;
        follow(&source, &detect, &sink, frames)?;

        let bus = pipeline.bus().context("a pipeline has a bus")?;
        let mut started = Self { pipeline, bus, detect, feeder: None };
        frames.begin();
        if started.pipeline.set_state(gst::State::Playing).is_err() {
            anyhow::bail!("{}", started.why_it_failed());
        }
        started.feeder = fed.map(|(folder, source)| Feeder::start(folder, source, Arc::clone(frames))).transpose()?;
        Ok(started)
    }

    /// The next thing that the supervisor must know, if one comes in time.
    pub(crate) fn next_notice(&self, timeout: Duration) -> Option<Notice> {
        use gst::MessageType;
        let types = [MessageType::Eos, MessageType::Error, MessageType::Warning, MessageType::StateChanged];
        let timeout = gst::ClockTime::try_from(timeout).ok();
        let message = self.bus.timed_pop_filtered(timeout, &types)?;
        match message.view() {
            gst::MessageView::Eos(_) => Some(Notice::Ended),
            gst::MessageView::Error(error) => Some(Notice::Failed(told(error.src(), &error.error(), error.debug()))),
            gst::MessageView::Warning(warning) => {
                Some(Notice::Warned(told(warning.src(), &warning.error(), warning.debug())))
            }
            gst::MessageView::StateChanged(change) => {
                let is_own = change.src().is_some_and(|source| source == self.pipeline.upcast_ref::<gst::Object>());
                (is_own && change.current() == gst::State::Playing).then_some(Notice::Playing)
            }
            _ => None,
        }
    }

    /// Lets the sources end; the frames under way still come through.
    pub(crate) fn end(&self) {
        self.pipeline.send_event(gst::event::Eos::new());
    }

    /// The device that the model runs on.
    pub(crate) fn device(&self) -> String {
        let stats = self.detect.property::<gst::Structure>("stats");
        stats.get::<String>("device").unwrap_or_default()
    }

    /// A failed start leaves its reason on the bus.
    fn why_it_failed(&self) -> String {
        while let Some(message) = self.bus.pop_filtered(&[gst::MessageType::Error]) {
            if let gst::MessageView::Error(error) = message.view() {
                return told(error.src(), &error.error(), error.debug());
            }
        }
        "the pipeline does not start, and no element says why".to_owned()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Frees the feeder, which may be waiting for room.
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::error!(pipeline = %self.pipeline.name(), "a pipeline does not stop");
        }
        self.feeder = None;
    }
}

fn detector(line: &LineConfig) -> anyhow::Result<gst::Element> {
    let detect = gst::ElementFactory::make("anomalydetect").name("detect").build();
    let detect = detect.context("cannot make `anomalydetect`")?;
    detect.set_property("model", line.model.to_string_lossy().as_ref());
    detect.set_property_from_str("device", &line.device);
    detect.set_property("device-id", line.device_id);
    detect.set_property("threads", line.threads);
    detect.set_property("interval", line.interval);
    detect.set_property("scale", line.scale);
    if let Some(roi) = line.roi {
        detect.set_property("roi", format!("{},{},{},{}", roi.x, roi.y, roi.width_px, roi.height_px));
    }
    Ok(detect)
}

/// Puts probes where a frame is captured, goes into the element, and comes out at the end.
fn follow(source: &gst::Bin, detect: &gst::Element, sink: &gst::Element, frames: &Arc<Frames>) -> anyhow::Result<()> {
    let pad = |element: &gst::Element| element.static_pad("sink").context("the element has a sink pad");
    let at_capture = Arc::clone(frames);
    let captured = source::capture_pad(source).context("the source has no queue")?;
    captured.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer_mut() {
            at_capture.captured(buffer.make_mut());
        }
        gst::PadProbeReturn::Ok
    });
    let at_element = Arc::clone(frames);
    pad(detect)?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer() {
            at_element.entered(buffer);
        }
        gst::PadProbeReturn::Ok
    });
    let at_end = Arc::clone(frames);
    pad(sink)?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer() {
            at_end.arrived(buffer);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// `element: message (detail)`.
fn told(source: Option<&gst::Object>, error: &gst::glib::Error, debug: Option<gst::glib::GString>) -> String {
    let element = source.map_or_else(|| "pipeline".to_owned(), |source| source.name().to_string());
    match debug {
        // The first line is the element's place in its source code; what follows is the detail.
        Some(debug) => match debug.lines().skip(1).collect::<Vec<_>>().join(" ") {
            detail if detail.is_empty() => format!("{element}: {error}"),
            detail => format!("{element}: {error} ({detail})"),
        },
        None => format!("{element}: {error}"),
    }
}
