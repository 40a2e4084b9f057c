//! Hosted models: each has a queue of pictures and so many inference units, threads with a session of their own.
//!
//! Packages and pictures come in, answers go out. `scaling.rs` says how many units there should be, `queue.rs` is what
//! they take from. Nothing here knows of HTTP, projects or the store.

mod queue;
mod scaling;

use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linewarden_core::{Backoff, ModelRef};
use linewarden_model::{Detection, Detector, DetectorOptions, FrameView, ModelError, ModelInfo, memory};
use linewarden_train::dataset::{Picture, PictureFault};
use tokio::sync::oneshot;

use crate::events::HostingEvents;
use crate::metrics::{Metrics, ModelMetrics};
use crate::packages::Opened;
use queue::{Queue, Refused};
use scaling::{Load, Scaling};

pub(crate) use scaling::Units;

/// How often a model's units are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pictures that may wait for each unit that there may be.
const WAITING_A_UNIT: usize = 8;
/// A stopped model answers what waits for this long.
const DRAIN: Duration = Duration::from_secs(30);
/// What hosted models have in the place of a line and a camera.
const LINE: &str = "api";

/// Which model: a project and its version.
pub(crate) type Key = (String, u64);

/// All hosted models.
pub(crate) struct Hosting {
    options: DetectorOptions,
    metrics: Arc<Metrics>,
    models: Mutex<BTreeMap<Key, Arc<Hosted>>>,
}

/// What the model said of a picture.
pub(crate) struct Answer {
    pub(crate) detection: Detection,
    pub(crate) info: Arc<ModelInfo>,
    pub(crate) width_px: u32,
    pub(crate) height_px: u32,
}

/// Why a picture has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostingError {
    #[error("the model is not hosted")]
    NotHosted,
    #[error("the model's inference units cannot keep up")]
    Busy,
    #[error(
        "the picture has {width_px}x{height_px} pixels, but the model was trained on {trained_width_px}x{trained_height_px}"
    )]
    Size { width_px: u32, height_px: u32, trained_width_px: u32, trained_height_px: u32 },
    #[error("{0}")]
    Picture(PictureFault),
    #[error("the decoder panicked on the picture")]
    Decoder,
    #[error("the model failed on the picture: {0}")]
    Model(ModelError),
    #[error("the inference unit ended before it had an answer")]
    Died,
}

struct Hosted {
    key: Key,
    package: Opened,
    units: Units,
    queue: Queue<Task>,
    series: ModelMetrics,
    /// Units whose model is loaded.
    in_service: AtomicUsize,
    is_stopping: AtomicBool,
}

struct Task {
    picture: Sent,
    answer: oneshot::Sender<Result<Answer, HostingError>>,
}

/// A picture on its way to a unit.
enum Sent {
    /// A PNG or JPEG file.
    File(Bytes),
    Decoded(Picture),
}

impl Hosting {
    pub(crate) fn new(options: DetectorOptions, metrics: &Arc<Metrics>) -> Self {
        Self { options, metrics: Arc::clone(metrics), models: Mutex::default() }
    }

    /// Hosts a model; returns when its first unit has loaded and tested it. Takes seconds, so not on a runtime's thread.
    ///
    /// # Errors
    /// When the package does not load, or the model is hosted already.
    pub(crate) fn start(&self, key: &Key, package: Opened, units: Units) -> anyhow::Result<()> {
        let first = Detector::open(package.path(), &self.options)?;
        let model =
            ModelRef { project: key.0.clone(), version: key.1.to_string(), sha256: first.model_ref().sha256.clone() };
        let hosted = Arc::new(Hosted {
            key: key.clone(),
            package,
            units,
            queue: Queue::new(),
            series: self.metrics.model(LINE, LINE, &model),
            in_service: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
        });
        if self.lock().insert(key.clone(), Arc::clone(&hosted)).is_some_and(|before| {
            before.stop();
            true
        }) {
            tracing::warn!(project = key.0, version = key.1, "a hosted model was replaced");
        }
        let options = self.options.clone();
        let name = format!("lw-host-{}-{}", key.0, key.1);
        let spawned = thread::Builder::new().name(name).spawn(move || hosted.look_after(first, &options));
        if let Err(error) = spawned {
            self.lock().remove(key);
            return Err(anyhow::Error::from(error).context("cannot start a thread"));
        }
        Ok(())
    }

    /// Answers what waits, then lets the model go. Tells whether it was hosted.
    pub(crate) fn stop(&self, key: &Key) -> bool {
        let Some(hosted) = self.lock().remove(key) else { return false };
        hosted.stop();
        if !hosted.queue.wait_drained(DRAIN) {
            tracing::warn!(project = key.0, version = key.1, "a stopped model did not answer everything in time");
        }
        true
    }

    pub(crate) fn stop_all(&self) {
        let keys: Vec<Key> = self.lock().keys().cloned().collect();
        for key in keys {
            self.stop(&key);
        }
    }

    /// What the model says of a picture, a PNG or JPEG file.
    ///
    /// # Errors
    /// Says why it cannot be scored now, or not at all.
    pub(crate) async fn detect(&self, key: &Key, file: Bytes) -> Result<Answer, HostingError> {
        let hosted = self.lock().get(key).cloned().ok_or(HostingError::NotHosted)?;
        let (answer, answered) = oneshot::channel();
        // A unit that rests decodes it itself: one thread less has to wake up, and the pixels are where they are scaled.
        // While all are busy others decode, so that units do nothing but score.
        if let Err(Task { answer, .. }) = hosted.queue.put_at_rest(Task { picture: Sent::File(file.clone()), answer }) {
            let queued = tokio::task::spawn_blocking(move || hosted.put(decoded(&file)?, answer));
            queued.await.unwrap_or(Err(HostingError::Died))?;
        }
        answered.await.unwrap_or(Err(HostingError::Died))
    }

    /// The series of a hosted model.
    pub(crate) fn series(&self, key: &Key) -> Option<ModelMetrics> {
        self.lock().get(key).map(|hosted| hosted.series.clone())
    }

    /// Locks even after a panic elsewhere: entries are whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Hosted>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosted {
    /// Never waits.
    fn put(&self, picture: Picture, answer: oneshot::Sender<Result<Answer, HostingError>>) -> Result<(), HostingError> {
        let task = Task { picture: Sent::Decoded(picture), answer };
        self.queue.put(task, WAITING_A_UNIT * self.units.max).map_err(|refused| match refused {
            Refused::Full => HostingError::Busy,
            Refused::Closed => HostingError::NotHosted,
        })
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.queue.close();
    }

    /// The thread that keeps as many units as there should be.
    fn look_after(self: Arc<Self>, first: Detector, options: &DetectorOptions) {
        let events = HostingEvents;
        let began = Instant::now();
        let (mut scaling, mut backoff, mut retry_at) = (Scaling::new(self.units), Backoff::of_peer(), began);
        let mut told = Gauges::default();
        let mut units: Vec<JoinHandle<Result<(), ModelError>>> = Vec::new();
        let mut first = Some(first);
        events.hosted(&self.key.0, self.key.1, self.units.min, self.units.max);
        while !self.is_stopping.load(Ordering::Acquire) {
            let (ended, running): (Vec<_>, Vec<_>) = units.into_iter().partition(JoinHandle::is_finished);
            units = running;
            for unit in ended {
                let error = match unit.join() {
                    // One too many, as it was told.
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it panicked".to_owned(),
                };
                events.unit_failed(&self.key.0, self.key.1, &error);
                retry_at = Instant::now() + backoff.next_delay();
            }
            let depth = self.queue.depth();
            let load = Load { at: began.elapsed(), waiting: depth.waiting, busy: depth.busy };
            let desired = scaling.observe(load);
            self.queue.want(desired);
            if units.len() < desired && Instant::now() >= retry_at {
                match self.unit(first.take(), options) {
                    Ok(unit) => units.push(unit),
                    Err(error) => {
                        events.unit_failed(&self.key.0, self.key.1, &error.to_string());
                        retry_at = Instant::now() + backoff.next_delay();
                    }
                }
            }
            told.tell(&self, scaling.desired());
            thread::sleep(LOOK_EVERY);
        }
        for unit in units {
            // It answers what waits, and ends.
            let _ = unit.join();
        }
        told.leave(&self);
        events.stopped(&self.key.0, self.key.1);
        memory::give_back();
    }

    /// A thread with a model of its own.
    fn unit(
        self: &Arc<Self>,
        loaded: Option<Detector>,
        options: &DetectorOptions,
    ) -> std::io::Result<JoinHandle<Result<(), ModelError>>> {
        let (hosted, options) = (Arc::clone(self), options.clone());
        let work = move || {
            let mut detector = match loaded {
                Some(detector) => detector,
                None => Detector::open(hosted.package.path(), &options)?,
            };
            let _in_service = InService::new(&hosted.in_service);
            let info = Arc::new(detector.info().clone());
            let mut worker = hosted.queue.worker();
            while let Some(Task { picture, answer }) = worker.take() {
                // A client that hung up wants nothing any more.
                if !answer.is_closed() {
                    let picture = match picture {
                        Sent::File(file) => decoded(&file),
                        Sent::Decoded(picture) => Ok(picture),
                    };
                    let _ = answer.send(picture.and_then(|picture| score(&mut detector, &info, &picture)));
                }
            }
            Ok(())
        };
        thread::Builder::new().name(format!("lw-unit-{}-{}", self.key.0, self.key.1)).spawn(work)
    }
}

/// A decoder that panics takes no unit along.
fn decoded(file: &[u8]) -> Result<Picture, HostingError> {
    let decoded = panic::catch_unwind(|| Picture::from_bytes(file)).map_err(|_| HostingError::Decoder)?;
    decoded.map_err(HostingError::Picture)
}

fn score(detector: &mut Detector, info: &Arc<ModelInfo>, picture: &Picture) -> Result<Answer, HostingError> {
    // A picture's sides were checked to be far smaller.
    let side = |px: usize| u32::try_from(px).unwrap_or(u32::MAX);
    let (width_px, height_px) = (side(picture.width_px), side(picture.height_px));
    let mut scored = || {
        detector.check_size(width_px, height_px)?;
        detector.detect(&FrameView::rgb(width_px, height_px, &picture.rgb)?)
    };
    match scored() {
        Ok(detection) => Ok(Answer { detection, info: Arc::clone(info), width_px, height_px }),
        Err(ModelError::Size { width_px, height_px, trained_width_px, trained_height_px }) => {
            Err(HostingError::Size { width_px, height_px, trained_width_px, trained_height_px })
        }
        Err(error) => Err(HostingError::Model(error)),
    }
}

/// Counts a unit while its model is loaded, also when it panics.
struct InService<'a>(&'a AtomicUsize);

impl<'a> InService<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for InService<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a model adds to the gauges that it shares with lines of the same model.
#[derive(Default)]
struct Gauges {
    planned: [i64; 3],
    in_service: i64,
}

impl Gauges {
    fn tell(&mut self, hosted: &Hosted, desired: usize) {
        let count = |units: usize| i64::try_from(units).unwrap_or(i64::MAX);
        let planned = [hosted.units.min, hosted.units.max, desired].map(count);
        self.set(hosted, planned, count(hosted.in_service.load(Ordering::Acquire)));
    }

    fn leave(&mut self, hosted: &Hosted) {
        self.set(hosted, [0; 3], 0);
    }

    fn set(&mut self, hosted: &Hosted, planned: [i64; 3], in_service: i64) {
        for ((gauge, now), before) in hosted.series.units_planned.iter().zip(planned).zip(self.planned) {
            gauge.add(now - before);
        }
        hosted.series.units_in_service.add(in_service - self.in_service);
        (self.planned, self.in_service) = (planned, in_service);
    }
}
