//! The way in over Sparkplug B, by pysparkplug: a host application, as `docs/sparkplug.md` has it.

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::modbus::{read, start};
use super::{Door, Heard};
use crate::peers::Peer;

/// A host application that hears one line.
#[derive(Debug)]
pub struct SparkplugDoor {
    peer: Peer,
}

impl SparkplugDoor {
    /// Hears the line of this name, a device of `node` in `group`.
    ///
    /// # Errors
    /// When pysparkplug is missing or the broker does not answer.
    pub fn connect(port: u16, group: &str, node: &str, line: &str) -> Result<Self> {
        let peer = start("sparkplug_plc.py", &[&port.to_string(), group, node, line])?;
        Ok(Self { peer })
    }
}

impl Door for SparkplugDoor {
    /// Sparkplug has no message for parts: somebody else tells of them.
    fn trigger(&mut self, _part: u64, _at: Timestamp) {}

    fn hear(&mut self) -> Result<Vec<Heard>> {
        self.peer.arrived()?.iter().map(|told| read(told).with_context(|| told.to_string())).collect()
    }

    /// Nothing in Sparkplug says that a gate has worked.
    fn acknowledge(&mut self, _run: u32, _number: u32) {}
}
