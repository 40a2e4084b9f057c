//! The element's inside. The streaming thread takes the scorer out of the state, lets go of the lock, scores, and puts it
//! back: nobody ever waits for an inference to read a property.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use jiff::Timestamp;
use linewarden_model::overlay::Overlay as Drawing;
use linewarden_model::{
    Detection, Detector, DetectorOptions, DeviceChoice, FrameView, ModelError, ModelInfo, Rect, SizePolicy,
};

use super::{Device, Overlay};
use crate::frame::{self, PictureError};
use crate::meta::{self, AnomalyMeta, Region};
use crate::metrics::{Metrics, Server};
use crate::stats::{Stats, passed_over};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("anomalydetect", gst::DebugColorFlags::empty(), Some("Linewarden anomaly detection"))
});

/// After so many frames in a row that could not be scored, something is wrong with more than a frame.
const FAILURES_IN_A_ROW: u32 = 30;
/// How strongly the tint covers the picture; `anomalyoverlay` offers a choice.
const OVERLAY_ALPHA: f32 = 0.5;
/// Percentiles are looked at for latency once in so many scored frames.
const LATENCY_CHECK_FRAMES: u64 = 16;
/// Latency that differs by less is not worth a message.
const LATENCY_STEP: Duration = Duration::from_millis(2);

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    model: Option<PathBuf>,
    device: Device,
    device_id: u32,
    threads: u32,
    interval: u32,
    roi: String,
    scale: bool,
    overlay: Overlay,
    metrics_address: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            device: Device::Auto,
            device_id: 0,
            threads: 1,
            interval: 1,
            roi: String::new(),
            scale: false,
            overlay: Overlay::None,
            metrics_address: String::new(),
        }
    }
}

/// What a running element needs. Exists from `start` to `stop`.
struct State {
    /// Away while a frame is being scored.
    scorer: Option<Scorer>,
    model: Arc<ModelInfo>,
    choice: DeviceChoice,
    metrics: Option<Arc<Metrics>>,
    /// Answers until the state is dropped.
    server: Option<Server>,
    caps: Option<gst_video::VideoInfo>,
    /// Whether the pipeline is live, once upstream was asked.
    live: Option<bool>,
    frames: u64,
    failures_in_a_row: u32,
    /// Frames that end before this running time are late already.
    earliest: Option<gst::ClockTime>,
    latency: Duration,
    stats: Stats,
}

/// What scores a frame, and goes from the state to the streaming thread and back.
struct Scorer {
    detector: Detector,
    roi: Option<Rect>,
}

/// A frame that is to be scored.
struct Job {
    scorer: Scorer,
    info: gst_video::VideoInfo,
    frame: u64,
    overlay: Overlay,
    live: Option<bool>,
}

/// Why a frame has no result.
#[derive(Debug, thiserror::Error)]
enum ScoreError {
    #[error("cannot read the frame: {0}")]
    Picture(#[from] PictureError),
    #[error(transparent)]
    Model(#[from] ModelError),
}

#[derive(Default)]
pub struct AnomalyDetect {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

impl AnomalyDetect {
    // Locks even after a panic elsewhere: both structs are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that can be wrong with the properties is found here.
    fn open(&self, settings: &Settings) -> Result<State, gst::ErrorMessage> {
        let Some(model) = &settings.model else {
            return Err(gst::error_msg!(gst::ResourceError::NotFound, ["property `model` is not set"]));
        };
        let wrong = |error: String| gst::error_msg!(gst::ResourceError::Settings, ["{error}"]);
        let roi = parse_roi(&settings.roi).map_err(wrong)?;
        let sizes = if settings.scale { SizePolicy::Scale } else { SizePolicy::Exact };
        let options = DetectorOptions {
            device: settings.device.into(),
            device_id: settings.device_id,
            threads: settings.threads as usize,
            sizes,
        };
        let mut detector = Detector::open(model, &options)
            .map_err(|error| gst::error_msg!(gst::ResourceError::OpenRead, ["{error}"]))?;
        let latency = first_latency(&mut detector);
        let (metrics, server) = if settings.metrics_address.is_empty() {
            (None, None)
        } else {
            let metrics = Metrics::new(detector.model_ref()).map_err(|error| wrong(error.to_string()))?;
            let metrics = Arc::new(metrics);
            let server = Server::start(&settings.metrics_address, Arc::clone(&metrics)).map_err(wrong)?;
            gst::info!(CAT, imp = self, "metrics are served at http://{}/metrics", server.address());
            (Some(metrics), Some(server))
        };
        Ok(State {
            model: Arc::clone(detector.info()),
            choice: detector.device().clone(),
            scorer: Some(Scorer { detector, roi }),
            metrics,
            server,
            caps: None,
            live: None,
            frames: 0,
            failures_in_a_row: 0,
            earliest: None,
            latency,
            stats: Stats::default(),
        })
    }

    fn tell_device(&self, choice: &DeviceChoice, model: &ModelInfo) {
        let device = choice.device.as_str();
        gst::info!(CAT, imp = self, "model {} {} runs on {device}", model.project, model.version);
        for (other, reason) in &choice.passed_over {
            gst::info!(CAT, imp = self, "{other} was passed over: {reason}");
        }
        let structure = gst::Structure::builder("anomalydetect-device")
            .field("device", device)
            .field("passed-over", passed_over(Some(choice)))
            .build();
        self.post(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    /// Without a bus there is nobody to tell.
    fn post(&self, message: gst::Message) {
        let _ = self.obj().post_message(message);
    }

    /// Counts the frame and says whether it is to be scored.
    fn next_job(&self, buffer: &gst::BufferRef) -> Result<Option<Job>, gst::FlowError> {
        let (interval, overlay) = {
            let settings = self.settings();
            (u64::from(settings.interval), settings.overlay)
        };
        let running_time = self.running_time(buffer);
        let qos = self.obj().property::<bool>("qos");
        let mut guard = self.state();
        let state = guard.as_mut().ok_or(gst::FlowError::Flushing)?;
        let frame = state.frames;
        state.frames += 1;
        state.stats.frames += 1;
        if !frame.is_multiple_of(interval) {
            state.stats.skipped_interval += 1;
            return Ok(None);
        }
        let is_late = matches!((running_time, state.earliest), (Some(now), Some(earliest)) if now <= earliest);
        if qos && is_late {
            state.stats.dropped_late += 1;
            if let Some(metrics) = &state.metrics {
                metrics.late();
            }
            let (scored, late) = (state.stats.scored, state.stats.dropped_late);
            let live = state.live.unwrap_or(false);
            drop(guard);
            self.tell_late(buffer, running_time, live, (scored, late));
            return Ok(None);
        }
        let info = state.caps.clone().ok_or(gst::FlowError::NotNegotiated)?;
        let scorer = state.scorer.take().ok_or(gst::FlowError::Error)?;
        Ok(Some(Job { scorer, info, frame, overlay, live: state.live }))
    }

    fn tell_late(
        &self,
        buffer: &gst::BufferRef,
        running_time: Option<gst::ClockTime>,
        live: bool,
        (scored, late): (u64, u64),
    ) {
        gst::debug!(CAT, imp = self, "frame at {:?} is late and passes unscored", buffer.pts());
        let message = gst::message::Qos::builder(live)
            .running_time(running_time)
            .timestamp(buffer.pts())
            .duration(buffer.duration())
            .stats(gst::format::Buffers::from_u64(scored), gst::format::Buffers::from_u64(late))
            .src(&*self.obj())
            .build();
        self.post(message);
    }

    fn running_time(&self, buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
        let segment = self.obj().segment();
        segment.downcast_ref::<gst::ClockTime>()?.to_running_time(buffer.pts())
    }

    /// Asks once after each start whether the source runs on a clock that does not wait.
    fn is_live(&self, known: Option<bool>) -> bool {
        known.unwrap_or_else(|| {
            let mut query = gst::query::Latency::new();
            let live = self.obj().sink_pad().peer_query(&mut query) && query.result().0;
            if let Some(state) = self.state().as_mut() {
                state.live = Some(live);
            }
            live
        })
    }

    /// When the frame was captured, as wall clock time.
    fn captured_at(&self, buffer: &gst::BufferRef, live: bool) -> Timestamp {
        let now = Timestamp::now();
        let element = self.obj();
        let clock_time = || element.clock()?.time().checked_sub(element.base_time()?);
        let age = |running_time: gst::ClockTime| clock_time()?.checked_sub(running_time);
        let age = self.running_time(buffer).filter(|_| live).and_then(age).unwrap_or_default();
        now.checked_sub(Duration::from(age)).unwrap_or(now)
    }

    fn scored(&self, buffer: &mut gst::BufferRef, job: Job, detection: &Detection, captured_at: Timestamp) {
        let Job { scorer, info, frame, overlay, .. } = job;
        let shown = region(buffer, &info, scorer.roi);
        let model = Arc::clone(scorer.detector.info());
        let meta = AnomalyMeta {
            frame,
            pts: buffer.pts().map(Duration::from),
            captured_at,
            result: detection.result.clone(),
            times: detection.times,
            model: scorer.detector.model_ref().clone(),
            labels: model.labels.clone(),
            region: shares(shown, frame::size(buffer, &info)),
            mask: detection.mask().cloned(),
        };
        let latency = self.give_back(scorer, |state| {
            state.failures_in_a_row = 0;
            state.stats.scored += 1;
            state.stats.anomalous += u64::from(detection.result.is_anomalous);
            state.stats.add_times(&detection.times);
            if let Some(metrics) = &state.metrics {
                metrics.scored(detection.result.is_anomalous, &detection.times);
            }
            state.latency_change()
        });
        if let Some(latency) = latency.flatten() {
            gst::info!(CAT, imp = self, "detection takes {latency:?} now");
            self.post(gst::message::Latency::builder().src(&*self.obj()).build());
        }
        if overlay != Overlay::None {
            self.draw(buffer, &info, &meta, shown, overlay);
        }
        if let Err(error) = meta::attach(buffer, &meta) {
            gst::warning!(CAT, imp = self, "cannot attach the result to frame {frame}: {error}");
        }
        self.post(gst::message::Element::builder(meta.to_message_structure()).src(&*self.obj()).build());
    }

    fn draw(
        &self,
        buffer: &mut gst::BufferRef,
        info: &gst_video::VideoInfo,
        meta: &AnomalyMeta,
        region: Rect,
        overlay: Overlay,
    ) {
        let drawing = Drawing {
            result: &meta.result,
            mask: meta.mask.as_ref(),
            labels: &meta.labels,
            region,
            alpha: OVERLAY_ALPHA,
            text: overlay == Overlay::Full,
        };
        if let Err(error) = frame::with_canvas(buffer, info, |canvas| drawing.draw(canvas)) {
            gst::warning!(CAT, imp = self, "cannot draw on frame {}: {error}", meta.frame);
        }
    }

    fn failed(&self, job: Job, error: &ScoreError) -> Result<gst::FlowSuccess, gst::FlowError> {
        let frame = job.frame;
        let failures = self.give_back(job.scorer, |state| {
            state.stats.errors += 1;
            state.failures_in_a_row += 1;
            match (&state.metrics, error) {
                (Some(metrics), ScoreError::Picture(_)) => metrics.invalid(),
                (Some(metrics), ScoreError::Model(_)) => metrics.failed(),
                (None, _) => {}
            }
            state.failures_in_a_row
        });
        if let ScoreError::Model(ModelError::Size { .. }) = error {
            gst::element_imp_error!(self, gst::StreamError::Format, ["{error}"]);
            return Err(gst::FlowError::NotNegotiated);
        }
        if failures.is_some_and(|failures| failures >= FAILURES_IN_A_ROW) {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ["{FAILURES_IN_A_ROW} frames in a row could not be scored, the last one with: {error}"]
            );
            return Err(gst::FlowError::Error);
        }
        gst::warning!(CAT, imp = self, "frame {frame} passes unscored: {error}");
        gst::element_imp_warning!(self, gst::StreamError::Failed, ["frame {frame} passes unscored: {error}"]);
        Ok(gst::FlowSuccess::Ok)
    }

    /// Puts the scorer back and brings the state up to date; the element may have been stopped meanwhile.
    fn give_back<T>(&self, scorer: Scorer, update: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut guard = self.state();
        let state = guard.as_mut()?;
        state.scorer = Some(scorer);
        Some(update(state))
    }

    /// A size that is refused is refused before the first frame.
    fn check_size(&self, info: &gst_video::VideoInfo) -> Result<(), ModelError> {
        let guard = self.state();
        let Some(state) = guard.as_ref() else { return Ok(()) };
        let Some(scorer) = &state.scorer else { return Ok(()) };
        let whole = Rect::of_size(info.width(), info.height());
        let region = scored_region(whole, scorer.roi)?;
        let (width_px, height_px) = frame::display_size(region.width_px, region.height_px, info);
        scorer.detector.check_size(width_px, height_px)
    }

    fn stats_structure(&self) -> gst::Structure {
        let state = self.state();
        let Some(state) = state.as_ref() else { return Stats::default().to_structure(None) };
        let mut structure = state.stats.to_structure(Some(&state.choice));
        if let Some(server) = &state.server {
            structure.set("metrics-address", server.address().to_string());
        }
        structure
    }

    /// Upstream's latency and our own.
    fn answer_latency(&self, query: &mut gst::query::Latency) {
        let own = self.state().as_ref().map_or(Duration::ZERO, |state| state.latency);
        let own = gst::ClockTime::try_from(own).unwrap_or(gst::ClockTime::ZERO);
        let (live, min, max) = query.result();
        gst::debug!(CAT, imp = self, "latency {own} on top of {min}");
        query.set(live, min + own, max.map(|max| max + own));
    }
}

impl State {
    /// The new latency, when it is no longer what was told.
    fn latency_change(&mut self) -> Option<Duration> {
        if !self.stats.scored.is_multiple_of(LATENCY_CHECK_FRAMES) {
            return None;
        }
        let latency = self.stats.total_p99();
        let step = (self.latency / 4).max(LATENCY_STEP);
        if latency.abs_diff(self.latency) <= step {
            return None;
        }
        self.latency = latency;
        Some(latency)
    }
}

/// How long a picture of the trained size takes: the first answer to who asks for latency.
fn first_latency(detector: &mut Detector) -> Duration {
    let size = detector.info().image_size;
    let black = vec![0; size.width_px as usize * size.height_px as usize * 3];
    let view = FrameView::rgb(size.width_px, size.height_px, &black);
    let detection = view.map_err(ModelError::from).and_then(|view| detector.detect(&view));
    // A model that cannot score black scored its golden pictures: the frames will tell.
    detection.map_or(Duration::ZERO, |detection| detection.times.total())
}

fn parse_roi(text: &str) -> Result<Option<Rect>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let wrong =
        || format!("`roi` must be four whole numbers `x,y,width,height` with width and height above 0, got `{text}`");
    let numbers = text.split(',').map(|number| number.trim().parse::<u32>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    let &[x, y, width_px, height_px] = numbers.as_slice() else { return Err(wrong()) };
    if width_px == 0 || height_px == 0 {
        return Err(wrong());
    }
    Ok(Some(Rect { x, y, width_px, height_px }))
}

/// The region of interest, which lies in the visible part.
fn scored_region(visible: Rect, roi: Option<Rect>) -> Result<Rect, ModelError> {
    let Some(roi) = roi else { return Ok(visible) };
    if !roi.fits(visible.width_px, visible.height_px) {
        let Rect { width_px, height_px, .. } = visible;
        return Err(linewarden_model::FrameError::Crop { crop: roi, width_px, height_px }.into());
    }
    Ok(Rect { x: visible.x + roi.x, y: visible.y + roi.y, ..roi })
}

/// The scored region of a frame that was scored.
fn region(buffer: &gst::BufferRef, info: &gst_video::VideoInfo, roi: Option<Rect>) -> Rect {
    let visible = frame::visible(buffer, frame::size(buffer, info));
    scored_region(visible, roi).unwrap_or(visible)
}

fn shares(region: Rect, (width_px, height_px): (u32, u32)) -> Region {
    let (width, height) = (f64::from(width_px.max(1)), f64::from(height_px.max(1)));
    Region {
        x: f64::from(region.x) / width,
        y: f64::from(region.y) / height,
        width: f64::from(region.width_px) / width,
        height: f64::from(region.height_px) / height,
    }
}

fn score(scorer: &mut Scorer, buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Result<Detection, ScoreError> {
    frame::with_view(buffer, info, |view| {
        let scored = || {
            let region = scored_region(view.crop(), scorer.roi)?;
            let (width_px, height_px) = frame::display_size(region.width_px, region.height_px, info);
            scorer.detector.check_size(width_px, height_px)?;
            Ok(scorer.detector.detect(&view.cropped(region).map_err(ModelError::from)?)?)
        };
        Ok(scored())
    })?
}

#[glib::object_subclass]
impl ObjectSubclass for AnomalyDetect {
    const NAME: &'static str = "LinewardenAnomalyDetect";
    type Type = super::AnomalyDetect;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for AnomalyDetect {
    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_property("qos", true);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("model")
                    .nick("Model")
                    .blurb("Folder or .tar file of the model package")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder::<Device>("device")
                    .nick("Device")
                    .blurb("Where the model runs; a named device that does not load is an error")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("device-id")
                    .nick("Device ID")
                    .blurb("Which of several devices")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("threads")
                    .nick("Threads")
                    .blurb("Threads within one inference")
                    .minimum(1)
                    .maximum(256)
                    .default_value(1)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("interval")
                    .nick("Interval")
                    .blurb("Score every Nth frame; the others pass without meta")
                    .minimum(1)
                    .default_value(1)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("roi")
                    .nick("Region of interest")
                    .blurb("Score only this part of the visible picture: x,y,width,height in pixels")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("scale")
                    .nick("Scale")
                    .blurb("Scale pictures of another size than the model was trained on instead of refusing them")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder::<Overlay>("overlay")
                    .nick("Overlay")
                    .blurb("What is drawn onto the frames")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("metrics-address")
                    .nick("Metrics address")
                    .blurb("Port, or address:port, at which Prometheus finds /metrics; empty: nowhere")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Counters, times in milliseconds and the device in use")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const TYPE: &str = "checked by its specification";
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        let mut settings = self.settings();
        match pspec.name() {
            "model" => settings.model = Some(PathBuf::from(text())).filter(|path| !path.as_os_str().is_empty()),
            "device" => settings.device = value.get().expect(TYPE),
            "device-id" => settings.device_id = value.get().expect(TYPE),
            "threads" => settings.threads = value.get().expect(TYPE),
            "interval" => settings.interval = value.get().expect(TYPE),
            "roi" => settings.roi = text(),
            "scale" => settings.scale = value.get().expect(TYPE),
            "overlay" => settings.overlay = value.get().expect(TYPE),
            "metrics-address" => settings.metrics_address = text(),
            other => gst::error!(CAT, imp = self, "property `{other}` cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats_structure().to_value();
        }
        let settings = self.settings();
        match pspec.name() {
            "model" => settings.model.as_deref().and_then(|path| path.to_str()).to_value(),
            "device" => settings.device.to_value(),
            "device-id" => settings.device_id.to_value(),
            "threads" => settings.threads.to_value(),
            "interval" => settings.interval.to_value(),
            "roi" => settings.roi.to_value(),
            "scale" => settings.scale.to_value(),
            "overlay" => settings.overlay.to_value(),
            "metrics-address" => settings.metrics_address.to_value(),
            _ => pspec.default_value().clone(),
        }
    }
}

impl GstObjectImpl for AnomalyDetect {}

impl ElementImpl for AnomalyDetect {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Anomaly detector",
                "Filter/Analyzer/Video",
                "Scores frames with a Linewarden model package and attaches what it found",
                "Linewarden",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| frame::pad_templates(&frame::caps()));
        &TEMPLATES
    }
}

impl BaseTransformImpl for AnomalyDetect {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    // Passthrough hands out read-only buffers, to which no meta can be added.
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings().clone();
        let state = self.open(&settings)?;
        let (choice, model) = (state.choice.clone(), Arc::clone(&state.model));
        *self.state() = Some(state);
        self.tell_device(&choice, &model);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let stopped = self.state().take();
        // Unloading a model and ending the metrics thread take a moment, in which nobody shall wait for the lock.
        drop(stopped);
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = gst_video::VideoInfo::from_caps(incaps)
            .map_err(|_| gst::loggable_error!(CAT, "caps {incaps} are no video"))?;
        if let Err(error) = self.check_size(&info) {
            gst::element_imp_error!(self, gst::StreamError::Format, ["{error}"]);
            return Err(gst::loggable_error!(CAT, "{error}"));
        }
        if let Some(state) = self.state().as_mut() {
            state.caps = Some(info);
            // Other caps may come from another source.
            state.live = None;
        }
        Ok(())
    }

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.parent_propose_allocation(decide_query, query)?;
        // Strides of the producer's choice are welcome.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        Ok(())
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if !BaseTransformImplExt::parent_query(self, direction, query) {
            return false;
        }
        if let (gst::PadDirection::Src, gst::QueryViewMut::Latency(latency)) = (direction, query.view_mut()) {
            self.answer_latency(latency);
        }
        true
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::FlushStop(_) = event.view()
            && let Some(state) = self.state().as_mut()
        {
            state.earliest = None;
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        let gst::EventView::Qos(qos) = event.view() else { return self.parent_src_event(event) };
        let (_, _, jitter, time) = qos.get();
        if let Some(state) = self.state().as_mut() {
            state.earliest = earliest(time, jitter);
        }
        // Not through the base class: it would drop late frames, and a gate must not lose its pictures.
        self.obj().sink_pad().push_event(event)
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(mut job) = self.next_job(buffer)? else { return Ok(gst::FlowSuccess::Ok) };
        let captured_at = self.captured_at(buffer, self.is_live(job.live));
        match score(&mut job.scorer, buffer, &job.info) {
            Ok(detection) => self.scored(buffer, job, &detection, captured_at),
            Err(error) => return self.failed(job, &error),
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

/// The first running time that is not lost: a frame that came late by `jitter` sets the next ones back by as much again.
fn earliest(time: Option<gst::ClockTime>, jitter: i64) -> Option<gst::ClockTime> {
    let late_by = gst::ClockTime::from_nseconds(jitter.unsigned_abs());
    if jitter > 0 { time?.checked_add(late_by * 2) } else { time?.checked_sub(late_by).or(Some(gst::ClockTime::ZERO)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_of_interest_is_four_numbers() {
        assert_eq!(parse_roi(""), Ok(None));
        assert_eq!(parse_roi("1, 2,30,40"), Ok(Some(Rect { x: 1, y: 2, width_px: 30, height_px: 40 })));
        for wrong in ["1,2,3", "1,2,0,4", "1,2,3,4,5", "a,b,c,d", "-1,0,3,3"] {
            assert!(parse_roi(wrong).unwrap_err().contains("`x,y,width,height`"), "{wrong}");
        }
    }

    #[test]
    fn a_region_of_interest_lies_in_the_visible_part() {
        let visible = Rect { x: 10, y: 20, width_px: 64, height_px: 48 };
        let roi = Rect { x: 4, y: 8, width_px: 60, height_px: 40 };
        assert_eq!(scored_region(visible, None).unwrap(), visible);
        assert_eq!(scored_region(visible, Some(roi)).unwrap(), Rect { x: 14, y: 28, ..roi });
        let error = scored_region(visible, Some(Rect { x: 5, ..roi })).unwrap_err().to_string();
        assert!(error.contains("64x48"), "{error}");
    }

    #[test]
    fn a_late_frame_costs_the_next_ones_too() {
        let second = gst::ClockTime::SECOND;
        assert_eq!(earliest(Some(second), 1_000), Some(second + gst::ClockTime::from_nseconds(2_000)));
        assert_eq!(earliest(Some(second), -1_000), Some(second - gst::ClockTime::from_nseconds(1_000)));
        assert_eq!(earliest(Some(gst::ClockTime::ZERO), -1), Some(gst::ClockTime::ZERO));
        assert_eq!(earliest(None, 5), None);
    }
}
