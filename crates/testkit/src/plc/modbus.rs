//! The way in over Modbus TCP, by pymodbus: the picture of `docs/modbus.md`, polled.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Action, Door, Heard, News, Order};
use crate::peers::Peer;

const SOON: Duration = Duration::from_secs(20);

/// A client that polls, and a server whose register 7 counts parts.
#[derive(Debug)]
pub struct ModbusDoor {
    peer: Peer,
}

impl ModbusDoor {
    /// Polls the daemon at its port, which need not be open yet, and counts parts at `own_port`; at 0 it does not.
    ///
    /// # Errors
    /// When pymodbus is missing.
    pub fn open(daemon_port: u16, own_port: u16) -> Result<Self> {
        let peer = start("modbus_plc.py", &[&daemon_port.to_string(), &own_port.to_string()])?;
        Ok(Self { peer })
    }
}

impl Door for ModbusDoor {
    fn trigger(&mut self, part: u64, _at: Timestamp) {
        // A peer that has ended shows by its silence.
        let _ = self.peer.tell(&json!({"trigger": part}));
    }

    fn hear(&mut self) -> Result<Vec<Heard>> {
        self.peer.arrived()?.iter().map(|told| read(told).with_context(|| told.to_string())).collect()
    }

    /// The picture was acknowledged when its decision was taken over, so that the next one shows.
    fn acknowledge(&mut self, _run: u32, _number: u32) {}
}

/// Starts a peer of the PLC's and waits until it is ready.
pub(super) fn start(program: &str, arguments: &[&str]) -> Result<Peer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let peer = Peer::start(&folder.join(program), arguments)?;
    peer.hear_where(SOON, |told| told["kind"] == "ready")?;
    Ok(peer)
}

/// What a peer tells.
pub(super) fn read(told: &Value) -> Result<Heard> {
    let seconds = told["at"].as_f64().context("no `at`")?;
    let came = Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(seconds);
    let news = match told["kind"].as_str() {
        Some("heartbeat") => News::Heartbeat,
        Some("offline") => News::Offline,
        Some("order") => News::Order(order(told, came)?),
        _ => bail!("unknown kind"),
    };
    Ok(Heard { came, news })
}

fn order(told: &Value, came: Timestamp) -> Result<Order> {
    let number = |field: &str| told[field].as_u64().with_context(|| format!("no `{field}`"));
    let action = &told["action"];
    let action = action.as_str().map_or_else(|| Action::from_number(action.as_u64()?), Action::from_word);
    let until_gate_ms = told["until_gate_ms"].as_i64().map(|ms| came + SignedDuration::from_millis(ms));
    let reject_at_ms = told["reject_at_ms"].as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Ok(Order {
        run: u32::try_from(number("run")?)?,
        number: u32::try_from(number("number")?)?,
        part: number("part")?,
        action: action.context("no `action`")?,
        is_expired: told["expired"].as_bool().context("no `expired`")?,
        reject_at: until_gate_ms.or(reject_at_ms),
        text: told.to_string(),
    })
}
