//! Delivers results and decisions to an MQTT broker: one implementation for the daemon and for the element `mqttpublish`.
//!
//! A [`ScoredFrame`](linewarden_core::ScoredFrame) or a [`Decision`](linewarden_core::Decision) comes in and is put in a
//! bounded outbox without waiting; one thread with a runtime of its own carries it to the broker and counts what became of
//! it, and another keeps decisions on disk until then. A decision that is too old is never sent as live: it goes out on a
//! topic of its own, marked historical. This crate knows nothing of GStreamer, of models, or of how a verdict is
//! reached.

#![forbid(unsafe_code)]

mod announcer;
mod broker_url;
mod config;
mod credentials;
mod error;
mod gate;
mod journal;
mod neighbour;
mod outbox;
mod payload;
mod publisher;
mod rounds;
mod session;
mod shared;
mod subscriber;
mod tls;
mod wire;

pub use announcer::{Announcer, AnnouncerObserver, AnnouncerStats};
pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use config::{OutboxConfig, PublisherConfig, check_name};
pub use credentials::{PASSWORD_VARIABLE, USER_VARIABLE};
pub use error::PublishError;
pub use gate::GateStats;
pub use journal::Fsync;
pub use outbox::MessageKind;
pub use publisher::Publisher;
pub use shared::{KindStats, Observer, PublishEvent, PublisherStats};
pub use subscriber::{Heard, Listener, Subscriber, check_topic};
pub use wire::{MqttVersion, Qos};
