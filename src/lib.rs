//! The daemon and command line of Linewarden: the only place with wiring, tasks and policy.
//!
//! `cli` reads the call, `config` what a machine's lines are, `daemon` runs them, `line` is one of them; `events` and
//! `metrics` tell people what happened.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
mod daemon;
mod demo;
mod events;
mod http;
mod line;
pub mod metrics;
