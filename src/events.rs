//! What can happen, one function each: it logs and it counts. Callers say what happened, not how it is counted.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use linewarden_contract::Fault as ApiFault;
use linewarden_core::health::{Fault, Look};
use linewarden_core::parts::Note;
use linewarden_core::{
    BootId, Challenge, ClockSource, Control, Decision, Lead, ModelRef, Outcome, ScoredFrame, Verdict,
};
use linewarden_evidence::Event as EvidenceEvent;
use linewarden_model::glance::Shift;
use linewarden_model::{ModelError, StageTimes};
use linewarden_proto::edge_agent::DetectAnomalyResult;
use linewarden_publish::{MessageKind, PublishEvent};
use tonic::{Code, Status};

use crate::metrics::{CameraMetrics, DriftMetrics, EvidenceMetrics, LineMetrics, ModelMetrics, NotScored, Stage};

/// Events of one line.
pub(crate) struct LineEvents {
    line: String,
    metrics: LineMetrics,
    /// That triggers are not heard was told.
    triggers_loss_told: AtomicBool,
    on_their_way: Mutex<OnTheirWay>,
}

/// Decisions that the broker has not acknowledged yet, with the capture that each rests on.
#[derive(Default)]
struct OnTheirWay {
    boot_id: String,
    /// Numbers rise from front to back.
    captures: VecDeque<(u64, Timestamp)>,
}

/// What is not acknowledged by then is not a matter of latency any more.
const MOST_ON_THEIR_WAY: usize = 4096;

impl LineEvents {
    pub(crate) fn new(line: &str, metrics: LineMetrics) -> Self {
        Self {
            line: line.to_owned(),
            metrics,
            triggers_loss_told: AtomicBool::new(false),
            on_their_way: Mutex::default(),
        }
    }

    /// Sends a decision, by `send`, which gives its number; the time from its capture to its acknowledgement is measured.
    pub(crate) fn sending(&self, boot_id: &BootId, captured_at: Timestamp, send: impl FnOnce() -> Option<u64>) {
        // The lock is held while it is sent, some microseconds: its acknowledgement cannot be heard before it is known.
        let mut on_their_way = self.on_their_way();
        let Some(seq) = send() else { return };
        if on_their_way.boot_id.is_empty() {
            on_their_way.boot_id = boot_id.to_string();
        }
        if on_their_way.captures.len() >= MOST_ON_THEIR_WAY {
            on_their_way.captures.pop_front();
        }
        on_their_way.captures.push_back((seq, captured_at));
    }

    fn decision_acknowledged(&self, boot_id: &str, seq: u64) {
        let mut on_their_way = self.on_their_way();
        if on_their_way.boot_id != boot_id {
            return;
        }
        let place = on_their_way.captures.iter().position(|(sent, _)| *sent == seq);
        let Some((_, captured_at)) = place.and_then(|place| on_their_way.captures.remove(place)) else { return };
        drop(on_their_way);
        // A camera whose clock is a little ahead of ours is not faster than light.
        let seconds = Timestamp::now().duration_since(captured_at).as_secs_f64().max(0.0);
        self.metrics.capture_to_acknowledge.observe(seconds);
        self.metrics.recent.add(seconds);
    }

    /// Locks even after a panic elsewhere: the list is valid between its functions.
    fn on_their_way(&self) -> MutexGuard<'_, OnTheirWay> {
        self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A part got its decision.
    pub(crate) fn part_decided(&self) {
        self.metrics.parts.inc();
    }

    /// So many parts wait for their decision.
    pub(crate) fn open_parts(&self, count: usize) {
        self.metrics.open_parts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Something about a part, its frames or its trigger was odd.
    pub(crate) fn part_note(&self, note: Note) {
        self.metrics.part_notes[note.place()].inc_by(note.count());
        match note {
            // Between two parts a camera sees the belt.
            Note::StrayFrame => tracing::trace!(line = self.line, note = note.as_str()),
            note => tracing::debug!(line = self.line, note = note.as_str(), count = note.count(), "odd part"),
        }
    }

    /// A trigger's message cannot be understood: its part gets no decision.
    pub(crate) fn malformed_trigger(&self, why: &str) {
        self.metrics.part_notes[Note::MalformedTrigger.place()].inc();
        tracing::warn!(line = self.line, why, "a trigger's message cannot be understood");
    }

    /// Triggers can be heard, or cannot and why.
    pub(crate) fn triggers_connected(&self, error: Option<&str>) {
        let was_told = self.triggers_loss_told.swap(error.is_some(), Ordering::Relaxed);
        self.metrics.trigger_connected.set(i64::from(error.is_none()));
        match error {
            None => tracing::info!(line = self.line, "triggers are heard"),
            // What stays away is told once, not at every attempt.
            Some(error) if !was_told => tracing::warn!(line = self.line, error, "triggers are not heard"),
            Some(error) => tracing::debug!(line = self.line, error, "triggers are still not heard"),
        }
    }

    pub(crate) fn state_changed(&self, state: &str) {
        tracing::info!(line = self.line, state, "line state changed");
    }

    /// Another model scores in all cameras of the line.
    pub(crate) fn model_swapped(&self, model: &ModelRef, path: &Path, took: Duration) {
        self.metrics.model_swaps[0].inc();
        self.tell_model("model_swapped", model, path, took);
    }

    /// The line's model should have changed, and has not.
    pub(crate) fn model_swap_failed(&self, path: &Path, reason: &str) {
        self.metrics.model_swaps[1].inc();
        tracing::warn!(line = self.line, path = %path.display(), reason, "model_swap_failed");
    }

    /// The model before scores again in all cameras of the line.
    pub(crate) fn model_rolled_back(&self, model: &ModelRef, path: &Path, took: Duration) {
        self.metrics.model_swaps[2].inc();
        self.tell_model("rolled_back", model, path, took);
    }

    fn tell_model(&self, event: &str, model: &ModelRef, path: &Path, took: Duration) {
        let ModelRef { project, version, sha256 } = model;
        let (line, path) = (&self.line, path.display());
        tracing::info!(
            line, project, version, sha256, %path, ?took,
            "{event}: until the daemon starts again, which takes the model of the configuration"
        );
    }

    /// Nothing is known yet that scores could be compared with; `scope` is the place among those of the line.
    pub(crate) fn drift_learns(&self, scope: usize, parts: usize) {
        let Some(DriftMetrics { camera, .. }) = self.metrics.drift.get(scope) else { return };
        tracing::info!(
            line = self.line,
            camera,
            parts,
            "score drift has no reference from training here: the next parts' scores become it"
        );
    }

    /// The line's own first scores are what later ones are compared with.
    pub(crate) fn drift_learnt(&self, scope: usize) {
        let Some(DriftMetrics { camera, .. }) = self.metrics.drift.get(scope) else { return };
        tracing::info!(line = self.line, camera, "score drift has its reference");
    }

    /// The last scores were compared with the reference.
    pub(crate) fn drift_compared(&self, scope: usize, compared: Lead) {
        let Some(DriftMetrics { camera, lead, alarm }) = self.metrics.drift.get(scope) else { return };
        lead.set(compared.lead);
        alarm.set(i64::from(compared.is_drifting));
        let (line, Lead { lead, limit, is_drifting, has_changed }) = (&self.line, compared);
        match (has_changed, is_drifting) {
            (true, true) => tracing::warn!(line, camera, lead, limit, "scores drift"),
            (true, false) => tracing::info!(line, camera, lead, limit, "scores drift no longer"),
            (false, _) => tracing::debug!(line, camera, lead, limit, "scores compared"),
        }
    }

    /// Scores are compared with another reference, from the beginning.
    pub(crate) fn drift_restarted(&self) {
        for DriftMetrics { lead, alarm, .. } in &self.metrics.drift {
            lead.set(0.0);
            alarm.set(0);
        }
    }

    /// So large a share of the last parts was rejected; none is known before the usual share is.
    pub(crate) fn reject_share(&self, share: Option<f64>) {
        self.metrics.reject_share.set(share.unwrap_or_default());
    }

    /// Chance explains the rejects no longer, or does again.
    pub(crate) fn reject_chart_changed(
        &self,
        before: Control,
        after: Control,
        share: Option<f64>,
        usual_share: Option<f64>,
    ) {
        for (kind, alarm) in [Control::TooMany, Control::TooFew].into_iter().zip(&self.metrics.reject_alarms) {
            alarm.set(i64::from(kind == after));
        }
        let line = &self.line;
        match after {
            Control::TooMany => tracing::warn!(line, share, usual_share, "more rejects than chance explains"),
            Control::TooFew => tracing::warn!(line, share, usual_share, "fewer rejects than chance explains"),
            Control::InControl | Control::Learning => {
                tracing::info!(line, share, usual_share, ?before, "rejects as usual");
            }
        }
    }

    /// The next parts are known ones.
    pub(crate) fn challenge_announced(&self, challenge: &Challenge) {
        let Challenge { name, expected, within } = challenge;
        let (line, parts) = (&self.line, expected.len());
        tracing::info!(line, name, parts, ?within, "challenge announced");
    }

    /// A challenge ended.
    pub(crate) fn challenge_ended(&self, outcome: &Outcome) {
        self.metrics.challenges[usize::from(!outcome.has_passed)].inc();
        let Outcome { name, has_passed, missed, false_rejects, not_run, .. } = outcome;
        let line = &self.line;
        match has_passed {
            true => tracing::info!(line, name, "challenge passed"),
            false => tracing::warn!(line, name, missed, false_rejects, not_run, "challenge failed"),
        }
    }

    /// A challenge should have passed by now, or has.
    pub(crate) fn challenge_overdue(&self, is_overdue: bool) {
        self.metrics.challenge_overdue.set(i64::from(is_overdue));
        match is_overdue {
            true => tracing::warn!(line = self.line, "a challenge is overdue"),
            false => tracing::info!(line = self.line, "no challenge is overdue"),
        }
    }

    /// The shadow's model scored a frame too.
    pub(crate) fn shadow_compared(&self, is_same: bool) {
        self.metrics.shadow[usize::from(!is_same)].inc();
    }

    /// A frame of the shadow's sample was not compared.
    pub(crate) fn shadow_dropped(&self) {
        self.metrics.shadow_dropped.inc();
    }

    /// The line runs without its shadow.
    pub(crate) fn shadow_failed(&self, error: &str) {
        tracing::error!(line = self.line, error, "the shadow's model does not load: the line runs without it");
    }

    /// Something happened to the broker's connection or to a message. The publisher has logged it already: it does so
    /// for the element too.
    pub(crate) fn published(&self, event: &PublishEvent) {
        let metrics = &self.metrics;
        match event {
            PublishEvent::Connected { reconnects, .. } => {
                metrics.broker_connected.set(1);
                if *reconnects > 0 {
                    metrics.broker_reconnects.inc();
                }
            }
            PublishEvent::ConnectFailed { .. } | PublishEvent::Disconnected { .. } => metrics.broker_connected.set(0),
            PublishEvent::Acknowledged { kind: MessageKind::Historical, .. } => metrics.decision_historical.inc(),
            PublishEvent::Acknowledged { kind, boot_id, seq, latency } => {
                metrics.acknowledge_duration.observe(latency.as_secs_f64());
                if *kind == MessageKind::Decision {
                    self.decision_acknowledged(boot_id, *seq);
                }
            }
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
            PublishEvent::JournalOpened { .. } => metrics.outbox_on_disk.set(1),
            PublishEvent::JournalFailed { .. } => {
                metrics.outbox_on_disk.set(0);
                metrics.outbox_file_failures.inc();
            }
            PublishEvent::GateAcknowledged { latency, .. } => {
                metrics.gate_acknowledged.inc();
                metrics.gate_acknowledge_duration.observe(latency.as_secs_f64());
            }
            PublishEvent::GateUnacknowledged { .. } => metrics.gate_unacknowledged.inc(),
            _ => {}
        }
    }
}

/// Events of what is kept of decided parts.
pub(crate) struct EvidenceEvents {
    metrics: EvidenceMetrics,
}

impl EvidenceEvents {
    pub(crate) fn new(metrics: EvidenceMetrics) -> Self {
        Self { metrics }
    }

    pub(crate) fn happened(&self, event: &EvidenceEvent) {
        match event {
            EvidenceEvent::Stored { line, bytes } => {
                self.metrics.stored.with_label_values(&[line]).inc();
                tracing::debug!(line, bytes, "evidence kept");
            }
            EvidenceEvent::Dropped { line } => {
                self.metrics.dropped.with_label_values(&[line]).inc();
                tracing::warn!(line, "evidence of a part not kept: the disk does not keep up");
            }
            EvidenceEvent::Failed { error } => {
                self.metrics.failures.inc();
                tracing::error!(error, "evidence cannot be written");
            }
            EvidenceEvent::Removed => {
                self.metrics.removed.inc();
                tracing::debug!("evidence removed as configured");
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
    /// Those of the model that runs, and behind it those of the models before.
    models: Mutex<VecDeque<ModelMetrics>>,
    is_in_service: AtomicBool,
    connected: AtomicBool,
}

/// Frames of the model before may still come through, those of the one before that not.
const MOST_MODELS: usize = 2;

impl CameraEvents {
    pub(crate) fn new(line: &str, camera: &str, metrics: CameraMetrics) -> Self {
        Self {
            line: line.to_owned(),
            camera: camera.to_owned(),
            models: Mutex::new(VecDeque::from([metrics.model.clone()])),
            metrics,
            is_in_service: AtomicBool::new(false),
            connected: AtomicBool::new(false),
        }
    }

    /// Locks even after a panic elsewhere: the list is valid between its functions.
    fn models(&self) -> MutexGuard<'_, VecDeque<ModelMetrics>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series of the model that runs.
    fn with_model(&self, count: impl FnOnce(&ModelMetrics)) {
        if let Some(model) = self.models().front() {
            count(model);
        }
    }

    /// The series of the model that scored a frame.
    fn with_model_of(&self, frame: &ScoredFrame, count: impl FnOnce(&ModelMetrics)) {
        let models = self.models();
        let is_its =
            |model: &&ModelMetrics| model.version == frame.model.version && model.project == frame.model.project;
        if let Some(model) = models.iter().find(is_its).or(models.front()) {
            count(model);
        }
    }

    /// From here on another model scores.
    pub(crate) fn model_changes(&self, next: ModelMetrics) {
        let mut models = self.models();
        if let Some(last) = models.front() {
            last.units_planned.iter().for_each(prometheus::IntGauge::dec);
            next.units_planned.iter().for_each(prometheus::IntGauge::inc);
            if self.is_in_service.load(Ordering::Relaxed) {
                last.units_in_service.dec();
                next.units_in_service.inc();
            }
        }
        models.push_front(next);
        models.truncate(MOST_MODELS);
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

    /// A frame came this long after it was captured.
    pub(crate) fn captured(&self, lag: Duration) {
        self.metrics.capture_lag.set(lag.as_secs_f64());
    }

    /// Another clock says from now on when frames were captured.
    pub(crate) fn clock_changed(&self, clock: ClockSource) {
        for (each, gauge) in ClockSource::ALL.into_iter().zip(&self.metrics.capture_clock) {
            gauge.set(i64::from(each == clock));
        }
        tracing::info!(line = self.line, camera = self.camera, clock = clock.as_str(), "capture clock");
    }

    /// The camera's clock is further from ours than allowed, or no longer is.
    pub(crate) fn clock_off(&self, is_off: bool, offset: SignedDuration, is_used_all_the_same: bool) {
        let (line, camera, offset_seconds) = (&self.line, &self.camera, offset.as_secs_f64());
        match (is_off, is_used_all_the_same) {
            (true, false) => {
                tracing::warn!(line, camera, offset_seconds, "camera clock is off and not used: set it by NTP")
            }
            (true, true) => tracing::warn!(line, camera, offset_seconds, "camera clock is off, and used as configured"),
            (false, _) => tracing::info!(line, camera, offset_seconds, "camera clock agrees with ours"),
        }
    }

    /// What healthy pictures look like is known.
    pub(crate) fn health_learnt(&self, look: &Look) {
        tracing::info!(line = self.line, camera = self.camera, ?look, "camera health learnt");
    }

    /// A fault of the camera's pictures began or ended.
    pub(crate) fn health_changed(&self, fault: Fault, is_on: bool, look: &Look, shift: Option<Shift>) {
        self.metrics.health[fault as usize].set(i64::from(is_on));
        let (line, camera, fault_name) = (&self.line, &self.camera, fault.as_str());
        if is_on {
            self.metrics.faults[fault as usize].inc();
            tracing::warn!(line, camera, fault = fault_name, ?look, ?shift, "camera unhealthy");
        } else {
            tracing::info!(line, camera, fault = fault_name, "camera healthy again");
        }
    }

    /// The camera's pipeline is built and its model loaded.
    pub(crate) fn pipeline_running(&self, device: &str) {
        // Under the lock, so that it counts for the model that a change finds.
        self.with_model(|model| {
            self.is_in_service.store(true, Ordering::Relaxed);
            model.units_in_service.inc();
        });
        tracing::info!(line = self.line, camera = self.camera, device, "pipeline running");
    }

    /// The pipeline that was running is gone, for whatever reason.
    pub(crate) fn pipeline_gone(&self, was_running: bool) {
        self.connected.store(false, Ordering::Relaxed);
        self.metrics.connected.set(0);
        if was_running {
            self.with_model(|model| {
                self.is_in_service.store(false, Ordering::Relaxed);
                model.units_in_service.dec();
            });
        }
    }

    /// The camera's pipeline failed and is started again after `delay`. Told again only now and then while it goes on.
    pub(crate) fn camera_lost(&self, error: &str, delay: Duration, is_news: bool) {
        let (line, camera) = (&self.line, &self.camera);
        match is_news {
            true => tracing::warn!(line, camera, error, ?delay, "camera lost, restarting"),
            false => tracing::debug!(line, camera, error, ?delay, "camera still lost, restarting"),
        }
    }

    pub(crate) fn pipeline_restarting(&self) {
        self.metrics.restarts.inc();
        tracing::debug!(line = self.line, camera = self.camera, "pipeline restarting");
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
        self.with_model_of(frame, |model| {
            model.processed_image.inc();
            model.successful_request.inc();
            if frame.result.is_anomalous {
                model.detected_anomaly.inc();
            }
            model.detection_duration.observe(frame.detection_time.as_secs_f64());
        });
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
        self.metrics.frame_dropped[why as usize].inc();
        self.with_model(|model| match why {
            NotScored::ModelFailed | NotScored::Unreadable | NotScored::Damaged => {
                model.invalid_image.inc();
                model.error.inc();
            }
            NotScored::QueueFull | NotScored::Late => model.throttled.inc(),
            NotScored::PipelineStopped => model.error.inc(),
        });
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

/// Events of the Edge Agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentEvents;

impl AgentEvents {
    /// A component's model is loaded and takes pictures.
    pub(crate) fn component_runs(self, component: &str, model: &ModelRef, device: &str, series: &ModelMetrics) {
        series.units_planned.iter().for_each(prometheus::IntGauge::inc);
        series.units_in_service.inc();
        let ModelRef { project, version, .. } = model;
        tracing::info!(component, project, version, device, "model component runs");
    }

    /// A component's model was let go.
    pub(crate) fn component_stopped(self, component: &str, series: &ModelMetrics) {
        series.units_planned.iter().for_each(prometheus::IntGauge::dec);
        series.units_in_service.dec();
        tracing::info!(component, "model component stopped");
    }

    /// A component's model does not load.
    pub(crate) fn component_failed(self, component: &str, error: &ModelError) {
        tracing::error!(component, %error, "model component failed");
    }

    /// A component's thread ended by a fault of ours.
    pub(crate) fn component_panicked(self, component: &str) {
        tracing::error!(component, "the thread of a model component panicked");
    }

    /// A picture has its answer, or the call was refused.
    pub(crate) fn detected(
        self,
        component: &str,
        series: &ModelMetrics,
        outcome: &Result<(DetectAnomalyResult, f64), Status>,
    ) {
        match outcome {
            Ok((result, seconds)) => {
                series.processed_image.inc();
                series.successful_request.inc();
                series.detection_duration.observe(*seconds);
                if result.is_anomalous {
                    series.detected_anomaly.inc();
                }
            }
            Err(status) => {
                match status.code() {
                    Code::InvalidArgument => series.invalid_image.inc(),
                    Code::ResourceExhausted => series.throttled.inc(),
                    _ => {}
                }
                if status.code() != Code::ResourceExhausted {
                    series.error.inc();
                }
                tracing::debug!(component, code = ?status.code(), message = status.message(), "a picture was refused");
            }
        }
    }
}

/// What happens to hosted models.
#[derive(Clone, Copy)]
pub(crate) struct HostingEvents;

impl HostingEvents {
    /// A model takes pictures.
    pub(crate) fn hosted(self, project: &str, version: u64, min: usize, max: usize) {
        tracing::info!(project, version, min_units = min, max_units = max, "model hosted");
    }

    /// A model was let go.
    pub(crate) fn stopped(self, project: &str, version: u64) {
        tracing::info!(project, version, "model stopped");
    }

    /// A model cannot be hosted.
    pub(crate) fn failed(self, project: &str, version: u64, message: &str) {
        tracing::error!(project, version, message, "model not hosted");
    }

    /// An inference unit ended by itself, and another takes its place.
    pub(crate) fn unit_failed(self, project: &str, version: u64, error: &str) {
        tracing::error!(project, version, error, "inference unit lost");
    }

    /// A picture has its answer and whether it is anomalous, or was refused.
    pub(crate) fn detected(
        self,
        series: &ModelMetrics,
        outcome: &Result<(serde_json::Value, bool), ApiFault>,
        took: Duration,
    ) {
        match outcome {
            Ok((_, is_anomalous)) => {
                series.processed_image.inc();
                series.successful_request.inc();
                series.detection_duration.observe(took.as_secs_f64());
                if *is_anomalous {
                    series.detected_anomaly.inc();
                }
            }
            Err(ApiFault::Throttled { .. }) => series.throttled.inc(),
            Err(fault) => {
                if matches!(fault, ApiFault::Validation { .. }) {
                    series.invalid_image.inc();
                }
                series.error.inc();
            }
        }
    }
}
