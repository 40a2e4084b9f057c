//! What can happen, one function each: it logs and it counts. Callers say what happened, not how it is counted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linewarden_core::{Decision, ScoredFrame, Verdict};
use linewarden_model::StageTimes;
use linewarden_publish::{MessageKind, PublishEvent};

use crate::metrics::{CameraMetrics, LineMetrics, NotScored, Stage};

/// Events of one line.
pub(crate) struct LineEvents {
    line: String,
    metrics: LineMetrics,
}

impl LineEvents {
    pub(crate) fn new(line: &str, metrics: LineMetrics) -> Self {
        Self { line: line.to_owned(), metrics }
    }

    /// A verdict was reached. A gate's rejects are told, its passes only on demand.
    pub(crate) fn decided(&self, decision: &Decision) {
        let Decision { part, verdict, reason, .. } = decision;
        self.metrics.decisions[*verdict as usize].inc();
        match verdict {
            Verdict::Pass => tracing::debug!(line = self.line, part, verdict = "pass", %reason, "decided"),
            other => tracing::info!(line = self.line, part, verdict = other.as_str(), %reason, "decided"),
        }
    }

    /// A verdict came too late for its gate.
    pub(crate) fn deadline_missed(&self) {
        self.metrics.deadline_missed.inc();
        tracing::debug!(line = self.line, "deadline missed");
    }

    pub(crate) fn state_changed(&self, state: &str) {
        tracing::info!(line = self.line, state, "line state changed");
    }

    /// Something happened to the broker's connection or to a message. The publisher has logged it already: it does so
    /// for the element too.
    pub(crate) fn published(&self, event: &PublishEvent) {
        let metrics = &self.metrics;
        match event {
            PublishEvent::Connected { reconnects } => {
                metrics.broker_connected.set(1);
                if *reconnects > 0 {
                    metrics.broker_reconnects.inc();
                }
            }
            PublishEvent::ConnectFailed { .. } | PublishEvent::Disconnected { .. } => metrics.broker_connected.set(0),
            PublishEvent::Acknowledged { latency, .. } => metrics.acknowledge_duration.observe(latency.as_secs_f64()),
            PublishEvent::Expired { kind } => {
                metrics.outbox_expired[*kind as usize].inc();
                if *kind == MessageKind::Decision {
                    self.deadline_missed();
                }
            }
            PublishEvent::Dropped { kind } => {
                metrics.outbox_dropped[*kind as usize].inc();
                if *kind == MessageKind::Decision {
                    self.deadline_missed();
                }
            }
            _ => {}
        }
    }
}

/// Events of one camera.
pub(crate) struct CameraEvents {
    line: String,
    camera: String,
    metrics: CameraMetrics,
    connected: AtomicBool,
}

impl CameraEvents {
    pub(crate) fn new(line: &str, camera: &str, metrics: CameraMetrics) -> Self {
        Self { line: line.to_owned(), camera: camera.to_owned(), metrics, connected: AtomicBool::new(false) }
    }

    /// A frame arrived; the first one says that the camera is there.
    pub(crate) fn frame_arrived(&self) {
        // Only this camera's streaming thread sets it, so the common case is one load.
        if self.connected.load(Ordering::Relaxed) || self.connected.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.connected.set(1);
        tracing::info!(line = self.line, camera = self.camera, "camera delivers frames");
    }

    /// The camera's pipeline is built and its model loaded.
    pub(crate) fn pipeline_running(&self, device: &str) {
        self.metrics.units_in_service.inc();
        tracing::info!(line = self.line, camera = self.camera, device, "pipeline running");
    }

    /// The pipeline that was running is gone, for whatever reason.
    pub(crate) fn pipeline_gone(&self, was_running: bool) {
        self.connected.store(false, Ordering::Relaxed);
        self.metrics.connected.set(0);
        if was_running {
            self.metrics.units_in_service.dec();
        }
    }

    /// The camera's pipeline failed and is started again after `delay`.
    pub(crate) fn camera_lost(&self, error: &str, delay: Duration) {
        tracing::warn!(line = self.line, camera = self.camera, error, ?delay, "camera lost, restarting");
    }

    pub(crate) fn pipeline_restarting(&self) {
        self.metrics.restarts.inc();
        tracing::info!(line = self.line, camera = self.camera, "pipeline restarting");
    }

    /// A finite source came to its end.
    pub(crate) fn source_ended(&self) {
        tracing::info!(line = self.line, camera = self.camera, "source ended");
    }

    pub(crate) fn pipeline_stopped(&self) {
        tracing::info!(line = self.line, camera = self.camera, "camera stopped");
    }

    /// An element warned of something that it lived through.
    pub(crate) fn pipeline_warned(&self, warning: &str) {
        tracing::warn!(line = self.line, camera = self.camera, warning, "pipeline warning");
    }

    pub(crate) fn did_not_stop(&self, grace: Duration) {
        let (line, camera) = (&self.line, &self.camera);
        tracing::warn!(line, camera, "capture line {line} did not stop within {grace:?}");
    }

    pub(crate) fn queued(&self, time: Duration) {
        self.stage(Stage::Queue, time);
    }

    /// The model answered.
    pub(crate) fn scored(&self, frame: &ScoredFrame, times: StageTimes) {
        let metrics = &self.metrics;
        metrics.processed_image.inc();
        metrics.successful_request.inc();
        if frame.result.is_anomalous {
            metrics.detected_anomaly.inc();
        }
        metrics.detection_duration.observe(frame.detection_time.as_secs_f64());
        self.stage(Stage::Preprocess, times.preprocess);
        self.stage(Stage::Inference, times.inference);
        self.stage(Stage::Postprocess, times.postprocess);
        let (number, score) = (frame.frame, frame.result.anomaly_score);
        tracing::debug!(line = self.line, camera = self.camera, frame = number, score, "frame scored");
    }

    /// A decision is on its way, this long after its frame was captured.
    pub(crate) fn handed_over(&self, since_capture: Duration) {
        self.stage(Stage::Total, since_capture);
    }

    /// A frame that should have been scored was not.
    pub(crate) fn not_scored(&self, frame: u64, why: NotScored) {
        let metrics = &self.metrics;
        metrics.frame_dropped[why as usize].inc();
        match why {
            NotScored::ModelFailed | NotScored::Unreadable => {
                metrics.invalid_image.inc();
                metrics.error.inc();
            }
            NotScored::QueueFull | NotScored::Late => metrics.throttled.inc(),
            NotScored::PipelineStopped => metrics.error.inc(),
        }
        let reason = why.as_str();
        tracing::debug!(line = self.line, camera = self.camera, frame, reason, "frame not scored");
    }

    /// A picture of a folder cannot be read; the next one follows.
    pub(crate) fn picture_unreadable(&self, path: &Path, error: &str) {
        let path = path.display();
        tracing::warn!(line = self.line, camera = self.camera, %path, error, "picture cannot be read");
    }

    fn stage(&self, stage: Stage, time: Duration) {
        self.metrics.stages[stage as usize].observe(time.as_secs_f64());
    }
}
