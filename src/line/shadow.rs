//! The shadow of a line: a second model that scores a sample of its frames and says where it would decide otherwise.
//!
//! It runs on a thread of its own with low priority. A streaming thread leaves it a copy of a frame, or nothing when it is
//! still busy with another: the line never waits for its shadow.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use gstlinewarden::anomalydetect::{ScoreError, Scorer};
use linewarden_core::ScoredFrame;
use linewarden_model::{Batch, DetectorOptions, DeviceRequest, SizePolicy};
use linewarden_publish::Publisher;
use serde_json::json;

use crate::config::LineConfig;
use crate::events::LineEvents;

/// How much nicer the shadow's thread is than the line's.
const NICE: i32 = 10;
/// What is said of a frame is of use for a while.
const EXPIRY: Duration = Duration::from_secs(60);

/// A line's shadow. Ends when dropped.
pub(crate) struct Shadow {
    sender: mpsc::SyncSender<Sample>,
    /// A frame lies there, or is being laid there.
    is_taken: Arc<AtomicBool>,
    share: f64,
    frames: Vec<AtomicU64>,
    events: Arc<LineEvents>,
}

struct Sample {
    buffer: gst::Buffer,
    info: gst_video::VideoInfo,
    scored: ScoredFrame,
}

struct Worker {
    line: LineConfig,
    model: PathBuf,
    is_taken: Arc<AtomicBool>,
    publisher: Option<Publisher>,
    events: Arc<LineEvents>,
}

impl Shadow {
    /// Starts the shadow that the configuration asks for. Its model is loaded while the line runs already.
    pub(crate) fn start(
        line: &LineConfig,
        publisher: Option<&Publisher>,
        events: &Arc<LineEvents>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(shadow) = &line.shadow else { return Ok(None) };
        let (sender, samples) = mpsc::sync_channel(1);
        let is_taken = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            line: line.clone(),
            model: shadow.model.clone(),
            is_taken: Arc::clone(&is_taken),
            publisher: publisher.cloned(),
            events: Arc::clone(events),
        };
        let spawned =
            thread::Builder::new().name(format!("lw-shadow-{}", line.name)).spawn(move || worker.run(&samples));
        spawned.context("cannot start the shadow")?;
        let (share, events) = (shadow.share, Arc::clone(events));
        Ok(Some(Arc::new(Self {
            sender,
            is_taken,
            share,
            frames: line.cameras.iter().map(|_| AtomicU64::new(0)).collect(),
            events,
        })))
    }

    /// Leaves a frame for the shadow when it is one of the sample and the shadow is free.
    pub(crate) fn offer(
        &self,
        camera: usize,
        buffer: &gst::BufferRef,
        info: impl FnOnce() -> Option<gst_video::VideoInfo>,
        scored: &ScoredFrame,
    ) {
        // Each camera by itself: of two that take turns, every second frame is always the same one's.
        let Some(frames) = self.frames.get(camera) else { return };
        if !is_sampled(frames.fetch_add(1, Ordering::Relaxed), self.share) {
            return;
        }
        if self.is_taken.swap(true, Ordering::Acquire) {
            return self.events.shadow_dropped();
        }
        // A copy: a camera has few buffers, and shall not wait for one.
        let sample =
            info().and_then(|info| Some(Sample { buffer: buffer.copy_deep().ok()?, info, scored: scored.clone() }));
        if sample.is_none_or(|sample| self.sender.try_send(sample).is_err()) {
            self.is_taken.store(false, Ordering::Release);
            self.events.shadow_dropped();
        }
    }
}

/// Whether this frame is one of so large a share, evenly spread.
fn is_sampled(frame: u64, share: f64) -> bool {
    let before = |frame: u64| (frame as f64 * share) as u64;
    before(frame + 1) > before(frame)
}

impl Worker {
    fn run(&self, samples: &mpsc::Receiver<Sample>) {
        // Of this thread alone, as Linux has it.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(line = self.line.name, %error, "the shadow has the priority of the line");
        }
        let mut scorer = match self.open() {
            Ok(scorer) => scorer,
            Err(error) => return self.events.shadow_failed(&format!("{error:#}")),
        };
        for sample in samples {
            self.compare(&mut scorer, &sample);
            self.is_taken.store(false, Ordering::Release);
        }
    }

    fn open(&self) -> anyhow::Result<Scorer> {
        let LineConfig { device, device_id, scale, roi, .. } = &self.line;
        let options = DetectorOptions {
            device: device.parse::<DeviceRequest>()?,
            device_id: *device_id,
            threads: 1,
            sizes: if *scale { SizePolicy::Scale } else { SizePolicy::Exact },
        };
        Ok(Scorer::open(&self.model, &options, Batch::Own, *roi)?)
    }

    fn compare(&self, scorer: &mut Scorer, sample: &Sample) {
        let Sample { buffer, info, scored } = sample;
        let shadow = match scorer.score(buffer, info) {
            Ok(detection) => detection.result,
            Err(error) => return self.not_scored(scored, &error),
        };
        let (verdict, _) = self.line.decision.rules.decide(&scored.result);
        let (shadow_verdict, _) = self.line.decision.rules.decide(&shadow);
        let is_same = verdict == shadow_verdict;
        self.events.shadow_compared(is_same);
        let Some(publisher) = self.publisher.as_ref().filter(|_| !is_same) else { return };
        let side = |score: f64, threshold: f64, verdict: &str, model: &linewarden_core::ModelRef| json!({ "anomaly_score": score, "anomaly_threshold": threshold, "verdict": verdict, "model": model });
        let (result, model) = (&scored.result, scorer.detector().model_ref());
        let message = json!({
            "schema": 1,
            "line": self.line.name,
            "camera": scored.camera,
            "frame": scored.frame,
            "captured_at": format!("{:.6}", scored.captured_at),
            "running": side(result.anomaly_score, result.anomaly_threshold, verdict.as_str(), &scored.model),
            "shadow": side(shadow.anomaly_score, shadow.anomaly_threshold, shadow_verdict.as_str(), model),
        });
        publisher.aside(&format!("{}/shadow", scored.camera), message.to_string().as_bytes(), EXPIRY);
    }

    fn not_scored(&self, scored: &ScoredFrame, error: &ScoreError) {
        self.events.shadow_dropped();
        let (line, camera, frame) = (&self.line.name, &scored.camera, scored.frame);
        tracing::debug!(line, camera, frame, %error, "the shadow cannot score a frame");
    }
}

#[cfg(test)]
mod tests {
    use super::is_sampled;

    #[test]
    fn a_sample_is_as_large_as_asked_and_evenly_spread() {
        let sample = |share| (0..100).filter(|&frame| is_sampled(frame, share)).collect::<Vec<u64>>();
        assert_eq!(sample(0.1), [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]);
        assert_eq!(sample(1.0).len(), 100);
        assert_eq!(sample(0.25).len(), 25);
    }
}
