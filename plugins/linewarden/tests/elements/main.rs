//! The plugin's elements, looked at through pads, properties, messages, a real broker and real `gst-launch-1.0` runs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod anomalydetect;
mod anomalyoverlay;
mod batch;
mod common;
mod launch;
mod mqttpublish;
mod swap;
