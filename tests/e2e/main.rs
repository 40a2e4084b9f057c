//! The whole product from outside: pictures in files, the command line, real streams and a real broker.
//!
//! The real photographs lie in `../shared/data`. Where they are missing, the tests that need them say so on standard
//! error and end; everything else runs on synthetic parts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod accuracy;
mod bad_input;
mod documents;
mod extend;
mod labelled_tiles;
mod optimize;
mod packages;
mod regions;
mod reproducible;
mod score;
mod stream;
mod support;
mod thresholds;
