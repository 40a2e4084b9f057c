//! Whether a camera's pictures can be trusted: frozen, black, over-exposed, out of focus, moved.
//!
//! What a glance at each picture told comes in as a [`Look`]; a change goes out when a fault begins or ends. Each fault
//! must last before it counts, and be gone for a while before it is over. What is normal is learnt from the first healthy
//! pictures, for no number fits a dark field, a white backlight and a printed label alike, or is given. Pure: the caller
//! says what time it is.

use std::time::Duration;

/// What can be wrong with a camera that delivers pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The same picture again and again.
    Frozen,
    /// No light, or the lid is on.
    Black,
    /// Too much of the picture is clipped white.
    OverExposed,
    /// Edges are softer than they were.
    OutOfFocus,
    /// What stands still in the picture is not where it was.
    Moved,
}

/// What a fault leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPolicy {
    /// It is not looked for.
    Off,
    /// It is told and counted.
    Warn,
    /// It is told, counted, and what the camera shows meanwhile is `unknown`.
    Unknown,
}

/// What one picture told at a glance. Brightness is from 0 to 255, shares are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Look {
    /// Mean brightness.
    pub mean: f32,
    /// Share of nearly black points.
    pub dark_share: f32,
    /// Share of clipped white points.
    pub bright_share: f32,
    /// How much of the contrast lies in fine edges; none where there is too little contrast to tell.
    pub sharpness: Option<f32>,
    /// Mean difference to the picture before; none for a first one.
    pub change: Option<f32>,
    /// How far the picture's still part is the one that was learnt, up to 1; none while that is learnt.
    pub likeness: Option<f32>,
}

/// Rules for one fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRule {
    /// What it leads to.
    pub policy: FaultPolicy,
    /// How long it must last.
    pub after: Duration,
    /// The limit, where it is given instead of learnt: least change, least mean brightness, most clipped share, least
    /// sharpness, least likeness.
    pub limit: Option<f32>,
}

/// Rules for a camera.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthRules {
    /// One for each fault, in the order of [`Fault::ALL`].
    pub faults: [FaultRule; 5],
    /// How long a fault must be gone before it is over. A frozen picture is over with its first change.
    pub clear_after: Duration,
    /// How many healthy pictures teach what is normal.
    pub learn_frames: u32,
}

/// The health of one camera.
#[derive(Debug, Clone)]
pub struct Health {
    rules: HealthRules,
    watches: [Watch; 5],
    normal: Normal,
}

/// One fault's way on and off.
#[derive(Debug, Clone, Copy, Default)]
struct Watch {
    is_on: bool,
    /// Since when pictures say otherwise.
    otherwise_since: Option<Duration>,
}

/// What healthy pictures looked like.
#[derive(Debug, Clone, Default)]
struct Normal {
    looks: Vec<Look>,
    likenesses: Vec<f32>,
    learnt: Option<Learnt>,
    likeness: Option<f32>,
}

#[derive(Debug, Clone, Copy)]
struct Learnt {
    mean: f32,
    bright_share: f32,
    sharpness: Option<f32>,
    change: f32,
}

/// A picture with fewer dark points is not black, however dark the rest.
const BLACK_SHARE: f32 = 0.95;
/// Limits before anything is learnt: pictures beyond them teach nothing.
const BLACK_MEAN: f32 = 8.0;
const GLARE_SHARE: f32 = 0.9;
/// Limits as shares of what was learnt.
const OF_MEAN: f32 = 0.25;
const OF_SHARPNESS: f32 = 0.4;
const OF_CHANGE: f32 = 0.1;
const OF_LIKENESS: f32 = 0.7;
/// More clipped than learnt.
const MORE_GLARE: f32 = 0.25;
const MOST_GLARE: f32 = 0.98;
/// Where pictures are less like each other than this, nothing in them stands still.
const STILL: f32 = 0.5;

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 5] = [Self::Frozen, Self::Black, Self::OverExposed, Self::OutOfFocus, Self::Moved];

    /// The name in configurations, messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Black => "black",
            Self::OverExposed => "over_exposed",
            Self::OutOfFocus => "out_of_focus",
            Self::Moved => "moved",
        }
    }
}

impl Default for HealthRules {
    /// A frozen picture passes every bad part, so it makes `unknown`; the others are told.
    fn default() -> Self {
        let rule = |policy, seconds| FaultRule { policy, after: Duration::from_secs(seconds), limit: None };
        let warn = FaultPolicy::Warn;
        Self {
            faults: [rule(FaultPolicy::Unknown, 10), rule(warn, 2), rule(warn, 2), rule(warn, 5), rule(warn, 5)],
            clear_after: Duration::from_secs(1),
            learn_frames: 100,
        }
    }
}

impl Health {
    /// Nothing is known of the camera yet.
    pub fn new(rules: HealthRules) -> Self {
        Self { rules, watches: [Watch::default(); 5], normal: Normal::default() }
    }

    /// A picture, `at` so long after a fixed moment: the faults that begin (true) or end with it.
    pub fn look(&mut self, at: Duration, look: &Look) -> Vec<(Fault, bool)> {
        let judged = self.judge(look);
        let mut changes = Vec::new();
        for ((fault, is_bad), (watch, rule)) in
            Fault::ALL.into_iter().zip(judged).zip(self.watches.iter_mut().zip(self.rules.faults))
        {
            // Any change at all proves that the picture lives.
            let clear_after = if fault == Fault::Frozen { Duration::ZERO } else { self.rules.clear_after };
            let is_bad = is_bad.filter(|_| rule.policy != FaultPolicy::Off);
            if watch.told(is_bad, at, rule.after, clear_after) {
                changes.push((fault, watch.is_on));
            }
        }
        if judged.iter().all(|is_bad| *is_bad != Some(true)) {
            self.normal.learn(look, self.rules.learn_frames);
        }
        changes
    }

    /// Whether the pictures of this moment still teach what stands still in them.
    pub fn is_learning(&self) -> bool {
        self.normal.learnt.is_none()
    }

    /// Whether this picture teaches: nothing is wrong with it as far as one can tell.
    pub fn teaches(&self, look: &Look) -> bool {
        self.is_learning() && self.judge(look).iter().all(|is_bad| *is_bad != Some(true))
    }

    /// Whether the fault is there.
    pub fn has(&self, fault: Fault) -> bool {
        self.watches[fault as usize].is_on
    }

    /// The first fault that makes what the camera shows `unknown`.
    pub fn distrusted(&self) -> Option<Fault> {
        let is_distrusted =
            |fault: &Fault| self.has(*fault) && self.rules.faults[*fault as usize].policy == FaultPolicy::Unknown;
        Fault::ALL.into_iter().find(is_distrusted)
    }

    /// For each fault whether the picture shows it; none where it cannot tell.
    fn judge(&self, look: &Look) -> [Option<bool>; 5] {
        let limit = |fault: Fault| self.rules.faults[fault as usize].limit;
        let learnt = self.normal.learnt;
        let black_mean =
            limit(Fault::Black).unwrap_or_else(|| learnt.map_or(BLACK_MEAN, |learnt| learnt.mean * OF_MEAN));
        let is_black = look.mean <= black_mean && look.dark_share >= BLACK_SHARE;
        let glare = limit(Fault::OverExposed)
            .unwrap_or_else(|| learnt.map_or(GLARE_SHARE, |learnt| (learnt.bright_share + MORE_GLARE).min(MOST_GLARE)));
        let is_glaring = look.bright_share >= glare;
        // Without light there is no focus to judge, and nothing that could move.
        let is_lit = !is_black && !is_glaring;
        let below = |value: Option<f32>, limit: Option<f32>| Some(value? <= limit?).filter(|_| is_lit);
        let change = limit(Fault::Frozen).or(learnt.map(|learnt| learnt.change * OF_CHANGE));
        let sharpness = limit(Fault::OutOfFocus).or(learnt.and_then(|learnt| Some(learnt.sharpness? * OF_SHARPNESS)));
        let likeness = limit(Fault::Moved).or(self.normal.likeness.map(|likeness| likeness * OF_LIKENESS));
        [
            below(look.change, change),
            Some(is_black),
            Some(is_glaring),
            below(look.sharpness, sharpness),
            below(look.likeness, likeness),
        ]
    }
}

impl Watch {
    /// Whether this flips the fault.
    fn told(&mut self, is_bad: Option<bool>, at: Duration, after: Duration, clear_after: Duration) -> bool {
        let Some(is_bad) = is_bad else { return false };
        if is_bad == self.is_on {
            self.otherwise_since = None;
            return false;
        }
        let since = *self.otherwise_since.get_or_insert(at);
        let needed = if is_bad { after } else { clear_after };
        if at.saturating_sub(since) < needed {
            return false;
        }
        *self = Self { is_on: is_bad, otherwise_since: None };
        true
    }
}

impl Normal {
    fn learn(&mut self, look: &Look, frames: u32) {
        let enough = frames.max(1) as usize;
        if self.learnt.is_none() {
            self.looks.push(*look);
            if self.looks.len() >= enough {
                self.learnt = Some(Learnt::from(&self.looks));
                self.looks = Vec::new();
            }
            return;
        }
        if let (None, Some(likeness)) = (self.likeness, look.likeness) {
            self.likenesses.push(likeness);
            if self.likenesses.len() >= enough {
                // Parts that pass hide some of what stands still; most pictures are at least this alike. Where nothing
                // stands still, the limit is one that nothing falls below.
                let usual = quantile(&self.likenesses, 0.1).unwrap_or(0.0);
                self.likeness = Some(if usual >= STILL { usual } else { f32::NEG_INFINITY });
                self.likenesses = Vec::new();
            }
        }
    }
}

impl Learnt {
    fn from(looks: &[Look]) -> Self {
        let all = |value: fn(&Look) -> Option<f32>| looks.iter().filter_map(value).collect::<Vec<f32>>();
        Self {
            mean: quantile(&all(|look| Some(look.mean)), 0.5).unwrap_or(0.0),
            bright_share: quantile(&all(|look| Some(look.bright_share)), 0.9).unwrap_or(0.0),
            // An empty belt may be soft; what was sharp among the first pictures must be sharp again some time.
            sharpness: quantile(&all(|look| look.sharpness), 0.75),
            // Between parts the picture is stiller than with one.
            change: quantile(&all(|look| look.change), 0.1).unwrap_or(0.0),
        }
    }
}

fn quantile(values: &[f32], share: f32) -> Option<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f32 * share).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Look = Look {
        mean: 120.0,
        dark_share: 0.02,
        bright_share: 0.01,
        sharpness: Some(0.2),
        change: Some(1.5),
        likeness: Some(0.95),
    };
    const STEP: Duration = Duration::from_millis(100);

    fn rules(after_ms: u64) -> HealthRules {
        let after = Duration::from_millis(after_ms);
        let rule = FaultRule { policy: FaultPolicy::Unknown, after, limit: None };
        HealthRules { faults: [rule; 5], clear_after: Duration::from_millis(300), learn_frames: 10 }
    }

    /// A health that has learnt, and the time.
    fn learnt(rules: HealthRules, look: Look) -> (Health, Duration) {
        let mut health = Health::new(rules);
        let mut at = Duration::ZERO;
        for _ in 0..20 {
            assert_eq!(health.look(at, &look), []);
            at += STEP;
        }
        assert!(!health.is_learning());
        (health, at)
    }

    /// What each look, 100 ms apart, changes.
    fn changes(health: &mut Health, at: &mut Duration, looks: &[Look]) -> Vec<String> {
        let mut told = Vec::new();
        for look in looks {
            for (fault, is_on) in health.look(*at, look) {
                told.push(format!("{}{}", if is_on { "+" } else { "-" }, fault.as_str()));
            }
            *at += STEP;
        }
        told
    }

    #[test]
    fn each_fault_is_told_once_when_it_lasts_and_once_when_it_is_over() {
        let table = [
            (Look { change: Some(0.0), ..GOOD }, "frozen"),
            (Look { mean: 3.0, dark_share: 1.0, sharpness: None, ..GOOD }, "black"),
            (Look { mean: 240.0, bright_share: 0.6, ..GOOD }, "over_exposed"),
            (Look { sharpness: Some(0.03), ..GOOD }, "out_of_focus"),
            (Look { likeness: Some(0.3), ..GOOD }, "moved"),
        ];
        for (bad, name) in table {
            let (mut health, mut at) = learnt(rules(500), GOOD);
            let (on, off) = (format!("+{name}"), format!("-{name}"));
            assert_eq!(changes(&mut health, &mut at, &[bad; 5]), [""; 0], "{name}: too early");
            assert_eq!(changes(&mut health, &mut at, &[bad; 20]), [on], "{name}");
            assert_eq!(health.distrusted().map(Fault::as_str), Some(name));
            assert_eq!(changes(&mut health, &mut at, &[GOOD; 20]), [off], "{name}");
            assert_eq!(health.distrusted(), None);
        }
    }

    #[test]
    fn a_fault_that_comes_and_goes_is_none() {
        let (mut health, mut at) = learnt(rules(500), GOOD);
        let soft = Look { sharpness: Some(0.03), ..GOOD };
        for _ in 0..20 {
            assert_eq!(changes(&mut health, &mut at, &[soft, soft, soft, soft, GOOD]), [""; 0]);
        }
        // And one that is there does not end for one good picture.
        assert_eq!(changes(&mut health, &mut at, &[soft; 10]), ["+out_of_focus"]);
        assert_eq!(changes(&mut health, &mut at, &[GOOD, soft, GOOD, GOOD, soft]), [""; 0]);
    }

    #[test]
    fn a_frozen_picture_is_over_with_its_first_change() {
        let (mut health, mut at) = learnt(rules(500), GOOD);
        let still = Look { change: Some(0.0), ..GOOD };
        assert_eq!(changes(&mut health, &mut at, &[still; 10]), ["+frozen"]);
        assert_eq!(changes(&mut health, &mut at, &[GOOD]), ["-frozen"]);
    }

    #[test]
    fn what_is_normal_for_one_camera_is_not_for_another() {
        let dark_field = Look { mean: 6.0, dark_share: 0.93, ..GOOD };
        let backlight = Look { mean: 220.0, bright_share: 0.7, ..GOOD };
        for normal in [dark_field, backlight] {
            let (mut health, mut at) = learnt(rules(500), normal);
            assert_eq!(changes(&mut health, &mut at, &[normal; 30]), [""; 0]);
        }
        let (mut health, mut at) = learnt(rules(500), dark_field);
        assert_eq!(changes(&mut health, &mut at, &[Look { mean: 1.0, dark_share: 1.0, ..GOOD }; 10]), ["+black"]);
    }

    #[test]
    fn a_scene_without_anything_still_never_moves_and_a_flat_one_is_never_soft() {
        let belt = Look { likeness: Some(0.2), sharpness: None, ..GOOD };
        let (mut health, mut at) = learnt(rules(500), belt);
        let elsewhere = Look { likeness: Some(-0.2), ..belt };
        assert_eq!(changes(&mut health, &mut at, &[elsewhere; 30]), [""; 0]);
    }

    #[test]
    fn faulty_pictures_teach_nothing() {
        let black = Look { mean: 2.0, dark_share: 1.0, ..GOOD };
        let mut health = Health::new(rules(500));
        let mut at = Duration::ZERO;
        assert_eq!(changes(&mut health, &mut at, &[black; 30]), ["+black"]);
        assert!(health.is_learning());
        assert_eq!(changes(&mut health, &mut at, &[GOOD; 30]), ["-black"]);
        assert!(!health.is_learning());
    }

    #[test]
    fn given_limits_count_from_the_first_picture() {
        let mut given = rules(500);
        given.faults[Fault::OutOfFocus as usize].limit = Some(0.3);
        let mut health = Health::new(given);
        let mut at = Duration::ZERO;
        assert_eq!(changes(&mut health, &mut at, &[GOOD; 10]), ["+out_of_focus"]);
    }

    #[test]
    fn a_fault_that_is_off_is_not_told_and_one_that_warns_distrusts_nothing() {
        let mut off = rules(500);
        off.faults[Fault::Moved as usize].policy = FaultPolicy::Off;
        off.faults[Fault::Black as usize].policy = FaultPolicy::Warn;
        let (mut health, mut at) = learnt(off, GOOD);
        assert_eq!(changes(&mut health, &mut at, &[Look { likeness: Some(0.0), ..GOOD }; 30]), [""; 0]);
        assert_eq!(changes(&mut health, &mut at, &[Look { mean: 1.0, dark_share: 1.0, ..GOOD }; 30]), ["+black"]);
        assert_eq!(health.distrusted(), None);
        assert!(health.has(Fault::Black));
    }
}
