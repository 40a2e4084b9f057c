//! The element's inside. The streaming thread takes the model out of the state, lets go of the lock, scores, and puts it
//! back: nobody ever waits for an inference to read a property, and between two frames another model may take its place.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use jiff::Timestamp;
use linewarden_model::overlay::Overlay as Drawing;
use linewarden_model::package::Package;
use linewarden_model::{
    Batch, Detection, DetectorOptions, DeviceChoice, ModelError, ModelInfo, Rect, Sharing, SizePolicy,
};

use super::scorer::{ScoreError, Scorer, scored_region};
use super::swap::{Back, Claim, Model, Models, SwapError, Switched};
use super::{Device, Overlay};
use crate::frame;
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
    batch: u32,
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
            batch: 0,
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
    models: Models,
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

/// A frame that is to be scored.
struct Job {
    model: Model,
    info: gst_video::VideoInfo,
    frame: u64,
    overlay: Overlay,
    live: Option<bool>,
}

/// A model that is loaded and tested beside the running one of an element. Dropped, it is unloaded.
pub struct Prepared {
    element: super::AnomalyDetect,
    model: Option<Model>,
    claim: Claim,
    began: Instant,
}

#[derive(Default)]
pub struct AnomalyDetect {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    /// What loads models that were asked for by property or action.
    loaders: Mutex<Vec<JoinHandle<()>>>,
}

impl AnomalyDetect {
    // Locks even after a panic elsewhere: both structs are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaders(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.loaders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that can be wrong with the properties is found here.
    fn open(&self, settings: &Settings) -> Result<State, gst::ErrorMessage> {
        let Some(path) = &settings.model else {
            return Err(gst::error_msg!(gst::ResourceError::NotFound, ["property `model` is not set"]));
        };
        let wrong = |error: String| gst::error_msg!(gst::ResourceError::Settings, ["{error}"]);
        let roi = parse_roi(&settings.roi).map_err(wrong)?;
        let mut scorer = open_scorer(path, settings, roi)
            .map_err(|error| gst::error_msg!(gst::ResourceError::OpenRead, ["{error}"]))?;
        let latency = scorer.first_latency();
        let metrics = series(&scorer, settings).map_err(wrong)?;
        let server = match &metrics {
            None => None,
            Some(metrics) => {
                let server = Server::start(&settings.metrics_address, Arc::clone(metrics)).map_err(wrong)?;
                gst::info!(CAT, imp = self, "metrics are served at http://{}/metrics", server.address());
                Some(server)
            }
        };
        Ok(State {
            models: Models::new(Model { scorer, metrics }),
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

    /// Loads and tests a model beside the running one, on the caller's thread.
    pub(super) fn prepare(&self, path: &Path) -> Result<Prepared, SwapError> {
        let began = Instant::now();
        let settings = self.settings().clone();
        let roi = parse_roi(&settings.roi).map_err(SwapError::Other)?;
        // What can be told without loading it costs the way back nothing.
        let package = Package::read(path)?;
        let (claim, let_go) = {
            let mut state = self.state();
            let models = &mut state.as_mut().ok_or(SwapError::NotRunning)?.models;
            if !settings.scale {
                same_size(package.info(), &models.running.info)?;
            }
            models.claim()?
        };
        drop((package, let_go));
        let mut prepared = Prepared { element: self.obj().clone(), model: None, claim, began };
        let mut scorer = open_scorer(path, &settings, roi)?;
        // Its first frame must not be slow; and whoever changed the package meanwhile gets no other size in.
        scorer.first_latency();
        let metrics = series(&scorer, &settings).map_err(SwapError::Other)?;
        if let Some(state) = self.state().as_ref() {
            state.caps.as_ref().map_or(Ok(()), |caps| scorer.check_size(caps))?;
        }
        prepared.model = Some(Model { scorer, metrics });
        Ok(prepared)
    }

    /// Changes the model between two frames.
    pub(super) fn switch(&self, mut prepared: Prepared) -> Result<(), SwapError> {
        let model = prepared.model.take().ok_or(SwapError::NotRunning)?;
        let switched = {
            let mut guard = self.state();
            let state = guard.as_mut().ok_or(SwapError::NotRunning)?;
            let switched = state.models.switch(model, &prepared.claim)?;
            state.show_series(switched.as_ref());
            switched
        };
        gst::info!(CAT, imp = self, "a model was loaded in {:?}", prepared.began.elapsed());
        self.tell_switched(switched);
        Ok(())
    }

    /// Goes back between two frames when the model before is still loaded, else says which it was.
    pub(super) fn go_back(&self) -> Result<Option<PathBuf>, SwapError> {
        let back = {
            let mut guard = self.state();
            let state = guard.as_mut().ok_or(SwapError::NotRunning)?;
            let back = state.models.go_back()?;
            if let Back::Switched(switched) = &back {
                state.show_series(switched.as_ref());
            }
            back
        };
        match back {
            Back::Load(path) => Ok(Some(path)),
            Back::Switched(switched) => {
                self.tell_switched(switched);
                Ok(None)
            }
        }
    }

    pub(super) fn has_loaded_before(&self, path: &Path) -> bool {
        let state = self.state();
        let way_back = state.as_ref().and_then(|state| state.models.way_back());
        way_back.is_some_and(|way_back| way_back.is_loaded() && way_back.path() == path)
    }

    /// What the property and the actions do: on a thread of its own, and told by message.
    fn swap(&self, path: PathBuf) -> bool {
        let element = self.obj().clone();
        let asked = path.clone();
        let work = move || {
            let imp = element.imp();
            let outcome = imp.prepare(&path).and_then(|prepared| imp.switch(prepared));
            if let Err(error) = outcome {
                imp.tell_failed(&path, &error);
            }
        };
        match thread::Builder::new().name("lw-model".to_owned()).spawn(work) {
            Ok(thread) => {
                let mut loaders = self.loaders();
                loaders.retain(|loader| !loader.is_finished());
                loaders.push(thread);
                true
            }
            Err(error) => {
                self.tell_failed(&asked, &SwapError::Other(format!("cannot start a thread: {error}")));
                false
            }
        }
    }

    fn roll_back(&self) -> bool {
        match self.go_back() {
            Ok(None) => true,
            Ok(Some(path)) => self.swap(path),
            Err(error) => {
                self.tell_failed(Path::new(""), &error);
                false
            }
        }
    }

    fn tell_switched(&self, switched: Option<Switched>) {
        let Some(Switched { path, model, replaced }) = switched else { return };
        gst::info!(CAT, imp = self, "model {} {} scores from now on", model.project, model.version);
        let structure = gst::Structure::builder("model-swapped")
            .field("model", path.to_string_lossy().as_ref())
            .field("project", &model.project)
            .field("version", &model.version)
            .field("sha256", &model.sha256)
            .field("replaced-version", &replaced.version)
            .field("replaced-sha256", &replaced.sha256)
            .build();
        self.settings().model = Some(path);
        self.post(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    fn tell_failed(&self, path: &Path, error: &SwapError) {
        if let Some(state) = self.state().as_mut() {
            state.models.failures += 1;
            state.models.last_error = error.to_string();
        }
        let structure = gst::Structure::builder("model-swap-failed")
            .field("model", path.to_string_lossy().as_ref())
            .field("reason", error.to_string())
            .build();
        self.post(gst::message::Element::builder(structure).src(&*self.obj()).build());
        gst::element_imp_warning!(self, gst::ResourceError::OpenRead, ["the model was not changed: {error}"]);
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
            if let Some(metrics) = &state.models.running.metrics {
                metrics.late();
            }
            let (scored, late) = (state.stats.scored, state.stats.dropped_late);
            let live = state.live.unwrap_or(false);
            drop(guard);
            self.tell_late(buffer, running_time, live, (scored, late));
            return Ok(None);
        }
        let info = state.caps.clone().ok_or(gst::FlowError::NotNegotiated)?;
        let model = state.models.take().ok_or(gst::FlowError::Error)?;
        Ok(Some(Job { model, info, frame, overlay, live: state.live }))
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
        let Job { model, info, frame, overlay, .. } = job;
        let detector = &model.scorer.detector;
        let shown = region(buffer, &info, model.scorer.roi);
        let meta = AnomalyMeta {
            frame,
            pts: buffer.pts().map(Duration::from),
            captured_at,
            result: detection.result.clone(),
            times: detection.times,
            model: detector.model_ref().clone(),
            labels: detector.info().labels.clone(),
            region: shares(shown, frame::size(buffer, &info)),
            mask: detection.mask().cloned(),
        };
        let metrics = model.metrics.clone();
        let latency = self.give_back(model, |state| {
            state.failures_in_a_row = 0;
            state.stats.scored += 1;
            state.stats.anomalous += u64::from(detection.result.is_anomalous);
            state.stats.add_times(&detection.times);
            if let Some(metrics) = &metrics {
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
        if let ScoreError::Model(ModelError::Interrupted) = error {
            self.give_back(job.model, |_| ());
            return Err(gst::FlowError::Flushing);
        }
        let frame = job.frame;
        let metrics = job.model.metrics.clone();
        let failures = self.give_back(job.model, |state| {
            state.stats.errors += 1;
            state.failures_in_a_row += 1;
            match (&metrics, error) {
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

    /// Puts the model back and brings the state up to date; the element may have been stopped meanwhile.
    fn give_back<T>(&self, model: Model, update: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut guard = self.state();
        let state = guard.as_mut()?;
        let switched = state.models.give_back(model);
        let updated = update(state);
        state.show_series(switched.as_ref());
        drop(guard);
        self.tell_switched(switched);
        Some(updated)
    }

    /// A size that is refused is refused before the first frame.
    fn check_size(&self, info: &gst_video::VideoInfo) -> Result<(), ModelError> {
        let guard = self.state();
        let model = guard.as_ref().and_then(|state| state.models.home());
        model.map_or(Ok(()), |model| model.scorer.check_size(info))
    }

    /// A frame that waits for an engine shared with other elements gives up, or may wait again.
    fn interrupt(&self, interrupted: bool) {
        let sharing = self.state().as_mut().and_then(|state| state.models.interrupt(interrupted));
        if let Some(sharing) = sharing {
            sharing.interrupt(interrupted);
        }
    }

    fn stats_structure(&self) -> gst::Structure {
        let state = self.state();
        let Some(state) = state.as_ref() else { return Stats::default().to_structure(None) };
        let Models { running, swaps, failures, last_error, .. } = &state.models;
        let mut structure = state.stats.to_structure(Some(&running.choice));
        structure.set("model", running.path.to_string_lossy().as_ref());
        structure.set("model-version", running.model_ref.version.as_str());
        structure.set("model-sha256", running.model_ref.sha256.as_str());
        structure.set("model-swaps", *swaps);
        structure.set("model-swap-failures", *failures);
        structure.set("model-swap-error", last_error.as_str());
        if let Some(way_back) = state.models.way_back() {
            structure.set("model-before", way_back.path().to_string_lossy().as_ref());
        }
        if let Some(sharing) = &running.sharing {
            structure.set("shared", shared_structure(sharing));
        }
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
    /// The endpoint tells of the model that runs.
    fn show_series(&self, switched: Option<&Switched>) {
        if let (Some(_), Some(server), Some(metrics)) = (switched, &self.server, &self.models.running.metrics) {
            server.show(Arc::clone(metrics));
        }
    }

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

/// What the elements that share an engine did together.
fn shared_structure(sharing: &Sharing) -> gst::Structure {
    let stats = sharing.stats();
    gst::Structure::builder("shared")
        .field("batch", stats.batch as u64)
        .field("elements", stats.detectors as u64)
        .field("runs", stats.runs)
        .field("views", stats.views)
        .build()
}

/// The model as the properties ask for it.
fn open_scorer(path: &Path, settings: &Settings, roi: Option<Rect>) -> Result<Scorer, ModelError> {
    let options = DetectorOptions {
        device: settings.device.into(),
        device_id: settings.device_id,
        threads: settings.threads as usize,
        sizes: if settings.scale { SizePolicy::Scale } else { SizePolicy::Exact },
    };
    let batch = NonZeroUsize::new(settings.batch as usize).map_or(Batch::Auto, Batch::UpTo);
    Scorer::open(path, &options, batch, roi)
}

/// The series of a model, when the properties ask for an endpoint.
fn series(scorer: &Scorer, settings: &Settings) -> Result<Option<Arc<Metrics>>, String> {
    let is_asked = !settings.metrics_address.is_empty();
    let metrics = is_asked.then(|| Metrics::new(scorer.detector.model_ref())).transpose();
    Ok(metrics.map_err(|error| error.to_string())?.map(Arc::new))
}

/// A model of another picture size would be refused by the next frame.
fn same_size(new: &ModelInfo, running: &ModelInfo) -> Result<(), SwapError> {
    let (new, running) = (new.image_size, running.image_size);
    if new == running {
        return Ok(());
    }
    Err(SwapError::Other(format!(
        "the model is for pictures of {}x{}, the running one for {}x{}: set `scale` to swap all the same",
        new.width_px, new.height_px, running.width_px, running.height_px
    )))
}

impl Prepared {
    /// The reference that results will carry.
    pub fn model_ref(&self) -> Option<&linewarden_core::ModelRef> {
        self.model.as_ref().map(|model| model.scorer.detector.model_ref())
    }

    /// Lets the model take the running one's place, between two frames.
    ///
    /// # Errors
    /// When the element was stopped since.
    pub fn switch(self) -> Result<(), SwapError> {
        let element = self.element.clone();
        element.imp().switch(self)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(state) = self.element.imp().state().as_mut() {
            state.models.release(&self.claim);
        }
    }
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
                    .blurb("Folder or .tar file of the model package; a running element loads it beside the one that it has, and then changes")
                    .mutable_playing()
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
                glib::ParamSpecUInt::builder("batch")
                    .nick("Batch")
                    .blurb("Frames of elements with the same model, device, threads and batch that run together; 1: alone, 0: as the device has it")
                    .maximum(64)
                    .default_value(0)
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

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(|| {
            let action = |name: &str| {
                glib::subclass::Signal::builder(name).flags(glib::SignalFlags::RUN_LAST | glib::SignalFlags::ACTION)
            };
            let swap = action("swap-model").param_types([String::static_type()]).return_type::<bool>();
            let roll_back = action("rollback-model").return_type::<bool>();
            vec![
                swap.class_handler(|values| {
                    let element = values.first()?.get::<super::AnomalyDetect>().ok()?;
                    let path = values.get(1)?.get::<Option<String>>().ok()?.unwrap_or_default();
                    Some(element.imp().swap(path.into()).to_value())
                })
                .build(),
                roll_back
                    .class_handler(|values| {
                        let element = values.first()?.get::<super::AnomalyDetect>().ok()?;
                        Some(element.imp().roll_back().to_value())
                    })
                    .build(),
            ]
        });
        &SIGNALS
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const TYPE: &str = "checked by its specification";
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        if pspec.name() == "model" && self.state().is_some() {
            // The property follows when the model has changed.
            self.swap(PathBuf::from(text()));
            return;
        }
        let mut settings = self.settings();
        match pspec.name() {
            "model" => settings.model = Some(PathBuf::from(text())).filter(|path| !path.as_os_str().is_empty()),
            "device" => settings.device = value.get().expect(TYPE),
            "device-id" => settings.device_id = value.get().expect(TYPE),
            "batch" => settings.batch = value.get().expect(TYPE),
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
            "batch" => settings.batch.to_value(),
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

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            // The pads close only when the streaming thread is out of the frame.
            self.interrupt(true);
        }
        self.parent_change_state(transition)
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
        let (choice, model) = (state.models.running.choice.clone(), Arc::clone(&state.models.running.info));
        *self.state() = Some(state);
        self.tell_device(&choice, &model);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let stopped = self.state().take();
        // Unloading a model and ending the metrics thread take a moment, in which nobody shall wait for the lock.
        drop(stopped);
        let loaders = std::mem::take(&mut *self.loaders());
        // What they load comes too late. A thread that panicked has told so itself.
        loaders.into_iter().for_each(|loader| drop(loader.join()));
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
        match event.view() {
            gst::EventView::FlushStart(_) => self.interrupt(true),
            gst::EventView::FlushStop(_) => {
                self.interrupt(false);
                if let Some(state) = self.state().as_mut() {
                    state.earliest = None;
                }
            }
            _ => {}
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
        match job.model.scorer.score(buffer, &job.info) {
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
    fn a_late_frame_costs_the_next_ones_too() {
        let second = gst::ClockTime::SECOND;
        assert_eq!(earliest(Some(second), 1_000), Some(second + gst::ClockTime::from_nseconds(2_000)));
        assert_eq!(earliest(Some(second), -1_000), Some(second - gst::ClockTime::from_nseconds(1_000)));
        assert_eq!(earliest(Some(gst::ClockTime::ZERO), -1), Some(gst::ClockTime::ZERO));
        assert_eq!(earliest(None, 5), None);
    }
}
