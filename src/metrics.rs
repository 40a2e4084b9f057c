//! The series of `/metrics`. Each exists from the start, at 0, for every label value that it can ever have.
//!
//! Only `events.rs` counts; everybody else says what happened.

use std::sync::{Arc, Mutex, PoisonError};

use linewarden_core::Verdict;
use linewarden_publish::{MessageKind, Publisher};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::config::{Config, LineConfig};

/// Half a millisecond, the least that a stage of ours takes, to one second, when a gate has long moved on.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0];

/// One detection of a frame is this operation.
const OPERATION: &str = "detect";

/// Why a frame was not scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotScored {
    /// The next frames came before this one was looked at.
    QueueFull,
    /// The element let it go because it came too late.
    Late,
    /// The model failed on it.
    ModelFailed,
    /// The picture could not be read.
    Unreadable,
    /// The camera's pipeline stopped before it was scored.
    PipelineStopped,
}

impl NotScored {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::QueueFull, Self::Late, Self::ModelFailed, Self::Unreadable, Self::PipelineStopped];

    /// The name in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Late => "late",
            Self::ModelFailed => "model_failed",
            Self::Unreadable => "unreadable",
            Self::PipelineStopped => "pipeline_stopped",
        }
    }
}

/// Where time goes between a frame's capture and its decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the element.
    Queue,
    /// Scaling and colour conversion.
    Preprocess,
    /// ONNX Runtime.
    Inference,
    /// Map, labels and areas.
    Postprocess,
    /// From capture to the decision's place in the outbox.
    Total,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Queue, Self::Preprocess, Self::Inference, Self::Postprocess, Self::Total];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Preprocess => "preprocess",
            Self::Inference => "inference",
            Self::Postprocess => "postprocess",
            Self::Total => "total",
        }
    }
}

/// All series of this process.
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Outboxes that are looked at when somebody asks.
    outboxes: Mutex<Vec<(IntGauge, Publisher)>>,
}

struct Families {
    detected_anomaly: IntCounterVec,
    processed_image: IntCounterVec,
    invalid_image: IntCounterVec,
    successful_request: IntCounterVec,
    error: IntCounterVec,
    throttled: IntCounterVec,
    detection_duration: HistogramVec,
    units: [IntGaugeVec; 4],
    stage_duration: HistogramVec,
    acknowledge_duration: HistogramVec,
    decision: IntCounterVec,
    frame_dropped: IntCounterVec,
    deadline_missed: IntCounterVec,
    outbox_messages: IntGaugeVec,
    outbox_expired: IntCounterVec,
    outbox_dropped: IntCounterVec,
    broker_connected: IntGaugeVec,
    broker_reconnects: IntCounterVec,
    camera_connected: IntGaugeVec,
    camera_restarts: IntCounterVec,
}

/// The series of one line.
#[derive(Clone)]
pub(crate) struct LineMetrics {
    pub(crate) decisions: [IntCounter; 3],
    pub(crate) deadline_missed: IntCounter,
    pub(crate) acknowledge_duration: Histogram,
    pub(crate) outbox_expired: [IntCounter; 2],
    pub(crate) outbox_dropped: [IntCounter; 2],
    pub(crate) broker_connected: IntGauge,
    pub(crate) broker_reconnects: IntCounter,
}

/// The series of one camera.
#[derive(Clone)]
pub(crate) struct CameraMetrics {
    pub(crate) detected_anomaly: IntCounter,
    pub(crate) processed_image: IntCounter,
    pub(crate) invalid_image: IntCounter,
    pub(crate) successful_request: IntCounter,
    pub(crate) error: IntCounter,
    pub(crate) throttled: IntCounter,
    pub(crate) detection_duration: Histogram,
    pub(crate) units_in_service: IntGauge,
    pub(crate) stages: [Histogram; 5],
    pub(crate) frame_dropped: [IntCounter; 5],
    pub(crate) connected: IntGauge,
    pub(crate) restarts: IntCounter,
}

impl Metrics {
    /// The series for everything that the configuration names.
    ///
    /// # Errors
    /// When two series have the same name, which would be a fault of this file.
    pub fn new(config: &Config) -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        let build_info = gauge(&registry, "build_info", "Which version runs; always 1", &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Arc::new(Self { registry, families, outboxes: Mutex::default() });
        for line in &config.lines {
            metrics.line(line);
            for camera in &line.cameras {
                metrics.camera(line, &camera.name);
                let model = [line.model_ref.project.as_str(), line.model_ref.version.as_str()];
                let [min, max, desired, _] = &metrics.families.units;
                [min, max, desired].iter().for_each(|units| units.with_label_values(&model).inc());
            }
        }
        Ok(metrics)
    }

    /// The series of a line.
    pub(crate) fn line(&self, line: &LineConfig) -> LineMetrics {
        let families = &self.families;
        let name = line.name.as_str();
        families.outbox_messages.with_label_values(&[name]);
        let kinds =
            |counter: &IntCounterVec| MessageKind::ALL.map(|kind| counter.with_label_values(&[name, kind.as_str()]));
        LineMetrics {
            decisions: Verdict::ALL.map(|verdict| families.decision.with_label_values(&[name, verdict.as_str()])),
            deadline_missed: families.deadline_missed.with_label_values(&[name]),
            acknowledge_duration: families.acknowledge_duration.with_label_values(&[name]),
            outbox_expired: kinds(&families.outbox_expired),
            outbox_dropped: kinds(&families.outbox_dropped),
            broker_connected: families.broker_connected.with_label_values(&[name]),
            broker_reconnects: families.broker_reconnects.with_label_values(&[name]),
        }
    }

    /// The series of a camera.
    pub(crate) fn camera(&self, line: &LineConfig, camera: &str) -> CameraMetrics {
        let families = &self.families;
        let (project, version) = (line.model_ref.project.as_str(), line.model_ref.version.as_str());
        let place = [line.name.as_str(), camera];
        let full = [project, version, place[0], place[1]];
        let request = [project, version, OPERATION];
        let stage = |stage: Stage| families.stage_duration.with_label_values(&[place[0], place[1], stage.as_str()]);
        let dropped = |why: NotScored| families.frame_dropped.with_label_values(&[place[0], place[1], why.as_str()]);
        CameraMetrics {
            detected_anomaly: families.detected_anomaly.with_label_values(&full),
            processed_image: families.processed_image.with_label_values(&full),
            invalid_image: families.invalid_image.with_label_values(&full),
            successful_request: families.successful_request.with_label_values(&request),
            error: families.error.with_label_values(&request),
            throttled: families.throttled.with_label_values(&request),
            detection_duration: families.detection_duration.with_label_values(&full),
            units_in_service: families.units[3].with_label_values(&[project, version]),
            stages: Stage::ALL.map(stage),
            frame_dropped: NotScored::ALL.map(dropped),
            connected: families.camera_connected.with_label_values(&place),
            restarts: families.camera_restarts.with_label_values(&place),
        }
    }

    /// Lets `/metrics` tell how full a line's outbox is.
    pub(crate) fn watch_outbox(&self, line: &str, publisher: Publisher) {
        let gauge = self.families.outbox_messages.with_label_values(&[line]);
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).push((gauge, publisher));
    }

    /// Prometheus' text format.
    ///
    /// # Errors
    /// When a series cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        for (gauge, publisher) in self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            gauge.set(i64::try_from(publisher.stats().outbox_messages).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Families {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(options(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| gauge(registry, name, help, labels);
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts { common_opts: options(name, help), buckets: SECONDS.to_vec() };
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let (model, request) = (["project", "model_version"], ["project", "model_version", "operation"]);
        let full = ["project", "model_version", "line", "camera"];
        let (line, place) = (["line"], ["line", "camera"]);
        Ok(Self {
            detected_anomaly: counter("detected_anomaly_total", "Frames found anomalous", &full)?,
            processed_image: counter("processed_image_total", "Frames scored", &full)?,
            invalid_image: counter("invalid_image_total", "Pictures that could not be scored", &full)?,
            successful_request: counter("successful_request_total", "Operations that succeeded", &request)?,
            error: counter("error_total", "Operations that failed", &request)?,
            throttled: counter("throttled_total", "Operations refused for want of capacity", &request)?,
            detection_duration: histogram(
                "detection_duration_seconds",
                "Pre-processing, inference and post-processing of a frame",
                &full,
            )?,
            units: [
                gauge("min_inference_units", "Least detectors of a model", &model)?,
                gauge("max_inference_units", "Most detectors of a model", &model)?,
                gauge("desired_inference_units", "Detectors of a model that should run", &model)?,
                gauge("in_service_inference_units", "Detectors of a model that run", &model)?,
            ],
            stage_duration: histogram(
                "stage_duration_seconds",
                "Stages of a frame; `total` is from capture to the decision's place in the outbox",
                &["line", "camera", "stage"],
            )?,
            acknowledge_duration: histogram(
                "acknowledge_duration_seconds",
                "From a message's place in the outbox to the broker's acknowledgement",
                &line,
            )?,
            decision: counter("decision_total", "Decisions by verdict", &["line", "verdict"])?,
            frame_dropped: counter("frame_dropped_total", "Frames not scored", &["line", "camera", "reason"])?,
            deadline_missed: counter("deadline_missed_total", "Decisions that came too late for their gate", &line)?,
            outbox_messages: gauge("outbox_messages", "Messages that wait or are not acknowledged yet", &line)?,
            outbox_expired: counter("outbox_expired_total", "Messages too old to be sent", &["line", "kind"])?,
            outbox_dropped: counter("outbox_dropped_total", "Messages without room or time", &["line", "kind"])?,
            broker_connected: gauge("broker_connected", "1 with a connection to the broker", &line)?,
            broker_reconnects: counter("broker_reconnect_total", "Connections to the broker after the first", &line)?,
            camera_connected: gauge("camera_connected", "1 while the camera delivers frames", &place)?,
            camera_restarts: counter("camera_restart_total", "Starts of a camera's pipeline after a failure", &place)?,
        })
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("linewarden_{name}"), help)
}

fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(options(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
