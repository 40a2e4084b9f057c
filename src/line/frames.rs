//! The way of a camera's frames: numbered at capture, followed through the pipeline, scored or not, decided, handed over.
//!
//! Everything here runs on streaming threads: the lock of the road is held for a few list operations, that of telling until
//! a frame's outcome is in the outbox, so that frames which a decoder skips are not told of before those ahead of them.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gst::ReferenceTimestampMeta;
use gstlinewarden::meta::{self, AnomalyMeta};
use jiff::Timestamp;
use linewarden_core::parts::{CameraPresence, FrameOutcome};
use linewarden_core::{Reason, ScoredFrame};
use linewarden_model::FrameView;

use super::clock::Captured;
use super::gate::{Gate, Seen};
use super::shadow::Shadow;
use super::trigger::{PictureTrigger, picture_trigger};
use crate::config::LineConfig;
use crate::events::CameraEvents;
use crate::metrics::NotScored;

/// A pipeline that swallows more frames than this without an answer has lost the first of them.
const MOST_PENDING: usize = 1024;

/// Marks the frame's number on its buffer: no decoder, queue or converter takes it off.
static NUMBER: LazyLock<gst::Caps> = LazyLock::new(|| gst::Caps::new_empty_simple("timestamp/x-linewarden-frame"));

/// The frames of one camera. Outlives its pipelines, so that no number is given twice.
pub(crate) struct Frames {
    /// The camera's place among those of its line.
    index: usize,
    camera: String,
    interval: u64,
    gate: Arc<Gate>,
    events: CameraEvents,
    /// What looks for parts in this camera's pictures, when they are the line's trigger.
    trigger: Option<PictureTrigger>,
    /// What scores a sample of the frames too.
    shadow: Option<Arc<Shadow>>,
    road: Mutex<Road>,
    /// Before the road's, where both are held.
    telling: Mutex<()>,
}

/// What is on its way.
struct Road {
    next_frame: u64,
    /// How many frames the element has got.
    entered: u64,
    pending: VecDeque<Pending>,
    /// When the last frame of this pipeline came.
    last_arrival: Option<Instant>,
}

struct Pending {
    frame: u64,
    captured: Captured,
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
    pub(crate) fn new(
        line: &LineConfig,
        index: usize,
        camera: &str,
        gate: Arc<Gate>,
        shadow: Option<Arc<Shadow>>,
        events: CameraEvents,
    ) -> Self {
        let road = Road { next_frame: 0, entered: 0, pending: VecDeque::new(), last_arrival: None };
        Self {
            index,
            camera: camera.to_owned(),
            interval: u64::from(line.interval.max(1)),
            gate,
            events,
            trigger: picture_trigger(line, camera),
            shadow,
            road: Mutex::new(road),
            telling: Mutex::default(),
        }
    }

    /// The camera's name.
    pub(crate) fn camera(&self) -> &str {
        &self.camera
    }

    pub(crate) fn events(&self) -> &CameraEvents {
        &self.events
    }

    /// Whether this camera's pictures open parts.
    pub(crate) fn looks_for_parts(&self) -> bool {
        self.trigger.is_some()
    }

    /// A picture is about to be captured: the part that it shows first opens.
    pub(crate) fn look_for_parts(&self, view: &FrameView<'_>, at: Timestamp) {
        if let Some(trigger) = &self.trigger {
            trigger.look(view, at, &self.gate);
        }
    }

    /// The camera came, failed or ended.
    pub(crate) fn presence(&self, presence: CameraPresence) {
        self.gate.presence(self.index, presence);
    }

    /// Locks even after a panic elsewhere: every change leaves a valid list behind.
    fn road(&self) -> MutexGuard<'_, Road> {
        self.road.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while frames that were taken off the road are told of, some microseconds each.
    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new pipeline starts.
    pub(crate) fn begin(&self) {
        self.road().last_arrival = None;
    }

    /// A new element scores from now on, and counts its frames from the first.
    pub(crate) fn scorer_loaded(&self) {
        self.road().entered = 0;
    }

    /// When the last frame came, if this pipeline has brought one.
    pub(crate) fn last_arrival(&self) -> Option<Instant> {
        self.road().last_arrival
    }

    /// Numbers a frame at capture, unless its source has done so.
    pub(crate) fn stamp(&self, buffer: &mut gst::BufferRef, captured: Captured) {
        if number(buffer).is_some() {
            return;
        }
        let frame = self.add(Progress::Queued, captured);
        ReferenceTimestampMeta::add(buffer, &NUMBER, gst::ClockTime::from_nseconds(frame), gst::ClockTime::NONE);
    }

    /// A frame is in front of the queue.
    pub(crate) fn captured(&self, buffer: &mut gst::BufferRef, captured: Captured) {
        self.stamp(buffer, captured);
        self.road().last_arrival = Some(captured.came);
        self.events.frame_arrived();
    }

    /// A frame that was captured but will never come into the pipeline.
    pub(crate) fn lose(&self, why: NotScored, captured: Captured) {
        self.add(Progress::Lost(why), captured);
        let _in_order = self.telling();
        let told = self.road().take_lost();
        told.iter().for_each(|pending| self.lost(pending, false));
    }

    fn add(&self, progress: Progress, captured: Captured) -> u64 {
        let (frame, has_room) = self.road().add(progress, captured);
        self.gate.captured(&Seen { camera: self.index, frame, captured });
        if !has_room {
            let _in_order = self.telling();
            let overdue = self.road().take_overdue();
            overdue.iter().for_each(|pending| self.lost(pending, false));
        }
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
        let waited = pending.captured.came.elapsed();
        drop(road);
        self.events.queued(waited);
    }

    /// A frame of these caps came through. Frames before it that did not are lost.
    pub(crate) fn arrived(&self, buffer: &gst::BufferRef, info: impl Fn() -> Option<gst_video::VideoInfo>) {
        let Some(frame) = number(buffer) else { return };
        let _in_order = self.telling();
        let mut before = self.road().take_through(frame);
        let own = before.pop_if(|pending| pending.frame == frame);
        before.into_iter().for_each(|pending| self.lost(&pending, false));
        match (own, meta::read(buffer)) {
            (None, _) => {}
            (Some(own), Some(meta)) => self.scored(&own, meta, buffer, info),
            (Some(own), None) if own.progress == (Progress::Entered { is_scored: false }) => self.not_meant(&own),
            (Some(own), None) => self.not_scored(&own, NotScored::ModelFailed),
        }
        let behind = self.road().take_lost();
        behind.iter().for_each(|pending| self.lost(pending, false));
    }

    /// The pipeline is gone: what was in it will not come any more.
    pub(crate) fn give_up(&self) {
        let _in_order = self.telling();
        let left: Vec<Pending> = self.road().pending.drain(..).collect();
        left.iter().for_each(|pending| self.lost(pending, true));
    }

    fn lost(&self, pending: &Pending, pipeline_is_gone: bool) {
        let why = match pending.progress {
            Progress::Lost(why) => why,
            Progress::Entered { is_scored: false } => return self.not_meant(pending),
            Progress::Queued | Progress::Entered { .. } if pipeline_is_gone => NotScored::PipelineStopped,
            Progress::Queued => NotScored::QueueFull,
            Progress::Entered { .. } => NotScored::Late,
        };
        self.not_scored(pending, why);
    }

    fn scored(
        &self,
        pending: &Pending,
        meta: AnomalyMeta,
        buffer: &gst::BufferRef,
        info: impl Fn() -> Option<gst_video::VideoInfo>,
    ) {
        let times = meta.times;
        let caps = || info().and_then(|info| info.to_caps().ok());
        let watched = self.gate.witness().and_then(|witness| Some((witness, caps()?, meta.clone())));
        let scored = ScoredFrame {
            frame: pending.frame,
            captured_at: pending.captured.at,
            ..meta.into_scored_frame(&self.camera)
        };
        self.events.scored(&scored, times);
        if let Some((witness, caps, meta)) = watched {
            witness.hold(self.index, buffer, caps, &scored, meta);
        }
        self.gate.scored(&self.seen(pending), &scored);
        self.events.handed_over(pending.captured.age());
        // The decision is on its way by now.
        if let Some(shadow) = &self.shadow {
            shadow.offer(self.index, buffer, info, &scored);
        }
    }

    fn not_scored(&self, pending: &Pending, why: NotScored) {
        self.events.not_scored(pending.frame, why);
        // With an interval most frames are not meant to be scored: one that fell out of the queue tells nothing.
        if self.interval > 1 && !matches!(pending.progress, Progress::Entered { .. }) {
            return self.not_meant(pending);
        }
        let reason = match why {
            // To a part it is all one where its frames fell out.
            NotScored::QueueFull | NotScored::Late if self.gate.has_parts() => Reason::Overload,
            why => Reason::NotScored { why: why.as_str() },
        };
        self.gate.outcome(&self.seen(pending), FrameOutcome::NotScored { reason });
        self.events.handed_over(pending.captured.age());
    }

    fn not_meant(&self, pending: &Pending) {
        self.gate.outcome(&self.seen(pending), FrameOutcome::NotMeant);
    }

    fn seen(&self, pending: &Pending) -> Seen {
        Seen { camera: self.index, frame: pending.frame, captured: pending.captured }
    }
}

impl Road {
    /// The new frame's number, and whether there was room for it.
    fn add(&mut self, progress: Progress, captured: Captured) -> (u64, bool) {
        let frame = self.next_frame;
        self.next_frame += 1;
        self.pending.push_back(Pending { frame, captured, progress });
        (frame, self.pending.len() <= MOST_PENDING)
    }

    /// The frames that were waited for too long.
    fn take_overdue(&mut self) -> Vec<Pending> {
        let count = self.pending.len().saturating_sub(MOST_PENDING);
        self.pending.drain(..count).collect()
    }

    /// The frame and all before it, in order.
    fn take_through(&mut self, frame: u64) -> Vec<Pending> {
        let count = self.pending.iter().take_while(|pending| pending.frame <= frame).count();
        self.pending.drain(..count).collect()
    }

    /// The lost frames that no frame before them is waited for.
    fn take_lost(&mut self) -> Vec<Pending> {
        let is_lost = |pending: &&Pending| matches!(pending.progress, Progress::Lost(_));
        let count = self.pending.iter().take_while(is_lost).count();
        self.pending.drain(..count).collect()
    }
}

fn number(buffer: &gst::BufferRef) -> Option<u64> {
    let mut stamps = buffer.iter_meta::<ReferenceTimestampMeta>();
    let stamp = stamps.find(|stamp| stamp.reference().is_strictly_equal(&NUMBER));
    stamp.map(|stamp| stamp.timestamp().nseconds())
}
