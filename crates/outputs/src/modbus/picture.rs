//! What a PLC sees of a line: one decision at a time, in coils and registers. Pure: the caller says what time it is.
//!
//! Decisions wait in line; the oldest live one is shown until it is acknowledged, its pulse is over, or its time has
//! passed, and then everything that concerns it goes back to 0. A stop stays until it is acknowledged: a line that should
//! stand must not start again because a time passed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use linewarden_core::{Action, Decision, Reason, Verdict};

use super::{Show, WordOrder};
use crate::mailbox::{LineNow, OutputStats};

/// Version of the tables below.
const VERSION: u16 = 1;
/// How many coils there are.
pub(crate) const COILS: u16 = 8;
/// How many registers there are.
pub(crate) const REGISTERS: u16 = 40;
/// Where the PLC writes the low half of a decision's number.
pub(crate) const ACKNOWLEDGE: u16 = 100;
/// Decisions that may wait to be shown.
const MOST_WAITING: usize = 256;
/// The picture is looked at this often when nothing is waited for.
const IDLE: Duration = Duration::from_secs(3600);
/// `milliseconds until reject_at` of a decision without one.
const NO_MOMENT: i32 = i32::MIN;

/// A decision with the number that it is acknowledged by.
#[derive(Debug, Clone)]
struct Entry {
    number: u32,
    decision: Arc<Decision>,
}

/// What is shown now.
#[derive(Debug, Clone)]
struct Shown {
    entry: Entry,
    since: Timestamp,
}

/// One line as a PLC sees it.
#[derive(Debug)]
pub(crate) struct Picture {
    show: Show,
    order: WordOrder,
    /// Tells this run from the one before it; never 0.
    boot: u16,
    next_number: u32,
    waiting: VecDeque<Entry>,
    shown: Option<Shown>,
    /// Between two pulses, until when.
    pause_until: Timestamp,
    stop: Option<u32>,
    acknowledged: u32,
    pub(crate) heartbeat: u16,
    line: LineNow,
    tally: Outcome,
}

/// What became of the decisions here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) shown: u64,
    pub(crate) expired: u64,
    pub(crate) unacknowledged: u64,
    pub(crate) dropped: u64,
}

impl Picture {
    pub(crate) fn new(show: Show, order: WordOrder, boot: u16, line: LineNow) -> Self {
        Self {
            show,
            order,
            boot: boot.max(1),
            // An acknowledgement that a PLC still holds from an earlier run must not fit this one.
            next_number: u32::from(boot.max(1)),
            waiting: VecDeque::new(),
            shown: None,
            pause_until: Timestamp::MIN,
            stop: None,
            acknowledged: 0,
            heartbeat: 0,
            line,
            tally: Outcome::default(),
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.tally
    }

    pub(crate) fn set_line(&mut self, line: LineNow) {
        self.line = line;
    }

    pub(crate) fn decided(&mut self, decision: Arc<Decision>, now: Timestamp) {
        let number = self.next_number;
        // The acknowledge register holds the low half; 0 there says nothing.
        self.next_number = match number.wrapping_add(1) {
            next if next & 0xFFFF == 0 => next.wrapping_add(1),
            next => next,
        };
        if decision.action == Action::Stop {
            self.stop = Some(number);
        }
        let entry = Entry { number, decision };
        let place = match self.show {
            // Parts of different length of way may be decided out of the gate's order.
            Show::AtGate(_) => self.waiting.partition_point(|other| due(other) <= due(&entry)),
            Show::Acknowledged | Show::Pulse(_) => self.waiting.len(),
        };
        self.waiting.insert(place, entry);
        if self.waiting.len() > MOST_WAITING {
            self.waiting.pop_front();
            self.tally.dropped += 1;
        }
        self.advance(now);
    }

    /// The PLC has written this. Says whether it was the number of what is shown, or of a stop.
    pub(crate) fn acknowledge(&mut self, low_half: u16, now: Timestamp) -> bool {
        let is_meant = |number: u32| low_half != 0 && number & 0xFFFF == u32::from(low_half);
        let mut was_meant = false;
        if let Some(number) = self.stop.filter(|number| is_meant(*number)) {
            (self.stop, self.acknowledged, was_meant) = (None, number, true);
        }
        if let Some(shown) = self.shown.take_if(|shown| is_meant(shown.entry.number)) {
            (self.acknowledged, was_meant) = (shown.entry.number, true);
        }
        self.advance(now);
        was_meant
    }

    /// Shows what should be shown now, and takes away what should not.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        if let Some(until) = self.shown.as_ref().map(|shown| self.shown_until(shown))
            && until <= now
        {
            self.shown = None;
            match self.show {
                Show::Acknowledged => self.tally.unacknowledged += 1,
                // A PLC that looks for an edge needs the coil to fall.
                Show::Pulse(time) => self.pause_until = later(now, time),
                Show::AtGate(_) => {}
            }
        }
        while self.shown.is_none()
            && let Some(entry) = self.waiting.front()
        {
            if self.last_moment(entry) <= now {
                self.waiting.pop_front();
                self.tally.expired += 1;
                continue;
            }
            if self.begins_at(entry) > now {
                return;
            }
            let entry = self.waiting.pop_front();
            self.shown = entry.map(|entry| Shown { entry, since: now });
            self.tally.shown += 1;
        }
    }

    /// When [`Picture::advance`] has something to do again.
    pub(crate) fn next_change(&self) -> Option<Timestamp> {
        match (&self.shown, self.waiting.front()) {
            (Some(shown), _) => Some(self.shown_until(shown)),
            (None, Some(entry)) => Some(self.begins_at(entry)),
            (None, None) => None,
        }
    }

    /// How long nothing changes by itself.
    pub(crate) fn wait(&self, now: Timestamp) -> Duration {
        let until = self.next_change().map(|at| at.duration_since(now));
        until.map_or(IDLE, |until| Duration::try_from(until).unwrap_or_default().min(IDLE))
    }

    pub(crate) fn acknowledged_low_half(&self) -> u16 {
        self.acknowledged as u16
    }

    /// Nothing is shown any more: the end.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.shown = None;
        self.line.state = "stopped";
    }

    pub(crate) fn shows_something(&self) -> bool {
        self.shown.is_some() || self.stop.is_some()
    }

    fn begins_at(&self, entry: &Entry) -> Timestamp {
        match self.show {
            Show::Acknowledged => Timestamp::MIN,
            Show::Pulse(_) => self.pause_until,
            Show::AtGate(_) => due(entry),
        }
    }

    /// From then on the decision must not begin to be shown.
    fn last_moment(&self, entry: &Entry) -> Timestamp {
        match (self.show, entry.decision.reject_at) {
            // Half a pulse late still hits the part; any later might hit the next one.
            (Show::AtGate(time), Some(reject_at)) => later(reject_at, time / 2),
            _ => entry.decision.expires_at,
        }
    }

    fn shown_until(&self, shown: &Shown) -> Timestamp {
        match self.show {
            Show::Acknowledged => shown.entry.decision.expires_at,
            Show::Pulse(time) => later(shown.since, time).min(shown.entry.decision.expires_at),
            Show::AtGate(time) => later(shown.entry.decision.reject_at.unwrap_or(shown.since), time),
        }
    }

    /// Coils 0 to 7.
    pub(crate) fn coils(&self) -> [bool; COILS as usize] {
        let action = self.shown.as_ref().map(|shown| shown.entry.decision.action);
        [
            action == Some(Action::Reject),
            action == Some(Action::Pass),
            action == Some(Action::None),
            self.shown.is_some(),
            self.line.state == "running",
            self.stop.is_some(),
            self.heartbeat & 1 == 1,
            !self.waiting.is_empty(),
        ]
    }

    /// Registers 0 to 39.
    pub(crate) fn registers(&self, now: Timestamp, stats: OutputStats) -> [u16; REGISTERS as usize] {
        let mut registers = [0; REGISTERS as usize];
        let coils = self.coils();
        let flags = coils.iter().rev().fold(0, |flags, coil| flags << 1 | u16::from(*coil));
        let counts = self.line.counts;
        let mut put = Put { registers: &mut registers, order: self.order };
        put.word(0, VERSION);
        put.word(1, self.heartbeat);
        put.word(2, state_code(self.line.state));
        put.word(3, flags);
        put.word(4, self.boot);
        put.word(5, u16::try_from(self.waiting.len()).unwrap_or(u16::MAX));
        put.pair(6, self.acknowledged);
        if let Some(Shown { entry, .. }) = &self.shown {
            let decision = &entry.decision;
            put.pair(8, entry.number);
            // A PLC compares the low halves; 4,294,967,296 parts are 68 years at 120 a minute.
            put.pair(10, decision.part as u32);
            put.pair(12, decision.trigger.unwrap_or(0) as u32);
            put.pair(14, decision.encoder.unwrap_or(0) as u32);
            put.word(16, verdict_code(decision.verdict));
            put.word(17, action_code(decision.action));
            put.word(18, reason_code(&decision.reason));
            put.word(19, u16::from(decision.trigger.is_some()) | u16::from(decision.encoder.is_some()) << 1);
            let until_gate = decision.reject_at.map_or(NO_MOMENT, |at| milliseconds(now, at));
            put.pair(20, until_gate as u32);
            put.pair(22, milliseconds(now, decision.expires_at).max(0) as u32);
        }
        let totals = [
            counts.total(),
            counts.pass,
            counts.reject,
            counts.unknown,
            self.tally.unacknowledged,
            self.tally.expired,
            self.tally.dropped + stats.dropped,
        ];
        for (pair, total) in (24..).step_by(2).zip(totals) {
            // Counters wrap, as a PLC expects of them.
            put.pair(pair, total as u32);
        }
        if let Some(stop) = self.stop {
            put.pair(38, stop);
        }
        registers
    }
}

/// When a decision belongs at the gate; one without a moment belongs there now.
fn due(entry: &Entry) -> Timestamp {
    entry.decision.reject_at.unwrap_or(entry.decision.decided_at)
}

struct Put<'a> {
    registers: &'a mut [u16],
    order: WordOrder,
}

impl Put<'_> {
    fn word(&mut self, at: usize, value: u16) {
        if let Some(register) = self.registers.get_mut(at) {
            *register = value;
        }
    }

    fn pair(&mut self, at: usize, value: u32) {
        let (high, low) = ((value >> 16) as u16, value as u16);
        let (first, second) = match self.order {
            WordOrder::HighFirst => (high, low),
            WordOrder::LowFirst => (low, high),
        };
        self.word(at, first);
        self.word(at + 1, second);
    }
}

fn later(moment: Timestamp, time: Duration) -> Timestamp {
    moment.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// From one moment to another, within what a register pair holds.
fn milliseconds(from: Timestamp, to: Timestamp) -> i32 {
    let between: SignedDuration = to.duration_since(from);
    // The least number means that there is no moment.
    between.as_millis().clamp(i128::from(i32::MIN + 1), i128::from(i32::MAX)) as i32
}

fn verdict_code(verdict: Verdict) -> u16 {
    match verdict {
        Verdict::Pass => 1,
        Verdict::Reject => 2,
        Verdict::Unknown => 3,
    }
}

fn action_code(action: Action) -> u16 {
    match action {
        Action::None => 0,
        Action::Pass => 1,
        Action::Reject => 2,
        Action::Stop => 3,
    }
}

fn state_code(state: &str) -> u16 {
    match state {
        "starting" => 1,
        "running" => 2,
        "camera_lost" => 3,
        "stop_requested" => 4,
        "stopped" => 5,
        "camera_unhealthy" => 6,
        _ => 99,
    }
}

fn reason_code(reason: &Reason) -> u16 {
    match reason {
        Reason::Normal => 1,
        Reason::BelowConfidence { .. } => 2,
        Reason::BelowLimits => 3,
        Reason::Confidence { .. } => 10,
        Reason::Coverage { .. } => 11,
        Reason::AnomalyTypes { .. } => 12,
        Reason::Votes { .. } => 13,
        Reason::NotScored { .. } => 20,
        Reason::Deadline => 21,
        Reason::Overload => 22,
        Reason::CameraLost { .. } => 23,
        Reason::CameraStarting { .. } => 24,
        Reason::MissingView { .. } => 25,
        Reason::CameraUnhealthy { .. } => 26,
        Reason::TooFewFrames { .. } => 27,
        Reason::NoFrames => 28,
        Reason::Stopped => 29,
        _ => 99,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Counts;
    use crate::mailbox::tests_support::decision;

    const T0: i64 = 1_800_000_000_000;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(T0 + milliseconds).unwrap()
    }

    fn picture(show: Show) -> Picture {
        let line = LineNow { state: "running", score: None, counts: Counts::default() };
        Picture::new(show, WordOrder::HighFirst, 1, line)
    }

    /// A decision made at 0 that is at the gate, and over, at `reject_at`.
    fn part(part: u64, verdict: Verdict, reject_at: i64) -> Arc<Decision> {
        let times = (at(0), Some(at(reject_at)), at(reject_at));
        let (decided_at, reject_at, expires_at) = times;
        Arc::new(Decision { decided_at, reject_at, expires_at, ..decision(part, verdict) })
    }

    /// `R`eject, `P`ass, `U`nknown or nothing, and the part.
    fn seen(picture: &mut Picture, now: i64) -> String {
        picture.advance(at(now));
        let [reject, pass, unknown, fresh, ..] = picture.coils();
        let registers = picture.registers(at(now), OutputStats::default());
        let letters: String = [(reject, 'R'), (pass, 'P'), (unknown, 'U')]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, letter)| letter)
            .collect();
        assert_eq!(fresh, !letters.is_empty());
        format!("{letters}{}", registers[11])
    }

    #[test]
    fn each_decision_is_shown_once_in_order_until_it_is_acknowledged() {
        let mut picture = picture(Show::Acknowledged);
        picture.decided(part(10, Verdict::Reject, 500), at(0));
        picture.decided(part(11, Verdict::Pass, 600), at(1));
        assert_eq!(seen(&mut picture, 5), "R10");
        assert!(!picture.acknowledge(2, at(6)), "not its turn");
        assert!(!picture.acknowledge(0, at(6)));
        assert_eq!(seen(&mut picture, 7), "R10");
        assert!(picture.acknowledge(1, at(8)));
        assert_eq!(seen(&mut picture, 8), "P11");
        assert!(!picture.acknowledge(1, at(9)), "an acknowledgement repeated means nothing");
        assert!(picture.acknowledge(2, at(10)));
        assert_eq!(seen(&mut picture, 11), "0");
        assert_eq!(picture.outcome(), Outcome { shown: 2, ..Outcome::default() });
    }

    #[test]
    fn what_nobody_acknowledges_goes_when_its_time_has_passed_and_is_counted() {
        let mut picture = picture(Show::Acknowledged);
        picture.decided(part(1, Verdict::Reject, 100), at(0));
        picture.decided(part(2, Verdict::Reject, 90), at(0));
        picture.decided(part(3, Verdict::Unknown, 300), at(0));
        assert_eq!(picture.next_change(), Some(at(100)));
        assert_eq!(seen(&mut picture, 99), "R1");
        assert_eq!(seen(&mut picture, 100), "U3", "the second one's time passed while it waited");
        assert_eq!(seen(&mut picture, 300), "0");
        assert_eq!(picture.outcome(), Outcome { shown: 2, expired: 1, unacknowledged: 2, dropped: 0 });
    }

    #[test]
    fn a_pulse_ends_by_itself_and_falls_before_the_next() {
        let mut picture = picture(Show::Pulse(Duration::from_millis(50)));
        picture.decided(part(1, Verdict::Reject, 1000), at(0));
        picture.decided(part(2, Verdict::Reject, 1000), at(10));
        let table = [(10, "R1"), (49, "R1"), (50, "0"), (99, "0"), (100, "R2"), (149, "R2"), (150, "0"), (900, "0")];
        for (now, expected) in table {
            assert_eq!(seen(&mut picture, now), expected, "at {now}");
        }
    }

    #[test]
    fn at_the_gate_each_part_has_its_own_moment_and_a_late_decision_none() {
        let mut picture = picture(Show::AtGate(Duration::from_millis(40)));
        picture.decided(part(2, Verdict::Reject, 300), at(0));
        picture.decided(part(1, Verdict::Pass, 200), at(0));
        let table = [(199, "0"), (200, "P1"), (239, "P1"), (240, "0"), (300, "R2"), (340, "0")];
        for (now, expected) in table {
            assert_eq!(seen(&mut picture, now), expected, "at {now}");
        }
        picture.decided(part(3, Verdict::Reject, 400), at(421));
        assert_eq!(seen(&mut picture, 421), "0");
        assert_eq!(picture.outcome().expired, 1);
    }

    #[test]
    fn a_stop_stays_until_it_is_acknowledged_even_when_its_part_is_gone() {
        let mut picture = picture(Show::Acknowledged);
        let stop = Decision { action: Action::Stop, ..(*part(1, Verdict::Unknown, 100)).clone() };
        picture.decided(Arc::new(stop), at(0));
        picture.advance(at(5000));
        assert!(picture.coils()[5] && !picture.coils()[3]);
        assert_eq!(picture.registers(at(5000), OutputStats::default())[39], 1);
        assert!(picture.acknowledge(1, at(5001)));
        assert!(!picture.coils()[5]);
    }

    #[test]
    fn registers_hold_what_the_table_says_in_either_order_of_words() {
        let mut picture = picture(Show::Acknowledged);
        let counts = Counts { pass: 70_000, reject: 2, unknown: 3 };
        picture.set_line(LineNow { state: "camera_lost", score: None, counts });
        picture.heartbeat = 3;
        let mut decision = (*part(0x0001_0002, Verdict::Reject, 1500)).clone();
        decision.encoder = Some(-5);
        picture.decided(Arc::new(decision), at(0));
        let registers = picture.registers(at(500), OutputStats::default());
        assert_eq!(registers[..8], [1, 3, 3, 0b0100_1001, 1, 0, 0, 0]);
        assert_eq!(registers[8..16], [0, 1, 1, 2, 1, 102, 0xFFFF, 0xFFFB]);
        assert_eq!(registers[16..24], [2, 2, 1, 3, 0, 1000, 0, 1000]);
        assert_eq!(registers[24..32], [1, 4469, 1, 4464, 0, 2, 0, 3]);
        picture.order = WordOrder::LowFirst;
        assert_eq!(picture.registers(at(500), OutputStats::default())[10..12], [2, 1]);
        let late = picture.registers(at(1700), OutputStats::default());
        assert_eq!((late[20], late[22]), ((-200i32) as u16, 0));
    }

    #[test]
    fn no_number_has_an_empty_low_half() {
        let mut picture = picture(Show::Acknowledged);
        picture.next_number = 0xFFFF;
        picture.decided(part(1, Verdict::Pass, 100), at(0));
        assert_eq!(picture.next_number, 0x1_0001);
    }
}
