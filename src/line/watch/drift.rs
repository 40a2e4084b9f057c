//! Which scores are compared with which, to see whether they drift.
//!
//! A model's reference are the scores of all its training pictures, of whatever camera: the line's scores are held against
//! them together. Cameras of one line see different scenes, whose scores differ without anything being wrong; where there
//! are several, each is held against its own beginning as well, which tells the one that drifts.

use std::collections::VecDeque;

use linewarden_core::{Drift, Lead, ModelRef, Reference, ScoredFrame};

use crate::config::{DriftConfig, DriftReference, LineConfig};

/// Frames of one camera that wait for their part's decision.
const MOST_WAITING: usize = 1024;

/// The scores of one line.
pub(super) struct LineDrift {
    config: DriftConfig,
    /// Frames that another model scored are still on their way after a change.
    model: ModelRef,
    scopes: Vec<Scope>,
    /// By camera.
    waiting: Vec<VecDeque<(u64, f64)>>,
}

/// Scores that are compared together.
struct Scope {
    /// None for all of the line.
    camera: Option<usize>,
    drift: Drift,
}

/// What a score led to.
pub(super) enum Noticed {
    /// The scope's own first scores are its reference from now on.
    Learnt,
    Compared(Lead),
}

impl LineDrift {
    /// None when the configuration wants none.
    pub(super) fn of(line: &LineConfig) -> Option<Self> {
        let mut drift = Self::new(line.watch.drift?, line.cameras.len(), line.drift_scopes(), &line.model_ref);
        drift.restart(&line.model_ref, &line.normal_scores);
        Some(drift)
    }

    fn new(config: DriftConfig, cameras: usize, scopes: Vec<Option<usize>>, model: &ModelRef) -> Self {
        let scope = |camera| Scope { camera, drift: Drift::new(None, config.window) };
        Self {
            config,
            model: model.clone(),
            scopes: scopes.into_iter().map(scope).collect(),
            waiting: (0..cameras).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Another model scores, which has a reference of its own.
    pub(super) fn restart(&mut self, model: &ModelRef, normal_scores: &[f64]) {
        self.model.clone_from(model);
        self.waiting.iter_mut().for_each(VecDeque::clear);
        let is_only_camera = self.waiting.len() == 1;
        for scope in &mut self.scopes {
            let is_of_training =
                self.config.reference == DriftReference::Training && (scope.camera.is_none() || is_only_camera);
            let reference = if is_of_training { Reference::new(normal_scores.to_vec()) } else { None };
            scope.drift.restart(reference);
        }
    }

    /// A frame was scored; its part's decision follows, if it shows one.
    pub(super) fn scored(&mut self, camera: usize, scored: &ScoredFrame) {
        if scored.model != self.model {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(camera) else { return };
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
        }
        waiting.push_back((scored.frame, scored.result.anomaly_score));
    }

    /// A part was decided by these frames. Gives what became known, with the number of its scope.
    ///
    /// One frame of each camera counts, the middle one: its neighbours show the same part, and would make few parts look like
    /// many to whoever asks what chance explains.
    pub(super) fn decided(&mut self, frames: &[(usize, u64)]) -> Vec<(usize, Noticed)> {
        let mut noticed = Vec::new();
        for camera in 0..self.waiting.len() {
            let own = frames.iter().filter(|(of, _)| *of == camera);
            let scores: Vec<f64> = own.filter_map(|&(_, frame)| self.take(camera, frame)).collect();
            let Some(&score) = scores.get(scores.len() / 2) else { continue };
            for (number, scope) in self.scopes.iter_mut().enumerate() {
                if scope.camera.is_none_or(|own| own == camera) {
                    noticed.extend(scope.observe(score).map(|outcome| (number, outcome)));
                }
            }
        }
        noticed
    }

    /// The same for a part that is not the line's own.
    pub(super) fn forget(&mut self, frames: &[(usize, u64)]) {
        for &(camera, frame) in frames {
            self.take(camera, frame);
        }
    }

    pub(super) fn is_drifting(&self) -> bool {
        self.scopes.iter().any(|scope| scope.drift.is_drifting())
    }

    /// The scopes whose next scores become their reference.
    pub(super) fn learning(&self) -> impl Iterator<Item = usize> {
        self.scopes.iter().enumerate().filter(|(_, scope)| scope.drift.is_learning()).map(|(number, _)| number)
    }

    pub(super) fn window(&self) -> usize {
        self.config.window
    }

    fn take(&mut self, camera: usize, frame: u64) -> Option<f64> {
        let waiting = self.waiting.get_mut(camera)?;
        let place = waiting.iter().rposition(|(number, _)| *number == frame)?;
        waiting.remove(place).map(|(_, score)| score)
    }
}

impl Scope {
    fn observe(&mut self, score: f64) -> Option<Noticed> {
        let was_learning = self.drift.is_learning();
        let lead = self.drift.observe(score).map(Noticed::Compared);
        if was_learning && !self.drift.is_learning() { Some(Noticed::Learnt) } else { lead }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use linewarden_core::FrameResult;

    use super::*;

    const WINDOW: usize = 20;

    fn model(version: &str) -> ModelRef {
        ModelRef { project: "cap".to_owned(), version: version.to_owned(), sha256: String::new() }
    }

    fn scored(frame: u64, score: f64, version: &str) -> ScoredFrame {
        ScoredFrame {
            camera: String::new(),
            frame,
            pts: None,
            captured_at: Timestamp::UNIX_EPOCH,
            result: FrameResult {
                is_anomalous: false,
                confidence: 0.5,
                anomaly_score: score,
                anomaly_threshold: 0.5,
                anomalies: Vec::new(),
            },
            detection_time: Duration::ZERO,
            model: model(version),
        }
    }

    /// A line that was trained on scores from 0.1 to 0.2.
    fn line(cameras: usize) -> LineDrift {
        let config = DriftConfig { window: WINDOW, reference: DriftReference::Training };
        let whole = (cameras > 1).then_some(None);
        let scopes = whole.into_iter().chain((0..cameras).map(Some)).collect();
        let mut drift = LineDrift::new(config, cameras, scopes, &model("1"));
        drift.restart(&model("1"), &spread(0.1));
        drift
    }

    /// Scores from here on, evenly over a tenth.
    fn spread(from: f64) -> Vec<f64> {
        (0..2 * WINDOW).map(|place| from + 0.1 * (place * 7 % (2 * WINDOW)) as f64 / (2 * WINDOW) as f64).collect()
    }

    /// Each frame is a part; gives the scopes that were told of.
    fn run(drift: &mut LineDrift, camera: usize, scores: &[f64]) -> Vec<usize> {
        let mut told = Vec::new();
        for (frame, &score) in (0..).zip(scores) {
            drift.scored(camera, &scored(frame, score, "1"));
            told.extend(drift.decided(&[(camera, frame)]).into_iter().map(|(scope, _)| scope));
        }
        told
    }

    #[test]
    fn frames_that_show_no_part_and_those_of_a_known_one_and_of_another_model_do_not_count() {
        let mut drift = line(1);
        for (number, score) in (0..).zip(spread(0.1)) {
            let (part, belt, known, old) = (4 * number, 4 * number + 1, 4 * number + 2, 4 * number + 3);
            drift.scored(0, &scored(part, score, "1"));
            drift.scored(0, &scored(belt, 0.9, "1"));
            drift.scored(0, &scored(known, 0.9, "1"));
            drift.scored(0, &scored(old, 0.9, "0"));
            drift.forget(&[(0, known)]);
            drift.decided(&[(0, part), (0, known), (0, old)]);
        }
        assert!(!drift.is_drifting());
        assert_eq!(drift.waiting[0].len(), 2 * WINDOW, "the belt, which nobody asked for");
        run(&mut drift, 0, &spread(0.3));
        assert!(drift.is_drifting());
    }

    #[test]
    fn a_part_counts_once_however_many_frames_show_it() {
        let mut drift = line(1);
        // A few odd parts, each of them long under the camera.
        for part in 0..WINDOW as u64 {
            let frames: Vec<(usize, u64)> = (0..9).map(|frame| (0, 9 * part + frame)).collect();
            let score = if part % 4 == 0 { 0.9 } else { 0.15 };
            let score_of = |frame: u64| if frame % 9 == 4 { score } else { 0.9 };
            frames.iter().for_each(|&(_, frame)| drift.scored(0, &scored(frame, score_of(frame), "1")));
            let told = drift.decided(&frames);
            assert_eq!(told.len(), usize::from(part + 1 == WINDOW as u64), "compared after as many parts");
        }
        assert!(!drift.is_drifting());
        assert!(drift.waiting[0].is_empty());
    }

    #[test]
    fn a_camera_that_always_scores_higher_is_no_alarm_until_it_leaves_its_own_beginning() {
        let mut drift = line(2);
        assert_eq!(drift.learning().collect::<Vec<_>>(), [1, 2], "the line as a whole knows training's scores");
        // One in the lower half of what training saw, one in the upper half.
        let half = |from: f64| spread(0.0).iter().map(|score| from + score / 2.0).collect::<Vec<_>>();
        for _ in 0..2 {
            run(&mut drift, 0, &half(0.1)[..WINDOW / 2]);
            run(&mut drift, 1, &half(0.15)[..WINDOW / 2]);
        }
        assert_eq!(drift.learning().count(), 0);
        for _ in 0..4 {
            run(&mut drift, 0, &half(0.1)[..WINDOW / 2]);
            run(&mut drift, 1, &half(0.15)[..WINDOW / 2]);
        }
        assert!(!drift.is_drifting());
        let told = run(&mut drift, 0, &half(0.15));
        assert!(told.contains(&1), "the camera itself is compared: {told:?}");
        assert!(drift.scopes[1].drift.is_drifting() && !drift.scopes[2].drift.is_drifting());
    }
}
