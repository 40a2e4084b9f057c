//! Delivers results and decisions to an MQTT broker: one implementation for the daemon and for the element `mqttpublish`.
//!
//! A [`ScoredFrame`](linewarden_core::ScoredFrame) or a [`Decision`](linewarden_core::Decision) comes in and is put in a
//! bounded outbox without waiting; one thread with a runtime of its own carries it to the broker and counts what became of
//! it. A message that is too old is never sent. This crate knows nothing of GStreamer, of models, or of how a verdict is
//! reached.

#![forbid(unsafe_code)]

mod backoff;
mod broker_url;
mod config;
mod credentials;
mod error;
mod outbox;
mod payload;
mod publisher;
mod session;
mod shared;
mod tls;

pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use config::{PublisherConfig, check_name};
pub use credentials::{PASSWORD_VARIABLE, USER_VARIABLE};
pub use error::PublishError;
pub use outbox::MessageKind;
pub use publisher::Publisher;
pub use shared::{KindStats, Observer, PublishEvent, PublisherStats};
