//! What waits for the broker: bounded, in order, with an end to every message. Pure: the caller says what time it is.

use std::collections::VecDeque;
use std::time::Instant;

/// Unacknowledged messages at a time. Well below the client's own limit, which is never to be met.
pub(crate) const WINDOW: usize = 64;

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A frame's result.
    Result,
    /// A part's decision.
    Decision,
}

impl MessageKind {
    /// Every kind, for series that must exist from the start.
    pub const ALL: [Self; 2] = [Self::Result, Self::Decision];

    /// The name used in topics and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Decision => "decision",
        }
    }
}

/// One message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) queued_at: Instant,
    /// From here on the message must not be sent any more.
    pub(crate) expires_at: Instant,
}

/// Names a message that was handed to the broker and is not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What left the outbox without having been delivered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fallen {
    pub(crate) expired: Vec<MessageKind>,
    pub(crate) dropped: Vec<MessageKind>,
}

/// Messages of each kind leave in the order they came in. A waiting decision goes before every waiting result: a part
/// reaches its gate while a backlog of results is still on its way.
#[derive(Debug)]
pub(crate) struct Outbox {
    capacity: usize,
    decisions: VecDeque<Message>,
    results: VecDeque<Message>,
    /// In the order of sending; `None` once acknowledged, until all before it are too. Tickets are consecutive.
    in_flight: VecDeque<Option<Message>>,
    first_ticket: u64,
}

impl Outbox {
    /// At most `capacity` messages wait, beside those in flight.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            decisions: VecDeque::new(),
            results: VecDeque::new(),
            in_flight: VecDeque::with_capacity(WINDOW),
            first_ticket: 0,
        }
    }

    /// Takes a message in. When there is no room, the oldest result falls out; with no result left, the oldest decision.
    pub(crate) fn push(&mut self, message: Message) -> Option<MessageKind> {
        let newcomer = message.kind;
        self.queue(newcomer).push_back(message);
        self.over_capacity()
    }

    /// The next message to send, now in flight; what expired before it is named in `expired`.
    pub(crate) fn take(&mut self, now: Instant, expired: &mut Vec<MessageKind>) -> Option<(Ticket, &Message)> {
        if self.in_flight.len() >= WINDOW {
            return None;
        }
        let message = loop {
            let message = self.decisions.pop_front().or_else(|| self.results.pop_front())?;
            if message.expires_at > now {
                break message;
            }
            expired.push(message.kind);
        };
        let ticket = Ticket(self.first_ticket + self.in_flight.len() as u64);
        self.in_flight.push_back(Some(message));
        let message = self.in_flight.back().and_then(Option::as_ref)?;
        Some((ticket, message))
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
        let dropped = std::iter::from_fn(|| self.over_capacity()).collect();
        Fallen { expired, dropped }
    }

    /// Removes every waiting message that is too old.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<MessageKind> {
        let mut expired = Vec::new();
        for queue in [&mut self.decisions, &mut self.results] {
            queue.retain(|message| {
                let is_alive = message.expires_at > now;
                if !is_alive {
                    expired.push(message.kind);
                }
                is_alive
            });
        }
        expired
    }

    /// Gives up what waits.
    pub(crate) fn discard_waiting(&mut self) -> Vec<MessageKind> {
        self.decisions.drain(..).chain(self.results.drain(..)).map(|message| message.kind).collect()
    }

    /// Messages waiting or in flight.
    pub(crate) fn len(&self) -> usize {
        self.waiting() + self.in_flight.iter().flatten().count()
    }

    /// Nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.in_flight.is_empty()
    }

    /// Messages that were not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.decisions.len() + self.results.len()
    }

    fn queue(&mut self, kind: MessageKind) -> &mut VecDeque<Message> {
        match kind {
            MessageKind::Decision => &mut self.decisions,
            MessageKind::Result => &mut self.results,
        }
    }

    fn over_capacity(&mut self) -> Option<MessageKind> {
        if self.waiting() <= self.capacity {
            return None;
        }
        self.results.pop_front().or_else(|| self.decisions.pop_front()).map(|message| message.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const FOREVER: u64 = u64::MAX;

    /// A message whose payload is its number; times are seconds after a common start.
    fn message(start: Instant, kind: MessageKind, number: u8, expires_s: u64) -> Message {
        let life = if expires_s == FOREVER { Duration::from_secs(1 << 20) } else { Duration::from_secs(expires_s) };
        Message { kind, topic: String::new(), payload: vec![number], queued_at: start, expires_at: start + life }
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
            let mut outbox = Outbox::new(3);
            let pushes = pushed.iter().zip(0..).map(|(&kind, number)| message(start, kind, number, FOREVER));
            let fell: Vec<_> = pushes.map(|message| outbox.push(message)).collect();
            assert_eq!(fell, fallen, "row {row}");
            assert_eq!(take_all(&mut outbox, start), sent, "row {row}");
        }
    }

    #[test]
    fn decisions_go_before_results_and_each_kind_keeps_its_order() {
        let start = Instant::now();
        let mut outbox = Outbox::new(10);
        for message in [result(start, 1), decision(start, 2), result(start, 3), decision(start, 4)] {
            assert_eq!(outbox.push(message), None);
        }
        assert_eq!(take_all(&mut outbox, start), [2, 4, 1, 3]);
    }

    #[test]
    fn an_expired_message_is_never_taken() {
        let start = Instant::now();
        let mut outbox = Outbox::new(10);
        outbox.push(message(start, MessageKind::Decision, 1, 5));
        outbox.push(message(start, MessageKind::Decision, 2, 7));
        let mut expired = Vec::new();
        // The moment of expiry is too late already.
        let (_, taken) = outbox.take(start + Duration::from_secs(5), &mut expired).unwrap();
        assert_eq!((taken.payload[0], expired.as_slice()), (2, [MessageKind::Decision].as_slice()));
    }

    #[test]
    fn no_more_than_the_window_is_in_flight_even_when_acknowledged_out_of_order() {
        let start = Instant::now();
        let mut outbox = Outbox::new(200);
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
        let mut outbox = Outbox::new(10);
        for number in 0..5 {
            outbox.push(result(start, number));
        }
        let mut expired = Vec::new();
        let tickets: Vec<Ticket> = (0..4).map(|_| outbox.take(start, &mut expired).unwrap().0).collect();
        outbox.acknowledge(tickets[0]);
        outbox.acknowledge(tickets[2]);
        outbox.push(message(start, MessageKind::Decision, 9, 1));
        let fallen = outbox.requeue(start + Duration::from_secs(2));
        assert_eq!(fallen, Fallen { expired: vec![MessageKind::Decision], dropped: vec![] });
        assert!(outbox.acknowledge(tickets[1]).is_none(), "tickets of a lost connection are void");
        assert_eq!(take_all(&mut outbox, start), [1, 3, 4]);
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
            let mut outbox = Outbox::new(capacity);
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
