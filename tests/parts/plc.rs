//! A simulated PLC: triggers each part when it is there, hears the decisions, and works the gate.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
pub(crate) use linewarden_testkit::belt::Belt;
use linewarden_testkit::broker::Subscriber;
use rumqttc::{Client, Event, MqttOptions, Outgoing, Packet, QoS};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A test that must be in time runs beside no other that keeps the processors busy.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One message of the decision topic, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) came: Timestamp,
    pub(crate) decision: Value,
}

/// Publishes triggers over a connection of its own.
pub(crate) struct Trigger {
    client: Client,
    thread: Option<JoinHandle<()>>,
}

impl Trigger {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let mut options =
            MqttOptions::new(format!("plc-{}", std::process::id()), Ipv4Addr::LOCALHOST.to_string(), port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = Client::new(options, 64);
        let (ready_sender, ready): (_, Receiver<()>) = mpsc::channel();
        let thread = thread::Builder::new().name("plc".to_owned()).spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let _ = ready_sender.send(());
                    }
                    Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        })?;
        ready.recv_timeout(SOON).context("the PLC does not reach the broker")?;
        Ok(Self { client, thread: Some(thread) })
    }

    pub(crate) fn tell(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        Ok(self.client.publish(topic, QoS::AtLeastOnce, false, payload)?)
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Triggers each of these parts when it comes, as a light barrier does.
pub(crate) fn trigger_parts(port: u16, topic: &str, belt: Belt, parts: std::ops::Range<u64>) -> JoinHandle<Result<()>> {
    let topic = topic.to_owned();
    thread::spawn(move || {
        let plc = Trigger::connect(port)?;
        for part in parts {
            let at = belt.comes_at(part);
            // The belt moves by the clock, and so does who watches it.
            thread::sleep(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            plc.tell(&topic, format!("{{\"trigger\":{part},\"at\":\"{at}\"}}"))?;
        }
        Ok(())
    })
}

/// Hears decisions until each of these parts has one; any beyond that fails.
pub(crate) fn hear(
    watch: &Subscriber,
    parts: &std::ops::Range<u64>,
    patience: Duration,
) -> Result<BTreeMap<u64, Heard>> {
    let mut heard = BTreeMap::new();
    while (heard.len() as u64) < parts.end - parts.start {
        let message = watch.next_message(patience).with_context(|| format!("{} decisions came", heard.len()))?;
        let came = Timestamp::now();
        let decision = message.json()?;
        let trigger = decision["trigger"].as_u64().with_context(|| format!("no trigger in {decision}"))?;
        ensure!(parts.contains(&trigger), "nobody triggered {trigger}: {decision}");
        let before = heard.insert(trigger, Heard { came, decision });
        ensure!(before.is_none(), "a second decision for {trigger}: {before:?}");
    }
    Ok(heard)
}

impl Heard {
    pub(crate) fn verdict(&self) -> &str {
        self.decision["verdict"].as_str().unwrap()
    }

    pub(crate) fn reason(&self) -> &str {
        self.decision["reason"].as_str().unwrap()
    }

    pub(crate) fn moment(&self, field: &str) -> Timestamp {
        self.decision[field].as_str().unwrap_or_else(|| panic!("no {field}: {}", self.decision)).parse().unwrap()
    }

    /// Whether the gate heard it before the part was there.
    pub(crate) fn is_in_time(&self) -> bool {
        self.came < self.moment("reject_at")
    }
}
