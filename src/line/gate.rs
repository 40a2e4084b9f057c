//! Where results become decisions: each frame's own on a line without parts, else one a part.
//!
//! Streaming threads tell it captures and outcomes, trigger sources tell it triggers; the lock is held for list operations
//! only. One thread waits for the next deadline. What is decided goes to the publisher and to the events, here and nowhere
//! else.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::parts::{CameraPresence, FrameOutcome, GatePosition, PartDecision, PartTracker, Step, Trigger};
use linewarden_core::{Action, Decision, Reason, ScoredFrame, Verdict};
use linewarden_outputs::LineOutputs;
use linewarden_publish::Publisher;

use super::LineState;
use super::clock::Captured;
use super::decision_id;
use super::watch::Watch;
use super::witness::Witness;
use crate::config::{DecisionConfig, GateConfig, LineConfig, UnknownPolicy};
use crate::events::LineEvents;

/// The gate of one line.
pub(crate) struct Gate {
    decision: DecisionConfig,
    position: GateConfig,
    cameras: Vec<String>,
    publisher: Option<Publisher>,
    outputs: LineOutputs,
    events: Arc<LineEvents>,
    state: Arc<LineState>,
    parts: Option<Parts>,
    watch: Arc<Watch>,
    witness: Option<Witness>,
}

/// The parts of a line that has them.
struct Parts {
    open: Mutex<Open>,
    changed: Condvar,
}

struct Open {
    tracker: PartTracker,
    /// What the thread waits for, while it does.
    waits_for: Option<Timestamp>,
    is_closed: bool,
}

/// Which frame it was.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) camera: usize,
    pub(crate) frame: u64,
    pub(crate) captured: Captured,
}

impl Gate {
    pub(super) fn new(
        line: &LineConfig,
        publisher: Option<Publisher>,
        outputs: LineOutputs,
        events: &Arc<LineEvents>,
        state: &Arc<LineState>,
        watch: &Arc<Watch>,
        witness: Option<Witness>,
    ) -> Self {
        let parts = line.parts.as_ref().map(|parts| {
            let tracker = PartTracker::new(parts.plan.clone());
            let open = Open { tracker, waits_for: None, is_closed: false };
            Parts { open: Mutex::new(open), changed: Condvar::new() }
        });
        let cameras = line.cameras.iter().map(|camera| camera.name.clone()).collect();
        let (decision, position) = (line.decision.clone(), line.gate.clone());
        let (events, state, watch) = (Arc::clone(events), Arc::clone(state), Arc::clone(watch));
        Self { decision, position, cameras, publisher, outputs, events, state, parts, watch, witness }
    }

    /// Whether frames are gathered into parts.
    pub(crate) fn has_parts(&self) -> bool {
        self.parts.is_some()
    }

    /// A frame was captured; its outcome follows.
    pub(crate) fn captured(&self, seen: &Seen) {
        let Captured { at, clock, .. } = seen.captured;
        self.tell(|tracker, now| tracker.captured(seen.camera, seen.frame, at, clock, now));
    }

    /// Who keeps evidence, if it is kept.
    pub(crate) fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref()
    }

    /// The model answered: the answer goes out, and then what it means.
    pub(crate) fn scored(&self, seen: &Seen, scored: &ScoredFrame) {
        if let Some(publisher) = &self.publisher {
            publisher.result(scored);
        }
        self.outputs.scored(scored);
        let outcome = match seen.captured.fault {
            Some(fault) => FrameOutcome::NotScored { reason: Reason::CameraUnhealthy { fault } },
            None => {
                self.watch.scored(seen.camera, scored);
                let (verdict, reason) = self.decision.rules.decide(&scored.result);
                FrameOutcome::Scored { verdict, reason, score: scored.result.anomaly_score }
            }
        };
        self.outcome(seen, outcome);
    }

    /// What became of a frame.
    pub(crate) fn outcome(&self, seen: &Seen, outcome: FrameOutcome) {
        if self.parts.is_some() {
            self.tell(|tracker, now| tracker.outcome(seen.camera, seen.frame, outcome, now));
            return;
        }
        match outcome {
            FrameOutcome::Scored { verdict, reason, .. } => self.decide_frame(seen, verdict, reason),
            FrameOutcome::NotScored { reason } => self.decide_frame(seen, Verdict::Unknown, reason),
            FrameOutcome::NotMeant => {}
        }
    }

    /// A part is there.
    pub(crate) fn trigger(&self, trigger: Trigger) {
        self.tell(|tracker, now| tracker.trigger(trigger, now));
    }

    /// The belt was at `count` then.
    pub(crate) fn encoder(&self, count: i64, at: Timestamp) {
        self.tell(|tracker, _| {
            tracker.encoder(count, at);
            Step::default()
        });
    }

    /// A camera came, failed or ended.
    pub(crate) fn presence(&self, camera: usize, presence: CameraPresence) {
        self.tell(|tracker, now| tracker.presence(camera, presence, now));
    }

    /// A trigger's message says nothing that can be understood.
    pub(crate) fn malformed_trigger(&self, why: &str) {
        self.events.malformed_trigger(why);
    }

    /// Triggers can be heard, or cannot.
    pub(crate) fn triggers_connected(&self, error: Option<&str>) {
        self.events.triggers_connected(error);
    }

    /// Waits for deadlines until the gate closes. Returns at once on a line without parts.
    pub(crate) fn keep_deadlines(&self) {
        let Some(parts) = &self.parts else { return };
        let mut open = parts.lock();
        while !open.is_closed {
            let now = Timestamp::now();
            let step = open.tracker.tick(now);
            if !step.decisions.is_empty() || !step.notes.is_empty() {
                self.events.open_parts(open.tracker.open_parts());
                drop(open);
                self.carry_out(step);
                open = parts.lock();
                continue;
            }
            open.waits_for = open.tracker.next_deadline();
            let left = open.waits_for.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
            open = match left {
                Some(left) => parts.changed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0,
                None => parts.changed.wait(open).unwrap_or_else(PoisonError::into_inner),
            };
            open.waits_for = None;
        }
    }

    /// The cameras have ended: what is open stays unknown, and the thread of the deadlines ends.
    pub(crate) fn close(&self) {
        let Some(parts) = &self.parts else { return };
        self.tell(|tracker, now| tracker.close(&Reason::Stopped, now));
        parts.lock().is_closed = true;
        parts.changed.notify_all();
    }

    fn tell(&self, what: impl FnOnce(&mut PartTracker, Timestamp) -> Step) {
        let Some(parts) = &self.parts else { return };
        let mut open = parts.lock();
        let step = what(&mut open.tracker, Timestamp::now());
        let next = open.tracker.next_deadline();
        // Only what comes before the moment that the thread waits for anyway is worth waking it.
        let is_earlier = next.is_some_and(|next| open.waits_for.is_none_or(|waits_for| next < waits_for));
        self.events.open_parts(open.tracker.open_parts());
        drop(open);
        if is_earlier {
            parts.changed.notify_all();
        }
        self.carry_out(step);
    }

    fn carry_out(&self, step: Step) {
        step.notes.iter().for_each(|note| self.events.part_note(*note));
        step.decisions.into_iter().for_each(|part| self.decide_part(part));
    }

    fn decide_part(&self, part: PartDecision) {
        let frame = |&(camera, frame): &(usize, u64)| {
            let camera = self.cameras.get(camera).map_or("", String::as_str);
            format!("{camera}/{frame}")
        };
        let (first, last) = part.captured.unwrap_or((part.trigger.at, part.trigger.at));
        self.events.part_decided();
        // One that is sent no more is counted by whoever does not send it.
        if part.missed_deadline && part.decided_at < part.expires_at {
            self.events.deadline_missed();
        }
        let decision = Decision {
            part: part.part,
            trigger: part.trigger.number,
            verdict: part.verdict,
            reason: part.reason,
            frames: part.frames.iter().map(frame).collect(),
            captured_at: first,
            decided_at: part.decided_at,
            reject_at: part.reject_at,
            expires_at: part.expires_at,
            action: part.verdict.into(),
            clock: part.clock,
            encoder: part.trigger.encoder,
            last_captured_at: last,
        };
        self.decide(decision, &part.frames);
    }

    fn decide_frame(&self, seen: &Seen, verdict: Verdict, reason: Reason) {
        let Captured { at, clock, .. } = seen.captured;
        let decided_at = Timestamp::now();
        let way = match self.position.position {
            Some(GatePosition::Delay(delay)) => Some(delay),
            // A frame without a trigger has no count.
            Some(GatePosition::Counts(_)) | None => None,
        };
        // Saturates in the year 9999.
        let later = |way| at.checked_add(way).unwrap_or(Timestamp::MAX);
        let reject_at = way.map(later);
        let deadline = reject_at.and_then(|reject_at| reject_at.checked_sub(self.position.decide_before).ok());
        let is_late = deadline.is_some_and(|deadline| decided_at >= deadline);
        let expires_at = reject_at.unwrap_or_else(|| later(self.decision.expires_after));
        if is_late && decided_at < expires_at {
            self.events.deadline_missed();
        }
        let (verdict, reason) = if is_late { (Verdict::Unknown, Reason::Deadline) } else { (verdict, reason) };
        let camera = self.cameras.get(seen.camera).map_or("", String::as_str);
        let decision = Decision {
            part: seen.frame,
            trigger: None,
            verdict,
            reason,
            frames: vec![format!("{camera}/{}", seen.frame)],
            captured_at: at,
            decided_at,
            reject_at,
            expires_at,
            action: verdict.into(),
            clock,
            encoder: None,
            last_captured_at: at,
        };
        self.decide(decision, &[(seen.camera, seen.frame)]);
    }

    /// Gives the line's policy its say, and sends the decision on its way.
    fn decide(&self, mut decision: Decision, frames: &[(usize, u64)]) {
        let verdict = decision.verdict;
        if decision.verdict == Verdict::Unknown {
            (decision.verdict, decision.action) = match self.decision.on_unknown {
                UnknownPolicy::Unknown => (Verdict::Unknown, Action::None),
                UnknownPolicy::Reject => (Verdict::Reject, Action::Reject),
                UnknownPolicy::Pass => (Verdict::Pass, Action::Pass),
                UnknownPolicy::Stop => (Verdict::Unknown, Action::Stop),
            };
        }
        self.events.decided(&decision);
        self.state.ask_to_stop(decision.action == Action::Stop);
        self.outputs.decided(&decision);
        let id = match &self.publisher {
            // An expired decision is not sent; the publisher says so.
            Some(publisher) => {
                let mut seq = None;
                let send = || {
                    seq = publisher.decision(&decision);
                    seq
                };
                self.events.sending(&publisher.boot_id(), decision.last_captured_at, send);
                seq.map(|seq| decision_id(&publisher.boot_id(), seq))
            }
            None => {
                if decision.expires_at <= decision.decided_at {
                    self.events.deadline_missed();
                }
                None
            }
        };
        let watched = self.watch.decided(&decision, verdict, frames);
        let challenge = watched.challenge.as_deref();
        self.witness.iter().for_each(|witness| witness.decided(&decision, id.as_deref(), challenge));
        self.watch.tell(watched);
    }
}

impl Parts {
    /// Locks even after a panic elsewhere: the tracker is valid between its functions.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
