//! The publisher against a real mosquitto.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise, in its helpers too")]

mod announcer;
mod delivery;
mod failover;
mod gate;
mod historical;
mod security;
mod support;
mod version5;
