//! The health of one camera: looks at its pictures, and tells what begins and ends.
//!
//! Lives as long as the camera, so that what was learnt outlives a cut. Runs on the source's streaming thread; the lock is
//! that thread's alone while a pipeline runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use linewarden_core::health::{Fault, Health, Look};
use linewarden_model::FrameView;
use linewarden_model::glance::{Background, BackgroundLearner, Glance};

use crate::config::HealthConfig;
use crate::events::CameraEvents;

/// Looks at the pictures of one camera.
pub(crate) struct CameraHealth {
    began: Instant,
    /// Told when the first fault begins and when the last one is over.
    on_change: Box<dyn Fn(bool) + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    health: Health,
    learner: BackgroundLearner,
    background: Option<Background>,
    before: Option<Glance>,
}

impl CameraHealth {
    /// None when no fault is looked for.
    pub(crate) fn new(config: &HealthConfig, on_change: impl Fn(bool) + Send + Sync + 'static) -> Option<Self> {
        let health = Health::new(config.rules.clone()?);
        let state = State { health, learner: BackgroundLearner::default(), background: None, before: None };
        Some(Self { began: Instant::now(), on_change: Box::new(on_change), state: Mutex::new(state) })
    }

    /// Another pipeline starts: its first picture has none before it.
    pub(crate) fn begin(&self) {
        self.state().before = None;
    }

    /// A picture came. Tells the fault that makes it `unknown`, if one does.
    pub(crate) fn look(&self, view: &FrameView<'_>, events: &CameraEvents) -> Option<Fault> {
        // A view's own region always lies within it.
        let glance = Glance::of(view, None).ok()?;
        let mut guard = self.state();
        let state = &mut *guard;
        let look = Look {
            mean: glance.mean(),
            dark_share: glance.dark_share(),
            bright_share: glance.bright_share(),
            sharpness: glance.sharpness(),
            change: state.before.as_ref().map(|before| glance.change(before)),
            likeness: state.background.as_ref().and_then(|background| background.likeness(&glance)),
        };
        let (was_learning, was_ill) = (state.health.is_learning(), state.is_ill());
        let teaches = state.health.teaches(&look);
        let changes = state.health.look(self.began.elapsed(), &look);
        if teaches {
            state.learner.learn(&glance);
        }
        if was_learning && !state.health.is_learning() {
            state.background = std::mem::take(&mut state.learner).background();
            events.health_learnt(&look);
        }
        for (fault, is_on) in changes {
            let shift = state.background.as_ref().filter(|_| is_on && fault == Fault::Moved);
            events.health_changed(fault, is_on, &look, shift.and_then(|background| background.shift(&glance)));
        }
        state.before = Some(glance);
        let (is_ill, distrusted) = (state.is_ill(), state.health.distrusted());
        drop(guard);
        if is_ill != was_ill {
            (self.on_change)(is_ill);
        }
        distrusted
    }

    /// Whether the camera has a fault, of whatever policy.
    pub(crate) fn is_ill(&self) -> bool {
        self.state().is_ill()
    }

    /// Locks even after a panic elsewhere: between two statements every state is a valid one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_ill(&self) -> bool {
        Fault::ALL.into_iter().any(|fault| self.health.has(fault))
    }
}
