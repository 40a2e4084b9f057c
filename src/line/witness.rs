//! Evidence of a line's parts: holds the pictures of frames until their part is decided, and has those kept that are worth
//! it.
//!
//! Streaming threads hand over a picture and go on: it is copied at most once, and converted and written on the store's own
//! thread.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoFrameRef, VideoInfo};
use gstlinewarden::meta::{AnomalyMeta, Region};
use linewarden_core::{BootId, Decision, ScoredFrame, Verdict};
use linewarden_evidence::{Item, Picture, Store};
use linewarden_model::{Label, LabelMask};
use serde_json::{Value, json};

use crate::config::EvidenceRules;

/// Pictures of one camera that wait for their part's decision: 45 MB at 1280x720 in I420.
const HELD_FRAMES: usize = 32;
/// Outside of every label.
const BACKGROUND: [u8; 3] = [255; 3];

/// What is kept of one line.
pub(crate) struct Witness {
    line: String,
    rules: EvidenceRules,
    store: Store,
    /// Of a line with parts: a frame is decided on long after its buffer is wanted back.
    has_parts: bool,
    held: Mutex<Vec<VecDeque<Held>>>,
    chance: Mutex<fastrand::Rng>,
    /// Names parts whose decision was not sent.
    boot_id: BootId,
}

/// A frame that may become evidence.
struct Held {
    /// `camera/frame`, as in decisions.
    name: String,
    buffer: gst::Buffer,
    caps: gst::Caps,
    scored: ScoredFrame,
    labels: Vec<Label>,
    region: Region,
    mask: Option<LabelMask>,
}

impl Witness {
    pub(crate) fn new(line: &str, cameras: usize, has_parts: bool, rules: EvidenceRules, store: Store) -> Self {
        let held = Mutex::new((0..cameras).map(|_| VecDeque::new()).collect());
        Self {
            line: line.to_owned(),
            rules,
            store,
            has_parts,
            held,
            chance: Mutex::new(fastrand::Rng::new()),
            boot_id: BootId::random(),
        }
    }

    /// A frame was scored; its decision follows.
    pub(crate) fn hold(
        &self,
        camera: usize,
        buffer: &gst::BufferRef,
        caps: gst::Caps,
        scored: &ScoredFrame,
        meta: AnomalyMeta,
    ) {
        // A camera's few buffers must go back to it before a part is decided.
        let buffer = match self.has_parts {
            true => buffer.copy_deep().ok(),
            false => Some(buffer.to_owned()),
        };
        let Some(buffer) = buffer else { return };
        let held = Held {
            name: name(&scored.camera, scored.frame),
            buffer,
            caps,
            scored: scored.clone(),
            labels: meta.labels,
            region: meta.region,
            mask: meta.mask,
        };
        let mut cameras = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(frames) = cameras.get_mut(camera) else { return };
        let most = if self.has_parts { HELD_FRAMES } else { 1 };
        let fallen = if frames.len() >= most { frames.pop_front() } else { None };
        frames.push_back(held);
        drop(cameras);
        // Giving a buffer back can run code of its pool's owner: not under the lock.
        drop(fallen);
    }

    /// A part was decided. `id` is that of its message, if one was written; a part of a `challenge` is always kept.
    pub(crate) fn decided(&self, decision: &Decision, id: Option<&str>, challenge: Option<&str>) {
        let frames = self.take(&decision.frames);
        let cause = if challenge.is_some() { Some("challenge") } else { self.cause(decision, &frames) };
        let Some(cause) = cause else { return };
        let results: Vec<Value> = frames.iter().map(|held| result(&held.scored)).collect();
        let record = record(decision, results, challenge);
        // What the store's queue holds must not keep a camera waiting for its buffers.
        let frames: Vec<Held> = match self.has_parts {
            true => frames,
            false => frames.into_iter().filter_map(Held::detached).collect(),
        };
        self.store.keep(Item {
            line: self.line.clone(),
            id: id.map_or_else(|| format!("{}-p-{}", self.boot_id, decision.part), str::to_owned),
            at: decision.decided_at,
            cause,
            record,
            pictures: Box::new(move || frames.iter().flat_map(Held::pictures).collect()),
        });
    }

    fn take(&self, names: &[String]) -> Vec<Held> {
        let mut taken = Vec::new();
        for frames in self.held.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let (own, others) = std::mem::take(frames).into_iter().partition(|held| names.contains(&held.name));
            *frames = others;
            taken.extend::<VecDeque<Held>>(own);
        }
        taken
    }

    /// Why a part is kept, if it is.
    fn cause(&self, decision: &Decision, frames: &[Held]) -> Option<&'static str> {
        let is_uncertain = || frames.iter().any(|held| held.scored.result.confidence < self.rules.uncertain_below);
        let is_drawn = || self.chance.lock().unwrap_or_else(PoisonError::into_inner).f64() < self.rules.sample;
        match decision.verdict {
            Verdict::Reject => Some("reject"),
            Verdict::Unknown => Some("unknown"),
            Verdict::Pass if is_uncertain() => Some("uncertain"),
            Verdict::Pass if is_drawn() => Some("sample"),
            Verdict::Pass => None,
        }
    }
}

impl Held {
    /// The same, with a picture of its own.
    fn detached(mut self) -> Option<Self> {
        self.buffer = self.buffer.copy_deep().ok()?;
        Some(self)
    }

    /// The picture, and the mask at its size where something was found.
    fn pictures(&self) -> Vec<Result<Picture, String>> {
        let base = self.name.replace('/', "-");
        let told = |error: anyhow::Error| format!("{}: {error:#}", self.name);
        let picture = match rgb(&self.buffer, &self.caps) {
            Ok((width_px, height_px, rgb)) => Picture { name: base.clone(), width_px, height_px, rgb, is_mask: false },
            Err(error) => return vec![Err(told(error))],
        };
        let mask = self.mask.as_ref().map(|mask| Picture {
            name: format!("{base}-mask"),
            rgb: self.drawn(mask, picture.width_px, picture.height_px),
            is_mask: true,
            ..picture
        });
        std::iter::once(picture).chain(mask).map(Ok).collect()
    }

    /// Labels in their colours on white, as `detect --mask` draws them; cells that belong to no label are black.
    fn drawn(&self, mask: &LabelMask, width_px: u32, height_px: u32) -> Vec<u8> {
        let colours: Vec<[u8; 3]> = self.labels.iter().map(|label| colour(&label.hex_color)).collect();
        let cell = |share: f64, cells: usize| ((share * cells as f64) as usize).min(cells.saturating_sub(1));
        let mut rgb = Vec::with_capacity(3 * (width_px as usize) * (height_px as usize));
        for y in 0..height_px {
            let below = ((f64::from(y) + 0.5) / f64::from(height_px) - self.region.y) / self.region.height;
            for x in 0..width_px {
                let beside = ((f64::from(x) + 0.5) / f64::from(width_px) - self.region.x) / self.region.width;
                let is_inside = (0.0..1.0).contains(&below) && (0.0..1.0).contains(&beside);
                let place = cell(below, mask.height) * mask.width + cell(beside, mask.width);
                let label = mask.labels.get(place).filter(|_| is_inside).map_or(0, |&label| usize::from(label));
                rgb.extend(match label {
                    0 => BACKGROUND,
                    label => colours.get(label - 1).copied().unwrap_or([0; 3]),
                });
            }
        }
        rgb
    }
}

fn name(camera: &str, frame: u64) -> String {
    format!("{camera}/{frame}")
}

/// `#RRGGBB`; black for anything else.
fn colour(hex: &str) -> [u8; 3] {
    let value = u32::from_str_radix(hex.trim_start_matches('#'), 16).unwrap_or(0);
    let [_, red, green, blue] = value.to_be_bytes();
    [red, green, blue]
}

/// The whole picture in RGB without padding.
fn rgb(buffer: &gst::Buffer, caps: &gst::Caps) -> anyhow::Result<(u32, u32, Vec<u8>)> {
    let info = VideoInfo::from_caps(caps).context("no video")?;
    // A converter changes the format alone: rate and fields must be the same on both sides.
    let wanted = VideoInfo::builder(VideoFormat::Rgb, info.width(), info.height())
        .fps(info.fps())
        .interlace_mode(info.interlace_mode())
        .build()
        .context("no such picture")?;
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &info).context("cannot read the frame")?;
    let converted = gst::Buffer::with_size(wanted.size()).context("no memory")?;
    let mut converted =
        VideoFrame::from_buffer_writable(converted, &wanted).map_err(|_| anyhow::anyhow!("cannot write"))?;
    let converter = VideoConverter::new(&info, &wanted, None).context("cannot convert the frame")?;
    converter.frame_ref(&frame, &mut converted.as_mut_video_frame_ref());
    let row_bytes = 3 * info.width() as usize;
    let stride_bytes = usize::try_from(wanted.stride()[0]).context("rows run backwards")?;
    let plane = converted.plane_data(0).context("no plane")?;
    let rows = plane.chunks(stride_bytes).take(info.height() as usize);
    let rgb = rows.flat_map(|row| row.iter().take(row_bytes)).copied().collect();
    Ok((info.width(), info.height(), rgb))
}

fn result(scored: &ScoredFrame) -> Value {
    json!({
        "frame": name(&scored.camera, scored.frame),
        "captured_at": format!("{:.6}", scored.captured_at),
        "result": scored.result,
        "model": scored.model,
    })
}

fn record(decision: &Decision, results: Vec<Value>, challenge: Option<&str>) -> Value {
    let moment = |at: jiff::Timestamp| format!("{at:.6}");
    json!({
        "part": decision.part,
        "trigger": decision.trigger,
        "verdict": decision.verdict,
        "reason": decision.reason.to_string(),
        "frames": decision.frames,
        "captured_at": moment(decision.captured_at),
        "decided_at": moment(decision.decided_at),
        "reject_at": decision.reject_at.map(moment),
        "expires_at": moment(decision.expires_at),
        "challenge": challenge,
        "results": results,
    })
}
