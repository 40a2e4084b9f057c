//! What a PLC and a recorder would hear: decisions and results, put together by part.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_publish::BrokerUrl;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde::Deserialize;

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A decision with the result that it rests on, as they came from the broker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// Number of the part.
    pub(super) part: u64,
    /// `pass`, `reject` or `unknown`.
    pub(super) verdict: String,
    /// Calibrated score; none when the part was not scored.
    pub(super) score: Option<f64>,
    /// Share of the picture that is marked, 0 to 1.
    pub(super) marked: f64,
    /// From the camera to here.
    pub(super) age: Duration,
}

/// Hears a line's decisions.
pub(super) struct Watcher {
    seen: Receiver<Seen>,
}

#[derive(Debug, Deserialize)]
struct DecisionMessage {
    part: u64,
    verdict: String,
    reason: String,
    captured_at: String,
}

#[derive(Debug, Deserialize)]
struct ResultMessage {
    frame: u64,
    anomaly_score: f64,
    anomalies: Vec<AnomalyMessage>,
}

#[derive(Debug, Deserialize)]
struct AnomalyMessage {
    name: String,
    pixel_anomaly: PixelMessage,
}

#[derive(Debug, Deserialize)]
struct PixelMessage {
    total_percentage_area: f64,
}

/// Parts of which one message is still missing.
#[derive(Default)]
struct Waiting {
    decisions: HashMap<u64, (DecisionMessage, Duration)>,
    results: HashMap<u64, ResultMessage>,
}

impl Watcher {
    /// Subscribes, and returns once the broker has confirmed it.
    pub(super) fn start(broker: &BrokerUrl, line: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(!broker.is_tls(), "the demo watches its broker without TLS: give an mqtt:// address");
        let mut options = MqttOptions::new("linewarden-demo-watcher", broker.host(), broker.port());
        options.set_keep_alive(KEEP_ALIVE);
        let variable = |name| std::env::var(name).ok();
        if let Some(user) = variable(linewarden_publish::USER_VARIABLE) {
            options.set_credentials(user, variable(linewarden_publish::PASSWORD_VARIABLE).unwrap_or_default());
        }
        let (client, mut connection) = Client::new(options, 16);
        client.subscribe(format!("linewarden/{line}/#"), QoS::AtLeastOnce).context("cannot subscribe")?;
        let (sender, seen) = channel();
        let (ready_sender, ready) = channel();
        let thread = std::thread::Builder::new().name("demo-watcher".to_owned());
        thread
            .spawn(move || {
                // The client lives as long as its connection is read.
                let _client = client;
                let mut waiting = Waiting::default();
                for event in connection.iter() {
                    match event {
                        Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready_sender.send(())),
                        Ok(Event::Incoming(Packet::Publish(message))) => {
                            if !waiting.take(&message.topic, &message.payload, &sender) {
                                return;
                            }
                        }
                        Ok(_) => {}
                        Err(_) => std::thread::sleep(RETRY),
                    }
                }
            })
            .context("cannot start the watcher's thread")?;
        ready.recv_timeout(SUBSCRIBE_TIMEOUT).with_context(|| format!("the broker {broker} does not answer"))?;
        Ok(Self { seen })
    }

    /// The next decided part.
    pub(super) fn next(&self, timeout: Duration) -> Option<Seen> {
        self.seen.recv_timeout(timeout).ok()
    }
}

impl Waiting {
    /// Takes a message; `false` once nobody listens any more.
    fn take(&mut self, topic: &str, payload: &[u8], sender: &Sender<Seen>) -> bool {
        let part = if topic.ends_with("/decision") {
            let Ok(decision) = serde_json::from_slice::<DecisionMessage>(payload) else { return true };
            let Ok(captured_at) = decision.captured_at.parse::<Timestamp>() else { return true };
            let age = Timestamp::now().duration_since(captured_at);
            let part = decision.part;
            self.decisions.insert(part, (decision, Duration::try_from(age).unwrap_or_default()));
            part
        } else if topic.ends_with("/result") {
            let Ok(result) = serde_json::from_slice::<ResultMessage>(payload) else { return true };
            let part = result.frame;
            self.results.insert(part, result);
            part
        } else {
            return true;
        };
        self.complete(part).is_none_or(|seen| sender.send(seen).is_ok())
    }

    /// The part, once its decision is here, and its result unless there is none to come.
    fn complete(&mut self, part: u64) -> Option<Seen> {
        let is_unscored = self.decisions.get(&part)?.0.reason.starts_with("not_scored");
        if !is_unscored && !self.results.contains_key(&part) {
            return None;
        }
        let (decision, age) = self.decisions.remove(&part)?;
        let result = self.results.remove(&part);
        let marked = |result: &ResultMessage| {
            let found = result.anomalies.iter().filter(|anomaly| anomaly.name != linewarden_core::BACKGROUND);
            found.map(|anomaly| anomaly.pixel_anomaly.total_percentage_area).sum()
        };
        Some(Seen {
            part,
            verdict: decision.verdict,
            score: result.as_ref().map(|result| result.anomaly_score),
            marked: result.as_ref().map_or(0.0, marked),
            age,
        })
    }
}
