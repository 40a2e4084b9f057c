//! `docs/plc.st`, the very text: read, checked for its types, and run against messages that come late, twice or not at all.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use linewarden_testkit::structured_text::{FunctionBlock, Value};

use crate::Chance;

const NONE: i32 = 0;
const PASS: i32 = 1;
const REJECT: i32 = 2;
const STOP: i32 = 3;
const RUN: u32 = 7;

fn text() -> Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/plc.st");
    std::fs::read_to_string(path).context("docs/plc.st cannot be read")
}

/// The PLC: one call of the block is one scan.
struct Plc {
    block: FunctionBlock,
    now: u32,
}

/// What came of a part at the gate.
#[derive(Debug, PartialEq)]
enum Gate {
    Lets,
    Rejects,
    RejectsAndTells(u32, u32),
}

impl Plc {
    fn start() -> Result<Self> {
        Ok(Self { block: FunctionBlock::parse(&text()?)?, now: u32::MAX - 2000 })
    }

    fn scan(&mut self, inputs: &[(&str, Value)]) -> Result<()> {
        for flag in ["HeartbeatHeard", "OfflineHeard", "DecisionHeard", "PartAtCamera", "PartAtGate", "Reset"] {
            self.block.set(flag, Value::Bool(false))?;
        }
        self.now = self.now.wrapping_add(10);
        self.block.set("Now", Value::Udint(self.now))?;
        for (name, value) in inputs {
            self.block.set(name, *value)?;
        }
        self.block.scan()
    }

    fn flag(&mut self, name: &str) -> Result<()> {
        self.scan(&[(name, Value::Bool(true))])
    }

    fn camera(&mut self, part: u32) -> Result<()> {
        self.scan(&[("PartAtCamera", Value::Bool(true)), ("PartNumber", Value::Udint(part))])
    }

    fn decision(&mut self, run: u32, seq: u32, part: u32, action: i32, expired: bool) -> Result<Option<u32>> {
        self.scan(&[
            ("DecisionHeard", Value::Bool(true)),
            ("BootId", Value::Udint(run)),
            ("Seq", Value::Udint(seq)),
            ("Part", Value::Udint(part)),
            ("Order", Value::Int(action)),
            ("Expired", Value::Bool(expired)),
        ])?;
        Ok(self.is("Acknowledge")?.then_some(self.number("AckSeq")?))
    }

    fn gate(&mut self, part: u32) -> Result<Gate> {
        self.scan(&[("PartAtGate", Value::Bool(true)), ("GateNumber", Value::Udint(part))])?;
        Ok(match (self.is("Reject")?, self.is("Acknowledge")?) {
            (false, _) => Gate::Lets,
            (true, false) => Gate::Rejects,
            (true, true) => Gate::RejectsAndTells(self.number("AckBootId")?, self.number("AckSeq")?),
        })
    }

    fn is(&self, name: &str) -> Result<bool> {
        self.block.get(name)?.as_bool()
    }

    fn number(&self, name: &str) -> Result<u32> {
        self.block.get(name)?.as_udint()
    }
}

#[test]
fn the_block_lets_a_part_through_that_is_known_to_be_good_and_no_other() -> Result<()> {
    let mut plc = Plc::start()?;
    plc.flag("HeartbeatHeard")?;
    (1..=5).try_for_each(|part| plc.camera(part))?;
    for (seq, part, action, expired) in
        [(1, 1, PASS, false), (2, 2, REJECT, false), (3, 3, PASS, true), (4, 4, NONE, false)]
    {
        assert_eq!(plc.decision(RUN, seq, part, action, expired)?, None, "the gate has not worked yet");
    }
    assert_eq!(plc.gate(1)?, Gate::Lets);
    assert_eq!(plc.gate(2)?, Gate::RejectsAndTells(RUN, 2));
    assert_eq!(plc.gate(3)?, Gate::Rejects, "its decision came too late");
    assert_eq!(plc.gate(4)?, Gate::RejectsAndTells(RUN, 4), "nobody knows");
    assert_eq!(plc.gate(5)?, Gate::Rejects, "nothing was heard of it");
    assert_eq!(plc.gate(99)?, Gate::Rejects, "it was never at the camera");
    assert_eq!(plc.gate(1)?, Gate::Rejects, "a decision is good for one part");
    assert_eq!((plc.number("Late")?, plc.number("Missing")?, plc.number("Gaps")?), (1, 4, 0));
    Ok(())
}

#[test]
fn the_block_rejects_everything_when_it_hears_nothing_or_offline() -> Result<()> {
    let mut plc = Plc::start()?;
    assert!(!plc.is("Alive")?, "before the first heartbeat nothing is known");
    for (seq, silence) in [(1, "short"), (2, "timeout"), (3, "offline")] {
        plc.flag("HeartbeatHeard")?;
        plc.camera(seq)?;
        plc.decision(RUN, seq, seq, PASS, false)?;
        assert!(plc.is("Alive")?);
        match silence {
            "short" => plc.now = plc.now.wrapping_add(2500),
            "timeout" => plc.now = plc.now.wrapping_add(3000),
            _ => plc.flag("OfflineHeard")?,
        }
        let expected = if silence == "short" { Gate::Lets } else { Gate::Rejects };
        assert_eq!(plc.gate(seq)?, expected, "{silence}");
        assert_eq!(plc.is("Alive")?, silence == "short", "{silence}");
    }
    // The clock wraps in the middle of all this, and nothing happens.
    assert!(plc.now < 10_000, "{}", plc.now);
    Ok(())
}

#[test]
fn the_block_acts_once_on_each_decision_counts_gaps_and_knows_earlier_runs() -> Result<()> {
    let mut plc = Plc::start()?;
    plc.flag("HeartbeatHeard")?;
    (1..=6).try_for_each(|part| plc.camera(part))?;
    plc.decision(RUN, 10, 1, REJECT, false)?;
    assert_eq!(plc.decision(RUN, 10, 1, REJECT, false)?, Some(10), "told once more, acted on once");
    plc.decision(RUN, 10, 1, PASS, false)?;
    assert_eq!(plc.gate(1)?, Gate::RejectsAndTells(RUN, 10), "what comes again changes nothing");
    assert_eq!((plc.number("Duplicates")?, plc.number("Gaps")?), (2, 0));
    plc.decision(RUN, 13, 2, PASS, false)?;
    assert_eq!(plc.number("Gaps")?, 2, "two decisions expired on their way");
    // A new run counts from 1; what the earlier one left comes under its old name.
    plc.decision(RUN + 1, 1, 3, PASS, false)?;
    plc.decision(RUN, 14, 4, REJECT, false)?;
    plc.decision(RUN, 13, 4, PASS, false)?;
    assert_eq!([plc.gate(2)?, plc.gate(3)?], [Gate::Lets, Gate::Lets]);
    assert_eq!(plc.gate(4)?, Gate::RejectsAndTells(RUN, 14));
    assert_eq!((plc.number("Duplicates")?, plc.number("Gaps")?), (3, 2));
    assert_eq!(plc.decision(RUN + 1, 2, 5, STOP, false)?, Some(2));
    assert!(plc.is("StopLine")?);
    plc.camera(7)?;
    assert!(plc.is("StopLine")?, "until somebody says so");
    plc.flag("Reset")?;
    assert!(!plc.is("StopLine")?);
    Ok(())
}

/// Whatever gets lost, comes twice, late or in a wrong order: a part passes only with a decision that says so in time.
#[test]
fn the_block_never_passes_a_part_without_a_pass_in_time_whatever_the_network_does() -> Result<()> {
    let mut chance = Chance::new("the function block")?;
    let mut plc = Plc::start()?;
    let (mut known_good, mut let_through, mut sent) = (BTreeSet::new(), 0, Vec::new());
    let mut run = RUN;
    let mut seq = 0;
    for part in 1..=3000 {
        plc.flag("HeartbeatHeard")?;
        plc.camera(part)?;
        seq += 1;
        if chance.next().is_multiple_of(500) {
            (run, seq) = (run + 1, 1);
        }
        let (action, expired) = (chance.next() % 4, chance.next().is_multiple_of(10));
        let action = if action < 3 { PASS } else { REJECT };
        if !chance.next().is_multiple_of(8) {
            plc.decision(run, seq, part, action, expired)?;
            sent.push((run, seq, part, action, expired));
            if action == PASS && !expired {
                known_good.insert(part);
            }
        }
        if chance.flip() && !sent.is_empty() {
            let again = sent[chance.next() as usize % sent.len().min(64) + sent.len().saturating_sub(64)];
            plc.decision(again.0, again.1, again.2, again.3, again.4)?;
        }
        if part > 20 {
            let at_gate = part - 20;
            let lets = plc.gate(at_gate)? == Gate::Lets;
            assert_eq!(lets, known_good.contains(&at_gate), "part {at_gate}");
            let_through += u32::from(lets);
        }
    }
    assert!(let_through > 1000, "{let_through}");
    Ok(())
}
