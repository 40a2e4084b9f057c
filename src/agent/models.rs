//! The deployed models, and which of them run.
//!
//! Every package in the configured folder is a model component of its folder's or archive's name; one that is laid there
//! while the agent runs is there from then on. A component is started, scores pictures on a thread of its own, and is stopped.
//! What may be done in which state is [`Phase`]'s to say.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use linewarden_core::ModelRef;
use linewarden_model::{Detector, ModelError, ModelInfo, memory};
use linewarden_proto::edge_agent::ModelStatus;

use super::worker::{self, Task};
use crate::config::AgentConfig;
use crate::events::AgentEvents;
use crate::metrics::Metrics;

/// All components.
pub(super) struct Models {
    config: AgentConfig,
    events: AgentEvents,
    metrics: Arc<Metrics>,
    components: Mutex<BTreeMap<String, Arc<Component>>>,
}

/// One component that was asked for.
struct Component {
    name: String,
    path: PathBuf,
    state: Mutex<State>,
    /// What its package said, and when that was written.
    info: Mutex<Option<(SystemTime, ModelRef)>>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    message: String,
    thread: Option<JoinHandle<()>>,
}

/// Where a component is.
#[derive(Default)]
enum Phase {
    #[default]
    Stopped,
    Starting,
    Running(SyncSender<Task>),
    Failed,
    Stopping,
}

/// What is told of a component.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) arn: String,
    pub(super) status: ModelStatus,
    pub(super) message: String,
}

/// Why something cannot be done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("`model_component` must be a name of letters, digits, `-`, `_` and `.`, got `{0}`")]
    Name(String),
    #[error("there is no model component `{0}`: lay its package into the agent's folder of models")]
    Unknown(String),
    #[error("model component `{name}` is {status}, and must be {needed}")]
    State { name: String, status: Shown, needed: &'static str },
    #[error("{running} models run already, and `max_running` allows no more: stop one")]
    TooMany { running: usize },
    #[error("model component `{0}` does not keep up: {1} pictures wait already")]
    Busy(String, usize),
    #[error("model component `{0}` has failed")]
    Failed(String),
}

/// A status in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown(ModelStatus);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str_name())
    }
}

impl Phase {
    fn status(&self) -> ModelStatus {
        match self {
            Self::Stopped => ModelStatus::Stopped,
            Self::Starting => ModelStatus::Starting,
            Self::Running(_) => ModelStatus::Running,
            Self::Failed => ModelStatus::Failed,
            Self::Stopping => ModelStatus::Stopping,
        }
    }

    fn holds_a_model(&self) -> bool {
        matches!(self, Self::Starting | Self::Running(_) | Self::Stopping)
    }
}

impl Models {
    pub(super) fn new(config: &AgentConfig, metrics: &Arc<Metrics>) -> Self {
        let models = Self {
            config: config.clone(),
            events: AgentEvents,
            metrics: Arc::clone(metrics),
            components: Mutex::default(),
        };
        // Their series are there at 0 before the first picture comes.
        for name in models.deployed() {
            if let Ok(component) = models.component(&name) {
                models.series(&component);
            }
        }
        models
    }

    /// Every component, in the order of their names.
    pub(super) fn list(&self) -> Vec<Described> {
        let mut names = self.deployed();
        names.extend(
            self.lock().values().filter(|known| known.lock().phase.holds_a_model()).map(|one| one.name.clone()),
        );
        names.sort();
        names.dedup();
        names.iter().filter_map(|name| self.describe(name).ok()).collect()
    }

    pub(super) fn describe(&self, name: &str) -> Result<Described, Refusal> {
        let component = self.component(name)?;
        let model = component.model();
        let state = component.lock();
        let (status, message) = match (&state.phase, &model) {
            // A package that cannot be read cannot be started either.
            (Phase::Stopped, Err(error)) => (ModelStatus::Failed, error.to_string()),
            (phase, _) => (phase.status(), state.message.clone()),
        };
        let arn = model.map(|model| self.config.arn(&model)).unwrap_or_default();
        Ok(Described { name: component.name.clone(), arn, status, message })
    }

    /// Begins to load; tells what becomes of it through [`Models::describe`].
    pub(super) fn start(self: &Arc<Self>, name: &str) -> Result<ModelStatus, Refusal> {
        let component = self.component(name)?;
        // Held while it is counted, so that two that start at once do not become one too many.
        let components = self.lock();
        let others = components.values().filter(|other| !Arc::ptr_eq(other, &component));
        let running = others.filter(|other| other.lock().phase.holds_a_model()).count();
        let mut state = component.lock();
        if !matches!(state.phase, Phase::Stopped | Phase::Failed) {
            return Err(component.refusal(&state.phase, "STOPPED or FAILED"));
        }
        if running >= self.config.max_running {
            return Err(Refusal::TooMany { running });
        }
        let (models, started) = (Arc::clone(self), Arc::clone(&component));
        let thread = thread::Builder::new().name(format!("lw-agent-{name}")).spawn(move || models.run(&started));
        match thread {
            Ok(thread) => *state = State { phase: Phase::Starting, message: String::new(), thread: Some(thread) },
            Err(error) => {
                state.phase = Phase::Failed;
                state.message = format!("cannot start a thread: {error}");
                return Err(Refusal::Failed(name.to_owned()));
            }
        }
        Ok(ModelStatus::Starting)
    }

    /// Returns when the pictures that wait have their answer and the model is gone.
    pub(super) fn stop(&self, name: &str) -> Result<ModelStatus, Refusal> {
        let component = self.component(name)?;
        let thread = {
            let mut state = component.lock();
            if !matches!(state.phase, Phase::Running(_)) {
                return Err(component.refusal(&state.phase, "RUNNING"));
            }
            // With its sender gone the thread ends.
            state.phase = Phase::Stopping;
            state.thread.take()
        };
        if thread.is_some_and(|thread| thread.join().is_err()) {
            self.events.component_panicked(name);
        }
        *component.lock() = State::default();
        memory::give_back();
        Ok(ModelStatus::Stopped)
    }

    /// Puts a picture before the component's model. Never waits.
    pub(super) fn score(&self, name: &str, task: Task) -> Result<(), Refusal> {
        let component = self.component(name)?;
        let mut state = component.lock();
        let Phase::Running(queue) = &state.phase else { return Err(component.refusal(&state.phase, "RUNNING")) };
        match queue.try_send(task) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Refusal::Busy(name.to_owned(), self.config.queue)),
            Err(TrySendError::Disconnected(_)) => {
                state.phase = Phase::Failed;
                "the model's thread ended by itself".clone_into(&mut state.message);
                Err(Refusal::Failed(name.to_owned()))
            }
        }
    }

    /// Whether a component can be asked for pictures; before they are read.
    pub(super) fn must_run(&self, name: &str) -> Result<(), Refusal> {
        let component = self.component(name)?;
        let state = component.lock();
        match state.phase {
            Phase::Running(_) => Ok(()),
            _ => Err(component.refusal(&state.phase, "RUNNING")),
        }
    }

    /// The component's series, where its package can be read.
    pub(super) fn series_of(&self, name: &str) -> Option<crate::metrics::ModelMetrics> {
        self.component(name).ok().and_then(|component| self.series(&component))
    }

    pub(super) fn stop_all(&self) {
        let running: Vec<String> = self.lock().keys().cloned().collect();
        for name in running {
            // Those that do not run are stopped already.
            let _ = self.stop(&name);
        }
    }

    /// The thread of a component.
    fn run(&self, component: &Component) {
        let loaded = Detector::open(&component.path, &self.config.options);
        let detector = match loaded {
            Ok(detector) => detector,
            Err(error) => return self.failed(component, &error),
        };
        let (model, device) = (detector.model_ref().clone(), detector.device().device.to_string());
        let series = self.metrics.model(LINE, &component.name, &model);
        let (sender, tasks) = sync_channel(self.config.queue);
        component.lock().phase = Phase::Running(sender);
        self.events.component_runs(&component.name, &model, &device, &series);
        worker::work(detector, &tasks);
        self.events.component_stopped(&component.name, &series);
    }

    fn failed(&self, component: &Component, error: &ModelError) {
        self.events.component_failed(&component.name, error);
        let mut state = component.lock();
        state.phase = Phase::Failed;
        state.message = error.to_string();
    }

    fn series(&self, component: &Component) -> Option<crate::metrics::ModelMetrics> {
        let model = component.model().ok()?;
        Some(self.metrics.model(LINE, &component.name, &model))
    }

    /// Names of the packages in the folder.
    fn deployed(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.config.models) else { return Vec::new() };
        let names = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_package = path.join("model.json").is_file() || path.extension().is_some_and(|end| end == "tar");
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() }?;
            name.to_str().filter(|name| is_package && is_name(name)).map(str::to_owned)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names
    }

    fn component(&self, name: &str) -> Result<Arc<Component>, Refusal> {
        if !is_name(name) {
            return Err(Refusal::Name(name.chars().take(64).collect()));
        }
        let mut components = self.lock();
        if let Some(known) = components.get(name)
            && (known.path.exists() || known.lock().phase.holds_a_model())
        {
            return Ok(Arc::clone(known));
        }
        let folder = self.config.models.join(name);
        let archive = self.config.models.join(format!("{name}.tar"));
        let Some(path) = [folder, archive].into_iter().find(|path| path.exists()) else {
            components.remove(name);
            return Err(Refusal::Unknown(name.to_owned()));
        };
        let component = Component { name: name.to_owned(), path, state: Mutex::default(), info: Mutex::default() };
        let component = Arc::new(component);
        components.insert(name.to_owned(), Arc::clone(&component));
        Ok(component)
    }

    /// Locks even after a panic elsewhere: entries are whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Component>>> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the agent's models have in the place of a line.
const LINE: &str = "agent";

impl Component {
    /// Locks even after a panic elsewhere: the phase is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self, phase: &Phase, needed: &'static str) -> Refusal {
        Refusal::State { name: self.name.clone(), status: Shown(phase.status()), needed }
    }

    /// Which model it is; its package is read again only when it was written anew.
    fn model(&self) -> Result<ModelRef, ModelError> {
        let described = if self.path.is_dir() { self.path.join("model.json") } else { self.path.clone() };
        let written = std::fs::metadata(described).and_then(|metadata| metadata.modified()).ok();
        let mut known = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((at, model)), Some(written)) = (&*known, written)
            && *at == written
        {
            return Ok(model.clone());
        }
        let model = ModelInfo::read(&self.path)?.model_ref();
        *known = written.map(|written| (written, model.clone()));
        Ok(model)
    }
}

/// What names of components are.
pub(crate) const NAMES: &str = "1 to 128 letters, digits, `-`, `_` and `.`, the first one no `.`";

/// Whether a component can be called so, as in the old service; it is the name of a folder, too.
pub(crate) fn is_name(name: &str) -> bool {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    (1..=128).contains(&name.len()) && name.chars().all(is_allowed) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_folder_of_models() {
        for name in ["cap", "Sample_Component-1.0", "a"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(129);
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "a b", "ü", "a\0", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
