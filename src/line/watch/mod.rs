//! What is watched of a line beside the verdict of each part: whether its scores drift, whether chance explains its rejects,
//! and whether it still tells known parts apart.
//!
//! The gate hands over scores and decisions after they are on their way; the lock is held for list operations and sums. What
//! changes is told as an event, as an alarm in the line's retained state, and, of challenges, as a message and a record of
//! the evidence. One thread waits for what is due at a certain time. Nothing here changes a verdict.

mod challenge;
mod drift;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_core::{
    Challenge, ChallengeError, Challenger, Control, Decision, Duty, ModelRef, Outcome, RejectChart, ScoredFrame,
    Verdict,
};
use linewarden_evidence::Store;
use linewarden_publish::Publisher;
use serde_json::{Value, json};

use crate::config::LineConfig;
use crate::events::LineEvents;
pub(crate) use challenge::{Refusal, Request};
use drift::{LineDrift, Noticed};

/// What came out of a challenge is of interest for the shift that it began.
const OUTCOME_EXPIRY: Duration = Duration::from_secs(3600);
const CHALLENGE_OVERDUE: &str = "challenge_overdue";

/// Watches one line.
pub(crate) struct Watch {
    line: String,
    publisher: Option<Publisher>,
    evidence: Option<Store>,
    events: Arc<LineEvents>,
    state: Mutex<State>,
    /// Something is due earlier than it was, or the line ends.
    changed: Condvar,
}

struct State {
    model: ModelRef,
    drift: Option<LineDrift>,
    chart: Option<RejectChart>,
    challenger: Challenger,
    duty: Option<Duty>,
    last: Option<(Outcome, ModelRef)>,
    /// The alarms that were told last.
    told: Vec<&'static str>,
    is_closed: bool,
}

/// What a part was to the watch.
#[derive(Default)]
pub(crate) struct Watched {
    /// The challenge that it belongs to.
    pub(crate) challenge: Option<String>,
    /// That challenge, when this was its last part.
    outcome: Option<(Outcome, ModelRef)>,
}

impl Watch {
    pub(super) fn start(
        line: &LineConfig,
        publisher: Option<&Publisher>,
        evidence: Option<&Store>,
        events: &Arc<LineEvents>,
    ) -> anyhow::Result<Arc<Self>> {
        let state = State {
            model: line.model_ref.clone(),
            drift: LineDrift::of(line),
            chart: line.watch.reject_chart.map(|chart| RejectChart::new(chart.usual_share, chart.window)),
            challenger: Challenger::default(),
            duty: line.watch.challenge_every.map(Duty::new),
            last: None,
            told: Vec::new(),
            is_closed: false,
        };
        let watch = Arc::new(Self {
            line: line.name.clone(),
            publisher: publisher.cloned(),
            evidence: evidence.cloned(),
            events: Arc::clone(events),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        watch.tell_learning(&watch.lock());
        watch.tell_alarms(&mut watch.lock());
        let clock = Arc::clone(&watch);
        let spawned = thread::Builder::new().name(format!("lw-watch-{}", line.name)).spawn(move || clock.keep_time());
        spawned.context("cannot start the thread of the watch")?;
        Ok(watch)
    }

    /// Locks even after a panic elsewhere: each machine is valid between its functions.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame was scored, of a picture that can be trusted.
    pub(super) fn scored(&self, camera: usize, scored: &ScoredFrame) {
        if let Some(drift) = &mut self.lock().drift {
            drift.scored(camera, scored);
        }
    }

    /// A part was decided, by these frames; `verdict` is what they said, before the policy for unknown parts.
    pub(super) fn decided(&self, decision: &Decision, verdict: Verdict, frames: &[(usize, u64)]) -> Watched {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(name) = state.challenger.takes(decision.captured_at).map(str::to_owned) {
            // Parts that somebody made bad say nothing of the line's own.
            state.drift.iter_mut().for_each(|drift| drift.forget(frames));
            let outcome = state.challenger.decided(decision.part, verdict, decision.decided_at);
            let outcome = outcome.map(|outcome| state.enter(outcome, decision.decided_at));
            return Watched { challenge: Some(name), outcome };
        }
        if let Some(drift) = &mut state.drift {
            for (scope, noticed) in drift.decided(frames) {
                match noticed {
                    Noticed::Learnt => self.events.drift_learnt(scope),
                    Noticed::Compared(lead) => self.events.drift_compared(scope, lead),
                }
            }
        }
        // Nobody knows whether an unknown part is one to reject.
        if let Some(chart) = state.chart.as_mut().filter(|_| verdict != Verdict::Unknown) {
            let before = chart.state();
            if let Some(after) = chart.observe(verdict == Verdict::Reject) {
                self.events.reject_chart_changed(before, after, chart.share(), chart.usual_share());
            }
            self.events.reject_share(chart.share());
        }
        self.tell_alarms(state);
        Watched::default()
    }

    /// Tells what a part brought to its end, once the part itself is on its way.
    pub(super) fn tell(&self, watched: Watched) {
        let Some((outcome, model)) = watched.outcome else { return };
        // The next one is due at a time now, or no longer.
        self.changed.notify_all();
        self.events.challenge_ended(&outcome);
        let told = challenge::ended(&outcome, &model);
        self.note("challenge", &told);
        self.tell_alarms(&mut self.lock());
        let Some(publisher) = &self.publisher else { return };
        let mut message = json!({ "schema": 1, "line": self.line });
        if let (Some(message), Value::Object(told)) = (message.as_object_mut(), told) {
            message.extend(told);
        }
        publisher.aside("challenge", message.to_string().as_bytes(), OUTCOME_EXPIRY);
    }

    /// Another model scores from now on: what was seen of the one before says nothing of it.
    pub(super) fn model_changed(&self, model: &ModelRef, normal_scores: &[f64]) {
        let now = Timestamp::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        let outcome = state.challenger.end(now).map(|outcome| state.enter(outcome, now));
        state.model.clone_from(model);
        if let Some(drift) = &mut state.drift {
            drift.restart(model, normal_scores);
        }
        state.duty.iter_mut().for_each(Duty::void);
        self.events.drift_restarted();
        self.tell_learning(state);
        self.tell_alarms(state);
        drop(guard);
        self.tell(Watched { challenge: None, outcome });
        self.note("model", &json!(model));
    }

    /// Announces a challenge: the parts that are captured from now on belong to it. Gives it as it is told.
    pub(crate) fn announce(&self, request: Request) -> Result<Value, Refusal> {
        let challenge: Challenge = request.checked()?;
        let now = Timestamp::now();
        let mut state = self.lock();
        let announced = challenge::announced(&challenge, now);
        let accepted = state.challenger.announce(challenge.clone(), now);
        drop(state);
        accepted.map_err(|error| match error {
            ChallengeError::Running(_) => Refusal::Busy(error.to_string()),
            ChallengeError::Count(_) | ChallengeError::Verdict => Refusal::Wrong(error.to_string()),
        })?;
        self.events.challenge_announced(&challenge);
        self.changed.notify_all();
        Ok(announced)
    }

    /// The challenge that runs, and the one that ended last.
    pub(crate) fn challenges(&self) -> Value {
        let state = self.lock();
        let running = state.challenger.running().map(|(challenge, from)| challenge::announced(challenge, from));
        let last = state.last.as_ref().map(|(outcome, model)| challenge::ended(outcome, model));
        let due_at = state.duty.as_ref().and_then(Duty::due_at).map(|due_at| format!("{due_at:.6}"));
        let is_overdue = state.duty.as_ref().is_some_and(Duty::is_overdue);
        json!({ "line": self.line, "running": running, "last": last, "due_at": due_at, "overdue": is_overdue })
    }

    /// No part comes any more: what runs has failed, and the thread ends.
    pub(super) fn close(&self) {
        let now = Timestamp::now();
        let mut state = self.lock();
        state.is_closed = true;
        let outcome = state.challenger.end(now).map(|outcome| state.enter(outcome, now));
        drop(state);
        self.changed.notify_all();
        self.tell(Watched { challenge: None, outcome });
    }

    /// Waits for what is due at a certain time, until the line ends.
    fn keep_time(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            let now = Timestamp::now();
            if let Some(outcome) = state.challenger.tick(now) {
                let outcome = Some(state.enter(outcome, now));
                drop(state);
                self.tell(Watched { challenge: None, outcome });
                state = self.lock();
                continue;
            }
            state.duty.iter_mut().for_each(|duty| duty.tick(now));
            self.tell_alarms(&mut state);
            let next = state.challenger.deadline().into_iter().chain(state.duty.as_ref().and_then(Duty::due_at)).min();
            let left = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
            state = match left {
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Under the lock, so that two changes cannot be told in the wrong order.
    fn tell_alarms(&self, state: &mut State) {
        let alarms = state.alarms();
        if alarms == state.told {
            return;
        }
        let is_overdue = alarms.contains(&CHALLENGE_OVERDUE);
        if is_overdue != state.told.contains(&CHALLENGE_OVERDUE) {
            self.events.challenge_overdue(is_overdue);
        }
        self.publisher.iter().for_each(|publisher| publisher.set_alarms(&alarms));
        state.told = alarms;
    }

    fn tell_learning(&self, state: &State) {
        let Some(drift) = &state.drift else { return };
        drift.learning().for_each(|scope| self.events.drift_learns(scope, drift.window()));
    }

    /// Keeps what is no part among the evidence.
    fn note(&self, what: &str, body: &Value) {
        let Some(store) = &self.evidence else { return };
        store.note(json!({ "line": self.line, what: body }));
    }
}

impl State {
    /// A challenge ended.
    fn enter(&mut self, outcome: Outcome, now: Timestamp) -> (Outcome, ModelRef) {
        self.duty.iter_mut().for_each(|duty| duty.ended(outcome.has_passed, now));
        let ended = (outcome, self.model.clone());
        self.last = Some(ended.clone());
        ended
    }

    /// What is wrong though the line runs.
    fn alarms(&self) -> Vec<&'static str> {
        let alarms = [
            (self.drift.as_ref().is_some_and(LineDrift::is_drifting), "score_drift"),
            (self.is(Control::TooMany), "too_many_rejects"),
            (self.is(Control::TooFew), "too_few_rejects"),
            (self.last.as_ref().is_some_and(|(outcome, _)| !outcome.has_passed), "challenge_failed"),
            (self.duty.as_ref().is_some_and(Duty::is_overdue), CHALLENGE_OVERDUE),
        ];
        alarms.into_iter().filter(|(is_on, _)| *is_on).map(|(_, alarm)| alarm).collect()
    }

    fn is(&self, control: Control) -> bool {
        self.chart.as_ref().is_some_and(|chart| chart.state() == control)
    }
}
