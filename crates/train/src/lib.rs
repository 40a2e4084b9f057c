//! From pictures to a model package: data sets, features, detectors, calibration, evaluation and the ONNX file.
//!
//! A [`dataset::Dataset`] comes in, a `linewarden_model::package::Package` goes out. This crate knows nothing of
//! GStreamer, MQTT or the command line; whoever listens to its [`progress::Progress`] shows it.

#![forbid(unsafe_code)]

pub mod backbone;
pub mod bank;
pub mod calibration;
pub mod dataset;
pub mod evaluation;
pub mod export;
pub mod extend;
pub mod features;
#[cfg(test)]
mod fuzzing;
pub mod heads;
pub mod job;
pub mod memory;
pub mod onnx;
pub mod package;
mod parallel;
mod pickle;
pub mod precision;
pub mod progress;
pub mod report;
mod scaling;
pub mod scoring;
pub mod sizing;
pub mod threshold;
pub mod trainer;
pub mod views;
