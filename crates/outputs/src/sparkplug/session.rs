//! The thread that talks to the broker: a connection at a time, each with a will and a number of its own.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::Backoff;
use linewarden_publish::check_name;
use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Outgoing as Sent, Packet, QoS};
use serde::Deserialize;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::SparkplugConfig;
use super::node::{Node, Outgoing};
use crate::OutputError;
use crate::mailbox::Mailbox;
use crate::thread::{self, Running};

/// Requests that the client library may hold.
const CHANNEL: usize = 32;
/// A birth with hundreds of lines; each line's is about 1 KiB.
const LONGEST_PACKET: usize = 1 << 20;
/// What the goodbye may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// A host application's word about itself.
#[derive(Deserialize)]
struct HostState {
    online: bool,
    timestamp: u64,
}

struct Session {
    config: SparkplugConfig,
    options: Vec<MqttOptions>,
    mailbox: Arc<Mailbox>,
    node: Node,
    /// The latest word of the primary host: when, and whether it is there.
    host: Option<(u64, bool)>,
}

/// One connection.
struct Link {
    client: AsyncClient,
    outgoing: VecDeque<(Outgoing, QoS)>,
    is_connected: bool,
    /// Subscriptions that are not confirmed yet.
    unconfirmed: usize,
    is_born: bool,
    wants_rebirth: bool,
    farewell_until: Option<Instant>,
    said_goodbye: bool,
}

enum End {
    Stopped,
    Failed(String),
    /// The primary host went away.
    Unheard,
}

pub(crate) fn start(lines: Vec<String>, config: SparkplugConfig) -> Result<Running, OutputError> {
    let wrong = |problem: String| OutputError::Start { output: "Sparkplug B", problem };
    for (key, name) in
        [("group", Some(&config.group)), ("node", Some(&config.node)), ("primary_host", config.primary_host.as_ref())]
    {
        name.map_or(Ok(()), |name| check_name(key, name)).map_err(|error| wrong(error.to_string()))?;
    }
    let client_id = format!("linewarden-{}-{}", config.group, config.node);
    let options = config.connection.client_options(&client_id).map_err(|error| wrong(error.to_string()))?;
    let mailbox = Mailbox::new(lines.clone());
    let lines = lines.into_iter().zip(mailbox.take().lines).collect();
    let node = Node::new(&config.group, &config.node, lines, config.buffer);
    let session = Session { config, options, mailbox: Arc::clone(&mailbox), node, host: None };
    thread::start("sparkplug".to_owned(), mailbox, async move || Ok(session.run()))
}

impl Session {
    async fn run(mut self) {
        let mut backoff = Backoff::of_peer();
        let mut heartbeat = tokio::time::interval(self.config.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for broker in (0..self.options.len()).cycle() {
            let Some(options) = self.options.get(broker).cloned() else { return };
            let (mut link, event_loop) = self.open(options);
            let end = self.drive(&mut link, event_loop, &mut heartbeat).await;
            self.mailbox.tally.connected.store(0, Ordering::Relaxed);
            self.node.unheard();
            if link.is_born {
                backoff.reset();
            }
            match end {
                End::Stopped => return,
                End::Failed(error) => tracing::warn!(error, "Sparkplug connection lost, retrying"),
                End::Unheard => tracing::warn!("Sparkplug host went offline, waiting for it"),
            }
            // Without a connection decisions still come.
            let mailbox = Arc::clone(&self.mailbox);
            if mailbox.pass_time(backoff.next_delay(), || self.take_mail(false)).await {
                return;
            }
        }
    }

    fn open(&mut self, mut options: MqttOptions) -> (Link, EventLoop) {
        let will = self.node.connecting(Timestamp::now());
        options
            .set_clean_session(true)
            .set_max_packet_size(LONGEST_PACKET, LONGEST_PACKET)
            .set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, false));
        let (client, mut event_loop) = AsyncClient::new(options, CHANNEL);
        event_loop.network_options.set_tcp_nodelay(true);
        event_loop.network_options.set_connection_timeout(self.connect_timeout_seconds());
        let link = Link {
            client,
            outgoing: VecDeque::new(),
            is_connected: false,
            unconfirmed: 0,
            is_born: false,
            wants_rebirth: false,
            farewell_until: None,
            said_goodbye: false,
        };
        (link, event_loop)
    }

    /// The library takes whole seconds.
    fn connect_timeout_seconds(&self) -> u64 {
        self.config.connection.connect_timeout.as_secs_f64().ceil() as u64
    }

    /// True when the end has come.
    fn take_mail(&mut self, is_heard: bool) -> bool {
        let mail = self.mailbox.take();
        mail.lines.into_iter().enumerate().for_each(|(line, now)| self.node.set_line(line, now));
        mail.decisions.into_iter().for_each(|(line, decision)| self.node.decided(line, decision, is_heard));
        mail.is_stopping
    }

    async fn drive(&mut self, link: &mut Link, mut event_loop: EventLoop, heartbeat: &mut Interval) -> End {
        loop {
            let event = {
                // A poll that is dropped takes the connection that it is just making along, and the broker says our will.
                let mut poll = pin!(event_loop.poll());
                loop {
                    tokio::select! {
                        event = &mut poll => break event,
                        () = self.mailbox.news() => {}
                        _ = heartbeat.tick() => self.beat(link),
                        () = sleep_until(link.farewell_until) => return End::Stopped,
                    }
                    if let Some(end) = self.speak(link) {
                        return end;
                    }
                }
            };
            match event {
                Ok(Event::Incoming(packet)) => self.heard(link, packet),
                Ok(Event::Outgoing(Sent::Disconnect)) => return End::Stopped,
                Ok(Event::Outgoing(_)) => {}
                // After our goodbye the broker closes.
                Err(_) if link.farewell_until.is_some() => return End::Stopped,
                Err(error) => return End::Failed(error.to_string()),
            }
            if link.is_born && self.host_is_away() {
                return self.leave(link, event_loop).await;
            }
            if let Some(end) = self.speak(link) {
                return end;
            }
        }
    }

    fn beat(&mut self, link: &mut Link) {
        if link.is_born {
            link.add(self.node.heartbeat(Timestamp::now()));
        }
    }

    /// Tells what there is to tell; gives the end, if that is it.
    fn speak(&mut self, link: &mut Link) -> Option<End> {
        if self.take_mail(link.is_born) && link.farewell_until.is_none() {
            if !link.is_connected {
                return Some(End::Stopped);
            }
            link.farewell_until = Some(Instant::now() + FAREWELL);
            self.tell(link);
            if link.is_born {
                link.outgoing.push_back((self.node.death(Timestamp::now()), QoS::AtLeastOnce));
            }
        } else if link.farewell_until.is_none() {
            self.tell(link);
        }
        if link.pump().is_err() {
            return Some(End::Failed("the client library takes no more messages".to_owned()));
        }
        // Its last words are out of our hands: the broker gets our goodbye, and sends no will.
        if link.farewell_until.is_some() {
            link.say_goodbye();
        }
        None
    }

    /// Births, deaths and decisions, as far as somebody hears them.
    fn tell(&mut self, link: &mut Link) {
        let now = Timestamp::now();
        let may_be_born = link.is_connected && link.unconfirmed == 0 && !self.host_is_away();
        if may_be_born && (!link.is_born || link.wants_rebirth) && link.farewell_until.is_none() {
            tracing::info!(is_rebirth = link.is_born, "Sparkplug node born");
            (link.is_born, link.wants_rebirth) = (true, false);
            self.mailbox.tally.connected.store(1, Ordering::Relaxed);
            let births = self.node.births(now);
            link.add(births);
        }
        if !link.is_born {
            return;
        }
        let tally = &self.mailbox.tally;
        while link.outgoing.len() < CHANNEL {
            let lines = self.node.lines_to_tell(now);
            link.add(lines);
            let Some((data, is_historical)) = self.node.next_decision(now) else { break };
            let counter = if is_historical { &tally.expired } else { &tally.delivered };
            counter.fetch_add(1, Ordering::Relaxed);
            link.add(vec![data]);
        }
    }

    fn heard(&mut self, link: &mut Link, packet: Packet) {
        match packet {
            Packet::ConnAck(_) => {
                link.is_connected = true;
                let host = self.config.primary_host.as_ref();
                let topics = std::iter::once(self.node.command_topic()).chain(host.map(|host| state_topic(host)));
                for topic in topics {
                    // The channel is empty after a connection has begun.
                    let _ = link.client.try_subscribe(topic, QoS::AtLeastOnce);
                    link.unconfirmed += 1;
                }
                // Whether the host is there is told anew.
                self.host = None;
            }
            Packet::SubAck(_) => link.unconfirmed = link.unconfirmed.saturating_sub(1),
            Packet::Publish(message) if message.topic == self.node.command_topic() => {
                link.wants_rebirth |= Node::is_rebirth(&message.payload);
            }
            Packet::Publish(message) if self.is_host_topic(&message.topic) => {
                let Ok(state) = serde_json::from_slice::<HostState>(&message.payload) else {
                    tracing::warn!(topic = message.topic, "Sparkplug host state cannot be read");
                    return;
                };
                // An old will of the host's must not take back a newer birth of it.
                if self.host.is_none_or(|(at, _)| state.timestamp >= at) {
                    self.host = Some((state.timestamp, state.online));
                }
            }
            _ => {}
        }
    }

    fn is_host_topic(&self, topic: &str) -> bool {
        self.config.primary_host.as_deref().is_some_and(|host| state_topic(host) == topic)
    }

    /// There is a host to wait for, and it is not there, as far as is known.
    fn host_is_away(&self) -> bool {
        self.config.primary_host.is_some() && !matches!(self.host, Some((_, true)))
    }

    /// The host went away: the node dies, by its own word, and comes back with a new connection.
    async fn leave(&mut self, link: &mut Link, mut event_loop: EventLoop) -> End {
        link.outgoing.clear();
        let death = self.node.death(Timestamp::now());
        let until = Instant::now() + FAREWELL;
        let farewell = async {
            link.outgoing.push_back((death, QoS::AtLeastOnce));
            loop {
                // What cannot be handed over yet can be once the library was polled.
                let _ = link.pump();
                link.say_goodbye();
                match event_loop.poll().await {
                    Ok(Event::Outgoing(Sent::Disconnect)) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout_at(until, farewell).await;
        End::Unheard
    }
}

impl Link {
    fn add(&mut self, messages: Vec<Outgoing>) {
        self.outgoing.extend(messages.into_iter().map(|message| (message, QoS::AtMostOnce)));
    }

    /// Ends the connection once everything was handed over.
    fn say_goodbye(&mut self) {
        if self.outgoing.is_empty() && !self.said_goodbye {
            self.said_goodbye = self.client.try_disconnect().is_ok();
        }
    }

    /// Hands over as much as the library takes.
    fn pump(&mut self) -> Result<(), ()> {
        while let Some((message, qos)) = self.outgoing.front() {
            let published = self.client.try_publish(&message.topic, *qos, false, message.payload.clone());
            match published {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(rumqttc::ClientError::TryRequest(_)) => return Ok(()),
                Err(rumqttc::ClientError::Request(_)) => return Err(()),
            }
        }
        Ok(())
    }
}

/// Waits for ever when there is no moment.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Where a host says whether it is there.
fn state_topic(host: &str) -> String {
    format!("spBv1.0/STATE/{host}")
}
