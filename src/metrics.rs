//! The series of `/metrics`. Each exists from the start, at 0, for every label value that it can ever have.
//!
//! Only `events.rs` counts; everybody else says what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use linewarden_core::health::Fault;
use linewarden_core::parts::Note;
use linewarden_core::{ClockSource, ModelRef, Verdict};
use linewarden_evidence::Store;
use linewarden_outputs::OutputStats;
use linewarden_publish::{MessageKind, Publisher};
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
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
    /// Part of the picture was lost on the way, and the decoder made something up for it.
    Damaged,
}

impl NotScored {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::QueueFull, Self::Late, Self::ModelFailed, Self::Unreadable, Self::PipelineStopped, Self::Damaged];

    /// The name in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Late => "late",
            Self::ModelFailed => "model_failed",
            Self::Unreadable => "unreadable",
            Self::PipelineStopped => "pipeline_stopped",
            Self::Damaged => "damaged",
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
    outboxes: Mutex<Vec<OutboxGauges>>,
    outputs: Mutex<Option<WatchedOutputs>>,
    evidence: Mutex<Option<Store>>,
    /// Durations whose quantiles are counted when somebody asks, by line.
    recent: Mutex<BTreeMap<String, Arc<Recent>>>,
}

/// Asks every output what became of its decisions.
type WatchedOutputs = Box<dyn Fn() -> Vec<(String, OutputStats)> + Send + Sync>;

/// What is asked of a line's outbox.
struct OutboxGauges {
    publisher: Publisher,
    messages: IntGauge,
    historical_messages: IntGauge,
    gate_alarm: IntGauge,
}

/// The last durations of one kind.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    seconds: Mutex<VecDeque<f64>>,
}

/// Enough for a 99.9th percentile that rests on four decisions.
const MOST_RECENT: usize = 4096;
const QUANTILES: [(f64, &str); 3] = [(0.5, "0.5"), (0.99, "0.99"), (0.999, "0.999")];

impl Recent {
    pub(crate) fn add(&self, seconds: f64) {
        let mut recent = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MOST_RECENT {
            recent.pop_front();
        }
        recent.push_back(seconds);
    }

    /// By nearest rank; 0 while nothing was measured.
    fn quantiles(&self) -> [f64; QUANTILES.len()] {
        let recent = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_by(f64::total_cmp);
        QUANTILES.map(|(share, _)| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        })
    }
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
    capture_to_acknowledge: HistogramVec,
    capture_to_acknowledge_quantile: GaugeVec,
    decision: IntCounterVec,
    part: IntCounterVec,
    part_note: IntCounterVec,
    part_open: IntGaugeVec,
    trigger_connected: IntGaugeVec,
    frame_dropped: IntCounterVec,
    deadline_missed: IntCounterVec,
    outbox_messages: IntGaugeVec,
    outbox_expired: IntCounterVec,
    outbox_dropped: IntCounterVec,
    outbox_historical_messages: IntGaugeVec,
    outbox_on_disk: IntGaugeVec,
    outbox_file_failures: IntCounterVec,
    decision_historical: IntCounterVec,
    gate_acknowledged: IntCounterVec,
    gate_unacknowledged: IntCounterVec,
    gate_acknowledge_duration: HistogramVec,
    gate_alarm: IntGaugeVec,
    output_connected: IntGaugeVec,
    output_decision: IntCounterVec,
    broker_connected: IntGaugeVec,
    broker_reconnects: IntCounterVec,
    model_swap: IntCounterVec,
    shadow: IntCounterVec,
    shadow_dropped: IntCounterVec,
    score_drift: GaugeVec,
    score_drift_alarm: IntGaugeVec,
    reject_share: GaugeVec,
    reject_chart_alarm: IntGaugeVec,
    challenge: IntCounterVec,
    challenge_overdue: IntGaugeVec,
    camera_connected: IntGaugeVec,
    camera_restarts: IntCounterVec,
    camera_health: IntGaugeVec,
    camera_fault: IntCounterVec,
    capture_lag: GaugeVec,
    capture_clock: IntGaugeVec,
    evidence: EvidenceMetrics,
    evidence_bytes: IntGauge,
}

/// The series of what is kept of decided parts.
#[derive(Clone)]
pub(crate) struct EvidenceMetrics {
    pub(crate) stored: IntCounterVec,
    pub(crate) dropped: IntCounterVec,
    pub(crate) failures: IntCounter,
    pub(crate) removed: IntCounter,
}

/// The series of one line.
#[derive(Clone)]
pub(crate) struct LineMetrics {
    pub(crate) decisions: [IntCounter; 3],
    pub(crate) parts: IntCounter,
    pub(crate) open_parts: IntGauge,
    pub(crate) part_notes: [IntCounter; Note::NAMES.len()],
    pub(crate) trigger_connected: IntGauge,
    pub(crate) deadline_missed: IntCounter,
    pub(crate) acknowledge_duration: Histogram,
    pub(crate) capture_to_acknowledge: Histogram,
    pub(crate) recent: Arc<Recent>,
    pub(crate) outbox_expired: [IntCounter; MessageKind::ALL.len()],
    pub(crate) outbox_dropped: [IntCounter; MessageKind::ALL.len()],
    pub(crate) outbox_on_disk: IntGauge,
    pub(crate) outbox_file_failures: IntCounter,
    pub(crate) decision_historical: IntCounter,
    pub(crate) gate_acknowledged: IntCounter,
    pub(crate) gate_unacknowledged: IntCounter,
    pub(crate) gate_acknowledge_duration: Histogram,
    pub(crate) broker_connected: IntGauge,
    pub(crate) broker_reconnects: IntCounter,
    /// Changes of the model: those that were made, those that were not, and those back.
    pub(crate) model_swaps: [IntCounter; 3],
    /// Frames that the shadow decided in the same way, and those that it did not.
    pub(crate) shadow: [IntCounter; 2],
    pub(crate) shadow_dropped: IntCounter,
    /// In the order of the line's scopes.
    pub(crate) drift: Vec<DriftMetrics>,
    pub(crate) reject_share: Gauge,
    /// Too many, and too few.
    pub(crate) reject_alarms: [IntGauge; 2],
    /// Those that passed, and those that failed.
    pub(crate) challenges: [IntCounter; 2],
    pub(crate) challenge_overdue: IntGauge,
}

/// The series of scores that are compared together.
#[derive(Clone)]
pub(crate) struct DriftMetrics {
    /// Empty for all of a line.
    pub(crate) camera: String,
    pub(crate) lead: Gauge,
    pub(crate) alarm: IntGauge,
}

/// The series of one camera.
#[derive(Clone)]
pub(crate) struct CameraMetrics {
    /// Those of the configured model.
    pub(crate) model: ModelMetrics,
    pub(crate) stages: [Histogram; 5],
    pub(crate) frame_dropped: [IntCounter; 6],
    pub(crate) connected: IntGauge,
    pub(crate) restarts: IntCounter,
    /// 1 while the fault is there, in the order of `Fault::ALL`.
    pub(crate) health: [IntGauge; 5],
    pub(crate) faults: [IntCounter; 5],
    pub(crate) capture_lag: Gauge,
    /// 1 for the clock that counts, in the order of `ClockSource::ALL`.
    pub(crate) capture_clock: [IntGauge; 4],
}

/// The series of one model at one camera.
#[derive(Clone)]
pub(crate) struct ModelMetrics {
    pub(crate) project: String,
    pub(crate) version: String,
    pub(crate) detected_anomaly: IntCounter,
    pub(crate) processed_image: IntCounter,
    pub(crate) invalid_image: IntCounter,
    pub(crate) successful_request: IntCounter,
    pub(crate) error: IntCounter,
    pub(crate) throttled: IntCounter,
    pub(crate) detection_duration: Histogram,
    /// Least, most and desired detectors of the model.
    pub(crate) units_planned: [IntGauge; 3],
    pub(crate) units_in_service: IntGauge,
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
        let metrics = Arc::new(Self {
            registry,
            families,
            outboxes: Mutex::default(),
            outputs: Mutex::default(),
            evidence: Mutex::default(),
            recent: Mutex::default(),
        });
        for line in &config.lines {
            metrics.line(line);
            for camera in &line.cameras {
                metrics.camera(line, &camera.name).model.units_planned.iter().for_each(IntGauge::inc);
            }
        }
        Ok(metrics)
    }

    /// The series of a line.
    pub(crate) fn line(&self, line: &LineConfig) -> LineMetrics {
        let families = &self.families;
        let name = line.name.as_str();
        families.outbox_messages.with_label_values(&[name]);
        families.outbox_historical_messages.with_label_values(&[name]);
        families.gate_alarm.with_label_values(&[name]);
        self.quantile_gauges(name);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = Arc::clone(recent.entry(name.to_owned()).or_default());
        let kinds =
            |counter: &IntCounterVec| MessageKind::ALL.map(|kind| counter.with_label_values(&[name, kind.as_str()]));
        LineMetrics {
            decisions: Verdict::ALL.map(|verdict| families.decision.with_label_values(&[name, verdict.as_str()])),
            parts: families.part.with_label_values(&[name]),
            open_parts: families.part_open.with_label_values(&[name]),
            part_notes: Note::NAMES.map(|note| families.part_note.with_label_values(&[name, note])),
            trigger_connected: families.trigger_connected.with_label_values(&[name]),
            deadline_missed: families.deadline_missed.with_label_values(&[name]),
            acknowledge_duration: families.acknowledge_duration.with_label_values(&[name]),
            capture_to_acknowledge: families.capture_to_acknowledge.with_label_values(&[name]),
            recent,
            outbox_expired: kinds(&families.outbox_expired),
            outbox_dropped: kinds(&families.outbox_dropped),
            outbox_on_disk: families.outbox_on_disk.with_label_values(&[name]),
            outbox_file_failures: families.outbox_file_failures.with_label_values(&[name]),
            decision_historical: families.decision_historical.with_label_values(&[name]),
            gate_acknowledged: families.gate_acknowledged.with_label_values(&[name]),
            gate_unacknowledged: families.gate_unacknowledged.with_label_values(&[name]),
            gate_acknowledge_duration: families.gate_acknowledge_duration.with_label_values(&[name]),
            broker_connected: families.broker_connected.with_label_values(&[name]),
            broker_reconnects: families.broker_reconnects.with_label_values(&[name]),
            model_swaps: ["swapped", "failed", "rolled_back"]
                .map(|outcome| families.model_swap.with_label_values(&[name, outcome])),
            shadow: ["same", "differs"].map(|agreement| families.shadow.with_label_values(&[name, agreement])),
            shadow_dropped: families.shadow_dropped.with_label_values(&[name]),
            drift: line.drift_scopes().into_iter().map(|camera| self.drift(line, camera)).collect(),
            reject_share: families.reject_share.with_label_values(&[name]),
            reject_alarms: ["too_many", "too_few"]
                .map(|kind| families.reject_chart_alarm.with_label_values(&[name, kind])),
            challenges: ["passed", "failed"].map(|result| families.challenge.with_label_values(&[name, result])),
            challenge_overdue: families.challenge_overdue.with_label_values(&[name]),
        }
    }

    /// The series of a camera's scores, or of all of a line's.
    fn drift(&self, line: &LineConfig, camera: Option<usize>) -> DriftMetrics {
        let camera = camera.and_then(|camera| line.cameras.get(camera)).map_or("", |camera| &camera.name);
        let labels = [line.name.as_str(), camera];
        DriftMetrics {
            camera: camera.to_owned(),
            lead: self.families.score_drift.with_label_values(&labels),
            alarm: self.families.score_drift_alarm.with_label_values(&labels),
        }
    }

    fn quantile_gauges(&self, line: &str) -> [Gauge; QUANTILES.len()] {
        let gauges = &self.families.capture_to_acknowledge_quantile;
        QUANTILES.map(|(_, quantile)| gauges.with_label_values(&[line, quantile]))
    }

    /// The series of what is kept of the lines' parts.
    pub(crate) fn evidence(&self, config: &Config) -> EvidenceMetrics {
        let metrics = &self.families.evidence;
        for line in &config.lines {
            metrics.stored.with_label_values(&[&line.name]);
            metrics.dropped.with_label_values(&[&line.name]);
        }
        metrics.clone()
    }

    /// Tells from now on what the pictures of this store take.
    pub(crate) fn watch_evidence(&self, store: Store) {
        *self.evidence.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    /// The series of a camera.
    pub(crate) fn camera(&self, line: &LineConfig, camera: &str) -> CameraMetrics {
        let families = &self.families;
        let place = [line.name.as_str(), camera];
        let stage = |stage: Stage| families.stage_duration.with_label_values(&[place[0], place[1], stage.as_str()]);
        let dropped = |why: NotScored| families.frame_dropped.with_label_values(&[place[0], place[1], why.as_str()]);
        CameraMetrics {
            model: self.model(&line.name, camera, &line.model_ref),
            stages: Stage::ALL.map(stage),
            frame_dropped: NotScored::ALL.map(dropped),
            connected: families.camera_connected.with_label_values(&place),
            restarts: families.camera_restarts.with_label_values(&place),
            health: Fault::ALL
                .map(|fault| families.camera_health.with_label_values(&[place[0], place[1], fault.as_str()])),
            faults: Fault::ALL
                .map(|fault| families.camera_fault.with_label_values(&[place[0], place[1], fault.as_str()])),
            capture_lag: families.capture_lag.with_label_values(&place),
            capture_clock: ClockSource::ALL
                .map(|clock| families.capture_clock.with_label_values(&[place[0], place[1], clock.as_str()])),
        }
    }

    /// The series of a model at a camera: there at 0 before it scores its first frame.
    pub(crate) fn model(&self, line: &str, camera: &str, model: &ModelRef) -> ModelMetrics {
        let families = &self.families;
        let (project, version) = (model.project.as_str(), model.version.as_str());
        let (full, request) = ([project, version, line, camera], [project, version, OPERATION]);
        let [min, max, desired, in_service] = &families.units;
        ModelMetrics {
            project: project.to_owned(),
            version: version.to_owned(),
            detected_anomaly: families.detected_anomaly.with_label_values(&full),
            processed_image: families.processed_image.with_label_values(&full),
            invalid_image: families.invalid_image.with_label_values(&full),
            successful_request: families.successful_request.with_label_values(&request),
            error: families.error.with_label_values(&request),
            throttled: families.throttled.with_label_values(&request),
            detection_duration: families.detection_duration.with_label_values(&full),
            units_planned: [min, max, desired].map(|units| units.with_label_values(&[project, version])),
            units_in_service: in_service.with_label_values(&[project, version]),
        }
    }

    /// Lets `/metrics` tell how full a line's outbox is, and whether its gate keeps silent.
    pub(crate) fn watch_outbox(&self, line: &str, publisher: Publisher) {
        let gauges = OutboxGauges {
            publisher,
            messages: self.families.outbox_messages.with_label_values(&[line]),
            historical_messages: self.families.outbox_historical_messages.with_label_values(&[line]),
            gate_alarm: self.families.gate_alarm.with_label_values(&[line]),
        };
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).push(gauges);
    }

    /// Lets `/metrics` tell what became of the decisions that went to outputs beside MQTT.
    pub(crate) fn watch_outputs(&self, stats: impl Fn() -> Vec<(String, OutputStats)> + Send + Sync + 'static) {
        *self.outputs.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(stats));
    }

    fn read_outputs(&self) {
        let watched = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        for (output, stats) in watched.iter().flat_map(|stats| stats()) {
            let connected = self.families.output_connected.with_label_values(&[&output]);
            connected.set(i64::try_from(stats.connected).unwrap_or(i64::MAX));
            let outcomes = [
                ("delivered", stats.delivered),
                ("expired", stats.expired),
                ("unacknowledged", stats.unacknowledged),
                ("dropped", stats.dropped),
            ];
            for (outcome, total) in outcomes {
                let counter = self.families.output_decision.with_label_values(&[output.as_str(), outcome]);
                counter.inc_by(total.saturating_sub(counter.get()));
            }
        }
    }

    /// Prometheus' text format.
    ///
    /// # Errors
    /// When a series cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        if let Some(store) = self.evidence.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            self.families.evidence_bytes.set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
        }
        for gauges in self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let stats = gauges.publisher.stats();
            gauges.messages.set(i64::try_from(stats.outbox_messages).unwrap_or(i64::MAX));
            gauges.historical_messages.set(i64::try_from(stats.historical_messages).unwrap_or(i64::MAX));
            gauges.gate_alarm.set(i64::from(stats.gate.is_some_and(|gate| gate.alarm)));
        }
        for (line, recent) in self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.quantile_gauges(line).iter().zip(recent.quantiles()).for_each(|(gauge, seconds)| gauge.set(seconds));
        }
        self.read_outputs();
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
                "Stages of a frame; `total` is from capture to the place in the outbox, of the decision or of a part's result",
                &["line", "camera", "stage"],
            )?,
            acknowledge_duration: histogram(
                "acknowledge_duration_seconds",
                "From a message's place in the outbox to the broker's acknowledgement",
                &line,
            )?,
            capture_to_acknowledge: histogram(
                "capture_to_acknowledge_seconds",
                "From the capture of the last frame that a decision rests on to the broker's acknowledgement",
                &line,
            )?,
            capture_to_acknowledge_quantile: {
                let help = "The same of the last 4096 decisions, by quantile; 0 while there are none";
                let options = options("capture_to_acknowledge_quantile_seconds", help);
                let gauges = GaugeVec::new(options, &["line", "quantile"])?;
                registry.register(Box::new(gauges.clone()))?;
                gauges
            },
            decision: counter("decision_total", "Decisions by verdict", &["line", "verdict"])?,
            part: counter("part_total", "Parts decided, on lines with parts", &line)?,
            part_open: gauge("part_open", "Parts that wait for their decision", &line)?,
            part_note: counter(
                "part_note_total",
                "What was odd about parts, frames and triggers",
                &["line", "reason"],
            )?,
            trigger_connected: gauge("trigger_connected", "1 while the triggers of parts can be heard", &line)?,
            frame_dropped: counter("frame_dropped_total", "Frames not scored", &["line", "camera", "reason"])?,
            deadline_missed: counter("deadline_missed_total", "Decisions that came too late for their gate", &line)?,
            outbox_messages: gauge("outbox_messages", "Messages that wait or are not acknowledged yet", &line)?,
            outbox_expired: counter("outbox_expired_total", "Messages too old to be sent", &["line", "kind"])?,
            outbox_dropped: counter("outbox_dropped_total", "Messages without room or time", &["line", "kind"])?,
            outbox_historical_messages: gauge(
                "outbox_historical_messages",
                "Decisions whose time has passed, on their way to the topic of the past",
                &line,
            )?,
            outbox_on_disk: gauge("outbox_on_disk", "1 while the outbox's file takes decisions", &line)?,
            outbox_file_failures: counter("outbox_file_failure_total", "Faults of the outbox's file", &line)?,
            decision_historical: counter("decision_historical_total", "Decisions delivered as historical", &line)?,
            gate_acknowledged: counter("gate_acknowledged_total", "Rejects that the gate acknowledged", &line)?,
            gate_unacknowledged: counter(
                "gate_unacknowledged_total",
                "Rejects that the gate did not acknowledge in time",
                &line,
            )?,
            gate_acknowledge_duration: histogram(
                "gate_acknowledge_duration_seconds",
                "From a reject's place in the outbox to the gate's acknowledgement",
                &line,
            )?,
            output_connected: gauge("output_connected", "Peers of an output beside MQTT", &["output"])?,
            output_decision: counter(
                "output_decision_total",
                "Decisions at an output beside MQTT",
                &["output", "outcome"],
            )?,
            gate_alarm: gauge("gate_alarm", "1 while the gate's last reject was not acknowledged in time", &line)?,
            broker_connected: gauge("broker_connected", "1 with a connection to the broker", &line)?,
            broker_reconnects: counter("broker_reconnect_total", "Connections to the broker after the first", &line)?,
            model_swap: counter("model_swap_total", "Changes of a line's model while it ran", &["line", "outcome"])?,
            shadow: counter("shadow_total", "Frames that a second model scored too", &["line", "agreement"])?,
            shadow_dropped: counter(
                "shadow_dropped_total",
                "Frames of the sample that came while the second model was busy, or that it could not score",
                &line,
            )?,
            score_drift: real(
                registry,
                "score_drift",
                "By how much the last scores lie above those of the training pictures, 0 to 1; without a camera: of all of the line",
                &place,
            )?,
            score_drift_alarm: gauge("score_drift_alarm", "1 while that is more than chance explains", &place)?,
            reject_share: real(registry, "reject_share", "Share of rejects among the last parts", &line)?,
            reject_chart_alarm: gauge(
                "reject_chart_alarm",
                "1 while there are more, or fewer, rejects than chance explains",
                &["line", "kind"],
            )?,
            challenge: counter("challenge_total", "Challenges that ended", &["line", "result"])?,
            challenge_overdue: gauge("challenge_overdue", "1 while a challenge should have passed", &line)?,
            camera_connected: gauge("camera_connected", "1 while the camera delivers frames", &place)?,
            camera_restarts: counter("camera_restart_total", "Starts of a camera's pipeline after a failure", &place)?,
            camera_health: gauge("camera_health", "1 while the camera has the fault", &["line", "camera", "fault"])?,
            camera_fault: counter("camera_fault_total", "Faults of a camera's pictures", &["line", "camera", "fault"])?,
            capture_lag: real(
                registry,
                "capture_lag_seconds",
                "From the last frame's capture until it came, decoded: network, jitter buffer and decoder",
                &place,
            )?,
            capture_clock: gauge(
                "capture_clock",
                "1 for the clock that says when frames were captured",
                &["line", "camera", "clock"],
            )?,
            evidence: EvidenceMetrics {
                stored: counter("evidence_part_total", "Parts of which evidence is kept", &line)?,
                dropped: counter("evidence_dropped_total", "Parts of which none is: the disk did not keep up", &line)?,
                failures: counter("evidence_failure_total", "Pictures and records that were not written", &[])?
                    .with_label_values::<&str>(&[]),
                removed: counter("evidence_removed_total", "Parts whose pictures were removed as configured", &[])?
                    .with_label_values::<&str>(&[]),
            },
            evidence_bytes: gauge("evidence_bytes", "What all pictures kept take", &[])?.with_label_values::<&str>(&[]),
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

fn real(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    let gauge = GaugeVec::new(options(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
