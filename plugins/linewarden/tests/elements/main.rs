//! The plugin's elements, looked at through pads, properties, messages, a real broker, an agent by script and real
//! `gst-launch-1.0` runs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod anomalydetect;
mod anomalyoverlay;
mod batch;
mod common;
mod fake_agent;
mod launch;
mod lookoutvision;
mod mqttpublish;
mod mqttpublisher;
mod swap;
