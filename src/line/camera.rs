//! The supervisor of one camera: runs its pipeline, restarts it when it fails, ends it when told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::frames::Frames;
use super::pipeline::{Notice, Pipeline};
use super::stop::Stop;
use super::{CameraState, LineState};
use crate::config::{CameraConfig, LineConfig};

/// How often the supervisor looks whether it is to stop and whether frames come.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A pipeline that ran this long was healthy: its next failure is a first one.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

pub(crate) struct Camera {
    line: LineConfig,
    config: CameraConfig,
    index: usize,
    grace: Duration,
    frames: Arc<Frames>,
    state: Arc<LineState>,
    stop: Arc<Stop>,
}

/// How a pipeline's run ended.
enum Outcome {
    Ended,
    Stopped,
    Failed(String),
}

impl Camera {
    pub(crate) fn new(
        line: &LineConfig,
        config: &CameraConfig,
        index: usize,
        grace: Duration,
        frames: Arc<Frames>,
        state: Arc<LineState>,
        stop: Arc<Stop>,
    ) -> Self {
        Self { line: line.clone(), config: config.clone(), index, grace, frames, state, stop }
    }

    /// Returns when the camera has ended for good.
    pub(crate) fn run(&self) {
        let events = self.frames.events();
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let outcome = self.run_pipeline();
            let error = match outcome {
                Outcome::Ended => {
                    events.source_ended();
                    return self.set_state(CameraState::Ended);
                }
                Outcome::Stopped => break,
                Outcome::Failed(error) => error,
            };
            if started.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            events.camera_lost(&error, delay);
            self.set_state(CameraState::Lost);
            if self.stop.wait(delay) {
                break;
            }
            events.pipeline_restarting();
        }
        events.pipeline_stopped();
        self.set_state(CameraState::Stopped);
    }

    fn set_state(&self, state: CameraState) {
        self.state.set(self.index, state);
    }

    /// Runs the pipeline once, and leaves nothing of it behind.
    fn run_pipeline(&self) -> Outcome {
        let events = self.frames.events();
        let (outcome, was_running) = match Pipeline::start(&self.line, &self.config, &self.frames) {
            Ok(pipeline) => self.watch(&pipeline),
            Err(error) => (Outcome::Failed(format!("{error:#}")), false),
        };
        // The pipeline is stopped by now, so nothing can come through any more.
        self.frames.give_up();
        events.pipeline_gone(was_running);
        outcome
    }

    /// Follows the pipeline to its end; also tells whether it ever ran.
    fn watch(&self, pipeline: &Pipeline) -> (Outcome, bool) {
        let events = self.frames.events();
        let mut is_running = false;
        let mut ending_since = None;
        loop {
            match pipeline.next_notice(LOOK_EVERY) {
                Some(Notice::Playing) if !is_running => {
                    is_running = true;
                    events.pipeline_running(&pipeline.device());
                    self.set_state(CameraState::Running);
                }
                Some(Notice::Playing) | None => {}
                Some(Notice::Warned(warning)) => events.pipeline_warned(&warning),
                Some(Notice::Failed(_)) if ending_since.is_some() => return (Outcome::Stopped, is_running),
                Some(Notice::Failed(error)) => return (Outcome::Failed(error), is_running),
                Some(Notice::Ended) if ending_since.is_some() => return (Outcome::Stopped, is_running),
                Some(Notice::Ended) => return (self.source_ended(), is_running),
            }
            if let Some(since) = ending_since {
                if Instant::elapsed(&since) > self.grace {
                    events.did_not_stop(self.grace);
                    return (Outcome::Stopped, is_running);
                }
                continue;
            }
            if self.stop.is_set() {
                if !is_running {
                    return (Outcome::Stopped, is_running);
                }
                pipeline.end();
                ending_since = Some(Instant::now());
                continue;
            }
            if self.config.capture.live && self.frames.last_arrival().elapsed() > self.config.stall_after {
                let error = format!("no frame within {:?}", self.config.stall_after);
                return (Outcome::Failed(error), is_running);
            }
        }
    }

    /// A camera does not end; a file does.
    fn source_ended(&self) -> Outcome {
        match self.config.capture.live {
            true => Outcome::Failed("the camera ended its stream".to_owned()),
            false => Outcome::Ended,
        }
    }
}
