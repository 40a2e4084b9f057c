//! When a frame was captured, and what says so.
//!
//! Best is the camera's own clock, which is known once its first sender report has come, or lies on each frame. It is used
//! only while it agrees with ours, for a camera whose clock is hours off would make every decision expired. Else the
//! frame's time stamp says when it was taken or reached this machine, and for sources without a clock its arrival does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use jiff::{SignedDuration, Timestamp};
use linewarden_core::ClockSource;
use linewarden_core::health::Fault;

use super::source::CameraTime;
use crate::config::{ClockChoice, ClockConfig};
use crate::events::CameraEvents;

/// A frame's capture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Captured {
    /// When the picture was taken.
    pub(crate) at: Timestamp,
    /// What says so.
    pub(crate) clock: ClockSource,
    /// When it came, decoded.
    pub(crate) came: Instant,
    /// How long it took from `at` until then.
    pub(crate) lag: Duration,
    /// What is wrong with the camera, if its pictures are not to be trusted.
    pub(crate) fault: Option<Fault>,
}

/// The clock of one camera's pipeline.
pub(crate) struct CaptureClock {
    config: ClockConfig,
    is_live: bool,
    pipeline: gst::glib::WeakRef<gst::Pipeline>,
    reported: Arc<CameraTime>,
    told: Mutex<Told>,
}

/// What was told already.
#[derive(Debug, Default)]
struct Told {
    source: Option<ClockSource>,
    is_off: bool,
}

/// From 1900, where NTP begins, to 1970.
const NTP_TO_UNIX: SignedDuration = SignedDuration::from_secs(2_208_988_800);
/// PTP counts no leap seconds: it is ahead of UTC by so much since 2017.
const PTP_AHEAD: SignedDuration = SignedDuration::from_secs(37);
/// Time stamps that say more than this, or less, are not those of a live source.
const OLDEST: SignedDuration = SignedDuration::from_secs(60);
const NEWEST: SignedDuration = SignedDuration::from_secs(-1);

impl Captured {
    /// A frame that is here and says nothing of itself.
    pub(crate) fn now() -> Self {
        let (at, came) = (Timestamp::now(), Instant::now());
        Self { at, clock: ClockSource::Arrival, came, lag: Duration::ZERO, fault: None }
    }

    /// How long ago the picture was taken.
    pub(crate) fn age(&self) -> Duration {
        self.came.elapsed() + self.lag
    }

    /// The same frame, `lag` before now.
    fn earlier(self, lag: SignedDuration, clock: ClockSource) -> Self {
        // No picture is taken after it came.
        let lag = Duration::try_from(lag).unwrap_or(Duration::ZERO);
        Self { at: self.at.checked_sub(lag).unwrap_or(self.at), clock, lag, ..self }
    }
}

impl CaptureClock {
    pub(crate) fn new(config: ClockConfig, is_live: bool, pipeline: &gst::Pipeline, reported: Arc<CameraTime>) -> Self {
        Self { config, is_live, pipeline: pipeline.downgrade(), reported, told: Mutex::default() }
    }

    /// When the frame that comes through this pad now was captured.
    pub(crate) fn captured(&self, pad: &gst::Pad, buffer: &gst::BufferRef, events: &CameraEvents) -> Captured {
        let now = Captured::now();
        let by_stamp = self.by_stamp(pad, buffer).map(|lag| now.earlier(lag, ClockSource::Pts));
        let local = by_stamp.unwrap_or(now);
        let captured = match (self.config.choice, self.camera_time(buffer)) {
            (ClockChoice::Auto | ClockChoice::Camera, Some((at, source))) => {
                let offset = at.duration_since(local.at);
                let is_off = offset.unsigned_abs() > self.config.tolerance;
                self.tell_offset(is_off, offset, events);
                let is_trusted = !is_off || self.config.choice == ClockChoice::Camera;
                if is_trusted { now.trusting(at, source) } else { local }
            }
            (ClockChoice::Arrival, _) => now,
            _ => local,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.source.replace(captured.clock) != Some(captured.clock) {
            events.clock_changed(captured.clock);
        }
        drop(told);
        events.captured(captured.lag);
        captured
    }

    /// The capture time that the camera itself told.
    fn camera_time(&self, buffer: &gst::BufferRef) -> Option<(Timestamp, ClockSource)> {
        let reported = || Some((self.reported.at(buffer.pts()?)?, ClockSource::Ntp));
        camera_time(buffer).or_else(reported)
    }

    fn tell_offset(&self, is_off: bool, offset: SignedDuration, events: &CameraEvents) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut told.is_off, is_off) != is_off {
            events.clock_off(is_off, offset, self.config.choice == ClockChoice::Camera);
        }
    }

    /// How long ago the frame's time stamp lies by the pipeline's clock, where that can be.
    fn by_stamp(&self, pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<SignedDuration> {
        if !self.is_live {
            return None;
        }
        lag_by_stamp(self.pipeline.upgrade()?.upcast_ref(), pad, buffer)
    }
}

/// How long ago the time stamp of a live source's buffer lies by the clock of the pipeline, to which `element` belongs; none
/// where a stamp says nothing of that.
pub(super) fn lag_by_stamp(element: &gst::Element, pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<SignedDuration> {
    let segment = pad.sticky_event::<gst::event::Segment>(0)?;
    let running = segment.segment().downcast_ref::<gst::ClockTime>()?.to_running_time(buffer.pts()?)?;
    let taken = element.base_time()?.checked_add(running)?;
    let now = element.clock()?.time();
    let lag = i128::from(now.nseconds()) - i128::from(taken.nseconds());
    let lag = SignedDuration::from_nanos(i64::try_from(lag).ok()?);
    (NEWEST..=OLDEST).contains(&lag).then_some(lag)
}

impl Captured {
    /// The camera's word, but for times that have not come yet.
    fn trusting(self, at: Timestamp, clock: ClockSource) -> Self {
        if at > self.at {
            return Self { clock, ..self };
        }
        let lag = Duration::try_from(self.at.duration_since(at)).unwrap_or(Duration::ZERO);
        Self { at, clock, lag, ..self }
    }
}

/// The capture time that lies on the frame.
fn camera_time(buffer: &gst::BufferRef) -> Option<(Timestamp, ClockSource)> {
    buffer.iter_meta::<gst::ReferenceTimestampMeta>().find_map(|meta| {
        let name = meta.reference().structure(0)?.name();
        let (source, epoch) = match name.as_str() {
            "timestamp/x-ntp" => (ClockSource::Ntp, NTP_TO_UNIX),
            "timestamp/x-unix" => (ClockSource::Ntp, SignedDuration::ZERO),
            "timestamp/x-ptp" => (ClockSource::Ptp, PTP_AHEAD),
            _ => return None,
        };
        let since = SignedDuration::try_from(Duration::from_nanos(meta.timestamp().nseconds())).ok()?;
        Some((Timestamp::from_duration(since.checked_sub(epoch)?).ok()?, source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera(name: &str, nanos: u64) -> Option<(Timestamp, ClockSource)> {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let reference = gst::Caps::new_empty_simple(name);
        let writable = buffer.get_mut().unwrap();
        let stamp = gst::ClockTime::from_nseconds(nanos);
        gst::ReferenceTimestampMeta::add(writable, &reference, stamp, gst::ClockTime::NONE);
        camera_time(&buffer)
    }

    #[test]
    fn each_clock_counts_from_its_own_beginning() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let unix = u64::try_from(at.as_nanosecond()).unwrap();
        let second = 1_000_000_000;
        let table = [
            ("timestamp/x-ntp", unix + 2_208_988_800 * second, Some((at, ClockSource::Ntp))),
            ("timestamp/x-unix", unix, Some((at, ClockSource::Ntp))),
            ("timestamp/x-ptp", unix + 37 * second, Some((at, ClockSource::Ptp))),
            ("timestamp/x-linewarden-frame", 7, None),
        ];
        for (name, nanos, expected) in table {
            assert_eq!(camera(name, nanos), expected, "{name}");
        }
    }

    #[test]
    fn a_picture_is_never_taken_after_it_came() {
        let now = Captured::now();
        let later = now.trusting(now.at.checked_add(Duration::from_millis(30)).unwrap(), ClockSource::Ntp);
        assert_eq!((later.at, later.lag, later.clock), (now.at, Duration::ZERO, ClockSource::Ntp));
        let earlier = now.earlier(SignedDuration::from_millis(40), ClockSource::Pts);
        assert_eq!(now.at.duration_since(earlier.at), SignedDuration::from_millis(40));
        assert!(earlier.age() >= Duration::from_millis(40));
        assert_eq!(now.earlier(SignedDuration::from_millis(-40), ClockSource::Pts).at, now.at);
    }
}
