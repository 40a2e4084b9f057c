//! The model of a line: which one runs, and another for all its cameras together.
//!
//! A new model is loaded and tested beside the running one of every camera; only when all of them have it do they change,
//! each between two of its frames. Cameras that are just loading wait, and a camera that loads later, because it was lost or
//! its element failed, loads what the line runs by then. What comes in is a path; what goes out is which model scores.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use gst::glib;
use gstlinewarden::anomalydetect::{AnomalyDetect, SwapError};
use linewarden_core::ModelRef;
use linewarden_model::package::Package;
use linewarden_model::{ModelError, memory};

use super::frames::Frames;
use super::watch::Watch;
use crate::config::LineConfig;
use crate::events::LineEvents;
use crate::metrics::Metrics;

/// The models of one line.
pub(crate) struct LineModels {
    line: LineConfig,
    current: Mutex<Current>,
    /// Held for reading by a camera that loads the line's model, for writing by who changes it.
    change: RwLock<()>,
    cameras: Vec<CameraModel>,
    events: Arc<LineEvents>,
    metrics: Arc<Metrics>,
    watch: Arc<Watch>,
}

struct CameraModel {
    frames: Arc<Frames>,
    /// The element that scores, while there is one.
    element: Mutex<glib::WeakRef<AnomalyDetect>>,
}

/// Which model runs, and which ran before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Current {
    pub(crate) running: LoadedModel,
    pub(crate) before: Option<LoadedModel>,
}

/// A model by its package.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoadedModel {
    pub(crate) path: PathBuf,
    pub(crate) model: ModelRef,
    /// Scores of normal pictures from its training.
    pub(crate) normal_scores: Arc<[f64]>,
}

/// Why the line's model was not changed: nothing of it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Package(#[from] ModelError),
    #[error("camera `{camera}`: {error}")]
    Camera { camera: String, error: SwapError },
    #[error("`coverage_limit` names the label `{0}`, which the model does not have")]
    Label(String),
    #[error("there is no model to go back to: none was swapped since the daemon started")]
    NoWayBack,
}

impl LineModels {
    pub(crate) fn new(
        line: &LineConfig,
        frames: &[Arc<Frames>],
        events: Arc<LineEvents>,
        metrics: &Arc<Metrics>,
        watch: &Arc<Watch>,
    ) -> Self {
        let running = LoadedModel {
            path: line.model.path().to_owned(),
            model: line.model_ref.clone(),
            normal_scores: Arc::clone(&line.normal_scores),
        };
        let camera = |frames: &Arc<Frames>| CameraModel { frames: Arc::clone(frames), element: Mutex::default() };
        Self {
            line: line.clone(),
            current: Mutex::new(Current { running, before: None }),
            change: RwLock::default(),
            cameras: frames.iter().map(camera).collect(),
            events,
            metrics: Arc::clone(metrics),
            watch: Arc::clone(watch),
        }
    }

    /// Which model runs.
    pub(crate) fn current(&self) -> Current {
        self.lock().clone()
    }

    /// Locks even after a panic elsewhere: it is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a camera load the line's model, and remembers the element that it gives.
    pub(crate) fn load<T>(
        &self,
        camera: usize,
        load: impl FnOnce(&Path) -> anyhow::Result<(T, AnomalyDetect)>,
    ) -> anyhow::Result<T> {
        let _no_change = self.change.read().unwrap_or_else(PoisonError::into_inner);
        let (loaded, element) = load(&self.current().running.path)?;
        if let Some(camera) = self.cameras.get(camera) {
            camera.lock().set(Some(&element));
        }
        Ok(loaded)
    }

    /// Has every camera change to the model at `path`, or none. Takes as long as loading does.
    pub(crate) fn swap(&self, path: &Path) -> Result<LoadedModel, ChangeError> {
        let _alone = self.change.write().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let outcome = self.swap_alone(path);
        match &outcome {
            Ok(swapped) => self.events.model_swapped(&swapped.model, &swapped.path, began.elapsed()),
            Err(error) => self.events.model_swap_failed(path, &error.to_string()),
        }
        memory::give_back();
        outcome
    }

    /// Has every camera go back to the model before, or none.
    pub(crate) fn roll_back(&self) -> Result<LoadedModel, ChangeError> {
        let _alone = self.change.write().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let outcome = match self.current().before {
            Some(before) => self.back_to(&before),
            None => Err(ChangeError::NoWayBack),
        };
        match &outcome {
            Ok(back) => self.events.model_rolled_back(&back.model, &back.path, began.elapsed()),
            Err(error) => self.events.model_swap_failed(Path::new(""), &error.to_string()),
        }
        memory::give_back();
        outcome
    }

    fn swap_alone(&self, path: &Path) -> Result<LoadedModel, ChangeError> {
        let (model, normal_scores) = {
            let package = Package::read(path)?;
            let has = |label: &str| package.info().labels.iter().any(|known| known.name == label);
            if let Some(label) = self.line.decision.rules.limited_labels().find(|label| !has(label)) {
                return Err(ChangeError::Label(label.to_owned()));
            }
            (package.info().model_ref(), package.info().normal_scores.as_slice().into())
        };
        let next = LoadedModel { path: path.to_owned(), model, normal_scores };
        let prepare = |camera: &CameraModel, element: AnomalyDetect| {
            let prepared = element.prepare_model(path);
            prepared.map_err(|error| ChangeError::Camera { camera: camera.frames.camera().to_owned(), error })
        };
        let with_elements = self.cameras.iter().filter_map(|camera| Some((camera, camera.lock().upgrade()?)));
        // One after the other: the line needs the processor more.
        let prepared: Vec<_> =
            with_elements.map(|(camera, element)| prepare(camera, element)).collect::<Result<_, _>>()?;
        self.follow(&next);
        for prepared in prepared {
            // Only an element that was stopped meanwhile does not change, and it scores no more.
            if let Err(error) = prepared.switch() {
                tracing::debug!(line = self.line.name, %error, "a camera that ends keeps its model");
            }
        }
        Ok(next)
    }

    /// The cameras that have the model before still loaded change at once; the others have loaded it by then.
    fn back_to(&self, before: &LoadedModel) -> Result<LoadedModel, ChangeError> {
        let elements: Vec<(&CameraModel, AnomalyDetect)> =
            self.cameras.iter().filter_map(|camera| Some((camera, camera.lock().upgrade()?))).collect();
        let is_loaded = |element: &AnomalyDetect| element.model_before_is_loaded(&before.path);
        let mut prepared = Vec::new();
        for (camera, element) in elements.iter().filter(|(_, element)| !is_loaded(element)) {
            let loaded = element.prepare_model(&before.path);
            let of_camera = |error| ChangeError::Camera { camera: camera.frames.camera().to_owned(), error };
            prepared.push(loaded.map_err(of_camera)?);
        }
        self.follow(before);
        for (_, element) in elements.iter().filter(|(_, element)| is_loaded(element)) {
            if let Err(error) = element.go_back() {
                tracing::debug!(line = self.line.name, %error, "a camera that ends keeps its model");
            }
        }
        for prepared in prepared {
            if let Err(error) = prepared.switch() {
                tracing::debug!(line = self.line.name, %error, "a camera that ends keeps its model");
            }
        }
        Ok(before.clone())
    }

    /// What loads from now on loads this model, and the series have its name before its first frame comes.
    fn follow(&self, next: &LoadedModel) {
        for camera in &self.cameras {
            let series = self.metrics.model(&self.line.name, camera.frames.camera(), &next.model);
            camera.frames.events().model_changes(series);
        }
        self.watch.model_changed(&next.model, &next.normal_scores);
        let mut current = self.lock();
        let replaced = std::mem::replace(&mut current.running, next.clone());
        current.before = Some(replaced);
    }
}

impl CameraModel {
    fn lock(&self) -> MutexGuard<'_, glib::WeakRef<AnomalyDetect>> {
        self.element.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
