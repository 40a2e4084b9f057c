//! The way in over MQTT: the topics of `docs/plc.md`, by a client of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rumqttc::{
    Client, Connection, Event, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS, SubscribeFilter,
};
use serde_json::{Value, json};

use super::{Action, Door, Heard, News, Order};

const SOON: Duration = Duration::from_secs(20);
/// Quicker than any daemon comes back.
const PAUSE: Duration = Duration::from_millis(20);

/// A client with a clean session: what comes while it is away is too old when it is back.
pub struct MqttDoor {
    client: Client,
    messages: Receiver<(Timestamp, Publish)>,
    /// `linewarden/<line>`
    root: String,
    /// A run's name by its number here.
    runs: BTreeMap<u32, String>,
    is_closed: Arc<AtomicBool>,
}

impl MqttDoor {
    /// Subscribes to what concerns the line's gate, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When the broker does not confirm.
    pub fn connect(port: u16, line: &str) -> Result<Self> {
        let root = format!("linewarden/{line}");
        let topics = ["decision", "heartbeat", "state"].map(|topic| format!("{root}/{topic}"));
        let filters = topics.map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce));
        let mut options = MqttOptions::new(client_id(), Ipv4Addr::LOCALHOST.to_string(), port);
        options.set_keep_alive(Duration::from_secs(10)).set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 64);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(1);
        connection.eventloop.set_network_options(network);
        let (message_sender, messages) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let (filters, ears_client) = (filters.to_vec(), client.clone());
        let ear = Ear { client: ears_client, filters, message_sender, ready_sender, is_closed: Arc::clone(&is_closed) };
        thread::Builder::new().name("plc-mqtt".to_owned()).spawn(move || ear.listen(connection))?;
        ready.recv_timeout(SOON).context("the PLC does not reach the broker")?;
        Ok(Self { client, messages, root, runs: BTreeMap::new(), is_closed })
    }

    fn read(&mut self, came: Timestamp, message: &Publish) -> Result<Option<News>> {
        let told: Value = serde_json::from_slice(&message.payload)
            .with_context(|| format!("`{}` did not get JSON", message.topic))?;
        Ok(match message.topic.rsplit('/').next() {
            Some("heartbeat") => Some(News::Heartbeat),
            Some("state") => (told["state"] == "offline").then_some(News::Offline),
            _ => Some(News::Order(self.order(came, &told).with_context(|| told.to_string())?)),
        })
    }

    fn order(&mut self, came: Timestamp, told: &Value) -> Result<Order> {
        let moment = |field: &str| told[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let boot_id = told["boot_id"].as_str().context("no `boot_id`")?;
        let run = run_number(boot_id);
        self.runs.insert(run, boot_id.to_owned());
        Ok(Order {
            run,
            number: u32::try_from(told["seq"].as_u64().context("no `seq`")?)?,
            part: told["trigger"].as_u64().context("no `trigger`")?,
            action: told["action"].as_str().and_then(Action::from_word).context("no `action`")?,
            is_expired: moment("expires_at").context("no `expires_at`")? <= came,
            reject_at: moment("reject_at"),
            text: told.to_string(),
        })
    }
}

impl Door for MqttDoor {
    fn trigger(&mut self, part: u64, at: Timestamp) {
        let payload = json!({"trigger": part, "at": at.to_string()}).to_string();
        // What finds no place is lost.
        let _ = self.client.try_publish(format!("{}/trigger", self.root), QoS::AtLeastOnce, false, payload);
    }

    fn hear(&mut self) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        for (came, message) in self.messages.try_iter().collect::<Vec<_>>() {
            heard.extend(self.read(came, &message)?.map(|news| Heard { came, news }));
        }
        Ok(heard)
    }

    fn acknowledge(&mut self, run: u32, number: u32) {
        let Some(boot_id) = self.runs.get(&run) else { return };
        let payload = json!({"boot_id": boot_id, "seq": number}).to_string();
        let _ = self.client.try_publish(format!("{}/ack", self.root), QoS::AtLeastOnce, false, payload);
    }
}

impl Drop for MqttDoor {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Release);
        let _ = self.client.try_disconnect();
    }
}

struct Ear {
    client: Client,
    filters: Vec<SubscribeFilter>,
    message_sender: Sender<(Timestamp, Publish)>,
    ready_sender: Sender<()>,
    is_closed: Arc<AtomicBool>,
}

impl Ear {
    fn listen(self, mut connection: Connection) {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let _ = self.client.try_subscribe_many(self.filters.clone());
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    let _ = self.ready_sender.send(());
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let _ = self.message_sender.send((Timestamp::now(), message));
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(_) if self.is_closed.load(Ordering::Acquire) => return,
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

fn client_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("plc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// FNV-1a: a number for the name of a run.
fn run_number(boot_id: &str) -> u32 {
    boot_id.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
