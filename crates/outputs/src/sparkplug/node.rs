//! What the edge node says: births with names and aliases, data with aliases alone, deaths; all under one sequence number
//! that goes from 0 to 255. Pure: no socket and no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use linewarden_core::Decision;
use prost::Message as _;

use super::wire::{DataType, Metric, Payload, Value};
use crate::mailbox::{LineNow, action_word};

/// The metric that a host sets to have everything told again.
const REBIRTH: &str = "Node Control/Rebirth";
/// Aliases of the node's own metrics; those of devices follow.
const REBIRTH_ALIAS: u64 = 1;
const HEARTBEAT_ALIAS: u64 = 2;
const FIRST_DEVICE_ALIAS: u64 = 100;

/// A device's metrics, in the order of their aliases.
const DEVICE: [(&str, DataType); 21] = [
    ("State", DataType::String),
    ("Counts/Pass", DataType::UInt64),
    ("Counts/Reject", DataType::UInt64),
    ("Counts/Unknown", DataType::UInt64),
    ("Result/Camera", DataType::String),
    ("Result/Score", DataType::Double),
    ("Result/Threshold", DataType::Double),
    ("Result/Anomalous", DataType::Boolean),
    ("Result/Captured At", DataType::DateTime),
    ("Decision/Number", DataType::UInt64),
    ("Decision/Part", DataType::UInt64),
    ("Decision/Trigger", DataType::UInt64),
    ("Decision/Encoder", DataType::Int64),
    ("Decision/Verdict", DataType::String),
    ("Decision/Action", DataType::String),
    ("Decision/Reason", DataType::String),
    ("Decision/Clock", DataType::String),
    ("Decision/Captured At", DataType::DateTime),
    ("Decision/Decided At", DataType::DateTime),
    ("Decision/Reject At", DataType::DateTime),
    ("Decision/Expires At", DataType::DateTime),
];
/// Where the groups of that table begin.
const COUNTS: usize = 1;
const RESULT: usize = 4;
const DECISION: usize = 9;

/// A message ready to go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// A decision that waits to be told.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) line: usize,
    pub(crate) number: u64,
    pub(crate) decision: Arc<Decision>,
    /// It came while nobody was there to hear it.
    pub(crate) was_held: bool,
}

/// A line as the host knows it.
#[derive(Debug)]
struct Device {
    name: String,
    now: LineNow,
    told: Option<LineNow>,
}

/// The edge node.
#[derive(Debug)]
pub(crate) struct Node {
    group: String,
    name: String,
    bd_seq: u64,
    seq: u64,
    heartbeat: u64,
    devices: Vec<Device>,
    waiting: VecDeque<Waiting>,
    most_waiting: usize,
    next_number: u64,
    pub(crate) dropped: u64,
}

impl Node {
    pub(crate) fn new(group: &str, name: &str, lines: Vec<(String, LineNow)>, most_waiting: usize) -> Self {
        let devices = lines.into_iter().map(|(name, now)| Device { name, now, told: None }).collect();
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            // The first connection has 0.
            bd_seq: u64::MAX,
            seq: 0,
            heartbeat: 0,
            devices,
            waiting: VecDeque::new(),
            most_waiting: most_waiting.max(1),
            next_number: 1,
            dropped: 0,
        }
    }

    fn topic(&self, kind: &str, device: Option<&str>) -> String {
        let (group, node) = (&self.group, &self.name);
        match device {
            Some(device) => format!("spBv1.0/{group}/{kind}/{node}/{device}"),
            None => format!("spBv1.0/{group}/{kind}/{node}"),
        }
    }

    /// Where hosts command the node.
    pub(crate) fn command_topic(&self) -> String {
        self.topic("NCMD", None)
    }

    /// A new connection is tried; gives its will.
    pub(crate) fn connecting(&mut self, now: Timestamp) -> Outgoing {
        self.bd_seq = self.bd_seq.wrapping_add(1) % 256;
        self.death(now)
    }

    /// The node's death, which carries no sequence number: the broker may say it in our place.
    pub(crate) fn death(&mut self, now: Timestamp) -> Outgoing {
        self.devices.iter_mut().for_each(|device| device.told = None);
        let payload = Payload { timestamp: Some(milliseconds(now)), metrics: vec![self.bd_seq(now)], seq: None };
        Outgoing { topic: self.topic("NDEATH", None), payload: payload.encode_to_vec() }
    }

    fn bd_seq(&self, now: Timestamp) -> Metric {
        named("bdSeq", None, DataType::Int64, Some(Value::Long(self.bd_seq)), now)
    }

    fn send(&mut self, kind: &str, device: Option<usize>, metrics: Vec<Metric>, now: Timestamp) -> Outgoing {
        let name = device.and_then(|device| self.devices.get(device)).map(|device| device.name.clone());
        let payload = Payload { timestamp: Some(milliseconds(now)), metrics, seq: Some(self.seq) };
        self.seq = (self.seq + 1) % 256;
        Outgoing { topic: self.topic(kind, name.as_deref()), payload: payload.encode_to_vec() }
    }

    /// Everything there is, from the beginning: the node, then each line that has not stopped.
    pub(crate) fn births(&mut self, now: Timestamp) -> Vec<Outgoing> {
        self.seq = 0;
        let metrics = vec![
            self.bd_seq(now),
            named(REBIRTH, Some(REBIRTH_ALIAS), DataType::Boolean, Some(Value::Boolean(false)), now),
            named("Heartbeat", Some(HEARTBEAT_ALIAS), DataType::UInt64, Some(Value::Long(self.heartbeat)), now),
            named("Properties/Software", None, DataType::String, Some(text("linewarden")), now),
            named("Properties/Version", None, DataType::String, Some(text(env!("CARGO_PKG_VERSION"))), now),
        ];
        let mut births = vec![self.send("NBIRTH", None, metrics, now)];
        for device in 0..self.devices.len() {
            if self.devices.get(device).is_some_and(|device| device.now.state != "stopped") {
                births.extend(self.device_birth(device, now));
            }
        }
        births
    }

    /// The device's birth. No decision is in it: one is told once, as data.
    fn device_birth(&mut self, index: usize, now: Timestamp) -> Option<Outgoing> {
        let device = self.devices.get_mut(index)?;
        device.told = Some(device.now.clone());
        let mut values = line_values(&device.now, now);
        values.resize(DEVICE.len(), (None, now));
        let metrics = DEVICE.iter().zip(values).enumerate().map(|(place, ((name, datatype), (value, at)))| {
            named(name, Some(alias(index, place)), *datatype, value, at)
        });
        let metrics = metrics.collect();
        Some(self.send("DBIRTH", Some(index), metrics, now))
    }

    /// A line is like this now.
    pub(crate) fn set_line(&mut self, line: usize, now: LineNow) {
        if let Some(device) = self.devices.get_mut(line) {
            device.now = now;
        }
    }

    /// A decision was made; `is_heard` when it can be told at once.
    pub(crate) fn decided(&mut self, line: usize, decision: Arc<Decision>, is_heard: bool) {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.push_back(Waiting { line, number, decision, was_held: !is_heard });
        if self.waiting.len() > self.most_waiting {
            self.waiting.pop_front();
            self.dropped += 1;
        }
    }

    /// Nobody hears us: what waits will be history when somebody does.
    pub(crate) fn unheard(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| waiting.was_held = true);
    }

    /// The next decision as data of its line, and whether it is history: held back, or its time has passed.
    pub(crate) fn next_decision(&mut self, now: Timestamp) -> Option<(Outgoing, bool)> {
        let Waiting { line, number, decision, was_held } = self.waiting.pop_front()?;
        let is_historical = was_held || decision.expires_at <= now;
        let mut metrics = self.changes(line, now);
        for (place, (value, at)) in (DECISION..).zip(decision_values(number, &decision)) {
            let mut metric = unnamed(alias(line, place), DEVICE[place].1, value, at);
            metric.is_historical = is_historical.then_some(true);
            metrics.push(metric);
        }
        Some((self.send("DDATA", Some(line), metrics, now), is_historical))
    }

    /// Births, deaths and changed states of lines. Before the first decision of a line comes its birth, after its last its
    /// death.
    pub(crate) fn lines_to_tell(&mut self, now: Timestamp) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        for line in 0..self.devices.len() {
            let Some(device) = self.devices.get_mut(line) else { continue };
            let has_decisions = self.waiting.iter().any(|waiting| waiting.line == line);
            match (&device.told, device.now.state) {
                (Some(_), "stopped") if !has_decisions => {
                    device.told = None;
                    messages.push(self.send("DDEATH", Some(line), Vec::new(), now));
                }
                (Some(told), state) if told.state != state => {
                    let metrics = self.changes(line, now);
                    messages.push(self.send("DDATA", Some(line), metrics, now));
                }
                (None, state) if state != "stopped" || has_decisions => messages.extend(self.device_birth(line, now)),
                _ => {}
            }
        }
        messages
    }

    /// The heartbeat, and what changed since the last one.
    pub(crate) fn heartbeat(&mut self, now: Timestamp) -> Vec<Outgoing> {
        self.heartbeat += 1;
        let beat = unnamed(HEARTBEAT_ALIAS, DataType::UInt64, Some(Value::Long(self.heartbeat)), now);
        let mut messages = vec![self.send("NDATA", None, vec![beat], now)];
        for line in 0..self.devices.len() {
            if self.devices.get(line).is_some_and(|device| device.told.is_some()) {
                let metrics = self.changes(line, now);
                if !metrics.is_empty() {
                    messages.push(self.send("DDATA", Some(line), metrics, now));
                }
            }
        }
        messages
    }

    /// What of a line is not as the host knows it; from now on it is.
    fn changes(&mut self, line: usize, now: Timestamp) -> Vec<Metric> {
        let Some(device) = self.devices.get_mut(line) else { return Vec::new() };
        let Some(told) = &device.told else { return Vec::new() };
        let mut changed = vec![false; DECISION];
        changed[0] = told.state != device.now.state;
        changed[COUNTS..RESULT].fill(told.counts != device.now.counts);
        changed[RESULT..].fill(told.score != device.now.score);
        device.told = Some(device.now.clone());
        let values = line_values(&device.now, now).into_iter().zip(changed).enumerate();
        values
            .filter(|(_, (_, changed))| *changed)
            .map(|(place, ((value, at), _))| unnamed(alias(line, place), DEVICE[place].1, value, at))
            .collect()
    }

    /// Whether a command asks for everything again.
    pub(crate) fn is_rebirth(payload: &[u8]) -> bool {
        let Ok(payload) = Payload::decode(payload) else { return false };
        payload.metrics.iter().any(|metric| {
            let is_meant = metric.name.as_deref() == Some(REBIRTH) || metric.alias == Some(REBIRTH_ALIAS);
            is_meant && metric.value == Some(Value::Boolean(true))
        })
    }
}

fn alias(line: usize, place: usize) -> u64 {
    FIRST_DEVICE_ALIAS * (line as u64 + 1) + place as u64
}

/// The first metrics of a device, each with its moment.
fn line_values(line: &LineNow, now: Timestamp) -> Vec<(Option<Value>, Timestamp)> {
    let score = line.score.as_ref();
    let at = score.map_or(now, |score| score.captured_at);
    vec![
        (Some(text(line.state)), now),
        (Some(Value::Long(line.counts.pass)), now),
        (Some(Value::Long(line.counts.reject)), now),
        (Some(Value::Long(line.counts.unknown)), now),
        (score.map(|score| text(&score.camera)), at),
        (score.map(|score| Value::Double(score.score)), at),
        (score.map(|score| Value::Double(score.threshold)), at),
        (score.map(|score| Value::Boolean(score.is_anomalous)), at),
        (score.map(|score| moment(score.captured_at)), at),
    ]
}

fn decision_values(number: u64, decision: &Decision) -> Vec<(Option<Value>, Timestamp)> {
    let word = |text: String| Some(Value::Text(text));
    let values = vec![
        Some(Value::Long(number)),
        Some(Value::Long(decision.part)),
        decision.trigger.map(Value::Long),
        // Signed numbers travel as their two's complement.
        decision.encoder.map(|count| Value::Long(count as u64)),
        word(decision.verdict.as_str().to_owned()),
        word(action_word(decision.action).to_owned()),
        word(decision.reason.to_string()),
        word(decision.clock.as_str().to_owned()),
        Some(moment(decision.captured_at)),
        Some(moment(decision.decided_at)),
        decision.reject_at.map(moment),
        Some(moment(decision.expires_at)),
    ];
    values.into_iter().map(|value| (value, decision.decided_at)).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn moment(at: Timestamp) -> Value {
    Value::Long(milliseconds(at))
}

fn milliseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

fn unnamed(alias: u64, datatype: DataType, value: Option<Value>, at: Timestamp) -> Metric {
    Metric {
        name: None,
        alias: Some(alias),
        timestamp: Some(milliseconds(at)),
        datatype: Some(datatype as u32),
        is_historical: None,
        is_null: value.is_none().then_some(true),
        value,
    }
}

fn named(name: &str, alias: Option<u64>, datatype: DataType, value: Option<Value>, at: Timestamp) -> Metric {
    Metric { name: Some(name.to_owned()), alias, ..unnamed(0, datatype, value, at) }
}

#[cfg(test)]
mod tests {
    use linewarden_core::Verdict;

    use super::*;
    use crate::mailbox::Counts;
    use crate::mailbox::tests_support::decision;

    fn line(state: &'static str) -> LineNow {
        LineNow { state, score: None, counts: Counts::default() }
    }

    fn node() -> Node {
        Node::new("plant", "cell", vec![("a".to_owned(), line("running")), ("b".to_owned(), line("stopped"))], 3)
    }

    /// Kind and sequence number of each message.
    fn told(messages: &[Outgoing]) -> Vec<(String, Option<u64>)> {
        let kind = |topic: &str| topic.split('/').skip(2).collect::<Vec<_>>().join("/");
        messages.iter().map(|out| (kind(&out.topic), read(out).seq)).collect()
    }

    fn read(out: &Outgoing) -> Payload {
        Payload::decode(out.payload.as_slice()).unwrap()
    }

    #[test]
    fn a_birth_starts_the_sequence_at_0_and_it_wraps_after_255() {
        let (mut node, now) = (node(), Timestamp::now());
        node.connecting(now);
        let births = node.births(now);
        assert_eq!(told(&births), [("NBIRTH/cell".to_owned(), Some(0)), ("DBIRTH/cell/a".to_owned(), Some(1))]);
        for seq in (2..256).chain(0..3) {
            assert_eq!(told(&node.heartbeat(now)), [("NDATA/cell".to_owned(), Some(seq))]);
        }
        assert_eq!(told(&node.births(now))[0].1, Some(0), "a rebirth starts over");
    }

    #[test]
    fn will_and_birth_of_a_connection_share_their_number_and_the_next_has_another() {
        let (mut node, now) = (node(), Timestamp::now());
        for expected in (0..256).chain(0..2) {
            let will = read(&node.connecting(now));
            assert_eq!((will.seq, &will.metrics[0].value), (None, &Some(Value::Long(expected))));
            assert_eq!(read(&node.births(now)[0]).metrics[0].value, will.metrics[0].value);
        }
    }

    #[test]
    fn every_metric_is_born_with_name_and_alias_before_data_uses_the_alias_alone() {
        let (mut node, now) = (node(), Timestamp::now());
        node.connecting(now);
        let birth = read(&node.births(now)[1]);
        node.decided(0, Arc::new(decision(7, Verdict::Reject)), true);
        let (data, is_historical) = node.next_decision(now).unwrap();
        assert!(!is_historical);
        for metric in read(&data).metrics {
            let born = birth.metrics.iter().find(|born| born.alias == metric.alias).unwrap();
            assert!(born.name.is_some() && metric.name.is_none() && metric.datatype == born.datatype);
        }
        assert!(
            birth
                .metrics
                .iter()
                .filter(|metric| metric.name.as_deref() != Some("State"))
                .all(|metric| { metric.is_null == Some(true) || metric.name.as_ref().unwrap().starts_with("Counts/") })
        );
    }

    #[test]
    fn what_was_held_back_or_is_over_is_history_and_the_oldest_falls_out() {
        let (mut node, now) = (node(), Timestamp::now());
        node.connecting(now);
        (0..4).for_each(|part| node.decided(0, Arc::new(decision(part, Verdict::Pass)), false));
        assert_eq!(node.dropped, 1);
        let over = Decision { expires_at: now, ..decision(9, Verdict::Reject) };
        node.births(now);
        for part in [1, 2, 3] {
            let (data, is_historical) = node.next_decision(now).unwrap();
            let metrics = read(&data).metrics;
            assert_eq!(metrics[1].value, Some(Value::Long(part)));
            assert!(is_historical && metrics.iter().all(|metric| metric.is_historical == Some(true)));
        }
        node.decided(0, Arc::new(over), true);
        assert!(node.next_decision(now).unwrap().1);
        assert!(node.next_decision(now).is_none());
    }

    #[test]
    fn a_line_that_stops_dies_after_its_last_decision_and_is_born_again() {
        let (mut node, now) = (node(), Timestamp::now());
        node.connecting(now);
        node.births(now);
        node.decided(0, Arc::new(decision(1, Verdict::Pass)), true);
        node.set_line(0, line("stopped"));
        node.set_line(1, line("starting"));
        assert_eq!(told(&node.lines_to_tell(now))[1].0, "DBIRTH/cell/b");
        node.next_decision(now).unwrap();
        assert_eq!(told(&node.lines_to_tell(now))[0].0, "DDEATH/cell/a");
        assert!(node.lines_to_tell(now).is_empty());
        node.set_line(0, line("running"));
        assert_eq!(told(&node.lines_to_tell(now))[0].0, "DBIRTH/cell/a");
    }

    #[test]
    fn only_a_true_rebirth_is_one() {
        let command = |name: Option<&str>, alias, value| {
            let metric = Metric {
                name: name.map(str::to_owned),
                ..unnamed(alias, DataType::Boolean, Some(Value::Boolean(value)), Timestamp::UNIX_EPOCH)
            };
            Node::is_rebirth(&Payload { timestamp: None, metrics: vec![metric], seq: None }.encode_to_vec())
        };
        assert!(command(Some(REBIRTH), 0, true) && command(None, REBIRTH_ALIAS, true));
        assert!(!command(Some(REBIRTH), 0, false) && !command(Some("Other"), 0, true));
        assert!(!Node::is_rebirth(b"\xff\xff no protobuf"));
    }
}
