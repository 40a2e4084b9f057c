//! The daemon and command line of Linewarden: the only place with wiring, tasks and policy.
//!
//! `cli` reads the call, `config` what a machine's lines are, `daemon` runs them, `line` is one of them; `agent` and `api` are
//! doors for clients of the old service, `services` what is behind the second, `jobs` what takes long there, `hosting` its
//! models; `events` and `metrics` tell people what happened.

#![forbid(unsafe_code)]

mod agent;
mod api;
mod apply;
pub mod cli;
pub mod config;
mod control;
mod daemon;
mod demo;
mod deploy;
mod events;
mod gate;
mod hosting;
mod http;
mod jobs;
mod line;
pub mod metrics;
mod packages;
mod services;
mod tls;
