//! `AnomalyMeta`: what the model said of a frame, attached to the frame itself.
//!
//! A custom meta, so that any element and any language can read it: a structure with the fields named in [`field`]. The
//! element message [`MESSAGE`] carries the same fields. The meta has no tags, so that scaling, converting and copying the
//! frame keep it; the scored region is told in shares of the picture, which all of these leave as they are.

use std::sync::Once;
use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;
use gst::prelude::*;
use jiff::Timestamp;
use linewarden_core::{Anomaly, FrameResult, ModelRef, ScoredFrame};
use linewarden_model::{Label, LabelMask, StageTimes};

/// Name of the meta.
pub const NAME: &str = "AnomalyMeta";
/// Name of the structure in the element message that `anomalydetect` posts for every scored frame.
pub const MESSAGE: &str = "anomaly";

/// The fields of the structure.
pub mod field {
    /// Number of the frame since the element's start, from 0 (`guint64`).
    pub const FRAME: &str = "frame";
    /// Presentation time in nanoseconds; absent when the frame has none (`guint64`).
    pub const PTS: &str = "pts";
    /// Whether the score reached the threshold (`gboolean`).
    pub const IS_ANOMALOUS: &str = "is_anomalous";
    /// How sure the model is (`gdouble`).
    pub const CONFIDENCE: &str = "confidence";
    /// Calibrated score, 0 to 1 (`gdouble`).
    pub const SCORE: &str = "anomaly_score";
    /// Scores from here on are anomalous (`gdouble`).
    pub const THRESHOLD: &str = "anomaly_threshold";
    /// `GstValueArray` of structures with `name`, `total_percentage_area` and `hex_color`.
    pub const ANOMALIES: &str = "anomalies";
    /// How long detection took in all, in milliseconds (`gdouble`).
    pub const TIME_MS: &str = "time_ms";
    /// Scaling and colour conversion, in milliseconds (`gdouble`).
    pub const PREPROCESS_MS: &str = "preprocess_ms";
    /// Inference, in milliseconds (`gdouble`).
    pub const INFERENCE_MS: &str = "inference_ms";
    /// Map, labels and areas, in milliseconds (`gdouble`).
    pub const POSTPROCESS_MS: &str = "postprocess_ms";
    /// When the frame was captured: RFC 3339, UTC, microseconds (`gchararray`).
    pub const CAPTURED_AT: &str = "captured_at";
    /// The same in microseconds since 1970 (`gint64`).
    pub const CAPTURED_AT_US: &str = "captured_at_us";
    /// Project of the model (`gchararray`).
    pub const MODEL_PROJECT: &str = "model_project";
    /// Version of the model (`gchararray`).
    pub const MODEL_VERSION: &str = "model_version";
    /// SHA-256 of the model's graph (`gchararray`).
    pub const MODEL_SHA256: &str = "model_sha256";
    /// `GstValueArray` of structures with `name` and `hex_color`: the labels that the mask numbers from 1.
    pub const LABELS: &str = "labels";
    /// The scored region in shares of the picture: left edge (`gdouble`).
    pub const REGION_X: &str = "region_x";
    /// Top edge.
    pub const REGION_Y: &str = "region_y";
    /// Width.
    pub const REGION_WIDTH: &str = "region_width";
    /// Height.
    pub const REGION_HEIGHT: &str = "region_height";
    /// One byte a cell over the region, row by row: 0 or the number of a label (`GstBuffer`). Absent for normal frames.
    pub const MASK: &str = "mask";
    /// Cells in a row of the mask (`guint`).
    pub const MASK_WIDTH: &str = "mask_width";
    /// Rows of the mask (`guint`).
    pub const MASK_HEIGHT: &str = "mask_height";
    /// Name of a label, within `anomalies` and `labels`.
    pub const NAME: &str = "name";
    /// Share of the picture, within `anomalies`.
    pub const AREA: &str = "total_percentage_area";
    /// `#RRGGBB`, within `anomalies` and `labels`.
    pub const COLOR: &str = "hex_color";
}

/// The scored region in shares of the picture, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// What the model said of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyMeta {
    /// Number of the frame since the element's start, from 0. Frames that were not scored count too.
    pub frame: u64,
    /// Presentation time in the stream, if it has one.
    pub pts: Option<Duration>,
    /// When the frame was captured.
    pub captured_at: Timestamp,
    /// What the model said.
    pub result: FrameResult,
    /// How long each stage took.
    pub times: StageTimes,
    /// Which model said it.
    pub model: ModelRef,
    /// The labels that the mask numbers from 1.
    pub labels: Vec<Label>,
    /// The part of the picture that was scored.
    pub region: Region,
    /// Where the anomalies are, over the region. A normal frame has none.
    pub mask: Option<LabelMask>,
}

impl AnomalyMeta {
    /// The frame's result with its camera's name, as it is published.
    pub fn into_scored_frame(self, camera: &str) -> ScoredFrame {
        ScoredFrame {
            camera: camera.to_owned(),
            frame: self.frame,
            pts: self.pts,
            captured_at: self.captured_at,
            result: self.result,
            detection_time: self.times.total(),
            model: self.model,
        }
    }

    /// The structure of the element message.
    pub fn to_message_structure(&self) -> gst::Structure {
        let mut structure = gst::Structure::new_empty(MESSAGE);
        write(&mut structure, self);
        structure
    }
}

/// Makes the meta known to GStreamer. Done by the plugin; of use to a process that reads the meta without it.
pub fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // A second copy of the plugin in this process may have been first.
        if !CustomMeta::is_registered(NAME) {
            CustomMeta::register_with_transform(NAME, &[], copy);
        }
    });
}

/// Whatever is done to the frame, what was said of it stays.
fn copy(to: &mut gst::BufferRef, meta: &CustomMeta, _from: &gst::BufferRef, _transformation: glib::Quark) -> bool {
    let Ok(mut copied) = CustomMeta::add(to, NAME) else { return false };
    let target = copied.mut_structure();
    for (name, value) in meta.structure().iter() {
        target.set_value(name, value.clone());
    }
    true
}

/// Attaches the meta to a frame.
///
/// # Errors
/// When the buffer cannot take a meta.
pub fn attach(buffer: &mut gst::BufferRef, meta: &AnomalyMeta) -> Result<(), glib::BoolError> {
    register();
    write(CustomMeta::add(buffer, NAME)?.mut_structure(), meta);
    Ok(())
}

/// The meta of a frame, if it was scored.
pub fn read(buffer: &gst::BufferRef) -> Option<AnomalyMeta> {
    register();
    from_structure(CustomMeta::from_buffer(buffer, NAME).ok()?.structure())
}

/// The same out of the structure of a meta or of an element message.
pub fn from_structure(structure: &gst::StructureRef) -> Option<AnomalyMeta> {
    Some(AnomalyMeta {
        frame: structure.get(field::FRAME).ok()?,
        pts: structure.get(field::PTS).ok().map(Duration::from_nanos),
        captured_at: Timestamp::from_microsecond(structure.get(field::CAPTURED_AT_US).ok()?).ok()?,
        result: FrameResult {
            is_anomalous: structure.get(field::IS_ANOMALOUS).ok()?,
            confidence: structure.get(field::CONFIDENCE).ok()?,
            anomaly_score: structure.get(field::SCORE).ok()?,
            anomaly_threshold: structure.get(field::THRESHOLD).ok()?,
            anomalies: read_list(structure, field::ANOMALIES, read_anomaly)?,
        },
        times: StageTimes {
            preprocess: read_duration(structure, field::PREPROCESS_MS)?,
            inference: read_duration(structure, field::INFERENCE_MS)?,
            postprocess: read_duration(structure, field::POSTPROCESS_MS)?,
        },
        model: ModelRef {
            project: structure.get(field::MODEL_PROJECT).ok()?,
            version: structure.get(field::MODEL_VERSION).ok()?,
            sha256: structure.get(field::MODEL_SHA256).ok()?,
        },
        labels: read_list(structure, field::LABELS, read_label)?,
        region: Region {
            x: structure.get(field::REGION_X).ok()?,
            y: structure.get(field::REGION_Y).ok()?,
            width: structure.get(field::REGION_WIDTH).ok()?,
            height: structure.get(field::REGION_HEIGHT).ok()?,
        },
        mask: read_mask(structure),
    })
}

fn write(structure: &mut gst::StructureRef, meta: &AnomalyMeta) {
    let result = &meta.result;
    structure.set(field::FRAME, meta.frame);
    if let Some(pts) = meta.pts {
        structure.set(field::PTS, u64::try_from(pts.as_nanos()).unwrap_or(u64::MAX));
    }
    structure.set(field::IS_ANOMALOUS, result.is_anomalous);
    structure.set(field::CONFIDENCE, result.confidence);
    structure.set(field::SCORE, result.anomaly_score);
    structure.set(field::THRESHOLD, result.anomaly_threshold);
    structure.set(field::ANOMALIES, gst::Array::new(result.anomalies.iter().map(anomaly_structure)));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    structure.set(field::TIME_MS, milliseconds(meta.times.total()));
    structure.set(field::PREPROCESS_MS, milliseconds(meta.times.preprocess));
    structure.set(field::INFERENCE_MS, milliseconds(meta.times.inference));
    structure.set(field::POSTPROCESS_MS, milliseconds(meta.times.postprocess));
    structure.set(field::CAPTURED_AT, format!("{:.6}", meta.captured_at));
    structure.set(field::CAPTURED_AT_US, meta.captured_at.as_microsecond());
    structure.set(field::MODEL_PROJECT, &meta.model.project);
    structure.set(field::MODEL_VERSION, &meta.model.version);
    structure.set(field::MODEL_SHA256, &meta.model.sha256);
    structure.set(field::LABELS, gst::Array::new(meta.labels.iter().map(label_structure)));
    structure.set(field::REGION_X, meta.region.x);
    structure.set(field::REGION_Y, meta.region.y);
    structure.set(field::REGION_WIDTH, meta.region.width);
    structure.set(field::REGION_HEIGHT, meta.region.height);
    if let Some(mask) = &meta.mask {
        structure.set(field::MASK, gst::Buffer::from_slice(mask.labels.clone()));
        structure.set(field::MASK_WIDTH, u32::try_from(mask.width).unwrap_or(u32::MAX));
        structure.set(field::MASK_HEIGHT, u32::try_from(mask.height).unwrap_or(u32::MAX));
    }
}

fn anomaly_structure(anomaly: &Anomaly) -> glib::SendValue {
    let structure = gst::Structure::builder("anomaly")
        .field(field::NAME, &anomaly.name)
        .field(field::AREA, anomaly.total_percentage_area)
        .field(field::COLOR, &anomaly.hex_color);
    structure.build().to_send_value()
}

fn label_structure(label: &Label) -> glib::SendValue {
    let structure =
        gst::Structure::builder("label").field(field::NAME, &label.name).field(field::COLOR, &label.hex_color);
    structure.build().to_send_value()
}

fn read_anomaly(structure: &gst::StructureRef) -> Option<Anomaly> {
    Some(Anomaly {
        name: structure.get(field::NAME).ok()?,
        total_percentage_area: structure.get(field::AREA).ok()?,
        hex_color: structure.get(field::COLOR).ok()?,
    })
}

fn read_label(structure: &gst::StructureRef) -> Option<Label> {
    Some(Label { name: structure.get(field::NAME).ok()?, hex_color: structure.get(field::COLOR).ok()? })
}

fn read_duration(structure: &gst::StructureRef, name: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(structure.get::<f64>(name).ok()? / 1e3).ok()
}

fn read_list<T>(
    structure: &gst::StructureRef,
    name: &str,
    read_entry: impl Fn(&gst::StructureRef) -> Option<T>,
) -> Option<Vec<T>> {
    let entries = structure.get::<gst::Array>(name).ok()?;
    entries.iter().map(|entry| read_entry(entry.get::<gst::Structure>().ok()?.as_ref())).collect()
}

/// A mask whose size and bytes disagree is none.
fn read_mask(structure: &gst::StructureRef) -> Option<LabelMask> {
    let width = structure.get::<u32>(field::MASK_WIDTH).ok()? as usize;
    let height = structure.get::<u32>(field::MASK_HEIGHT).ok()? as usize;
    let buffer = structure.get::<gst::Buffer>(field::MASK).ok()?;
    let labels = buffer.map_readable().ok()?.to_vec();
    (Some(labels.len()) == width.checked_mul(height)).then_some(LabelMask { width, height, labels })
}
