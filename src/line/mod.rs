//! One capture line: its cameras' pipelines, each on a thread of its own, and what becomes of their frames.
//!
//! A [`LineConfig`](crate::config::LineConfig) comes in; results, decisions and the line's state go to the publisher,
//! and everything that happens to `events.rs`. Nothing here knows how a message travels or how a series is named.

mod backoff;
mod camera;
mod folder;
mod frames;
mod pipeline;
pub(crate) mod source;
mod stop;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use linewarden_publish::Publisher;

use crate::config::{Config, LineConfig};
use crate::events::{CameraEvents, LineEvents};
use crate::metrics::Metrics;
use camera::Camera;
use frames::{Frames, Gate};
use stop::Stop;

/// What a camera does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CameraState {
    /// Its first frame has not come yet.
    Starting,
    Running,
    /// It failed and is tried again.
    Lost,
    /// Its finite source came to its end.
    Ended,
    /// It was told to stop.
    Stopped,
}

/// The states of a line's cameras, and the line's own state that follows from them.
struct LineState {
    cameras: Mutex<Vec<CameraState>>,
    publisher: Option<Publisher>,
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
}

impl LineState {
    fn set(&self, camera: usize, state: CameraState) {
        let mut cameras = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        let before = word(&cameras);
        if let Some(slot) = cameras.get_mut(camera) {
            *slot = state;
        }
        let after = word(&cameras);
        if before != after {
            // Under the lock, so that two cameras cannot tell their changes in the wrong order.
            self.events.state_changed(after);
            self.publisher.iter().for_each(|publisher| publisher.set_state(after));
        }
    }

    fn all(&self, is: impl Fn(CameraState) -> bool) -> bool {
        self.cameras.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|&state| is(state))
    }
}

/// What the line says in its retained state.
fn word(cameras: &[CameraState]) -> &'static str {
    let any = |state| cameras.contains(&state);
    if any(CameraState::Lost) {
        "camera_lost"
    } else if any(CameraState::Starting) {
        "starting"
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
        metrics: &Arc<Metrics>,
        on_end: impl Fn() + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let events = Arc::new(LineEvents::new(&config.name, metrics.line(config)));
        let publisher = start_publisher(config, &events, metrics)?;
        let cameras = Mutex::new(vec![CameraState::Starting; config.cameras.len()]);
        let state = Arc::new(LineState { cameras, publisher: publisher.clone(), events: Arc::clone(&events) });
        publisher.iter().for_each(|publisher| publisher.set_state("starting"));
        let stop = Arc::new(Stop::default());
        let gate = Arc::new(Gate { decision: config.decision.clone(), publisher: publisher.clone(), events });
        let on_end = Arc::new(on_end);
        let (ended_sender, ended) = mpsc::channel();
        for (index, camera) in config.cameras.iter().enumerate() {
            let events = CameraEvents::new(&config.name, &camera.name, metrics.camera(config, &camera.name));
            let frames = Arc::new(Frames::new(&camera.name, config.interval, Arc::clone(&gate), events));
            let camera = Camera::new(
                config,
                camera,
                index,
                daemon.shutdown_grace,
                frames,
                Arc::clone(&state),
                Arc::clone(&stop),
            );
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
        Ok(Self { name: config.name.clone(), publisher, state, stop, cameras: config.cameras.len(), ended })
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

    /// Tells the cameras to end. Returns at once.
    pub(crate) fn request_stop(&self) {
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

    /// Delivers what waits for the broker, says `offline` and ends; false when something was left over.
    pub(crate) fn stop_publisher(&self, grace: Duration) -> bool {
        let Some(publisher) = &self.publisher else { return true };
        let delivered = publisher.stop(grace);
        if !delivered {
            tracing::warn!(line = self.name, ?grace, "messages were left over at the end: see the counters");
        }
        delivered
    }
}

fn start_publisher(
    config: &LineConfig,
    events: &Arc<LineEvents>,
    metrics: &Metrics,
) -> anyhow::Result<Option<Publisher>> {
    let Some(publisher) = &config.publisher else { return Ok(None) };
    let events = Arc::clone(events);
    let publisher = Publisher::start(publisher.clone(), Arc::new(move |event| events.published(event)));
    let publisher = publisher.with_context(|| format!("cannot start the publisher of line `{}`", config.name))?;
    metrics.watch_outbox(&config.name, publisher.clone());
    Ok(Some(publisher))
}

#[cfg(test)]
mod tests {
    use super::CameraState::{Ended, Lost, Running, Starting, Stopped};
    use super::*;

    #[test]
    fn one_lost_camera_makes_a_lost_line_and_one_running_camera_keeps_it_running() {
        let table = [
            (vec![Starting, Running], "starting"),
            (vec![Running, Running], "running"),
            (vec![Running, Lost], "camera_lost"),
            (vec![Running, Ended], "running"),
            (vec![Ended, Stopped], "stopped"),
        ];
        for (cameras, expected) in table {
            assert_eq!(word(&cameras), expected, "{cameras:?}");
        }
    }
}
