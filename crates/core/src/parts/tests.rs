use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::tracker::{MOST_FRAMES, MOST_OPEN};
use super::*;
use crate::decision::Verdict::{Pass, Reject, Unknown};

/// A view from the trigger on, for 100 ms; a verdict 50 ms before the gate at 400 ms.
fn plan(cameras: &[&str], policy: PartPolicy) -> PartPlan {
    let view = |name: &&str| CameraView {
        name: (*name).to_owned(),
        offset: SignedDuration::ZERO,
        window: Duration::from_millis(100),
        min_frames: 1,
        max_frames: None,
    };
    PartPlan {
        cameras: cameras.iter().map(view).collect(),
        policy,
        missing_view: MissingView::Unknown,
        grace: Duration::from_millis(50),
        gate: Some(GatePosition::Delay(Duration::from_millis(400))),
        decide_before: Duration::from_millis(50),
        expires_after: Duration::from_secs(2),
        remember: Duration::from_secs(5),
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn scored(score: f64) -> FrameOutcome {
    let (verdict, reason) = match score > 0.5 {
        true => (Reject, Reason::Confidence { confidence: score }),
        false => (Pass, Reason::Normal),
    };
    FrameOutcome::Scored { verdict, reason, score }
}

fn dropped() -> FrameOutcome {
    FrameOutcome::NotScored { reason: Reason::Overload }
}

/// A tracker with a story: times are milliseconds, frames of a camera are numbered by their moment.
struct Story {
    tracker: PartTracker,
    decisions: Vec<PartDecision>,
    notes: Vec<Note>,
}

impl Story {
    fn new(plan: PartPlan) -> Self {
        let tracker = PartTracker::new(plan);
        let mut story = Self { tracker, decisions: Vec::new(), notes: Vec::new() };
        for camera in 0..8 {
            story.presence(camera, CameraPresence::Running, -10_000);
        }
        story
    }

    fn keep(&mut self, step: Step) -> &mut Self {
        self.decisions.extend(step.decisions);
        self.notes.extend(step.notes);
        self
    }

    fn trigger(&mut self, number: u64, happened: i64, now: i64) -> &mut Self {
        let step = self.tracker.trigger(Trigger { number: Some(number), encoder: None, at: at(happened) }, at(now));
        self.keep(step)
    }

    fn captured(&mut self, camera: usize, ms: i64) -> &mut Self {
        self.captured_later(camera, ms, ms)
    }

    fn captured_later(&mut self, camera: usize, ms: i64, now: i64) -> &mut Self {
        let step = self.tracker.captured(camera, ms as u64, at(ms), ClockSource::Ntp, at(now));
        self.keep(step)
    }

    fn outcome(&mut self, camera: usize, frame: i64, outcome: FrameOutcome, now: i64) -> &mut Self {
        let step = self.tracker.outcome(camera, frame as u64, outcome, at(now));
        self.keep(step)
    }

    /// Captured, and scored 20 ms later.
    fn frame(&mut self, camera: usize, ms: i64, score: f64) -> &mut Self {
        self.captured(camera, ms).outcome(camera, ms, scored(score), ms + 20)
    }

    fn presence(&mut self, camera: usize, presence: CameraPresence, now: i64) -> &mut Self {
        let step = self.tracker.presence(camera, presence, at(now));
        self.keep(step)
    }

    /// Lets time go by until then, as the thread that waits for deadlines does.
    fn until(&mut self, ms: i64) -> &mut Self {
        while let Some(next) = self.tracker.next_deadline().filter(|next| *next <= at(ms)) {
            let step = self.tracker.tick(next);
            self.keep(step);
        }
        let step = self.tracker.tick(at(ms));
        self.keep(step)
    }

    /// Part, verdict, reason and moment of every decision.
    fn told(&self) -> Vec<(u64, Verdict, String, i64)> {
        let ms = |moment: Timestamp| moment.as_millisecond() - at(0).as_millisecond();
        let told = |decision: &PartDecision| {
            (decision.part, decision.verdict, decision.reason.to_string(), ms(decision.decided_at))
        };
        self.decisions.iter().map(told).collect()
    }

    fn verdict(&self) -> Option<(Verdict, String)> {
        assert!(self.decisions.len() <= 1, "{:?}", self.told());
        self.decisions.first().map(|decision| (decision.verdict, decision.reason.to_string()))
    }
}

#[test]
fn a_part_seen_by_two_cameras_gets_one_decision_with_its_number_and_its_frames() {
    let mut story = Story::new(plan(&["top", "side"], PartPolicy::Any));
    story.captured(0, -20).outcome(0, -20, scored(0.9), 0);
    story.trigger(41, 0, 1).frame(0, 10, 0.1).frame(1, 31, 0.2).frame(0, 52, 0.3);
    assert_eq!(story.verdict(), None, "the windows are not over");
    story.captured(0, 105).captured(1, 106).until(1000);
    assert_eq!(story.told(), [(0, Pass, "normal".to_owned(), 106)]);
    let decision = &story.decisions[0];
    assert_eq!(decision.trigger.number, Some(41));
    assert_eq!(decision.frames, [(0, 10), (1, 31), (0, 52)]);
    assert_eq!(decision.captured, Some((at(10), at(52))));
    assert_eq!(decision.clock, ClockSource::Ntp);
    assert_eq!((decision.reject_at, decision.expires_at), (Some(at(400)), at(400)));
    assert_eq!(story.notes, []);
}

#[test]
fn each_policy_says_what_the_frames_say_together() {
    use PartPolicy::{All, Any, KOfN, Worst};
    let (two, two_of_three) = (KOfN { k: 2, n: None }, KOfN { k: 2, n: Some(3) });
    let table: &[(PartPolicy, &[f64], Verdict, &str)] = &[
        (Any, &[0.1, 0.2, 0.3], Pass, "normal"),
        (Any, &[0.1, 0.9, 0.3], Reject, "confidence: 0.9000"),
        (All, &[0.9, 0.8, 0.7], Reject, "confidence: 0.9000"),
        (All, &[0.9, 0.8, 0.2], Pass, "votes: 2 of 3"),
        (two, &[0.9, 0.1, 0.1], Pass, "votes: 1 of 3"),
        (two, &[0.9, 0.1, 0.8], Reject, "votes: 2 of 3"),
        (two_of_three, &[0.1, 0.2, 0.9, 0.9], Pass, "votes: 1 of 3"),
        (two_of_three, &[0.1, 0.8, 0.9, 0.1], Reject, "votes: 2 of 3"),
        (two_of_three, &[0.1, 0.1], Unknown, "too_few_frames: 2 of 3"),
        (two_of_three, &[0.9, 0.8], Reject, "votes: 2 of 2"),
        (Worst, &[0.1, 0.6, 0.4], Reject, "confidence: 0.6000"),
        (Worst, &[0.1, 0.4], Pass, "normal"),
        (Any, &[], Unknown, "missing_view: top"),
    ];
    for (policy, scores, verdict, reason) in table {
        let mut story = Story::new(plan(&["top"], *policy));
        story.trigger(1, 0, 0);
        for (index, score) in scores.iter().enumerate() {
            story.frame(0, 10 + 21 * index as i64, *score);
        }
        story.captured(0, 120).until(1000);
        assert_eq!(story.verdict(), Some((*verdict, (*reason).to_owned())), "{policy:?} {scores:?}");
    }
}

#[test]
fn a_reject_that_nothing_can_take_back_does_not_wait() {
    let table = [
        (PartPolicy::Any, 30),
        (PartPolicy::KOfN { k: 1, n: None }, 30),
        // The highest score, or a frame that passes, may come yet.
        (PartPolicy::Worst, 120),
        (PartPolicy::All, 120),
    ];
    for (policy, decided) in table {
        let mut story = Story::new(plan(&["top", "side"], policy));
        story.trigger(1, 0, 0).frame(0, 10, 0.9).frame(1, 40, 0.8).captured(0, 110).captured(1, 120).until(1000);
        assert_eq!(
            story.told().iter().map(|told| (told.1, told.3)).collect::<Vec<_>>(),
            [(Reject, decided)],
            "{policy:?}"
        );
        assert_eq!(story.notes, [], "frames after an early verdict are not late");
    }
}

#[test]
fn a_view_that_is_missing_does_what_was_configured_and_heals_no_defect() {
    use MissingView::{Ignore, Reject as RejectIt, Unknown as StayUnknown};
    let table = [
        (PartPolicy::Any, StayUnknown, 0.1, Unknown, "missing_view: side"),
        (PartPolicy::Any, RejectIt, 0.1, Reject, "missing_view: side"),
        (PartPolicy::Any, Ignore, 0.1, Pass, "normal"),
        (PartPolicy::Any, StayUnknown, 0.9, Reject, "confidence: 0.9000"),
        (PartPolicy::Worst, StayUnknown, 0.9, Reject, "confidence: 0.9000"),
        (PartPolicy::All, StayUnknown, 0.9, Unknown, "missing_view: side"),
    ];
    for (policy, missing_view, score, verdict, reason) in table {
        let mut story = Story::new(PartPlan { missing_view, ..plan(&["top", "side"], policy) });
        story.trigger(1, 0, 0).frame(0, 10, score).captured(0, 110).captured(1, 111).until(1000);
        assert_eq!(story.verdict(), Some((verdict, reason.to_owned())), "{policy:?} {missing_view:?}");
    }
    let mut story = Story::new(PartPlan { missing_view: Ignore, ..plan(&["top", "side"], PartPolicy::Any) });
    story.trigger(1, 0, 0).captured(0, 110).captured(1, 111);
    assert_eq!(story.verdict(), Some((Unknown, "missing_view: top".to_owned())), "nothing at all is no pass");
}

#[test]
fn an_undecided_part_is_unknown_at_its_deadline_and_says_why() {
    type Tale = fn(&mut Story);
    let table: &[(Tale, &str)] = &[
        (
            |story| {
                story.captured(0, 10).captured(0, 110);
            },
            "overload",
        ),
        (
            |story| {
                story.captured(0, 10).outcome(0, 10, dropped(), 20).captured(0, 50).captured(0, 110);
            },
            "overload",
        ),
        (
            |story| {
                story.presence(0, CameraPresence::Lost, 5);
            },
            "camera_lost: top",
        ),
        (
            |story| {
                story.presence(0, CameraPresence::Starting, 5);
            },
            "camera_starting: top",
        ),
        (
            |story| {
                story.captured(0, 110);
            },
            "missing_view: top",
        ),
        (
            |story| {
                let reason = Reason::CameraUnhealthy { fault: crate::health::Fault::Frozen };
                story.captured(0, 10).outcome(0, 10, FrameOutcome::NotScored { reason }, 20);
            },
            "camera_unhealthy: frozen",
        ),
    ];
    for (row, (tale, reason)) in table.iter().enumerate() {
        let mut story = Story::new(plan(&["top"], PartPolicy::Any));
        story.trigger(1, 0, 0);
        tale(&mut story);
        story.until(1000);
        assert_eq!(story.verdict(), Some((Unknown, (*reason).to_owned())), "row {row}");
        assert!(story.told()[0].3 <= 350, "row {row}: {:?}", story.told());
    }
    // The gate is nearer than the end of the window.
    let near =
        PartPlan { gate: Some(GatePosition::Delay(Duration::from_millis(90))), ..plan(&["top"], PartPolicy::Any) };
    let mut story = Story::new(near);
    story.trigger(1, 0, 0).frame(0, 5, 0.1).until(1000);
    assert_eq!(story.told(), [(0, Unknown, "deadline".to_owned(), 40)]);
    assert_eq!(story.notes, [Note::DeadlineMissed]);
}

#[test]
fn a_result_that_comes_after_the_deadline_changes_nothing_and_is_counted_as_late() {
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.trigger(1, 0, 0).captured(0, 10).captured(0, 110).until(350).outcome(0, 10, scored(0.9), 360);
    assert_eq!(story.told(), [(0, Unknown, "overload".to_owned(), 350)]);
    assert_eq!(story.notes, [Note::DeadlineMissed, Note::LateFrame]);
    // Nobody ticked in time: the verdict still does not come after its deadline.
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.trigger(1, 0, 0).captured(0, 10).captured(0, 110).outcome(0, 10, scored(0.9), 360);
    assert_eq!(story.verdict().map(|told| told.0), Some(Unknown));
}

#[test]
fn a_trigger_whose_message_comes_late_still_takes_its_frames() {
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.frame(0, 10, 0.1).frame(0, 43, 0.9).frame(0, 110, 0.9).trigger(7, 0, 200);
    assert_eq!(story.told(), [(0, Reject, "confidence: 0.9000".to_owned(), 200)]);
    assert_eq!(story.decisions[0].frames, [(0, 10), (0, 43)]);
    // So late that the gate is past: a decision all the same, and never a verdict.
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.frame(0, 10, 0.1).frame(0, 110, 0.1).trigger(7, 0, 380);
    assert_eq!(story.verdict().map(|told| told.0), Some(Unknown));
    assert!(story.notes.contains(&Note::LateTrigger));
}

#[test]
fn a_camera_before_the_trigger_has_a_negative_offset_and_one_behind_it_a_positive_one() {
    let mut both = plan(&["before", "behind"], PartPolicy::Any);
    both.cameras[0].offset = SignedDuration::from_millis(-100);
    both.cameras[1].offset = SignedDuration::from_millis(100);
    let mut story = Story::new(both);
    story.frame(0, -50, 0.1).captured(0, 10).trigger(1, 0, 11).frame(1, 50, 0.9).frame(1, 150, 0.2).captured(1, 210);
    assert_eq!(story.verdict(), Some((Pass, "normal".to_owned())));
    assert_eq!(story.decisions[0].frames, [(0, -50_i64 as u64), (1, 150)]);
}

#[test]
fn a_frame_in_the_windows_of_two_parts_speaks_for_both() {
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.trigger(1, 0, 0).trigger(2, 60, 60).frame(0, 80, 0.9);
    let told: Vec<_> = story.told().into_iter().map(|(part, verdict, ..)| (part, verdict)).collect();
    assert_eq!(told, [(0, Reject), (1, Reject)]);
}

#[test]
fn frames_of_no_part_and_frames_after_their_part_are_told_apart() {
    let mut story = Story::new(PartPlan { remember: Duration::from_secs(1), ..plan(&["top"], PartPolicy::Any) });
    story.frame(0, -500, 0.9).trigger(1, 0, 0).until(200);
    assert_eq!(story.verdict(), Some((Unknown, "missing_view: top".to_owned())));
    story.captured_later(0, 50, 210);
    assert_eq!(story.notes, [Note::MissingView, Note::LateFrame]);
    story.captured(0, 3000);
    assert_eq!(story.notes[2..], [Note::StrayFrame], "only the frame at -500");
    assert_eq!(story.tracker.remembered_frames(), 1);
}

#[test]
fn a_trigger_that_is_delivered_twice_is_one_part_and_lost_numbers_are_counted() {
    let mut story = Story::new(plan(&["top"], PartPolicy::Any));
    story.trigger(5, 0, 0).trigger(5, 0, 3).trigger(6, 500, 500).trigger(5, 0, 900).trigger(9, 2000, 2000);
    story.trigger(8, 1500, 2001).trigger(10, 2500, 2500).until(9000);
    let numbers: Vec<_> = story.decisions.iter().filter_map(|decision| decision.trigger.number).collect();
    assert_eq!(numbers, [5, 6, 8, 9, 10]);
    let odd: Vec<_> =
        story.notes.iter().filter(|note| !matches!(note, Note::MissingView | Note::DeadlineMissed)).collect();
    use Note::{DuplicateTrigger, LateTrigger, MissedTriggers, OutOfOrderTrigger};
    assert_eq!(odd, [&DuplicateTrigger, &DuplicateTrigger, &MissedTriggers(2), &OutOfOrderTrigger, &LateTrigger]);
    // A counter that starts over is believed.
    story.trigger(1, 20_000, 20_000).trigger(2, 20_500, 20_500).until(30_000);
    assert_eq!(story.decisions.len(), 7);
}

#[test]
fn a_camera_shows_as_many_frames_as_its_view_needs() {
    let mut three = plan(&["top"], PartPolicy::Any);
    (three.cameras[0].min_frames, three.cameras[0].max_frames) = (2, Some(3));
    let mut story = Story::new(three.clone());
    story
        .trigger(1, 0, 0)
        .frame(0, 10, 0.1)
        .captured(0, 30)
        .outcome(0, 30, dropped(), 31)
        .frame(0, 35, 0.1)
        .frame(0, 56, 0.1);
    assert_eq!(story.told(), [(0, Pass, "normal".to_owned(), 76)], "the third scored frame completes the view");
    let mut story = Story::new(three);
    story.trigger(1, 0, 0).frame(0, 10, 0.1).captured(0, 110);
    assert_eq!(story.verdict(), Some((Unknown, "missing_view: top".to_owned())), "one frame is not two");
}

#[test]
fn the_gate_is_as_far_as_the_belt_is_fast() {
    let counts = PartPlan { gate: Some(GatePosition::Counts(500)), ..plan(&["top"], PartPolicy::Any) };
    let mut tracker = PartTracker::new(counts);
    let trigger =
        |number: u64, encoder: i64, ms: i64| Trigger { number: Some(number), encoder: Some(encoder), at: at(ms) };
    tracker.trigger(trigger(1, 10_000, 0), at(0));
    // 1000 counts a second: 500 of them take half a second.
    let mut parts = tracker.trigger(trigger(2, 10_400, 400), at(400)).decisions;
    parts.extend(tracker.tick(at(1_950)).decisions);
    assert_eq!(parts.iter().map(|part| part.reject_at).collect::<Vec<_>>(), [None, Some(at(900))]);
    assert_eq!(parts[0].expires_at, at(2000), "without a known speed the time after the trigger counts");
    // The belt stands: nothing is known again.
    tracker.encoder(10_400, at(3000));
    tracker.trigger(trigger(3, 10_400, 3100), at(3100));
    assert_eq!(tracker.tick(at(9000)).decisions[0].reject_at, None);
}

#[test]
fn an_encoder_brings_a_part_each_so_many_counts_at_the_moment_on_the_way() {
    let mut divider = EncoderDivider::new(100);
    let mut count = |count: i64, ms: i64| -> Vec<(Option<u64>, Option<i64>, i64)> {
        let ms_of = |moment: Timestamp| moment.as_millisecond() - at(0).as_millisecond();
        divider.count(count, at(ms)).iter().map(|part| (part.number, part.encoder, ms_of(part.at))).collect()
    };
    assert_eq!(count(950, 0), [], "where the belt begins is no part");
    assert_eq!(count(990, 40), []);
    assert_eq!(count(1040, 90), [(Some(10), Some(1000), 50)]);
    assert_eq!(count(1250, 300), [(Some(11), Some(1100), 150), (Some(12), Some(1200), 250)]);
    assert_eq!(count(1190, 400), [], "backwards");
    assert_eq!(count(1210, 500), [(Some(12), Some(1200), 450)], "the tracker knows that it was there before");
    assert_eq!(count(5_000_000, 600), [], "a jump is a new count");
    assert_eq!(count(3, 700), [], "a count that starts over");
    assert_eq!(count(104, 801), [(Some(1), Some(100), 797)]);
}

#[test]
fn what_is_remembered_has_an_end() {
    let long = PartPlan {
        gate: None,
        expires_after: Duration::from_secs(3600),
        remember: Duration::from_secs(3600),
        ..plan(&["top"], PartPolicy::Any)
    };
    let mut story = Story::new(long.clone());
    for frame in 0..3 * MOST_FRAMES as i64 {
        story.captured(0, frame);
    }
    assert_eq!(story.tracker.remembered_frames(), MOST_FRAMES);
    let mut story = Story::new(long.clone());
    for number in 0..3 * MOST_OPEN as i64 {
        // Frames that nobody scores keep each part open.
        story.trigger(number as u64, number * 200, number * 200).captured(0, number * 200 + 5);
    }
    assert_eq!(story.tracker.open_parts(), MOST_OPEN);
    assert!(story.decisions.iter().all(|decision| decision.reason == Reason::Overload));
    assert_eq!(story.decisions.len(), 2 * MOST_OPEN);
    let step = story.tracker.close(&Reason::Stopped, at(900_000));
    assert_eq!(step.decisions.len(), MOST_OPEN);
    // A part whose frames do not fit is never a pass.
    let mut wide = long;
    wide.cameras[0].window = Duration::from_secs(600);
    let mut story = Story::new(wide);
    story.trigger(1, 0, 0);
    for frame in 0..2 * MOST_FRAMES as i64 {
        story.captured(0, frame).outcome(0, frame, scored(0.1), frame);
    }
    assert_eq!(story.verdict(), Some((Unknown, "overload".to_owned())));
}

/// What happens to one frame: when it is captured, when its message comes, when and how it is scored.
#[derive(Debug, Clone)]
struct Fate {
    camera: usize,
    captured: i64,
    message: i64,
    answer: i64,
    score: Option<f64>,
}

#[derive(Debug, Clone)]
enum Event {
    Trigger(u64, i64),
    Captured(usize, u64, i64),
    Outcome(usize, u64, FrameOutcome),
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0_usize..2, 0_i64..2000, 0_i64..60, 0_i64..500, proptest::option::weighted(0.9, 0.0_f64..1.0));
    let fate = fate.prop_map(|(camera, captured, late, work, score)| {
        let message = captured + late;
        Fate { camera, captured, message, answer: message + work, score }
    });
    proptest::collection::vec(fate, 0..120)
}

/// Parts at random distances, each trigger's message late by up to 150 ms, some sent twice.
fn triggers() -> impl Strategy<Value = Vec<(i64, i64, bool)>> {
    proptest::collection::vec((20_i64..400, 0_i64..150, proptest::bool::weighted(0.1)), 1..12)
}

proptest! {
    #[test]
    fn every_trigger_gets_exactly_one_decision_in_time_and_no_known_defect_passes(
        fates in fates(), distances in triggers(), policy in 0_usize..4, ignore in proptest::bool::ANY,
    ) {
        let policy = [PartPolicy::Any, PartPolicy::All, PartPolicy::Worst, PartPolicy::KOfN { k: 2, n: Some(4) }][policy];
        let missing_view = if ignore { MissingView::Ignore } else { MissingView::Unknown };
        let plan = PartPlan { missing_view, ..plan(&["top", "side"], policy) };
        let mut events: Vec<(i64, Event)> = Vec::new();
        let mut happened = BTreeMap::new();
        let mut moment = 0;
        for (number, (distance, late, twice)) in distances.iter().enumerate() {
            moment += distance;
            happened.insert(number as u64, (moment, moment + late));
            events.push((moment + late, Event::Trigger(number as u64, moment)));
            if *twice {
                events.push((moment + late + 100, Event::Trigger(number as u64, moment)));
            }
        }
        for (number, fate) in fates.iter().enumerate() {
            let outcome = fate.score.map_or_else(dropped, scored);
            events.push((fate.message, Event::Captured(fate.camera, number as u64, fate.captured)));
            events.push((fate.answer, Event::Outcome(fate.camera, number as u64, outcome)));
        }
        events.sort_by_key(|(when, _)| *when);
        let mut story = Story::new(plan.clone());
        for (when, event) in events {
            story.until(when);
            let step = match event {
                Event::Trigger(number, happened) => {
                    story.tracker.trigger(Trigger { number: Some(number), encoder: None, at: at(happened) }, at(when))
                }
                Event::Captured(camera, frame, captured) => {
                    story.tracker.captured(camera, frame, at(captured), ClockSource::Arrival, at(when))
                }
                Event::Outcome(camera, frame, outcome) => story.tracker.outcome(camera, frame, outcome, at(when)),
            };
            story.keep(step);
            prop_assert!(story.tracker.open_parts() <= MOST_OPEN);
        }
        story.until(100_000);

        let mut numbers: Vec<u64> = story.decisions.iter().filter_map(|decision| decision.trigger.number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, happened.keys().copied().collect::<Vec<_>>(), "exactly one decision a trigger");
        for decision in &story.decisions {
            let (triggered, told) = happened[&decision.trigger.number.unwrap()];
            let deadline = at(triggered + 350);
            prop_assert!(decision.decided_at <= deadline || at(told) >= deadline, "{:?}", decision);
            if at(told) >= deadline {
                prop_assert_eq!(decision.verdict, Unknown);
            }
            let known = |fate: &&Fate| {
                (triggered..triggered + 100).contains(&fate.captured) && at(fate.answer) < decision.decided_at
            };
            let defects = fates.iter().filter(known).filter(|fate| fate.score.is_some_and(|score| score > 0.5)).count();
            if policy == PartPolicy::Any {
                prop_assert!(decision.verdict != Pass || defects == 0, "{:?}", decision);
            }
            if decision.verdict == Pass && !ignore {
                let cameras: std::collections::BTreeSet<_> = decision.frames.iter().map(|(camera, _)| *camera).collect();
                prop_assert_eq!(cameras.len(), 2, "a pass was seen by every camera: {:?}", decision);
            }
            let shown = |frame: &u64| (triggered..triggered + 100).contains(&fates[*frame as usize].captured);
            prop_assert!(decision.frames.iter().all(|(_, frame)| shown(frame)), "{:?}", decision);
        }
    }
}
