//! What is kept of the parts that a line decided on: their pictures, and an audit log whose records are chained by hash.
//!
//! An [`Item`] comes in without waiting; one thread writes its files and appends a record for it to the log, and removes
//! what is older or more than the configuration allows, which becomes a record too. [`verify`] reads all of it again and
//! says where anything was changed, removed or put in. This crate knows nothing of GStreamer, of MQTT, or of how a
//! decision is reached.

#![forbid(unsafe_code)]

mod chain;
mod files;
mod key;
mod log;
mod moment;
mod retention;
mod store;
mod verify;

pub use chain::{Head, HeadError, Kind};
pub use files::{Picture, PictureFormat};
pub use key::{Key, KeyError};
pub use log::{Fsync, LogError};
pub use retention::Keep;
pub use store::{Event, Item, Observer, Store, StoreConfig, StoreError};
pub use verify::{Fault, Report, VerifyError, verify};
