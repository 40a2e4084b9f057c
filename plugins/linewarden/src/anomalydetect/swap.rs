//! Changing the model between two frames: what is loaded beside the running model, and the way back.
//!
//! A model is loaded and scores its golden pictures on the thread of whoever asks, never on the streaming thread, and takes
//! the running one's place between two frames: at once, or when the frame that is being scored has its answer. The one that
//! it replaces is kept for the way back. Two models are in memory at most: before a third is loaded the one that was kept is
//! let go, and loaded again should somebody want it back.

use std::path::PathBuf;
use std::sync::Arc;

use linewarden_core::ModelRef;
use linewarden_model::{DeviceChoice, ModelError, ModelInfo, Sharing};

use super::scorer::Scorer;
use crate::metrics::Metrics;

/// Why the model was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The package is broken, does not load, or scores its golden pictures otherwise than promised.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The element has no model to put another beside.
    #[error("the element does not run")]
    NotRunning,
    /// One at a time.
    #[error("another model is being loaded")]
    Busy,
    /// There was none before.
    #[error("there is no model to go back to")]
    NoWayBack,
    /// What it needs beside the model is not to be had.
    #[error("{0}")]
    Other(String),
}

/// A model that can take a running one's place.
pub(super) struct Model {
    pub(super) scorer: Scorer,
    pub(super) metrics: Option<Arc<Metrics>>,
}

/// What is known of the running model while it scores a frame.
pub(super) struct Running {
    pub(super) path: PathBuf,
    pub(super) info: Arc<ModelInfo>,
    pub(super) model_ref: ModelRef,
    pub(super) choice: DeviceChoice,
    /// What the model shares with other elements, within reach while it is away.
    pub(super) sharing: Option<Sharing>,
    pub(super) metrics: Option<Arc<Metrics>>,
}

/// The model before the running one.
pub(super) enum WayBack {
    Loaded(Box<Model>),
    /// It was let go to make room.
    OnDisk(PathBuf),
}

/// The models of an element.
pub(super) struct Models {
    /// Away while a frame is being scored.
    home: Option<Model>,
    pub(super) running: Running,
    /// Takes the running one's place once that is back from its frame.
    next: Option<Model>,
    way_back: Option<WayBack>,
    /// Held by whoever changes the model.
    claim: Option<Claim>,
    /// Waits at a shared engine give up at once.
    interrupted: bool,
    pub(super) swaps: u64,
    pub(super) failures: u64,
    pub(super) last_error: String,
}

/// The right to change the model, which one at a time has.
pub(super) type Claim = Arc<()>;

/// A model that took another's place.
pub(super) struct Switched {
    pub(super) path: PathBuf,
    pub(super) model: ModelRef,
    pub(super) replaced: ModelRef,
}

/// How to go back.
pub(super) enum Back {
    Switched(Option<Switched>),
    Load(PathBuf),
}

impl Running {
    fn of(model: &Model) -> Self {
        let Model { scorer, metrics } = model;
        Self {
            path: scorer.path.clone(),
            info: Arc::clone(scorer.detector.info()),
            model_ref: scorer.detector.model_ref().clone(),
            choice: scorer.detector.device().clone(),
            sharing: scorer.detector.sharing().cloned(),
            metrics: metrics.clone(),
        }
    }
}

impl WayBack {
    pub(super) fn is_loaded(&self) -> bool {
        matches!(self, Self::Loaded(_))
    }

    pub(super) fn path(&self) -> &std::path::Path {
        match self {
            Self::Loaded(model) => &model.scorer.path,
            Self::OnDisk(path) => path,
        }
    }
}

impl Models {
    pub(super) fn new(model: Model) -> Self {
        let running = Running::of(&model);
        Self {
            home: Some(model),
            running,
            next: None,
            way_back: None,
            claim: None,
            interrupted: false,
            swaps: 0,
            failures: 0,
            last_error: String::new(),
        }
    }

    /// The running model, for one frame.
    pub(super) fn take(&mut self) -> Option<Model> {
        self.home.take()
    }

    /// The running model while no frame has it.
    pub(super) fn home(&self) -> Option<&Model> {
        self.home.as_ref()
    }

    /// The frame has its answer. This is the moment between two frames for which a new model waits.
    pub(super) fn give_back(&mut self, model: Model) -> Option<Switched> {
        match self.next.take() {
            Some(next) => Some(self.replace(model, next)),
            None => {
                self.home = Some(model);
                None
            }
        }
    }

    pub(super) fn way_back(&self) -> Option<&WayBack> {
        self.way_back.as_ref()
    }

    /// Frames that wait at a shared engine give up, or may wait again.
    pub(super) fn interrupt(&mut self, interrupted: bool) -> Option<Sharing> {
        self.interrupted = interrupted;
        self.running.sharing.clone()
    }

    /// The right to change the model, and what is to be unloaded before another is loaded.
    pub(super) fn claim(&mut self) -> Result<(Claim, Option<Model>), SwapError> {
        if self.claim.is_some() {
            return Err(SwapError::Busy);
        }
        let claim = Claim::default();
        self.claim = Some(Arc::clone(&claim));
        let let_go = match self.way_back.take() {
            Some(WayBack::Loaded(model)) => {
                self.way_back = Some(WayBack::OnDisk(model.scorer.path.clone()));
                Some(*model)
            }
            other => {
                self.way_back = other;
                None
            }
        };
        Ok((claim, let_go))
    }

    /// Whoever had the claim does not change the model after all.
    pub(super) fn release(&mut self, claim: &Claim) {
        if self.next.is_none() && self.is_held_by(claim) {
            self.claim = None;
        }
    }

    fn is_held_by(&self, claim: &Claim) -> bool {
        self.claim.as_ref().is_some_and(|held| Arc::ptr_eq(held, claim))
    }

    /// Changes the model now, or between the frame that is being scored and the next.
    pub(super) fn switch(&mut self, next: Model, claim: &Claim) -> Result<Option<Switched>, SwapError> {
        // The element may have been stopped and started since.
        if !self.is_held_by(claim) {
            return Err(SwapError::NotRunning);
        }
        Ok(self.switch_to(next))
    }

    /// Goes back to the model before, or says what is to be loaded for it.
    pub(super) fn go_back(&mut self) -> Result<Back, SwapError> {
        if self.claim.is_some() {
            return Err(SwapError::Busy);
        }
        match self.way_back.take() {
            None => Err(SwapError::NoWayBack),
            Some(WayBack::Loaded(model)) => {
                self.claim = Some(Claim::default());
                Ok(Back::Switched(self.switch_to(*model)))
            }
            Some(WayBack::OnDisk(path)) => {
                self.way_back = Some(WayBack::OnDisk(path.clone()));
                Ok(Back::Load(path))
            }
        }
    }

    fn switch_to(&mut self, next: Model) -> Option<Switched> {
        match self.home.take() {
            Some(running) => Some(self.replace(running, next)),
            None => {
                self.next = Some(next);
                None
            }
        }
    }

    fn replace(&mut self, old: Model, next: Model) -> Switched {
        let running = Running::of(&next);
        if let Some(sharing) = &running.sharing {
            sharing.interrupt(self.interrupted);
        }
        let replaced = std::mem::replace(&mut self.running, running).model_ref;
        self.home = Some(next);
        self.way_back = Some(WayBack::Loaded(Box::new(old)));
        self.claim = None;
        self.swaps += 1;
        Switched { path: self.running.path.clone(), model: self.running.model_ref.clone(), replaced }
    }
}
