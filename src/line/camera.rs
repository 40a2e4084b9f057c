//! The supervisor of one camera: runs its pipeline, restarts it when it fails, ends it when told.
//!
//! A camera that went away is tried again at least once a second, so that its return shows within two; the loaded model is
//! kept meanwhile. A model that does not load is tried ever more seldom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linewarden_core::Backoff;
use linewarden_model::memory;

use super::frames::Frames;
use super::health::CameraHealth;
use super::models::LineModels;
use super::pipeline::{Notice, Pipeline, Scorer};
use super::stop::Stop;
use super::{CameraState, LineState};
use crate::config::{CameraConfig, LineConfig};

/// How often the supervisor looks whether it is to stop and whether frames come.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A pipeline that ran this long was healthy: its next failure is a first one.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A camera may take this long to its first frame: it shakes hands, and some send a whole picture only every few seconds.
const START_WITHIN: Duration = Duration::from_secs(10);
/// A model takes long to load and seldom mends itself.
const FIRST_OF_MODEL: Duration = Duration::from_millis(500);
const LONGEST_OF_MODEL: Duration = Duration::from_secs(30);
/// Not even a camera that fails at once is tried more often.
const LEAST_DELAY: Duration = Duration::from_millis(100);
/// A camera that stays away for the same reason is told of so often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the cameras of a line share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) grace: Duration,
    pub(super) models: Arc<LineModels>,
    pub(super) state: Arc<LineState>,
    pub(super) stop: Arc<Stop>,
}

pub(super) struct Camera {
    line: LineConfig,
    config: CameraConfig,
    index: usize,
    grace: Duration,
    frames: Arc<Frames>,
    models: Arc<LineModels>,
    health: Option<Arc<CameraHealth>>,
    state: Arc<LineState>,
    stop: Arc<Stop>,
}

/// How a pipeline's run ended.
enum Outcome {
    Ended,
    Stopped,
    Failed(Failure),
}

/// Why a pipeline failed.
struct Failure {
    error: String,
    cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The camera, or the way to it.
    Source,
    /// The model does not load.
    Model,
    /// The loaded model does not work.
    Scorer,
}

/// What was told of a camera that is away.
#[derive(Default)]
struct News {
    last: Option<(String, Instant)>,
}

impl Camera {
    pub(super) fn new(
        line: &LineConfig,
        config: &CameraConfig,
        index: usize,
        frames: Arc<Frames>,
        common: Common,
    ) -> Self {
        let Common { grace, models, state, stop } = common;
        let of_line = Arc::clone(&state);
        let health = CameraHealth::new(&config.health, move |is_ill| of_line.set_ill(index, is_ill)).map(Arc::new);
        Self { line: line.clone(), config: config.clone(), index, grace, frames, models, health, state, stop }
    }

    /// Returns when the camera has ended for good.
    pub(super) fn run(&self) {
        let events = self.frames.events();
        let (mut of_source, mut of_model) = (Backoff::of_peer(), Backoff::new(FIRST_OF_MODEL, LONGEST_OF_MODEL));
        let mut news = News::default();
        let (mut scorer, mut is_returning) = (None, false);
        loop {
            let started = Instant::now();
            let failure = match self.run_pipeline(&mut scorer, is_returning) {
                Outcome::Ended => {
                    events.source_ended();
                    return self.set_state(CameraState::Ended);
                }
                Outcome::Stopped => break,
                Outcome::Failed(failure) => failure,
            };
            is_returning = true;
            let ran_for = started.elapsed();
            if ran_for >= HEALTHY_AFTER {
                of_source.reset();
                of_model.reset();
                news = News::default();
            }
            // An attempt that took its time has been a wait already.
            let delay = match failure.cause {
                Cause::Model | Cause::Scorer => of_model.next_delay(),
                Cause::Source => of_source.next_delay().saturating_sub(ran_for).max(LEAST_DELAY),
            };
            events.camera_lost(&failure.error, delay, news.is_news(&failure.error));
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
        self.frames.presence(state.into());
        self.state.set(self.index, state);
    }

    /// Runs the pipeline once, and leaves nothing of it behind but the loaded model.
    fn run_pipeline(&self, scorer: &mut Option<Scorer>, is_returning: bool) -> Outcome {
        let events = self.frames.events();
        let start = |scorer: &Scorer| {
            Pipeline::start(&self.line, &self.config, &self.frames, self.health.as_ref(), scorer, is_returning)
        };
        let (outcome, was_running) = match self.loaded(scorer) {
            Ok(loaded) => match start(loaded) {
                Ok(pipeline) => self.follow(&pipeline),
                Err(error) => (failed(format!("{error:#}")), false),
            },
            Err(error) => (failed_by(format!("{error:#}"), Cause::Model), false),
        };
        if let Outcome::Failed(Failure { cause: Cause::Scorer, .. }) = outcome {
            *scorer = None;
        }
        // The pipeline is stopped by now, so nothing can come through any more.
        self.frames.give_up();
        events.pipeline_gone(was_running);
        memory::give_back();
        outcome
    }

    /// The model, loaded now if it was not before.
    fn loaded<'a>(&self, scorer: &'a mut Option<Scorer>) -> anyhow::Result<&'a Scorer> {
        match scorer {
            Some(scorer) => Ok(scorer),
            None => {
                let loaded = self.models.load(self.index, |model| {
                    let scorer = Scorer::load(&self.line, model)?;
                    let element = scorer.element()?;
                    Ok((scorer, element))
                })?;
                self.frames.scorer_loaded();
                Ok(scorer.insert(loaded))
            }
        }
    }

    /// Follows the pipeline to its end; also tells whether it ever ran.
    fn follow(&self, pipeline: &Pipeline) -> (Outcome, bool) {
        let events = self.frames.events();
        let started = Instant::now();
        let (mut is_running, mut has_frames) = (false, false);
        let mut ending_since = None;
        loop {
            let notice = pipeline.next_notice(LOOK_EVERY);
            let last_frame = self.frames.last_arrival();
            // A camera that is away has a running pipeline too: only frames prove that it is there.
            if last_frame.is_some() && !has_frames {
                has_frames = true;
                let is_ill = self.health.as_ref().is_some_and(|health| health.is_ill());
                self.set_state(if is_ill { CameraState::Unhealthy } else { CameraState::Running });
            }
            match notice {
                Some(Notice::Playing) if !is_running => {
                    is_running = true;
                    events.pipeline_running(&pipeline.device());
                }
                Some(Notice::Playing) | None => {}
                Some(Notice::Warned(warning)) => events.pipeline_warned(&warning),
                Some(Notice::Failed { .. } | Notice::Ended) if ending_since.is_some() => {
                    return (Outcome::Stopped, is_running);
                }
                Some(Notice::Failed { error, spoils_scorer }) => {
                    let cause = if spoils_scorer { Cause::Scorer } else { Cause::Source };
                    return (failed_by(error, cause), is_running);
                }
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
                // Nothing of a camera that is away is under way: there is no end to wait for.
                if !is_running || (self.config.capture.live && !has_frames) {
                    return (Outcome::Stopped, is_running);
                }
                pipeline.end();
                ending_since = Some(Instant::now());
                continue;
            }
            if self.config.capture.live
                && let Some(error) = self.stalled(started, last_frame)
            {
                return (failed(error), is_running);
            }
        }
    }

    /// What to say of a camera that delivers nothing for too long.
    fn stalled(&self, started: Instant, last_frame: Option<Instant>) -> Option<String> {
        let (since, patience) = match last_frame {
            Some(at) => (at, self.config.stall_after),
            None => (started, self.config.stall_after.max(START_WITHIN)),
        };
        (since.elapsed() > patience).then(|| format!("no frame within {patience:?}"))
    }

    /// A camera does not end; a file does.
    fn source_ended(&self) -> Outcome {
        match self.config.capture.live {
            true => failed("the camera ended its stream".to_owned()),
            false => Outcome::Ended,
        }
    }
}

fn failed(error: String) -> Outcome {
    failed_by(error, Cause::Source)
}

fn failed_by(error: String, cause: Cause) -> Outcome {
    Outcome::Failed(Failure { error, cause })
}

impl News {
    /// Whether this error must be told: it is another one, or was told long ago.
    fn is_news(&mut self, error: &str) -> bool {
        if self.last.as_ref().is_some_and(|(last, at)| last == error && at.elapsed() < TELL_EVERY) {
            return false;
        }
        self.last = Some((error.to_owned(), Instant::now()));
        true
    }
}
