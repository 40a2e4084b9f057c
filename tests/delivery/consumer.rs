//! Somebody who keeps every decision that came, from whichever broker, and what is wrong with them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// What a busy machine may need from the sending to the hearing.
const ON_THE_WAY: SignedDuration = SignedDuration::from_millis(300);

/// A decision as it came.
struct Heard {
    came: Timestamp,
    came_at: Instant,
    is_historical: bool,
    decision: Value,
}

/// All that came so far, by run and number.
pub(crate) struct Books {
    sender: Sender<Heard>,
    heard: Receiver<Heard>,
    decisions: BTreeMap<(String, u64), Kept>,
    pub(crate) live: usize,
    pub(crate) historical: usize,
    pub(crate) again: usize,
}

struct Kept {
    decision: Value,
    came_live: bool,
}

impl Books {
    pub(crate) fn new() -> Self {
        let (sender, heard) = mpsc::channel();
        Self { sender, heard, decisions: BTreeMap::new(), live: 0, historical: 0, again: 0 }
    }

    /// Listens to a broker from now on, until it dies.
    pub(crate) fn listen(&self, port: u16) -> Result<()> {
        let options = MqttOptions::new("books", Ipv4Addr::LOCALHOST.to_string(), port);
        let (client, mut connection) = Client::new(options, 16);
        let (ready_sender, ready) = mpsc::channel();
        let sender = self.sender.clone();
        thread::Builder::new().name("books".to_owned()).spawn(move || {
            for event in connection.iter().map_while(Result::ok) {
                match event {
                    Event::Incoming(Packet::ConnAck(_)) => {
                        let _ = client.try_subscribe("linewarden/cap/decision/#", QoS::AtLeastOnce);
                    }
                    Event::Incoming(Packet::SubAck(_)) => {
                        let _ = ready_sender.send(());
                    }
                    Event::Incoming(Packet::Publish(message)) => {
                        let Ok(decision) = serde_json::from_slice(&message.payload) else { return };
                        let is_historical = message.topic.ends_with("/historical");
                        let heard = Heard { came: Timestamp::now(), came_at: Instant::now(), is_historical, decision };
                        if sender.send(heard).is_err() {
                            return;
                        }
                    }
                    _ => {}
                }
            }
        })?;
        ready.recv_timeout(SOON).context("the broker does not confirm the subscription")
    }

    /// Enters what has come by now.
    pub(crate) fn enter_arrived(&mut self) -> Result<()> {
        while let Ok(heard) = self.heard.try_recv() {
            self.enter(heard)?;
        }
        Ok(())
    }

    /// Enters what still comes once nobody publishes any more.
    pub(crate) fn enter_rest(&mut self) -> Result<()> {
        while let Ok(heard) = self.heard.recv_timeout(Duration::from_millis(300)) {
            self.enter(heard)?;
        }
        Ok(())
    }

    /// Enters what comes until a live decision is among it that `is_wanted`, and gives the moment of that one.
    pub(crate) fn next_live(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Result<Instant> {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = self.heard.recv_timeout(left).context("no live decision came")?;
            let (came_at, is_it) = (heard.came_at, !heard.is_historical && is_wanted(&heard.decision));
            self.enter(heard)?;
            if is_it {
                return Ok(came_at);
            }
        }
    }

    fn enter(&mut self, heard: Heard) -> Result<()> {
        let Heard { came, is_historical, mut decision, .. } = heard;
        if is_historical {
            ensure!(decision["historical"] == true, "not marked: {decision}");
            decision.as_object_mut().context("an object")?.remove("historical");
            self.historical += 1;
        } else {
            ensure!(decision.get("historical").is_none(), "marked as historical among the live: {decision}");
            let expires_at: Timestamp = decision["expires_at"].as_str().context("no `expires_at`")?.parse()?;
            ensure!(came.duration_since(expires_at) <= ON_THE_WAY, "a stale live decision at {came}: {decision}");
            self.live += 1;
        }
        let boot_id = decision["boot_id"].as_str().context("no `boot_id`")?.to_owned();
        let seq = decision["seq"].as_u64().context("no `seq`")?;
        if let Some(kept) = self.decisions.get_mut(&(boot_id.clone(), seq)) {
            // The same number is the same decision for ever, and what was told as past does not come alive again.
            ensure!(kept.decision == decision, "two decisions under one number:\n{}\n{decision}", kept.decision);
            ensure!(is_historical || kept.came_live, "live after it was historical: {decision}");
            self.again += 1;
            return Ok(());
        }
        self.decisions.insert((boot_id, seq), Kept { decision, came_live: !is_historical });
        Ok(())
    }

    /// The numbers of each run, in order.
    pub(crate) fn runs(&self) -> BTreeMap<&str, Vec<u64>> {
        let mut runs = BTreeMap::<&str, Vec<u64>>::new();
        self.decisions.keys().for_each(|(boot_id, seq)| runs.entry(boot_id).or_default().push(*seq));
        runs
    }

    /// Every run's numbers begin with 1 and leave none out.
    pub(crate) fn check_complete(&self) -> Result<()> {
        for (boot_id, seqs) in self.runs() {
            let missing: Vec<u64> =
                (1..=seqs.len() as u64).filter(|seq| seqs.binary_search(seq).is_err()).take(10).collect();
            ensure!(missing.is_empty(), "run {boot_id}: {} came, and these did not: {missing:?}", seqs.len());
        }
        Ok(())
    }
}
