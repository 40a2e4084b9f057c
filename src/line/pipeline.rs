//! One run of a camera's pipeline: `source ! anomalydetect ! fakesink`, with the frames followed by pad probes.
//!
//! The element that scores outlives the pipeline: a camera that comes back finds the model loaded.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gst::prelude::*;
use gstlinewarden::anomalydetect::AnomalyDetect;
use gstlinewarden::frame;
use jiff::Timestamp;
use linewarden_core::health::Fault;

use super::clock::CaptureClock;
use super::decoder;
use super::folder::Feeder;
use super::frames::Frames;
use super::health::CameraHealth;
use super::source;
use crate::config::{CameraConfig, LineConfig};
use crate::metrics::NotScored;

/// A pipeline that was started. Dropping it stops it.
pub(crate) struct Pipeline {
    pipeline: gst::Pipeline,
    source: gst::Bin,
    bus: gst::Bus,
    detect: gst::Element,
    feeder: Option<Feeder>,
}

/// The element `anomalydetect` with its model loaded. It goes from pipeline to pipeline; dropped, it unloads the model.
pub(crate) struct Scorer {
    element: gst::Element,
}

/// What a bus message means to the supervisor.
pub(crate) enum Notice {
    Playing,
    Ended,
    Warned(String),
    Failed {
        error: String,
        /// The element that scores failed for good: it must be made anew.
        spoils_scorer: bool,
    },
}

impl Scorer {
    /// Loads a model for the line.
    pub(crate) fn load(line: &LineConfig, model: &Path) -> anyhow::Result<Self> {
        let element = detector(line, model)?;
        // Its state is this value's business, not that of the pipelines that it goes through.
        element.set_locked_state(true);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let loaded = element.set_state(gst::State::Paused);
        let scorer = Self { element };
        if loaded.is_err() {
            anyhow::bail!("{}", why_it_failed(&bus));
        }
        scorer.element.set_bus(None);
        Ok(scorer)
    }
}

impl Scorer {
    /// The element, for whoever changes its model.
    pub(crate) fn element(&self) -> anyhow::Result<AnomalyDetect> {
        self.element.clone().downcast().map_err(|_| anyhow::anyhow!("`anomalydetect` is another plugin's"))
    }
}

impl Drop for Scorer {
    fn drop(&mut self) {
        if self.element.set_state(gst::State::Null).is_err() {
            tracing::error!("the element that scores does not stop");
        }
    }
}

impl Pipeline {
    /// Builds the pipeline around the scorer and lets frames flow.
    ///
    /// The first pictures of a camera that `is_returning` prove that it is back, and no more.
    pub(crate) fn start(
        line: &LineConfig,
        camera: &CameraConfig,
        frames: &Arc<Frames>,
        health: Option<&Arc<CameraHealth>>,
        scorer: &Scorer,
        is_returning: bool,
    ) -> anyhow::Result<Self> {
        let source = source::build(&camera.capture)?;
        let fed =
            camera.capture.folder.as_ref().map(|folder| Ok::<_, source::SourceError>((folder, source::feed(&source)?)));
        let fed = fed.transpose()?;
        // Frames leave as soon as they are decided: a gate does not wait for a clock.
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("enable-last-sample", false);
        let sink = sink.build().context("cannot make `fakesink`; run `make setup`")?;
        let pipeline = gst::Pipeline::with_name(&format!("{}-{}", line.name, camera.name));
        let bus = pipeline.bus().context("a pipeline has a bus")?;
        let detect = scorer.element.clone();
        let elements = [source.upcast_ref(), &detect, &sink];
        pipeline.add_many(elements)?;
        let mut started = Self { pipeline, source: source.clone(), bus, detect: detect.clone(), feeder: None };
        gst::Element::link_many(elements).context("the source's frames cannot be scored: no common format")?;
        let reported = source::hear_time(&source);
        let eye = Arc::new(Eye {
            clock: CaptureClock::new(camera.clock, camera.capture.live, &started.pipeline, reported),
            health: health.cloned(),
            info: Mutex::default(),
            frames: Arc::clone(frames),
        });
        let of_skipped = Arc::clone(&eye);
        let skipped = Box::new(move |pad: &gst::Pad, buffer: &gst::BufferRef| of_skipped.skipped(pad, buffer));
        decoder::watch(&source, decoder::Policy { is_live: camera.capture.live, is_returning, skipped });
        follow(&source, &sink, frames, eye)?;
        if let Some(health) = health {
            health.begin();
        }
        frames.begin();
        if started.pipeline.set_state(gst::State::Playing).is_err() {
            anyhow::bail!("{}", why_it_failed(&started.bus));
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
            gst::MessageView::Error(error) => {
                let is_scorers = error.src().is_some_and(|source| source == self.detect.upcast_ref::<gst::Object>());
                // A size that the model does not take is the camera's doing, and over when the camera changes back.
                let spoils_scorer = is_scorers && !error.error().matches(gst::StreamError::Format);
                Some(Notice::Failed { error: told(error.src(), &error.error(), error.debug()), spoils_scorer })
            }
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
}

/// A failed start leaves its reason on the bus.
fn why_it_failed(bus: &gst::Bus) -> String {
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
        if let gst::MessageView::Error(error) = message.view() {
            return told(error.src(), &error.error(), error.debug());
        }
    }
    "the pipeline does not start, and no element says why".to_owned()
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let scorer_sink = self.detect.static_pad("sink");
        // Frees a frame that waits for its turn at the model.
        scorer_sink.iter().for_each(|pad| _ = pad.send_event(gst::event::FlushStart::new()));
        source::silence(&self.source);
        // Frees the feeder, which may be waiting for room.
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::error!(pipeline = %self.pipeline.name(), "a pipeline does not stop");
        }
        source::stop_stragglers(&self.source);
        self.feeder = None;
        // The scorer leaves, and forgets this stream's end and times. It was added, so it can be removed.
        let _ = self.pipeline.remove(&self.detect);
        scorer_sink.iter().for_each(|pad| _ = pad.send_event(gst::event::FlushStop::new(true)));
    }
}

fn detector(line: &LineConfig, model: &Path) -> anyhow::Result<gst::Element> {
    let detect = gst::ElementFactory::make("anomalydetect").name("detect").build();
    let detect = detect.context("cannot make `anomalydetect`")?;
    detect.set_property("model", model.to_string_lossy().as_ref());
    detect.set_property_from_str("device", &line.device);
    detect.set_property("device-id", line.device_id);
    detect.set_property("threads", line.threads);
    detect.set_property("batch", line.batch);
    detect.set_property("interval", line.interval);
    detect.set_property("scale", line.scale);
    if let Some(roi) = line.roi {
        detect.set_property("roi", format!("{},{},{},{}", roi.x, roi.y, roi.width_px, roi.height_px));
    }
    Ok(detect)
}

/// What looks at each frame as it is captured.
struct Eye {
    clock: CaptureClock,
    health: Option<Arc<CameraHealth>>,
    /// The caps of the last frame, as read.
    info: Mutex<Option<(gst::Caps, gst_video::VideoInfo)>>,
    frames: Arc<Frames>,
}

impl Eye {
    fn captured(&self, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let mut captured = self.clock.captured(pad, buffer, self.frames.events());
        // What a decoder makes up for what was lost on the way is not the part.
        if decoder::is_damaged(buffer) {
            self.frames.lose(NotScored::Damaged, captured);
            return gst::PadProbeReturn::Handled;
        }
        captured.fault = self.look(pad, buffer, captured.at);
        self.frames.captured(buffer.make_mut(), captured);
        gst::PadProbeReturn::Ok
    }

    /// A picture came too late to be decoded.
    fn skipped(&self, pad: &gst::Pad, buffer: &gst::BufferRef) {
        self.frames.lose(NotScored::Late, self.clock.captured(pad, buffer, self.frames.events()));
    }

    /// The fault that makes the picture `unknown`.
    fn look(&self, pad: &gst::Pad, buffer: &gst::BufferRef, at: Timestamp) -> Option<Fault> {
        if self.health.is_none() && !self.frames.looks_for_parts() {
            return None;
        }
        let info = self.info(pad)?;
        let looked = frame::with_view(buffer, &info, |view| {
            self.frames.look_for_parts(&view, at);
            Ok(self.health.as_ref().and_then(|health| health.look(&view, self.frames.events())))
        });
        // What is no picture, the element refuses.
        looked.ok().flatten()
    }

    fn info(&self, pad: &gst::Pad) -> Option<gst_video::VideoInfo> {
        let caps = pad.current_caps()?;
        let mut known = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(known, _)| known.as_ptr() != caps.as_ptr()) {
            *known = gst_video::VideoInfo::from_caps(&caps).ok().map(|info| (caps, info));
        }
        known.as_ref().map(|(_, info)| info.clone())
    }
}

/// Puts probes where a frame is captured, goes into the element, and comes out at the end.
fn follow(source: &gst::Bin, sink: &gst::Element, frames: &Arc<Frames>, eye: Arc<Eye>) -> anyhow::Result<()> {
    let captured = source::capture_pad(source).context("the source has no queue")?;
    captured.add_probe(gst::PadProbeType::BUFFER, move |pad, info| eye.captured(pad, info));
    // Not at the element's own pad: it outlives this pipeline, and a probe with it.
    let out = source.static_pad("src").context("the source has a source pad")?;
    let at_element = Arc::clone(frames);
    out.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer() {
            at_element.entered(buffer);
        }
        gst::PadProbeReturn::Ok
    });
    let at_end = Arc::clone(frames);
    let end = sink.static_pad("sink").context("the sink has a sink pad")?;
    end.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let Some(buffer) = info.buffer() {
            at_end.arrived(buffer, || {
                let caps = pad.current_caps()?;
                gst_video::VideoInfo::from_caps(&caps).ok()
            });
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
