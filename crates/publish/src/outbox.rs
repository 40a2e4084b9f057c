//! What waits for the broker: bounded, in order, with an end to every message. Pure: the caller says what time it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Unacknowledged messages at a time. Well below the client's own limit, which is never to be met.
pub(crate) const WINDOW: usize = 64;
/// Historical messages that may follow each other at once; from then on their rate counts.
const HISTORICAL_BURST: Duration = Duration::from_millis(200);

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A frame's result.
    Result,
    /// A part's decision, while it may still be acted on.
    Decision,
    /// A decision that was not delivered in time, for whoever keeps the books.
    Historical,
    /// What is said beside results and decisions; like a result it gives way when there is no room.
    Aside,
}

impl MessageKind {
    /// Every kind, for series that must exist from the start.
    pub const ALL: [Self; 4] = [Self::Result, Self::Decision, Self::Historical, Self::Aside];

    /// The name used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Decision => "decision",
            Self::Historical => "historical",
            Self::Aside => "aside",
        }
    }

    /// Whether it is kept until it is delivered, with the quality of service that decisions have.
    pub(crate) const fn is_decision(self) -> bool {
        matches!(self, Self::Decision | Self::Historical)
    }
}

/// What names a decision for ever, over restarts and brokers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) boot_id: Arc<str>,
    pub(crate) seq: u64,
}

/// One message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    pub(crate) key: Key,
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Arc<[u8]>,
    pub(crate) queued_at: Instant,
    /// From here on the message must not be sent any more.
    pub(crate) expires_at: Instant,
    /// When the decision in it ends, on the calendar: what outlives this process.
    pub(crate) ends_on: Timestamp,
}

/// Names a message that was handed to the broker and is not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What left the outbox without having been delivered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fallen {
    pub(crate) expired: Vec<Message>,
    pub(crate) dropped: Vec<Message>,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Results and decisions together.
    pub(crate) live: usize,
    /// Decisions whose time has passed.
    pub(crate) historical: usize,
    /// How many of those are sent in a second.
    pub(crate) historical_per_second: u32,
}

/// Messages of each kind leave in the order they came in. A waiting decision goes before every waiting result: a part
/// reaches its gate while a backlog of results is still on its way. What is historical goes when nothing else waits, and
/// not faster than its rate.
#[derive(Debug)]
pub(crate) struct Outbox {
    room: Room,
    decisions: VecDeque<Message>,
    results: VecDeque<Message>,
    historical: VecDeque<Message>,
    pace: Pace,
    /// In the order of sending; `None` once acknowledged, until all before it are too. Tickets are consecutive.
    in_flight: VecDeque<Option<Message>>,
    first_ticket: u64,
}

/// How many historical messages may go now: a share that fills up with time.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    allowance: f64,
    counted_until: Option<Instant>,
    is_lifted: bool,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), allowance: 0.0, counted_until: None, is_lifted: false }
    }

    fn allows(&mut self, now: Instant) -> bool {
        let most = (self.per_second * HISTORICAL_BURST.as_secs_f64()).max(1.0);
        let since = self.counted_until.replace(now).map_or(HISTORICAL_BURST, |until| now.duration_since(until));
        self.allowance = (self.allowance + since.as_secs_f64() * self.per_second).min(most);
        self.is_lifted || self.allowance >= 1.0
    }

    fn spend(&mut self) {
        self.allowance = (self.allowance - 1.0).max(0.0);
    }
}

impl Outbox {
    /// At most so many messages wait, beside those in flight.
    pub(crate) fn new(room: Room) -> Self {
        Self {
            room,
            decisions: VecDeque::new(),
            results: VecDeque::new(),
            historical: VecDeque::new(),
            pace: Pace::new(room.historical_per_second),
            in_flight: VecDeque::with_capacity(WINDOW),
            first_ticket: 0,
        }
    }

    /// Takes a message in. When there is no room, the oldest result falls out; with no result left, the oldest decision.
    /// What is historical has a room of its own, out of which its oldest falls.
    pub(crate) fn push(&mut self, message: Message) -> Option<Message> {
        let newcomer = message.kind;
        self.queue(newcomer).push_back(message);
        match newcomer {
            MessageKind::Historical => self.over_historical_room(),
            MessageKind::Result | MessageKind::Aside | MessageKind::Decision => self.over_room(),
        }
    }

    /// Takes in what an earlier run left, in its order, before everything that waits.
    pub(crate) fn restore(&mut self, messages: Vec<Message>) -> Vec<Message> {
        for message in messages.into_iter().rev() {
            self.queue(message.kind).push_front(message);
        }
        self.shrink()
    }

    /// The next message to send, now in flight; what expired before it falls into `expired`.
    pub(crate) fn take(&mut self, now: Instant, expired: &mut Vec<Message>) -> Option<(Ticket, &Message)> {
        if self.in_flight.len() >= WINDOW {
            return None;
        }
        let message = self.next_live(now, expired).or_else(|| self.next_historical(now, expired))?;
        let ticket = Ticket(self.first_ticket + self.in_flight.len() as u64);
        self.in_flight.push_back(Some(message));
        let message = self.in_flight.back().and_then(Option::as_ref)?;
        Some((ticket, message))
    }

    fn next_live(&mut self, now: Instant, expired: &mut Vec<Message>) -> Option<Message> {
        loop {
            let message = self.decisions.pop_front().or_else(|| self.results.pop_front())?;
            if message.expires_at > now {
                return Some(message);
            }
            expired.push(message);
        }
    }

    fn next_historical(&mut self, now: Instant, expired: &mut Vec<Message>) -> Option<Message> {
        while !self.historical.is_empty() && self.pace.allows(now) {
            let message = self.historical.pop_front()?;
            if message.expires_at > now {
                self.pace.spend();
                return Some(message);
            }
            expired.push(message);
        }
        None
    }

    /// The broker has it. `None` when it was acknowledged before.
    pub(crate) fn acknowledge(&mut self, ticket: Ticket) -> Option<Message> {
        let place = usize::try_from(ticket.0.checked_sub(self.first_ticket)?).ok()?;
        let message = self.in_flight.get_mut(place)?.take();
        while let Some(None) = self.in_flight.front() {
            self.in_flight.pop_front();
            self.first_ticket += 1;
        }
        message
    }

    /// The connection is gone: what was in flight waits again, in its old place.
    pub(crate) fn requeue(&mut self, now: Instant) -> Fallen {
        self.first_ticket += self.in_flight.len() as u64;
        while let Some(message) = self.in_flight.pop_back() {
            if let Some(message) = message {
                self.queue(message.kind).push_front(message);
            }
        }
        let expired = self.expire(now);
        Fallen { expired, dropped: self.shrink() }
    }

    /// Removes every waiting message that is too old.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Message> {
        let mut expired = Vec::new();
        for queue in [&mut self.decisions, &mut self.results, &mut self.historical] {
            if queue.iter().any(|message| message.expires_at <= now) {
                let (alive, old): (VecDeque<_>, VecDeque<_>) =
                    std::mem::take(queue).into_iter().partition(|message| message.expires_at > now);
                *queue = alive;
                expired.extend(old);
            }
        }
        expired
    }

    /// Gives up what waits, in the order of [`decisions`](Self::decisions): the past first.
    pub(crate) fn discard_waiting(&mut self) -> Vec<Message> {
        self.historical.drain(..).chain(self.decisions.drain(..)).chain(self.results.drain(..)).collect()
    }

    /// From now on nothing historical waits for its turn: the end is near.
    pub(crate) fn hurry(&mut self) {
        self.pace.is_lifted = true;
    }

    /// Live messages waiting or in flight.
    pub(crate) fn len(&self) -> usize {
        self.waiting()
            + self.in_flight.iter().flatten().filter(|message| message.kind != MessageKind::Historical).count()
    }

    /// Historical messages waiting or in flight.
    pub(crate) fn historical_len(&self) -> usize {
        let in_flight = self.in_flight.iter().flatten();
        self.historical.len() + in_flight.filter(|message| message.kind == MessageKind::Historical).count()
    }

    /// Nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.historical.is_empty() && self.in_flight.is_empty()
    }

    /// Nothing live waits or is in flight.
    pub(crate) fn is_live_idle(&self) -> bool {
        self.len() == 0
    }

    /// Live messages that were not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.decisions.len() + self.results.len()
    }

    /// Everything that must outlive this process, oldest first: decisions, live or historical.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = &Message> {
        let in_flight = self.in_flight.iter().flatten().filter(|message| message.kind.is_decision());
        self.historical.iter().chain(in_flight).chain(&self.decisions)
    }

    fn queue(&mut self, kind: MessageKind) -> &mut VecDeque<Message> {
        match kind {
            MessageKind::Decision => &mut self.decisions,
            MessageKind::Result | MessageKind::Aside => &mut self.results,
            MessageKind::Historical => &mut self.historical,
        }
    }

    fn shrink(&mut self) -> Vec<Message> {
        let mut dropped = Vec::new();
        while let Some(message) = self.over_room().or_else(|| self.over_historical_room()) {
            dropped.push(message);
        }
        dropped
    }

    fn over_room(&mut self) -> Option<Message> {
        if self.waiting() <= self.room.live {
            return None;
        }
        self.results.pop_front().or_else(|| self.decisions.pop_front())
    }

    fn over_historical_room(&mut self) -> Option<Message> {
        if self.historical.len() <= self.room.historical {
            return None;
        }
        self.historical.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const FOREVER: u64 = u64::MAX;

    /// A message whose payload is its number; times are seconds after a common start.
    fn message(start: Instant, kind: MessageKind, number: u8, expires_s: u64) -> Message {
        let life = if expires_s == FOREVER { Duration::from_secs(1 << 20) } else { Duration::from_secs(expires_s) };
        Message {
            kind,
            key: Key { boot_id: "boot".into(), seq: u64::from(number) },
            topic: "".into(),
            payload: [number].into(),
            queued_at: start,
            expires_at: start + life,
            ends_on: Timestamp::UNIX_EPOCH,
        }
    }

    fn outbox(live: usize) -> Outbox {
        Outbox::new(Room { live, historical: 10, historical_per_second: 100 })
    }

    fn kinds(messages: &[Message]) -> Vec<MessageKind> {
        messages.iter().map(|message| message.kind).collect()
    }

    fn result(start: Instant, number: u8) -> Message {
        message(start, MessageKind::Result, number, FOREVER)
    }

    fn decision(start: Instant, number: u8) -> Message {
        message(start, MessageKind::Decision, number, FOREVER)
    }

    fn take_all(outbox: &mut Outbox, now: Instant) -> Vec<u8> {
        let mut expired = Vec::new();
        std::iter::from_fn(|| outbox.take(now, &mut expired).map(|(_, message)| message.payload[0])).collect()
    }

    #[test]
    fn a_full_outbox_lets_the_oldest_result_fall_and_a_decision_only_when_no_result_is_left() {
        use MessageKind::{Decision, Result};
        type Row<'a> = (&'a [MessageKind], &'a [Option<MessageKind>], &'a [u8]);
        let table: [Row<'_>; 4] = [
            // pushed into room for three, what fell at each push, what is sent
            (&[Result; 5], &[None, None, None, Some(Result), Some(Result)], &[2, 3, 4]),
            (&[Result, Decision, Decision, Decision], &[None, None, None, Some(Result)], &[1, 2, 3]),
            (&[Decision, Decision, Decision, Decision], &[None, None, None, Some(Decision)], &[1, 2, 3]),
            (&[Decision, Decision, Decision, Result], &[None, None, None, Some(Result)], &[0, 1, 2]),
        ];
        for (row, (pushed, fallen, sent)) in table.into_iter().enumerate() {
            let start = Instant::now();
            let mut outbox = outbox(3);
            let pushes = pushed.iter().zip(0..).map(|(&kind, number)| message(start, kind, number, FOREVER));
            let fell: Vec<_> = pushes.map(|message| outbox.push(message).map(|fallen| fallen.kind)).collect();
            assert_eq!(fell, fallen, "row {row}");
            assert_eq!(take_all(&mut outbox, start), sent, "row {row}");
        }
    }

    #[test]
    fn decisions_go_before_results_and_each_kind_keeps_its_order() {
        let start = Instant::now();
        let mut outbox = outbox(10);
        for message in [result(start, 1), decision(start, 2), result(start, 3), decision(start, 4)] {
            assert_eq!(outbox.push(message), None);
        }
        assert_eq!(take_all(&mut outbox, start), [2, 4, 1, 3]);
    }

    #[test]
    fn an_expired_message_is_never_taken() {
        let start = Instant::now();
        let mut outbox = outbox(10);
        outbox.push(message(start, MessageKind::Decision, 1, 5));
        outbox.push(message(start, MessageKind::Decision, 2, 7));
        let mut expired = Vec::new();
        // The moment of expiry is too late already.
        let (_, taken) = outbox.take(start + Duration::from_secs(5), &mut expired).unwrap();
        assert_eq!(taken.payload[0], 2);
        assert_eq!(kinds(&expired), [MessageKind::Decision]);
    }

    #[test]
    fn no_more_than_the_window_is_in_flight_even_when_acknowledged_out_of_order() {
        let start = Instant::now();
        let mut outbox = outbox(200);
        for number in 0..100 {
            outbox.push(result(start, number));
        }
        let mut expired = Vec::new();
        let tickets: Vec<Ticket> =
            std::iter::from_fn(|| outbox.take(start, &mut expired).map(|(ticket, _)| ticket)).collect();
        assert_eq!(tickets.len(), WINDOW);
        // The first one stays open: packet ids must not come round to it.
        assert!(outbox.acknowledge(tickets[1]).is_some());
        assert!(outbox.take(start, &mut expired).is_none());
        assert!(outbox.acknowledge(tickets[0]).is_some());
        assert!(outbox.acknowledge(tickets[0]).is_none(), "a second acknowledgement means nothing");
        assert_eq!(take_all(&mut outbox, start), [64, 65]);
    }

    #[test]
    fn after_a_lost_connection_the_unacknowledged_go_again_in_their_order() {
        let start = Instant::now();
        let mut outbox = outbox(10);
        for number in 0..5 {
            outbox.push(result(start, number));
        }
        let mut expired = Vec::new();
        let tickets: Vec<Ticket> = (0..4).map(|_| outbox.take(start, &mut expired).unwrap().0).collect();
        outbox.acknowledge(tickets[0]);
        outbox.acknowledge(tickets[2]);
        outbox.push(message(start, MessageKind::Decision, 9, 1));
        let fallen = outbox.requeue(start + Duration::from_secs(2));
        assert_eq!((kinds(&fallen.expired), kinds(&fallen.dropped)), (vec![MessageKind::Decision], vec![]));
        assert!(outbox.acknowledge(tickets[1]).is_none(), "tickets of a lost connection are void");
        assert_eq!(take_all(&mut outbox, start), [1, 3, 4]);
    }

    #[test]
    fn what_is_historical_goes_last_and_not_faster_than_its_rate() {
        let start = Instant::now();
        let mut outbox = outbox(200);
        (0..60)
            .for_each(|number| assert_eq!(outbox.push(message(start, MessageKind::Decision, number, FOREVER)), None));
        let mut numbers = Vec::new();
        for number in 100..115 {
            numbers.extend(
                outbox.push(message(start, MessageKind::Historical, number, FOREVER)).map(|old| old.payload[0]),
            );
        }
        assert_eq!(numbers, [100, 101, 102, 103, 104], "the oldest have no room");
        assert_eq!((outbox.len(), outbox.historical_len()), (60, 10));
        let mut expired = Vec::new();
        let mut take = |outbox: &mut Outbox, now| {
            let taken = outbox.take(now, &mut expired).map(|(ticket, message)| (ticket, message.payload[0]));
            taken.map(|(ticket, number)| {
                outbox.acknowledge(ticket);
                number
            })
        };
        assert_eq!(Vec::from_iter((0..60).map_while(|_| take(&mut outbox, start))), Vec::from_iter(0..60));
        outbox.pace.per_second = 10.0;
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        assert_eq!(
            [take(&mut outbox, at(0)), take(&mut outbox, at(0)), take(&mut outbox, at(0))],
            [Some(105), Some(106), None]
        );
        outbox.push(message(start, MessageKind::Decision, 61, FOREVER));
        assert_eq!(
            [take(&mut outbox, at(1)), take(&mut outbox, at(1)), take(&mut outbox, at(1))],
            [Some(61), Some(107), None]
        );
        outbox.hurry();
        assert_eq!(Vec::from_iter((0..9).map_while(|_| take(&mut outbox, at(1)))), [108, 109, 110, 111, 112, 113, 114]);
        assert!(outbox.is_idle());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { is_decision: bool, life_s: u64 },
        Take,
        Acknowledge(prop::sample::Index),
        Requeue,
        Sweep,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), 0_u64..20).prop_map(|(is_decision, life_s)| Step::Push { is_decision, life_s }),
            4 => Just(Step::Take),
            3 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
            1 => Just(Step::Requeue),
            1 => Just(Step::Sweep),
            1 => (0_u64..5).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: every message ends exactly once, none is sent too old, and each kind keeps its order.
        #[test]
        fn nothing_is_lost_silently(steps in prop::collection::vec(step(), 1..200), capacity in 1_usize..12) {
            let start = Instant::now();
            let mut now = start;
            let mut outbox = outbox(capacity);
            let (mut pushed, mut acknowledged, mut fallen) = (0_usize, BTreeSet::new(), 0_usize);
            let mut open: Vec<(Ticket, u8)> = Vec::new();
            let mut last_sent: BTreeMap<&str, u8> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Push { is_decision, life_s } => {
                        let kind = if is_decision { MessageKind::Decision } else { MessageKind::Result };
                        let number = u8::try_from(pushed).unwrap();
                        let life = Duration::from_secs(life_s);
                        let fell = outbox.push(Message { expires_at: now + life, ..message(start, kind, number, 0) });
                        pushed += 1;
                        fallen += usize::from(fell.is_some());
                    }
                    Step::Take => {
                        let mut expired = Vec::new();
                        if let Some((ticket, message)) = outbox.take(now, &mut expired) {
                            prop_assert!(message.expires_at > now);
                            let number = message.payload[0];
                            if let Some(last) = last_sent.insert(message.kind.as_str(), number) {
                                prop_assert!(last < number, "{last} was sent before {number}");
                            }
                            open.push((ticket, number));
                        }
                        fallen += expired.len();
                    }
                    Step::Acknowledge(index) if !open.is_empty() => {
                        let (ticket, number) = open.remove(index.index(open.len()));
                        prop_assert_eq!(outbox.acknowledge(ticket).unwrap().payload[0], number);
                        prop_assert!(acknowledged.insert(number));
                    }
                    Step::Acknowledge(_) => {}
                    Step::Requeue => {
                        let Fallen { expired, dropped } = outbox.requeue(now);
                        fallen += expired.len() + dropped.len();
                        open.clear();
                        // Sent again from the oldest unacknowledged on.
                        last_sent.clear();
                    }
                    Step::Sweep => fallen += outbox.expire(now).len(),
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert!(outbox.waiting() <= capacity);
                prop_assert_eq!(pushed, acknowledged.len() + fallen + outbox.len());
            }
        }
    }
}
