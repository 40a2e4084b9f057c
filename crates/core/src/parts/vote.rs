//! What a part's frames say together. Pure: a list of ballots in, a verdict or "not yet" out.

use jiff::Timestamp;

use super::plan::{MissingView, PartPlan, PartPolicy};
use super::{CameraPresence, FrameOutcome};
use crate::decision::{ClockSource, Reason, Verdict};

/// One frame that shows the part.
pub(super) struct Ballot<'a> {
    pub(super) camera: usize,
    pub(super) frame: u64,
    pub(super) captured_at: Timestamp,
    pub(super) clock: ClockSource,
    /// None while it is on its way.
    pub(super) outcome: Option<&'a FrameOutcome>,
}

/// What is known of one camera's view besides its frames.
#[derive(Clone, Copy)]
pub(super) struct ViewState {
    /// No further frame of it will come.
    pub(super) is_over: bool,
    pub(super) presence: CameraPresence,
}

/// A verdict, and whether views were missing.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) is_view_missing: bool,
}

/// The frames of one part, in the order of capture, and how far its views are.
pub(super) struct Vote<'a> {
    plan: &'a PartPlan,
    ballots: Vec<Ballot<'a>>,
    views: Vec<ViewState>,
}

struct Scored<'a> {
    verdict: Verdict,
    reason: &'a Reason,
    score: f64,
}

impl<'a> Vote<'a> {
    /// `views` has one entry a camera of the plan.
    pub(super) fn new(plan: &'a PartPlan, mut ballots: Vec<Ballot<'a>>, mut views: Vec<ViewState>) -> Self {
        ballots.sort_by_key(|ballot| (ballot.captured_at, ballot.camera, ballot.frame));
        for (camera, view) in plan.cameras.iter().enumerate() {
            let Some(most) = view.max_frames else { continue };
            keep_first(&mut ballots, most, |ballot| ballot.camera == camera);
            let is_full = ballots.iter().filter(|ballot| ballot.camera == camera && ballot.may_count()).count() == most;
            if let Some(state) = views.get_mut(camera) {
                state.is_over |= is_full;
            }
        }
        if let PartPolicy::KOfN { n: Some(n), .. } = plan.policy {
            keep_first(&mut ballots, n, |_| true);
            if ballots.iter().filter(|ballot| ballot.may_count()).count() == n {
                views.iter_mut().for_each(|view| view.is_over = true);
            }
        }
        Self { plan, ballots, views }
    }

    pub(super) fn ballots(&self) -> &[Ballot<'a>] {
        &self.ballots
    }

    /// The verdict, as soon as nothing that may still come can change it.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.early_reject().or_else(|| self.is_complete().then(|| self.final_outcome()))
    }

    fn scored(&self) -> impl Iterator<Item = Scored<'a>> + '_ {
        self.ballots.iter().filter_map(|ballot| match ballot.outcome {
            Some(FrameOutcome::Scored { verdict, reason, score }) => {
                Some(Scored { verdict: *verdict, reason, score: *score })
            }
            _ => None,
        })
    }

    fn rejects(&self) -> impl Iterator<Item = Scored<'a>> + '_ {
        self.scored().filter(|scored| scored.verdict == Verdict::Reject)
    }

    fn is_complete(&self) -> bool {
        self.views.iter().all(|view| view.is_over) && self.ballots.iter().all(|ballot| ballot.outcome.is_some())
    }

    /// The reject that no further frame can take back.
    fn early_reject(&self) -> Option<Outcome> {
        let rejected = |reason: Reason| Outcome { verdict: Verdict::Reject, reason, is_view_missing: false };
        match self.plan.policy {
            PartPolicy::Any => worst(self.rejects()).map(|worst| rejected(worst.reason.clone())),
            PartPolicy::KOfN { k, .. } => {
                let rejects = self.rejects().count();
                (rejects >= k).then(|| rejected(Reason::Votes { rejects, frames: self.scored().count() }))
            }
            PartPolicy::All | PartPolicy::Worst => None,
        }
    }

    fn final_outcome(&self) -> Outcome {
        let missing = self.missing();
        let is_view_missing = missing.is_some();
        let found = |(verdict, reason)| Outcome { verdict, reason, is_view_missing };
        let voted = self.voted();
        match (missing, voted) {
            (None, Some(voted)) => found(voted),
            // A defect that was seen does not heal because another camera was blind.
            (Some(_), Some(voted)) if voted.0 == Verdict::Reject && self.plan.policy == PartPolicy::Worst => {
                found(voted)
            }
            (Some(_), Some(voted)) if self.plan.missing_view == MissingView::Ignore => found(voted),
            (missing, _) => {
                let verdict = match self.plan.missing_view {
                    MissingView::Reject => Verdict::Reject,
                    MissingView::Unknown | MissingView::Ignore => Verdict::Unknown,
                };
                found((verdict, missing.unwrap_or(Reason::NoFrames)))
            }
        }
    }

    /// What the scored frames say, if there are any.
    fn voted(&self) -> Option<(Verdict, Reason)> {
        let worst = worst(self.scored())?;
        let frames = self.scored().count();
        let rejects = self.rejects().count();
        Some(match self.plan.policy {
            PartPolicy::Any | PartPolicy::Worst => (worst.verdict, worst.reason.clone()),
            PartPolicy::All if rejects == frames => (Verdict::Reject, worst.reason.clone()),
            PartPolicy::All => (Verdict::Pass, Reason::Votes { rejects, frames }),
            PartPolicy::KOfN { .. } => (Verdict::Pass, Reason::Votes { rejects, frames }),
        })
    }

    /// Why the part was not seen as it should have been, if it was not.
    fn missing(&self) -> Option<Reason> {
        let of_views = self.plan.cameras.iter().enumerate().find_map(|(camera, view)| {
            let scored = self.ballots.iter().filter(|ballot| ballot.camera == camera && ballot.is_scored()).count();
            (scored < view.min_frames).then(|| self.why_missing(camera))
        });
        let PartPolicy::KOfN { n: Some(n), .. } = self.plan.policy else { return of_views };
        let scored = self.scored().count();
        of_views.or_else(|| (scored < n).then_some(Reason::TooFewFrames { frames: scored, needed: n }))
    }

    fn why_missing(&self, camera: usize) -> Reason {
        let name = self.plan.cameras.get(camera).map(|view| view.name.clone()).unwrap_or_default();
        let ballots = || self.ballots.iter().filter(move |ballot| ballot.camera == camera);
        let not_scored = ballots().find_map(|ballot| match ballot.outcome {
            Some(FrameOutcome::NotScored { reason }) => Some(reason.clone()),
            _ => None,
        });
        let presence = self.views.get(camera).map_or(CameraPresence::Running, |view| view.presence);
        match (presence, not_scored) {
            (CameraPresence::Lost, _) => Reason::CameraLost { camera: name },
            (_, Some(reason)) => reason,
            (CameraPresence::Starting, None) => Reason::CameraStarting { camera: name },
            (CameraPresence::Running | CameraPresence::Ended, None) => Reason::MissingView { camera: name },
        }
    }

    /// Why the part is not decided when it must be.
    pub(super) fn why_undecided(&self) -> Reason {
        let is_pending = |camera| self.ballots.iter().any(|ballot| ballot.camera == camera && ballot.outcome.is_none());
        let has_ballot = |camera| self.ballots.iter().any(|ballot| ballot.camera == camera);
        let blind = self.views.iter().enumerate().find_map(|(camera, view)| {
            let is_absent = matches!(view.presence, CameraPresence::Lost | CameraPresence::Starting);
            (is_absent && !is_pending(camera) || view.is_over && !has_ballot(camera)).then(|| self.why_missing(camera))
        });
        if let Some(reason) = blind {
            return reason;
        }
        let was_too_much = self.ballots.iter().any(|ballot| match ballot.outcome {
            None => true,
            Some(FrameOutcome::NotScored { reason }) => matches!(reason, Reason::Overload),
            Some(_) => false,
        });
        match self.views.iter().all(|view| view.is_over) && was_too_much {
            true => Reason::Overload,
            false => Reason::Deadline,
        }
    }
}

impl Ballot<'_> {
    pub(super) fn is_scored(&self) -> bool {
        matches!(self.outcome, Some(FrameOutcome::Scored { .. }))
    }

    /// Whether it was scored, or may be yet.
    fn may_count(&self) -> bool {
        self.outcome.is_none() || self.is_scored()
    }
}

/// Of those that `belong`, the first `most` that count or may yet, and the ones without a vote before them.
fn keep_first(ballots: &mut Vec<Ballot<'_>>, most: usize, belongs: impl Fn(&Ballot<'_>) -> bool) {
    let mut counted = 0;
    ballots.retain(|ballot| {
        if !belongs(ballot) {
            return true;
        }
        let is_kept = counted < most;
        counted += usize::from(ballot.may_count());
        is_kept
    });
}

fn worst<'a>(scored: impl Iterator<Item = Scored<'a>>) -> Option<Scored<'a>> {
    // A reject goes before a pass of the same score.
    scored.max_by(|left, right| {
        left.score
            .total_cmp(&right.score)
            .then((left.verdict == Verdict::Reject).cmp(&(right.verdict == Verdict::Reject)))
    })
}
