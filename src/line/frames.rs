//! The way of a camera's frames: numbered at capture, followed through the pipeline, scored or not, decided, handed over.
//!
//! Everything here runs on streaming threads and never waits: the one lock is held for a few list operations.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gst::ReferenceTimestampMeta;
use gstlinewarden::meta::{self, AnomalyMeta};
use jiff::Timestamp;
use linewarden_core::{Decision, Reason, ScoredFrame, Verdict};
use linewarden_publish::Publisher;

use crate::config::{DecisionConfig, UnknownPolicy};
use crate::events::{CameraEvents, LineEvents};
use crate::metrics::NotScored;

/// A pipeline that swallows more frames than this without an answer has lost the first of them.
const MOST_PENDING: usize = 1024;

/// Marks the frame's number on its buffer: no decoder, queue or converter takes it off.
static NUMBER: LazyLock<gst::Caps> = LazyLock::new(|| gst::Caps::new_empty_simple("timestamp/x-linewarden-frame"));

/// Where a line's results become decisions.
pub(crate) struct Gate {
    pub(crate) decision: DecisionConfig,
    pub(crate) publisher: Option<Publisher>,
    pub(crate) events: Arc<LineEvents>,
}

/// The frames of one camera. Outlives its pipelines, so that no number is given twice.
pub(crate) struct Frames {
    camera: String,
    interval: u64,
    gate: Arc<Gate>,
    events: CameraEvents,
    road: Mutex<Road>,
}

/// What is on its way.
struct Road {
    next_frame: u64,
    /// How many frames the element of this pipeline has got.
    entered: u64,
    pending: VecDeque<Pending>,
    last_arrival: Instant,
}

struct Pending {
    frame: u64,
    captured_at: Timestamp,
    captured: Instant,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Waits for the element.
    Queued,
    /// In the element, which scores it unless its turn is another's.
    Entered { is_scored: bool },
    /// Never went into the pipeline.
    Lost(NotScored),
}

impl Frames {
    pub(crate) fn new(camera: &str, interval: u32, gate: Arc<Gate>, events: CameraEvents) -> Self {
        let road = Road { next_frame: 0, entered: 0, pending: VecDeque::new(), last_arrival: Instant::now() };
        Self { camera: camera.to_owned(), interval: u64::from(interval.max(1)), gate, events, road: Mutex::new(road) }
    }

    pub(crate) fn events(&self) -> &CameraEvents {
        &self.events
    }

    /// Locks even after a panic elsewhere: every change leaves a valid list behind.
    fn road(&self) -> MutexGuard<'_, Road> {
        self.road.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new pipeline starts.
    pub(crate) fn begin(&self) {
        let mut road = self.road();
        road.entered = 0;
        road.last_arrival = Instant::now();
    }

    /// When the last frame was captured, or the pipeline began.
    pub(crate) fn last_arrival(&self) -> Instant {
        self.road().last_arrival
    }

    /// Numbers a frame at capture, unless its source has done so.
    pub(crate) fn stamp(&self, buffer: &mut gst::BufferRef) {
        if number(buffer).is_some() {
            return;
        }
        let frame = self.add(Progress::Queued);
        ReferenceTimestampMeta::add(buffer, &NUMBER, gst::ClockTime::from_nseconds(frame), gst::ClockTime::NONE);
    }

    /// A frame is in front of the queue.
    pub(crate) fn captured(&self, buffer: &mut gst::BufferRef) {
        self.stamp(buffer);
        self.road().last_arrival = Instant::now();
        self.events.frame_arrived();
    }

    /// A frame that was captured but will never come into the pipeline.
    pub(crate) fn lose(&self, why: NotScored) {
        self.add(Progress::Lost(why));
    }

    fn add(&self, progress: Progress) -> u64 {
        let (frame, overdue) = self.road().add(progress);
        overdue.iter().for_each(|pending| self.lost(pending, false));
        frame
    }

    /// A frame goes into the element.
    pub(crate) fn entered(&self, buffer: &gst::BufferRef) {
        let Some(frame) = number(buffer) else { return };
        let mut road = self.road();
        let is_scored = road.entered.is_multiple_of(self.interval);
        road.entered += 1;
        let Some(pending) = road.pending.iter_mut().find(|pending| pending.frame == frame) else { return };
        pending.progress = Progress::Entered { is_scored };
        let waited = pending.captured.elapsed();
        drop(road);
        self.events.queued(waited);
    }

    /// A frame came through. Frames before it that did not are lost.
    pub(crate) fn arrived(&self, buffer: &gst::BufferRef) {
        let Some(frame) = number(buffer) else { return };
        let mut before = self.road().take_through(frame);
        let own = before.pop_if(|pending| pending.frame == frame);
        before.into_iter().for_each(|pending| self.lost(&pending, false));
        let Some(own) = own else { return };
        match meta::read(buffer) {
            Some(meta) => self.scored(&own, meta),
            None if own.progress == (Progress::Entered { is_scored: false }) => {}
            None => self.not_scored(&own, NotScored::ModelFailed),
        }
    }

    /// The pipeline is gone: what was in it will not come any more.
    pub(crate) fn give_up(&self) {
        let left: Vec<Pending> = self.road().pending.drain(..).collect();
        left.iter().for_each(|pending| self.lost(pending, true));
    }

    fn lost(&self, pending: &Pending, pipeline_is_gone: bool) {
        let why = match pending.progress {
            Progress::Lost(why) => why,
            Progress::Entered { is_scored: false } => return,
            Progress::Queued | Progress::Entered { .. } if pipeline_is_gone => NotScored::PipelineStopped,
            Progress::Queued => NotScored::QueueFull,
            Progress::Entered { .. } => NotScored::Late,
        };
        self.not_scored(pending, why);
    }

    fn scored(&self, pending: &Pending, meta: AnomalyMeta) {
        let times = meta.times;
        let scored = ScoredFrame {
            frame: pending.frame,
            captured_at: pending.captured_at,
            ..meta.into_scored_frame(&self.camera)
        };
        self.events.scored(&scored, times);
        if let Some(publisher) = &self.gate.publisher {
            publisher.result(&scored);
        }
        let (verdict, reason) = self.gate.decision.rules.decide(&scored.result);
        self.decide(pending, verdict, reason);
    }

    fn not_scored(&self, pending: &Pending, why: NotScored) {
        self.events.not_scored(pending.frame, why);
        // With an interval most frames are not meant to be scored: one that fell out of the queue tells nothing.
        if self.interval > 1 && !matches!(pending.progress, Progress::Entered { .. }) {
            return;
        }
        let verdict = match self.gate.decision.on_unknown {
            UnknownPolicy::Unknown => Verdict::Unknown,
            UnknownPolicy::Reject => Verdict::Reject,
            UnknownPolicy::Pass => Verdict::Pass,
        };
        self.decide(pending, verdict, Reason::NotScored { why: why.as_str() });
    }

    fn decide(&self, pending: &Pending, verdict: Verdict, reason: Reason) {
        let Gate { decision, publisher, events } = &*self.gate;
        let decided_at = Timestamp::now();
        let decision = Decision {
            part: pending.frame,
            trigger: None,
            verdict,
            reason,
            frames: vec![format!("{}/{}", self.camera, pending.frame)],
            captured_at: pending.captured_at,
            decided_at,
            reject_at: None,
            // Saturates in the year 9999.
            expires_at: pending.captured_at.checked_add(decision.expires_after).unwrap_or(Timestamp::MAX),
        };
        events.decided(&decision);
        match publisher {
            // An expired decision is not sent; the publisher says so.
            Some(publisher) => {
                publisher.decision(&decision);
            }
            None if decision.expires_at <= decided_at => events.deadline_missed(),
            None => {}
        }
        self.events.handed_over(pending.captured.elapsed());
    }
}

impl Road {
    /// The new frame's number, and the frame that was waited for too long, if there is one.
    fn add(&mut self, progress: Progress) -> (u64, Option<Pending>) {
        let frame = self.next_frame;
        self.next_frame += 1;
        let overdue = if self.pending.len() < MOST_PENDING { None } else { self.pending.pop_front() };
        let (captured_at, captured) = (Timestamp::now(), Instant::now());
        self.pending.push_back(Pending { frame, captured_at, captured, progress });
        (frame, overdue)
    }

    /// The frame and all before it, in order.
    fn take_through(&mut self, frame: u64) -> Vec<Pending> {
        let count = self.pending.iter().take_while(|pending| pending.frame <= frame).count();
        self.pending.drain(..count).collect()
    }
}

fn number(buffer: &gst::BufferRef) -> Option<u64> {
    let mut stamps = buffer.iter_meta::<ReferenceTimestampMeta>();
    let stamp = stamps.find(|stamp| stamp.reference().is_strictly_equal(&NUMBER));
    stamp.map(|stamp| stamp.timestamp().nseconds())
}
