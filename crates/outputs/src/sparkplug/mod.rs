//! A Sparkplug B (3.0) edge node with a device a line, over MQTT 3.1.1. docs/sparkplug.md lists its metrics.
//!
//! `wire.rs` is the payload as protobuf, `node.rs` what the node says and in which order (pure), `session.rs` the thread
//! that talks to the broker. Data travels at QoS 0, as Sparkplug demands; whatever must not be lost is published by
//! `crates/publish`.

#[cfg(feature = "sparkplug")]
mod node;
#[cfg(feature = "sparkplug")]
mod session;
#[cfg(feature = "sparkplug")]
mod wire;

use std::time::Duration;

use linewarden_publish::PublisherConfig;

use crate::OutputError;
use crate::thread::Running;

/// Who the edge node is, and to whom it speaks.
#[derive(Debug, Clone)]
pub struct SparkplugConfig {
    /// Brokers, TLS, credentials and keep-alive; topics and the rest of it mean nothing here.
    pub connection: PublisherConfig,
    /// The group, one level of a topic.
    pub group: String,
    /// The edge node, one level of a topic, unique in the group.
    pub node: String,
    /// The host application whose presence is waited for.
    pub primary_host: Option<String>,
    /// Decisions that are kept while broker or host are away.
    pub buffer: usize,
    /// Time between two heartbeats; changed counts and scores go out with them.
    pub heartbeat_interval: Duration,
}

#[cfg(feature = "sparkplug")]
pub(crate) fn start(lines: Vec<String>, config: SparkplugConfig) -> Result<Running, OutputError> {
    session::start(lines, config)
}

#[cfg(not(feature = "sparkplug"))]
pub(crate) fn start(_: Vec<String>, _: SparkplugConfig) -> Result<Running, OutputError> {
    Err(OutputError::NotBuilt { output: "Sparkplug B", feature: "sparkplug" })
}
