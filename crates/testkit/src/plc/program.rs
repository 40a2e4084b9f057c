//! `docs/plc.st` as the PLC's scans call it: one thing a scan.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Order;
use crate::structured_text::{FunctionBlock, Value};

const TEXT: &str = include_str!("../../../../docs/plc.st");
const FLAGS: [&str; 6] = ["HeartbeatHeard", "OfflineHeard", "DecisionHeard", "PartAtCamera", "PartAtGate", "Reset"];

/// What a decision asks of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// The PLC's own policy.
    None = 0,
    /// The part may go on.
    Pass = 1,
    /// It must go.
    Reject = 2,
    /// The line must stand.
    Stop = 3,
}

impl Action {
    /// As MQTT and Sparkplug write it.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [(Self::None, "none"), (Self::Pass, "pass"), (Self::Reject, "reject"), (Self::Stop, "stop")]
            .into_iter()
            .find_map(|(action, name)| (name == word).then_some(action))
    }

    /// As Modbus writes it.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        [Self::None, Self::Pass, Self::Reject, Self::Stop].into_iter().find(|action| *action as u64 == number)
    }
}

/// What the block counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Decisions that were there before.
    pub duplicates: u32,
    /// Numbers that were left out.
    pub gaps: u32,
    /// Decisions whose time was over.
    pub late: u32,
    /// Parts at the gate of which nothing was heard.
    pub missing: u32,
}

/// What the gate did.
pub(super) struct Gate {
    pub(super) is_removed: bool,
    pub(super) was_alive: bool,
    pub(super) acknowledged: Option<(u32, u32)>,
}

#[derive(Debug)]
pub(super) struct Program {
    block: FunctionBlock,
    /// The PLC's clock begins here.
    began: Timestamp,
    now_ms: u32,
}

impl Program {
    pub(super) fn load(heartbeat_timeout: Duration) -> Result<Self> {
        let mut block = FunctionBlock::parse(TEXT).context("docs/plc.st")?;
        let timeout_ms = u32::try_from(heartbeat_timeout.as_millis()).context("a timeout of less than 50 days")?;
        block.set("HeartbeatTimeout", Value::Udint(timeout_ms))?;
        Ok(Self { block, began: Timestamp::now(), now_ms: 0 })
    }

    pub(super) fn heartbeat(&mut self, now: Timestamp) -> Result<()> {
        self.scan(now, Some("HeartbeatHeard"), &[])
    }

    pub(super) fn offline(&mut self, now: Timestamp) -> Result<()> {
        self.scan(now, Some("OfflineHeard"), &[])
    }

    /// Nothing happened.
    pub(super) fn idle(&mut self, now: Timestamp) -> Result<()> {
        self.scan(now, None, &[])
    }

    pub(super) fn part_at_camera(&mut self, now: Timestamp, part: u64) -> Result<()> {
        self.scan(now, Some("PartAtCamera"), &[("PartNumber", number(part))])
    }

    /// Gives what is to be acknowledged at once.
    pub(super) fn order(&mut self, now: Timestamp, order: &Order) -> Result<Option<(u32, u32)>> {
        let inputs = [
            ("BootId", Value::Udint(order.run)),
            ("Seq", Value::Udint(order.number)),
            ("Part", number(order.part)),
            ("Order", Value::Int(order.action as i32)),
            ("Expired", Value::Bool(order.is_expired)),
        ];
        self.scan(now, Some("DecisionHeard"), &inputs)?;
        self.acknowledged()
    }

    pub(super) fn part_at_gate(&mut self, now: Timestamp, part: u64) -> Result<Gate> {
        self.scan(now, Some("PartAtGate"), &[("GateNumber", number(part))])?;
        let is = |name: &str| self.block.get(name)?.as_bool();
        Ok(Gate { is_removed: is("Reject")?, was_alive: is("Alive")?, acknowledged: self.acknowledged()? })
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        let count = |name: &str| self.block.get(name)?.as_udint();
        Ok(Counters {
            duplicates: count("Duplicates")?,
            gaps: count("Gaps")?,
            late: count("Late")?,
            missing: count("Missing")?,
        })
    }

    fn acknowledged(&self) -> Result<Option<(u32, u32)>> {
        if !self.block.get("Acknowledge")?.as_bool()? {
            return Ok(None);
        }
        Ok(Some((self.block.get("AckBootId")?.as_udint()?, self.block.get("AckSeq")?.as_udint()?)))
    }

    fn scan(&mut self, now: Timestamp, flag: Option<&str>, inputs: &[(&str, Value)]) -> Result<()> {
        for name in FLAGS {
            self.block.set(name, Value::Bool(flag == Some(name)))?;
        }
        for (name, value) in inputs {
            self.block.set(name, *value)?;
        }
        // A PLC's clock does not go back.
        let since_began_ms = u32::try_from(now.duration_since(self.began).as_millis()).unwrap_or(0);
        self.now_ms = self.now_ms.max(since_began_ms);
        self.block.set("Now", Value::Udint(self.now_ms))?;
        self.block.scan()
    }
}

/// The low half, as a PLC keeps it.
fn number(part: u64) -> Value {
    Value::Udint((part & u64::from(u32::MAX)) as u32)
}
