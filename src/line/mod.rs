//! One capture line: its cameras' pipelines, each on a thread of its own, and what becomes of their frames.
//!
//! A [`LineConfig`](crate::config::LineConfig) comes in; results, decisions and the line's state go to the publisher,
//! and everything that happens to `events.rs`. Nothing here knows how a message travels or how a series is named.

mod camera;
mod clock;
mod commands;
mod decoder;
mod folder;
mod frames;
mod gate;
mod health;
pub(crate) mod models;
mod pipeline;
mod shadow;
pub(crate) mod source;
mod stop;
mod trigger;
pub(crate) mod watch;
mod witness;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_core::parts::CameraPresence;
use linewarden_evidence::Store;
use linewarden_outputs::{LineOutputs, Outputs};
use linewarden_publish::{MessageKind, PublishEvent, Publisher};

use crate::config::{CameraConfig, Config, LineConfig};
use crate::events::{CameraEvents, LineEvents};
use crate::metrics::Metrics;
use camera::{Camera, Common};
use commands::Commands;
use frames::Frames;
use gate::Gate;
use models::LineModels;
use shadow::Shadow;
use stop::Stop;
use trigger::TriggerSource;
use watch::Watch;
use witness::Witness;

/// What a camera does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CameraState {
    /// Its first frame has not come yet.
    Starting,
    Running,
    /// It delivers, but its pictures show a fault.
    Unhealthy,
    /// It failed and is tried again.
    Lost,
    /// Its finite source came to its end.
    Ended,
    /// It was told to stop.
    Stopped,
}

impl From<CameraState> for CameraPresence {
    fn from(state: CameraState) -> Self {
        match state {
            CameraState::Starting => Self::Starting,
            CameraState::Running | CameraState::Unhealthy => Self::Running,
            // Told to stop in the middle of a part, it has not shown all of it.
            CameraState::Lost | CameraState::Stopped => Self::Lost,
            CameraState::Ended => Self::Ended,
        }
    }
}

/// The states of a line's cameras, and the line's own state that follows from them.
struct LineState {
    cameras: Mutex<Vec<CameraState>>,
    /// The last part asked the gate to stop the line.
    stop_requested: AtomicBool,
    publisher: Option<Publisher>,
    outputs: LineOutputs,
    events: Arc<LineEvents>,
}

/// A running line.
pub(crate) struct Line {
    name: String,
    publisher: Option<Publisher>,
    state: Arc<LineState>,
    stop: Arc<Stop>,
    cameras: usize,
    ended: mpsc::Receiver<()>,
    gate: Arc<Gate>,
    triggers: Mutex<Option<TriggerSource>>,
    models: Arc<LineModels>,
    watch: Arc<Watch>,
    commands: Mutex<Option<Commands>>,
}

/// What may be asked of a running line, and changed.
pub(crate) struct Controls {
    pub(crate) name: String,
    pub(crate) models: Arc<LineModels>,
    pub(crate) watch: Arc<Watch>,
}

impl LineState {
    fn set(&self, camera: usize, state: CameraState) {
        let mut cameras = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.word(&cameras);
        if let Some(slot) = cameras.get_mut(camera) {
            *slot = state;
        }
        self.tell_change(before, &cameras);
    }

    /// The pictures of a camera that delivers show a fault, or no longer do.
    fn set_ill(&self, camera: usize, is_ill: bool) {
        let mut cameras = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.word(&cameras);
        if let Some(slot @ (CameraState::Running | CameraState::Unhealthy)) = cameras.get_mut(camera) {
            *slot = if is_ill { CameraState::Unhealthy } else { CameraState::Running };
        }
        self.tell_change(before, &cameras);
    }

    /// A part is decided; its decision asks the gate to stop the line, or does not.
    fn ask_to_stop(&self, is_asked: bool) {
        // Decisions that change nothing, which is nearly all of them, take no lock.
        if self.stop_requested.load(Ordering::Relaxed) == is_asked {
            return;
        }
        let cameras = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.word(&cameras);
        self.stop_requested.store(is_asked, Ordering::Relaxed);
        self.tell_change(before, &cameras);
    }

    /// What the line says in its retained state.
    fn word(&self, cameras: &[CameraState]) -> &'static str {
        if self.stop_requested.load(Ordering::Relaxed) { "stop_requested" } else { word(cameras) }
    }

    /// Under the lock of the cameras, so that two changes cannot be told in the wrong order.
    fn tell_change(&self, before: &'static str, cameras: &[CameraState]) {
        let after = self.word(cameras);
        if before != after {
            self.events.state_changed(after);
            self.publisher.iter().for_each(|publisher| publisher.set_state(after));
            self.outputs.state(after);
        }
    }

    fn all(&self, is: impl Fn(CameraState) -> bool) -> bool {
        self.cameras.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|&state| is(state))
    }
}

/// What the line says when nobody asked it to stop.
fn word(cameras: &[CameraState]) -> &'static str {
    let any = |state| cameras.contains(&state);
    if any(CameraState::Lost) {
        "camera_lost"
    } else if any(CameraState::Starting) {
        "starting"
    } else if any(CameraState::Unhealthy) {
        "camera_unhealthy"
    } else if any(CameraState::Running) {
        "running"
    } else {
        "stopped"
    }
}

impl Line {
    /// Starts the line's publisher and a thread for each camera. `on_end` is called when its last camera has ended.
    pub(crate) fn start(
        config: &LineConfig,
        daemon: &Config,
        outputs: &Outputs,
        metrics: &Arc<Metrics>,
        evidence: Option<&Store>,
        on_end: impl Fn() + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let events = Arc::new(LineEvents::new(&config.name, metrics.line(config)));
        let publisher = start_publisher(config, &events, metrics, evidence)?;
        let cameras = Mutex::new(vec![CameraState::Starting; config.cameras.len()]);
        let stop_requested = AtomicBool::new(false);
        let outputs = outputs.line(&config.name);
        let state = Arc::new(LineState {
            cameras,
            stop_requested,
            publisher: publisher.clone(),
            outputs: outputs.clone(),
            events: Arc::clone(&events),
        });
        publisher.iter().for_each(|publisher| publisher.set_state("starting"));
        let stop = Arc::new(Stop::default());
        let witness = evidence.zip(daemon.evidence.as_ref()).map(|(store, evidence)| {
            Witness::new(&config.name, config.cameras.len(), config.parts.is_some(), evidence.rules, store.clone())
        });
        let watch = Watch::start(config, publisher.as_ref(), evidence, &events)?;
        let gate = Gate::new(config, publisher.clone(), outputs, &events, &state, &watch, witness);
        let gate = Arc::new(gate);
        start_deadlines(config, &gate)?;
        let on_end = Arc::new(on_end);
        let (ended_sender, ended) = mpsc::channel();
        let shadow = Shadow::start(config, publisher.as_ref(), &events)?;
        let of_camera = |(index, camera): (usize, &CameraConfig)| {
            let events = CameraEvents::new(&config.name, &camera.name, metrics.camera(config, &camera.name));
            Arc::new(Frames::new(config, index, &camera.name, Arc::clone(&gate), shadow.clone(), events))
        };
        let frames: Vec<Arc<Frames>> = config.cameras.iter().enumerate().map(of_camera).collect();
        let models = Arc::new(LineModels::new(config, &frames, events, metrics, &watch));
        let common = Common {
            grace: daemon.shutdown_grace,
            models: Arc::clone(&models),
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        for (index, (camera, frames)) in config.cameras.iter().zip(frames).enumerate() {
            let camera = Camera::new(config, camera, index, frames, common.clone());
            let (on_end, state, ended) = (Arc::clone(&on_end), Arc::clone(&state), ended_sender.clone());
            let work = move || {
                camera.run();
                if state.all(|state| matches!(state, CameraState::Ended | CameraState::Stopped)) {
                    on_end();
                }
                // The line may be gone already; then nobody waits.
                let _ = ended.send(());
            };
            thread::Builder::new().name(format!("lw-{}", config.name)).spawn(work).context("cannot start a camera")?;
        }
        let triggers = Mutex::new(TriggerSource::start(config, &gate)?);
        let commands = Mutex::new(Commands::start(config, &models, &watch, publisher.as_ref())?);
        let (name, cameras) = (config.name.clone(), config.cameras.len());
        Ok(Self { name, publisher, state, stop, cameras, ended, gate, triggers, models, watch, commands })
    }

    /// For whoever may change the line.
    pub(crate) fn controls(&self) -> Controls {
        Controls { name: self.name.clone(), models: Arc::clone(&self.models), watch: Arc::clone(&self.watch) }
    }

    /// Whether every model is loaded and every pipeline delivers, or came to its end.
    pub(crate) fn readiness(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let (state, name) = (Arc::clone(&self.state), self.name.clone());
        move || {
            let cameras = state.cameras.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = cameras.iter().any(|state| matches!(state, CameraState::Starting | CameraState::Lost));
            waiting.then(|| format!("line {name}: {}", word(&cameras)))
        }
    }

    /// Tells triggers and cameras to end. Returns at once.
    pub(crate) fn request_stop(&self) {
        drop(self.triggers.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.stop.set();
    }

    /// Waits for the cameras to end; false after saying which line did not.
    pub(crate) fn wait_cameras(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        for _ in 0..self.cameras {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.ended.recv_timeout(left).is_err() {
                tracing::error!(line = self.name, "capture line {} did not stop within {grace:?}", self.name);
                return false;
            }
        }
        true
    }

    /// Decides what is still open, delivers what waits for the broker, says `offline` and ends; false when something was left over.
    pub(crate) fn stop_publisher(&self, grace: Duration) -> bool {
        self.gate.close();
        self.watch.close();
        let Some(publisher) = &self.publisher else { return true };
        let delivered = publisher.stop(grace);
        if !delivered {
            tracing::warn!(line = self.name, ?grace, "messages were left over at the end: see the counters");
        }
        delivered
    }
}

/// The thread that waits for the deadlines of parts, on a line that has them.
fn start_deadlines(config: &LineConfig, gate: &Arc<Gate>) -> anyhow::Result<()> {
    if config.parts.is_none() {
        return Ok(());
    }
    let gate = Arc::clone(gate);
    let spawned = thread::Builder::new().name(format!("lw-gate-{}", config.name)).spawn(move || gate.keep_deadlines());
    spawned.map(drop).context("cannot start the thread of the deadlines")
}

/// As in the decision's message.
fn decision_id(boot_id: &dyn std::fmt::Display, seq: u64) -> String {
    format!("{boot_id}-d-{seq}")
}

fn start_publisher(
    config: &LineConfig,
    events: &Arc<LineEvents>,
    metrics: &Metrics,
    evidence: Option<&Store>,
) -> anyhow::Result<Option<Publisher>> {
    let Some(publisher) = &config.publisher else { return Ok(None) };
    let events = Arc::clone(events);
    let evidence = evidence.cloned();
    let observe = move |event: &PublishEvent| {
        events.published(event);
        let Some(store) = &evidence else { return };
        match event {
            PublishEvent::Acknowledged { kind: MessageKind::Decision, boot_id, seq, .. } => {
                store.acknowledged(&decision_id(boot_id, *seq), "broker", Timestamp::now());
            }
            // Too late for the gate, and perhaps of an earlier run.
            PublishEvent::Acknowledged { kind: MessageKind::Historical, boot_id, seq, .. } => {
                store.acknowledged(&decision_id(boot_id, *seq), "broker_historical", Timestamp::now());
            }
            PublishEvent::GateAcknowledged { id, .. } => {
                store.acknowledged(id, "gate", Timestamp::now());
            }
            _ => {}
        }
    };
    let publisher = Publisher::start(publisher.clone(), Arc::new(observe));
    let publisher = publisher.with_context(|| format!("cannot start the publisher of line `{}`", config.name))?;
    metrics.watch_outbox(&config.name, publisher.clone());
    Ok(Some(publisher))
}

#[cfg(test)]
mod tests {
    use super::CameraState::{Ended, Lost, Running, Starting, Stopped, Unhealthy};
    use super::*;

    #[test]
    fn one_lost_camera_makes_a_lost_line_and_one_running_camera_keeps_it_running() {
        let table = [
            (vec![Starting, Running], "starting"),
            (vec![Running, Running], "running"),
            (vec![Running, Lost], "camera_lost"),
            (vec![Running, Unhealthy], "camera_unhealthy"),
            (vec![Lost, Unhealthy], "camera_lost"),
            (vec![Running, Ended], "running"),
            (vec![Ended, Stopped], "stopped"),
        ];
        for (cameras, expected) in table {
            assert_eq!(word(&cameras), expected, "{cameras:?}");
        }
    }
}
