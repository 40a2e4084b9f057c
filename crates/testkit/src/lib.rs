//! Test support: real brokers and cameras under control. Everything started here ends with the value that started it.

#![forbid(unsafe_code)]

#[cfg(feature = "plc")]
pub mod belt;
pub mod broker;
#[cfg(feature = "rest")]
pub mod http;
pub mod launch;
#[cfg(feature = "models")]
pub mod model;
pub mod peers;
#[cfg(feature = "models")]
pub mod pictures;
#[cfg(feature = "plc")]
pub mod plc;
pub mod postgres;
pub mod process;
#[cfg(feature = "cameras")]
pub mod rtsp;
pub mod sandbox;
pub mod settings;
#[cfg(feature = "plc")]
pub mod structured_text;
pub mod tls;
