//! The seam to the client library: one connection in MQTT 3.1.1 or in MQTT 5, told in the same words.
//!
//! The library has a client for each version, alike but with types of their own; nothing behind this file knows which one
//! speaks.

use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::QoS as QosV5;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as CodeV5, LastWill as LastWillV5, LastWillProperties, Packet as PacketV5, PubAckReason,
    PubCompReason, PubRecReason, PublishProperties, SubscribeReasonCode as SubscribedV5,
};
use rumqttc::{
    ConnectReturnCode, ConnectionError, Event, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, QoS,
    StateError, SubscribeReasonCode,
};

use crate::config::{Connection, PublisherConfig};
use crate::credentials::Credentials;

/// What every message is, in MQTT 5.
const CONTENT_TYPE: &str = "application/json";
/// MQTT 5's mark for a payload that is text.
const IS_TEXT: u8 = 1;

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// 3.1.1, which every broker speaks.
    #[default]
    V3_1_1,
    /// 5: messages tell their broker when they end, and what they are.
    V5,
}

/// How surely a message is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Qos {
    /// At least once.
    #[default]
    AtLeastOnce,
    /// Exactly once, as far as one connection goes: two more packets on the way.
    ExactlyOnce,
}

/// How a connection is opened.
pub(crate) struct Dial<'a> {
    pub(crate) version: MqttVersion,
    pub(crate) client_id: &'a str,
    pub(crate) connection: &'a Connection,
    pub(crate) keep_alive: Duration,
    pub(crate) connect_timeout: Duration,
    /// How long the broker keeps our subscription while we are away; none: not at all.
    pub(crate) session_expiry: Option<Duration>,
    /// Topic and payload of the will.
    pub(crate) will: Option<(String, Vec<u8>)>,
    pub(crate) packet_ids: u16,
    pub(crate) longest_packet: usize,
    pub(crate) channel: usize,
}

/// A message as it is handed to the client.
pub(crate) struct Publication {
    pub(crate) topic: String,
    /// `None` is at most once.
    pub(crate) qos: Option<Qos>,
    pub(crate) retain: bool,
    pub(crate) payload: Vec<u8>,
    /// What is left of its life.
    pub(crate) life: Option<Duration>,
    pub(crate) id: Option<String>,
}

/// What a connection tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Connected,
    /// Handed to the network under this number; 0 for one that needs no acknowledgement.
    Sent(u16),
    /// The broker has it for good.
    Acknowledged(u16),
    /// The broker does not want it.
    Refused(u16, String),
    /// The first half of a delivery exactly once.
    HalfAcknowledged,
    Message {
        topic: String,
        payload: Vec<u8>,
        is_retained: bool,
    },
    Subscribed,
    SubscriptionRefused(String),
    Other,
}

/// The client's side that takes messages. Full only when the caller hands over more than it said it would.
pub(crate) enum Client {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// The client's side that must be polled.
pub(crate) enum Wire {
    V3(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl<'a> Dial<'a> {
    /// A connection that leaves neither a session nor a will, for short messages.
    pub(crate) fn plain(
        config: &PublisherConfig,
        connection: &'a Connection,
        client_id: &'a str,
        packet_ids: u16,
        channel: usize,
    ) -> Self {
        // A longer message costs the connection.
        const LONGEST_PACKET: usize = 64 * 1024;
        Self {
            version: config.version,
            client_id,
            connection,
            keep_alive: config.keep_alive,
            connect_timeout: config.connect_timeout,
            session_expiry: None,
            will: None,
            packet_ids,
            longest_packet: LONGEST_PACKET,
            channel,
        }
    }
}

impl Dial<'_> {
    pub(crate) fn open(self) -> (Client, Wire) {
        match self.version {
            MqttVersion::V3_1_1 => self.open_v3(),
            MqttVersion::V5 => self.open_v5(),
        }
    }

    /// The library writes host and port as one text, so an IPv6 address needs its brackets back.
    fn host(&self) -> String {
        let broker = &self.connection.broker;
        if broker.is_ipv6() { format!("[{}]", broker.host()) } else { broker.host().to_owned() }
    }

    fn open_v3(self) -> (Client, Wire) {
        let mut options = MqttOptions::new(self.client_id, self.host(), self.connection.broker.port());
        options.set_transport(self.connection.transport.clone());
        options.set_keep_alive(Duration::from_secs(self.keep_alive.as_secs()));
        options.set_clean_session(self.session_expiry.is_none());
        options.set_inflight(self.packet_ids);
        options.set_max_packet_size(self.longest_packet, self.longest_packet);
        if let Some(Credentials { user, password }) = &self.connection.credentials {
            options.set_credentials(user, password);
        }
        if let Some((topic, payload)) = self.will {
            options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true));
        }
        let (client, mut event_loop) = rumqttc::AsyncClient::new(options, self.channel);
        event_loop.network_options = network_options(self.connect_timeout);
        (Client::V3(client), Wire::V3(Box::new(event_loop)))
    }

    fn open_v5(self) -> (Client, Wire) {
        let mut options = v5::MqttOptions::new(self.client_id, self.host(), self.connection.broker.port());
        options.set_transport(self.connection.transport.clone());
        options.set_keep_alive(Duration::from_secs(self.keep_alive.as_secs()));
        options.set_clean_start(self.session_expiry.is_none());
        options.set_session_expiry_interval(self.session_expiry.map(whole_seconds));
        options.set_outgoing_inflight_upper_limit(self.packet_ids);
        options.set_max_packet_size(u32::try_from(self.longest_packet).ok());
        options.set_connection_timeout(self.connect_timeout.as_secs().max(1));
        if let Some(Credentials { user, password }) = &self.connection.credentials {
            options.set_credentials(user, password);
        }
        if let Some((topic, payload)) = self.will {
            options.set_last_will(LastWillV5::new(topic, payload, QosV5::AtLeastOnce, true, Some(will_properties())));
        }
        options.set_network_options(network_options(self.connect_timeout));
        let (client, event_loop) = v5::AsyncClient::new(options, self.channel);
        (Client::V5(client), Wire::V5(Box::new(event_loop)))
    }
}

fn will_properties() -> LastWillProperties {
    LastWillProperties {
        delay_interval: None,
        payload_format_indicator: Some(IS_TEXT),
        message_expiry_interval: None,
        content_type: Some(CONTENT_TYPE.to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    }
}

fn network_options(connect_timeout: Duration) -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options.set_connection_timeout(connect_timeout.as_secs().max(1));
    options
}

/// A started second counts: 0 would mean "never" to some brokers.
fn whole_seconds(life: Duration) -> u32 {
    u32::try_from(life.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

impl Client {
    pub(crate) fn publish(&self, publication: Publication) -> Result<(), String> {
        let Publication { topic, qos, retain, payload, life, id } = publication;
        match self {
            Self::V3(client) => {
                let qos = match qos {
                    None => QoS::AtMostOnce,
                    Some(Qos::AtLeastOnce) => QoS::AtLeastOnce,
                    Some(Qos::ExactlyOnce) => QoS::ExactlyOnce,
                };
                client.try_publish(topic, qos, retain, payload).map_err(|error| error.to_string())
            }
            Self::V5(client) => {
                let properties = PublishProperties {
                    payload_format_indicator: Some(IS_TEXT),
                    message_expiry_interval: life.map(whole_seconds),
                    correlation_data: id.map(|id| id.into_bytes().into()),
                    content_type: Some(CONTENT_TYPE.to_owned()),
                    ..PublishProperties::default()
                };
                let published = client.try_publish_with_properties(topic, qos_v5(qos), retain, payload, properties);
                published.map_err(|error| error.to_string())
            }
        }
    }

    pub(crate) fn subscribe(&self, topic: &str, qos: Qos) -> Result<(), String> {
        match (self, qos) {
            (Self::V3(client), Qos::AtLeastOnce) => {
                client.try_subscribe(topic, QoS::AtLeastOnce).map_err(|error| error.to_string())
            }
            (Self::V3(client), Qos::ExactlyOnce) => {
                client.try_subscribe(topic, QoS::ExactlyOnce).map_err(|error| error.to_string())
            }
            (Self::V5(client), qos) => {
                client.try_subscribe(topic, qos_v5(Some(qos))).map_err(|error| error.to_string())
            }
        }
    }

    pub(crate) fn disconnect(&self) {
        // A channel that is full, or a loop that is gone: the connection ends anyway.
        match self {
            Self::V3(client) => drop(client.try_disconnect()),
            Self::V5(client) => drop(client.try_disconnect()),
        }
    }
}

fn qos_v5(qos: Option<Qos>) -> QosV5 {
    match qos {
        None => QosV5::AtMostOnce,
        Some(Qos::AtLeastOnce) => QosV5::AtLeastOnce,
        Some(Qos::ExactlyOnce) => QosV5::ExactlyOnce,
    }
}

impl Wire {
    /// What happens next; an error, in words that help and without a secret, ends the connection.
    pub(crate) async fn poll(&mut self) -> Result<Heard, String> {
        match self {
            Self::V3(event_loop) => match event_loop.poll().await {
                Ok(event) => Ok(heard_v3(event)),
                Err(error) => Err(describe_v3(&error)),
            },
            Self::V5(event_loop) => match event_loop.poll().await {
                Ok(event) => Ok(heard_v5(event)),
                Err(error) => Err(describe_v5(&error)),
            },
        }
    }
}

fn heard_v3(event: Event) -> Heard {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Heard::Connected,
        Event::Incoming(Packet::PubAck(packet)) => Heard::Acknowledged(packet.pkid),
        Event::Incoming(Packet::PubRec(_)) => Heard::HalfAcknowledged,
        Event::Incoming(Packet::PubComp(packet)) => Heard::Acknowledged(packet.pkid),
        Event::Incoming(Packet::Publish(message)) => {
            Heard::Message { topic: message.topic, payload: message.payload.to_vec(), is_retained: message.retain }
        }
        Event::Incoming(Packet::SubAck(answer)) if answer.return_codes.contains(&SubscribeReasonCode::Failure) => {
            Heard::SubscriptionRefused("not authorized, or not possible".to_owned())
        }
        Event::Incoming(Packet::SubAck(_)) => Heard::Subscribed,
        Event::Outgoing(Outgoing::Publish(packet_id)) => Heard::Sent(packet_id),
        _ => Heard::Other,
    }
}

fn heard_v5(event: v5::Event) -> Heard {
    match event {
        v5::Event::Incoming(PacketV5::ConnAck(_)) => Heard::Connected,
        v5::Event::Incoming(PacketV5::PubAck(packet)) => match packet.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Heard::Acknowledged(packet.pkid),
            reason => Heard::Refused(packet.pkid, format!("{reason:?}")),
        },
        v5::Event::Incoming(PacketV5::PubRec(packet)) => match packet.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => Heard::HalfAcknowledged,
            reason => Heard::Refused(packet.pkid, format!("{reason:?}")),
        },
        v5::Event::Incoming(PacketV5::PubComp(packet)) => match packet.reason {
            PubCompReason::Success => Heard::Acknowledged(packet.pkid),
            reason => Heard::Refused(packet.pkid, format!("{reason:?}")),
        },
        v5::Event::Incoming(PacketV5::Publish(message)) => Heard::Message {
            topic: String::from_utf8_lossy(&message.topic).into_owned(),
            payload: message.payload.to_vec(),
            is_retained: message.retain,
        },
        v5::Event::Incoming(PacketV5::SubAck(answer)) => {
            let refusal = answer.return_codes.iter().find(|code| !matches!(code, SubscribedV5::Success(_)));
            refusal.map_or(Heard::Subscribed, |code| Heard::SubscriptionRefused(format!("{code:?}")))
        }
        v5::Event::Outgoing(Outgoing::Publish(packet_id)) => Heard::Sent(packet_id),
        _ => Heard::Other,
    }
}

const NOT_AUTHORIZED: &str = "the broker refused the connection: not authorized, check user and password";
const WRONG_PASSWORD: &str = "the broker refused the connection: wrong user or password";
const CLOSED: &str = "the broker closed the connection";
const NO_ANSWER: &str = "the broker does not answer";
const TOO_LATE: &str = "no answer in time";

fn describe_v3(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => NOT_AUTHORIZED.to_owned(),
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword) => WRONG_PASSWORD.to_owned(),
        ConnectionError::ConnectionRefused(code) => format!("the broker refused the connection: {code:?}"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => CLOSED.to_owned(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => NO_ANSWER.to_owned(),
        ConnectionError::NetworkTimeout => TOO_LATE.to_owned(),
        other => other.to_string(),
    }
}

fn describe_v5(error: &v5::ConnectionError) -> String {
    match error {
        v5::ConnectionError::ConnectionRefused(CodeV5::NotAuthorized) => NOT_AUTHORIZED.to_owned(),
        v5::ConnectionError::ConnectionRefused(CodeV5::BadUserNamePassword) => WRONG_PASSWORD.to_owned(),
        v5::ConnectionError::ConnectionRefused(CodeV5::UnsupportedProtocolVersion) => {
            "the broker refused the connection: it does not speak MQTT 5, set `version` to \"3.1.1\"".to_owned()
        }
        v5::ConnectionError::ConnectionRefused(code) => format!("the broker refused the connection: {code:?}"),
        v5::ConnectionError::MqttState(v5::StateError::ConnectionAborted) => CLOSED.to_owned(),
        v5::ConnectionError::MqttState(v5::StateError::AwaitPingResp) => NO_ANSWER.to_owned(),
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect { reason_code, .. }) => {
            format!("the broker ended the connection: {reason_code:?}")
        }
        v5::ConnectionError::Timeout(_) => TOO_LATE.to_owned(),
        other => other.to_string(),
    }
}
