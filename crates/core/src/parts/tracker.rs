//! The machine that opens parts, gives them their frames, and decides each of them once.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::encoder::EncoderRate;
use super::plan::{GatePosition, PartPlan, earlier, later, shifted};
use super::vote::{Ballot, Outcome, ViewState, Vote};
use super::{CameraPresence, FrameOutcome, Note, PartDecision, Step, Trigger};
use crate::decision::{ClockSource, Reason, Verdict};

/// Parts that may be open at a time; a further one closes the oldest as `unknown`.
pub(super) const MOST_OPEN: usize = 128;
/// Frames of a camera that are remembered at a time; a part that still needs one that leaves is `unknown`.
pub(super) const MOST_FRAMES: usize = 1024;
/// Decided parts that are remembered, to tell late frames from stray ones and to know a trigger that comes again.
const MOST_PAST: usize = 256;
/// The same number this close in time is the same trigger, delivered again; a counter that started over takes longer.
const SAME_TRIGGER: SignedDuration = SignedDuration::from_secs(10);
/// A number that jumps further has started over, or was set.
const MOST_MISSED: u64 = 1000;
/// A number this far back was overtaken on its way; one further back started over.
const MOST_OVERTAKEN: u64 = 16;

/// Follows the parts of one line. Every function says what time it is and gives what follows.
pub struct PartTracker {
    plan: PartPlan,
    cameras: Vec<Camera>,
    open: VecDeque<OpenPart>,
    past: VecDeque<PastPart>,
    next_part: u64,
    last_number: Option<u64>,
    rate: EncoderRate,
    /// The latest time that was told.
    now: Timestamp,
}

#[derive(Default)]
struct Camera {
    presence: CameraPresence,
    frames: VecDeque<Frame>,
    latest: Option<Timestamp>,
}

struct Frame {
    frame: u64,
    captured_at: Timestamp,
    clock: ClockSource,
    outcome: Option<FrameOutcome>,
    is_claimed: bool,
}

struct OpenPart {
    part: u64,
    trigger: Trigger,
    deadline: Timestamp,
    reject_at: Option<Timestamp>,
    expires_at: Timestamp,
}

struct PastPart {
    trigger: Trigger,
    /// Its frames were still awaited: one that comes now is late.
    was_cut_short: bool,
}

impl PartTracker {
    /// A tracker without parts.
    pub fn new(plan: PartPlan) -> Self {
        let cameras = plan.cameras.iter().map(|_| Camera::default()).collect();
        let (open, past) = (VecDeque::new(), VecDeque::new());
        Self {
            plan,
            cameras,
            open,
            past,
            next_part: 0,
            last_number: None,
            rate: EncoderRate::default(),
            now: Timestamp::MIN,
        }
    }

    /// A part is there. It also takes the frames of its windows that came before the trigger did.
    pub fn trigger(&mut self, trigger: Trigger, now: Timestamp) -> Step {
        let mut step = self.tick(now);
        if let Some(number) = trigger.number {
            if self.is_known(number, trigger.at) {
                step.notes.push(Note::DuplicateTrigger);
                return step;
            }
            self.follow_number(number, &mut step);
        }
        if let Some(count) = trigger.encoder {
            self.rate.count(count, trigger.at);
        }
        if self.open.len() >= MOST_OPEN {
            step.notes.push(Note::Overflow);
            self.close_first(Reason::Overload, now, &mut step);
        }
        let part = self.opened(trigger);
        if part.deadline <= now {
            step.notes.push(Note::LateTrigger);
        }
        for (camera, view) in self.cameras.iter_mut().zip(&self.plan.cameras) {
            let shown = camera.frames.iter_mut().filter(|frame| view.shows(trigger.at, frame.captured_at));
            shown.for_each(|frame| frame.is_claimed = true);
        }
        self.open.push_back(part);
        self.settle(now, &mut step);
        step
    }

    /// The belt was at `count` then, which tells its speed.
    pub fn encoder(&mut self, count: i64, at: Timestamp) {
        self.rate.count(count, at);
    }

    /// A frame was captured; its outcome follows, if it has not overtaken this message.
    pub fn captured(
        &mut self,
        camera: usize,
        frame: u64,
        captured_at: Timestamp,
        clock: ClockSource,
        now: Timestamp,
    ) -> Step {
        let mut step = self.tick(now);
        let (Some(state), Some(view)) = (self.cameras.get_mut(camera), self.plan.cameras.get(camera)) else {
            return step;
        };
        state.latest = state.latest.max(Some(captured_at));
        let shows = |trigger: &Trigger| view.shows(trigger.at, captured_at);
        let is_claimed = self.open.iter().any(|part| shows(&part.trigger));
        let past = self.past.iter().rev().find(|past| shows(&past.trigger));
        if !is_claimed && past.is_some_and(|past| past.was_cut_short) {
            step.notes.push(Note::LateFrame);
        }
        let is_claimed = is_claimed || past.is_some();
        state.frames.push_back(Frame { frame, captured_at, clock, outcome: None, is_claimed });
        self.forget(camera, now, &mut step);
        self.settle(now, &mut step);
        step
    }

    /// What became of a frame that was captured.
    pub fn outcome(&mut self, camera: usize, frame: u64, outcome: FrameOutcome, now: Timestamp) -> Step {
        let mut step = self.tick(now);
        let (Some(state), Some(view)) = (self.cameras.get_mut(camera), self.plan.cameras.get(camera)) else {
            return step;
        };
        let Some(known) = state.frames.iter_mut().rev().find(|known| known.frame == frame) else { return step };
        if known.outcome.is_some() {
            return step;
        }
        let is_scored = matches!(outcome, FrameOutcome::Scored { .. });
        known.outcome = Some(outcome);
        let captured_at = known.captured_at;
        let shows = |trigger: &Trigger| view.shows(trigger.at, captured_at);
        let is_late = is_scored
            && !self.open.iter().any(|part| shows(&part.trigger))
            && self.past.iter().any(|past| past.was_cut_short && shows(&past.trigger));
        if is_late {
            step.notes.push(Note::LateFrame);
        }
        self.settle(now, &mut step);
        step
    }

    /// A camera came, failed or ended.
    pub fn presence(&mut self, camera: usize, presence: CameraPresence, now: Timestamp) -> Step {
        let mut step = self.tick(now);
        if let Some(state) = self.cameras.get_mut(camera) {
            state.presence = presence;
        }
        self.settle(now, &mut step);
        step
    }

    /// Time went by.
    pub fn tick(&mut self, now: Timestamp) -> Step {
        let mut step = Step::default();
        self.now = self.now.max(now);
        self.settle(now, &mut step);
        step
    }

    /// When [`PartTracker::tick`] should be called, if nothing comes before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.open.iter().map(|part| self.next_change(part)).min()
    }

    /// The line ends: nothing that is open can be decided any more.
    pub fn close(&mut self, reason: &Reason, now: Timestamp) -> Step {
        let mut step = self.tick(now);
        while !self.open.is_empty() {
            self.close_first(reason.clone(), now, &mut step);
        }
        step
    }

    /// How many parts wait for their decision.
    pub fn open_parts(&self) -> usize {
        self.open.len()
    }

    /// Frames that are remembered, of all cameras.
    pub fn remembered_frames(&self) -> usize {
        self.cameras.iter().map(|camera| camera.frames.len()).sum()
    }

    fn opened(&mut self, trigger: Trigger) -> OpenPart {
        let part = self.next_part;
        self.next_part += 1;
        let way = self.plan.gate.and_then(|gate| match gate {
            GatePosition::Delay(delay) => SignedDuration::try_from(delay).ok(),
            GatePosition::Counts(counts) => self.rate.time_for(counts),
        });
        let reject_at = way.map(|way| shifted(trigger.at, way));
        let expires_at = reject_at.unwrap_or_else(|| later(trigger.at, self.plan.expires_after));
        OpenPart { part, trigger, deadline: earlier(expires_at, self.plan.decide_before), reject_at, expires_at }
    }

    fn is_known(&self, number: u64, at: Timestamp) -> bool {
        let triggers = self.open.iter().map(|part| &part.trigger).chain(self.past.iter().map(|past| &past.trigger));
        let is_same = |known: &Trigger| {
            known.number == Some(number) && known.at.duration_since(at).unsigned_abs() < SAME_TRIGGER.unsigned_abs()
        };
        triggers.into_iter().any(is_same)
    }

    fn follow_number(&mut self, number: u64, step: &mut Step) {
        let Some(last) = self.last_number else {
            self.last_number = Some(number);
            return;
        };
        match number.checked_sub(last) {
            Some(ahead @ 2..=MOST_MISSED) => step.notes.push(Note::MissedTriggers(ahead - 1)),
            Some(_) => {}
            None => {
                step.notes.push(Note::OutOfOrderTrigger);
                // A number that was overtaken changes nothing; a counter that started over goes on from there.
                if last - number < MOST_OVERTAKEN {
                    return;
                }
            }
        }
        self.last_number = Some(number);
    }

    /// Forgets frames that no part can ask for any more, and those that there is no room for.
    fn forget(&mut self, camera: usize, now: Timestamp, step: &mut Step) {
        let Some(view) = self.plan.cameras.get(camera) else { return };
        // What the oldest trigger that may still come would show first.
        let oldest = shifted(earlier(now, self.plan.remember), view.offset);
        loop {
            let Some(state) = self.cameras.get_mut(camera) else { return };
            let Some(first) = state.frames.front() else { return };
            let captured_at = first.captured_at;
            let is_full = state.frames.len() > MOST_FRAMES;
            let needed = self.open.iter().position(|part| shows(&self.plan, camera, &part.trigger, captured_at));
            if !is_full && (captured_at >= oldest || needed.is_some()) {
                return;
            }
            if let Some(place) = needed {
                step.notes.push(Note::Overflow);
                self.close_at(place, Reason::Overload, now, step);
                continue;
            }
            if !first.is_claimed {
                step.notes.push(Note::StrayFrame);
            }
            state.frames.pop_front();
        }
    }

    /// From its deadline on, a part can only be `unknown`.
    fn expire(&mut self, now: Timestamp, step: &mut Step) {
        while let Some(place) = self.open.iter().position(|part| part.deadline <= now) {
            let Some(part) = self.open.get(place) else { return };
            let reason = self.vote(part, now).why_undecided();
            step.notes.push(Note::DeadlineMissed);
            self.close_at(place, reason, now, step);
        }
    }

    /// Decides what can be decided.
    fn settle(&mut self, now: Timestamp, step: &mut Step) {
        self.expire(now, step);
        let mut place = 0;
        while let Some(part) = self.open.get(place) {
            match self.vote(part, now).outcome() {
                Some(outcome) => self.decide_at(place, outcome, false, now, step),
                None => place += 1,
            }
        }
    }

    fn close_first(&mut self, reason: Reason, now: Timestamp, step: &mut Step) {
        self.close_at(0, reason, now, step);
    }

    fn close_at(&mut self, place: usize, reason: Reason, now: Timestamp, step: &mut Step) {
        let outcome = Outcome { verdict: Verdict::Unknown, reason, is_view_missing: false };
        self.decide_at(place, outcome, true, now, step);
    }

    fn decide_at(&mut self, place: usize, outcome: Outcome, was_cut_short: bool, now: Timestamp, step: &mut Step) {
        let Some(part) = self.open.get(place) else { return };
        let vote = self.vote(part, now);
        let frames = vote.ballots().iter().filter(|ballot| ballot.is_scored());
        let frames = frames.map(|ballot| (ballot.camera, ballot.frame)).collect();
        let first = vote.ballots().first();
        let captured = first.zip(vote.ballots().last()).map(|(first, last)| (first.captured_at, last.captured_at));
        let clock = first.map_or(ClockSource::Arrival, |first| first.clock);
        if outcome.is_view_missing {
            step.notes.push(Note::MissingView);
        }
        step.decisions.push(PartDecision {
            part: part.part,
            trigger: part.trigger,
            verdict: outcome.verdict,
            reason: outcome.reason,
            frames,
            captured,
            clock,
            decided_at: now,
            reject_at: part.reject_at,
            expires_at: part.expires_at,
            missed_deadline: part.deadline <= now,
        });
        let trigger = part.trigger;
        self.open.remove(place);
        if self.past.len() >= MOST_PAST {
            self.past.pop_front();
        }
        // A view that was over without a frame may still get one late.
        let was_cut_short = was_cut_short || outcome.is_view_missing;
        self.past.push_back(PastPart { trigger, was_cut_short });
    }

    fn vote<'a>(&'a self, part: &OpenPart, now: Timestamp) -> Vote<'a> {
        let mut ballots = Vec::new();
        let mut views = Vec::new();
        for (index, (camera, view)) in self.cameras.iter().zip(&self.plan.cameras).enumerate() {
            let end = view.end(part.trigger.at);
            views.push(camera.view_state(end, later(end, self.plan.grace), now));
            for frame in &camera.frames {
                if !view.shows(part.trigger.at, frame.captured_at) || frame.outcome == Some(FrameOutcome::NotMeant) {
                    continue;
                }
                ballots.push(Ballot {
                    camera: index,
                    frame: frame.frame,
                    captured_at: frame.captured_at,
                    clock: frame.clock,
                    outcome: frame.outcome.as_ref(),
                });
            }
        }
        Vote::new(&self.plan, ballots, views)
    }

    /// The end of the first window that nobody has seen the end of, or the deadline.
    fn next_change(&self, part: &OpenPart) -> Timestamp {
        let ends = self.cameras.iter().zip(&self.plan.cameras).filter_map(|(camera, view)| {
            let end = view.end(part.trigger.at);
            let is_past = camera.latest.is_some_and(|latest| latest >= end) || camera.presence == CameraPresence::Ended;
            (!is_past).then(|| later(end, self.plan.grace))
        });
        // Ends that went by without a verdict change nothing any more.
        ends.filter(|end| self.now < *end).min().map_or(part.deadline, |end| end.min(part.deadline))
    }
}

fn shows(plan: &PartPlan, camera: usize, trigger: &Trigger, captured_at: Timestamp) -> bool {
    plan.cameras.get(camera).is_some_and(|view| view.shows(trigger.at, captured_at))
}

impl Camera {
    fn view_state(&self, end: Timestamp, patience_ends: Timestamp, now: Timestamp) -> ViewState {
        let is_over = now >= patience_ends
            || self.latest.is_some_and(|latest| latest >= end)
            || self.presence == CameraPresence::Ended;
        ViewState { is_over, presence: self.presence }
    }
}
