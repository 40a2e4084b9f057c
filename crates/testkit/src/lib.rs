//! Test support: real brokers and cameras under control. Everything started here ends with the value that started it.

#![forbid(unsafe_code)]

pub mod broker;
pub mod launch;
pub mod model;
pub mod process;
pub mod rtsp;
pub mod sandbox;
pub mod tls;
