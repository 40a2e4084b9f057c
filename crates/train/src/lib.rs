//! From pictures to a model package: data sets, features, detectors, calibration, evaluation and the ONNX file.

#![forbid(unsafe_code)]

pub mod backbone;
pub mod dataset;
pub mod evaluation;
pub mod onnx;
mod pickle;
