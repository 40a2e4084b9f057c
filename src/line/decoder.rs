//! What goes into a decoder and what comes out of it: only whole pictures count, and only while they are fresh.
//!
//! A decoder makes up what was lost on the way and carries it on from picture to picture, falls behind when the machine is
//! slow, and makes pictures even of noise. GStreamer tells of none of that.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gst::ReferenceTimestampMeta;
use gst::prelude::*;

use super::clock::lag_by_stamp;
use super::source::for_each_element;

/// Marks a buffer whose picture is not whole: no decoder, queue or converter takes it off.
static DAMAGED: LazyLock<gst::Caps> = LazyLock::new(|| gst::Caps::new_empty_simple("timestamp/x-linewarden-damaged"));

/// No gate waits so long for a picture that has yet to be decoded. Until then what a busy moment left waiting is caught up
/// with: to skip a picture costs all that follow, up to the next one that needs no other.
const MOST_BEHIND: Duration = Duration::from_millis(500);
/// Once pictures are skipped, they are until one comes that is as fresh as this, so that there is room for a busy moment.
const CAUGHT_UP: Duration = Duration::from_millis(250);
/// The first pictures of a camera that came back are proof that it did, for noise now and then looks like a picture too.
const PROOF_PICTURES: u32 = 3;
/// A slow camera proves by staying.
const PROOF_TIME: Duration = Duration::from_millis(500);

/// Is told of a picture that is skipped, with the pad that it came to.
pub(crate) type Skipped = Box<dyn Fn(&gst::Pad, &gst::BufferRef) + Send + Sync>;

/// Which pictures count.
pub(crate) struct Policy {
    /// Late pictures are skipped.
    pub(crate) is_live: bool,
    /// The camera was lost before.
    pub(crate) is_returning: bool,
    /// Told of each picture that is skipped.
    pub(crate) skipped: Skipped,
}

/// Whether the picture was made of less than the camera sent, or has yet to be trusted.
pub(crate) fn is_damaged(buffer: &gst::BufferRef) -> bool {
    let mut stamps = buffer.iter_meta::<ReferenceTimestampMeta>();
    buffer.flags().contains(gst::BufferFlags::CORRUPTED)
        || stamps.any(|stamp| stamp.reference().is_strictly_equal(&DAMAGED))
}

/// Holds every video decoder of the source to the policy.
pub(crate) fn watch(source: &gst::Bin, policy: Policy) {
    let policy = Arc::new(policy);
    for_each_element(source, move |element| {
        let factory = element.factory();
        let class = factory.as_ref().and_then(|factory| factory.metadata("klass")).unwrap_or_default();
        // JPEG's are decoders of images.
        if class.contains("Decoder") && (class.contains("Video") || class.contains("Image")) {
            watch_input(element, Arc::clone(&policy));
            if policy.is_returning {
                watch_output(element);
            }
        }
    });
}

fn watch_input(decoder: &gst::Element, policy: Arc<Policy>) {
    let Some(sink) = decoder.static_pad("sink") else { return };
    let (stream, decoder) = (Mutex::new(Stream::default()), decoder.downgrade());
    sink.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let caps = pad.current_caps();
        let is_jpeg = caps.is_some_and(|caps| caps.structure(0).is_some_and(|caps| caps.name() == "image/jpeg"));
        let flags = buffer.flags();
        let picture = Picture {
            // Each JPEG stands alone, and one that is not whole is thrown away where packets are put together.
            is_after_loss: !is_jpeg && flags.contains(gst::BufferFlags::DISCONT),
            needs_others: !is_jpeg && flags.contains(gst::BufferFlags::DELTA_UNIT),
            behind: decoder.upgrade().filter(|_| policy.is_live).and_then(|decoder| behind(&decoder, pad, buffer)),
        };
        match stream.lock().unwrap_or_else(PoisonError::into_inner).next(picture) {
            Fate::Whole => {}
            Fate::Damaged => mark(buffer),
            Fate::Skipped => {
                (policy.skipped)(pad, buffer);
                // `Drop` would free it a second time.
                return gst::PadProbeReturn::Handled;
            }
        }
        gst::PadProbeReturn::Ok
    });
}

fn watch_output(decoder: &gst::Element) {
    let Some(out) = decoder.static_pad("src") else { return };
    let proof = Mutex::new((0, None));
    out.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let mut proof = proof.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, since) = &mut *proof;
        let is_proven = *seen >= PROOF_PICTURES || since.get_or_insert_with(Instant::now).elapsed() >= PROOF_TIME;
        *seen = if is_proven { PROOF_PICTURES } else { *seen + 1 };
        if !is_proven {
            mark(buffer);
        }
        gst::PadProbeReturn::Ok
    });
}

fn mark(buffer: &mut gst::Buffer) {
    ReferenceTimestampMeta::add(buffer.make_mut(), &DAMAGED, gst::ClockTime::ZERO, gst::ClockTime::NONE);
}

/// How long the picture has waited.
fn behind(decoder: &gst::Element, pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<Duration> {
    Duration::try_from(lag_by_stamp(decoder, pad, buffer)?).ok()
}

/// What the decoder got so far.
#[derive(Debug, Default)]
struct Stream {
    has_begun: bool,
    is_whole: bool,
    is_skipping: bool,
}

/// What is known of a coded picture.
#[derive(Debug, Clone, Copy)]
struct Picture {
    /// Something before it was lost.
    is_after_loss: bool,
    /// It cannot be decoded by itself.
    needs_others: bool,
    /// How long it has waited, if that is known.
    behind: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    /// What is made of it is not the part.
    Damaged,
    /// The decoder does not get it.
    Skipped,
}

impl Stream {
    fn next(&mut self, picture: Picture) -> Fate {
        // Every stream begins with a gap. A whole picture after a loss may have lost something itself.
        let has_gap = std::mem::replace(&mut self.has_begun, true) && picture.is_after_loss;
        if has_gap {
            self.is_whole = false;
        } else if !picture.needs_others {
            self.is_whole = true;
        }
        let is_behind = |limit: Duration| picture.behind.is_some_and(|behind| behind > limit);
        self.is_skipping = match self.is_skipping {
            false => is_behind(MOST_BEHIND),
            true => picture.needs_others || is_behind(CAUGHT_UP),
        };
        match (self.is_skipping, self.is_whole) {
            (true, _) => Fate::Skipped,
            (false, true) => Fate::Whole,
            (false, false) => Fate::Damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_count_from_one_that_needs_no_other_until_something_is_lost_or_late() {
        let key = Picture { is_after_loss: false, needs_others: false, behind: None };
        let delta = Picture { needs_others: true, ..key };
        let lost = |picture: Picture| Picture { is_after_loss: true, ..picture };
        let late = |ms: u64, picture: Picture| Picture { behind: Some(Duration::from_millis(ms)), ..picture };
        let steps = [
            (lost(delta), Fate::Damaged),
            (delta, Fate::Damaged),
            (key, Fate::Whole),
            (delta, Fate::Whole),
            (lost(delta), Fate::Damaged),
            (delta, Fate::Damaged),
            (lost(key), Fate::Damaged),
            (key, Fate::Whole),
            (late(500, delta), Fate::Whole),
            (late(501, delta), Fate::Skipped),
            (late(10, delta), Fate::Skipped),
            (late(251, key), Fate::Skipped),
            (delta, Fate::Skipped),
            (late(250, key), Fate::Whole),
            (late(400, delta), Fate::Whole),
        ];
        let mut stream = Stream::default();
        for (step, (picture, fate)) in steps.into_iter().enumerate() {
            assert_eq!(stream.next(picture), fate, "step {step}");
        }
        assert_eq!(Stream::default().next(lost(key)), Fate::Whole, "every stream begins with a gap");
    }
}
