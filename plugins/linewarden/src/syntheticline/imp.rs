use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use linewarden_synthetic::{BeltSpec, render_belt, render_view};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("syntheticline", gst::DebugColorFlags::empty(), Some("Linewarden synthetic camera line"))
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    belt: BeltSpec,
    /// Parts until the end of the stream; negative for an endless belt.
    parts: i64,
    /// Parts a second in real time; 0 for as fast as they are taken.
    rate: f64,
    /// Frames a second; 0 for one a part.
    frame_rate: f64,
    /// The share of a part's time that it stands under the camera; then the belt is empty.
    dwell: f64,
    /// When the first part comes, microseconds since 1970; negative for when the element starts.
    belt_start_us: i64,
    /// Which camera this is, of how many.
    view: u32,
    views: u32,
}

/// What a running element needs. Exists from `start` to `stop`.
#[derive(Debug, Clone)]
struct State {
    settings: Settings,
    next_frame: u64,
    /// When the first frame was due by the pipeline's clock: the base class moves every time stamp by as much.
    started_at: Option<gst::ClockTime>,
    /// The picture that was sent last: a part that stands looks the same in every frame.
    last: Option<(Sight, Arc<[u8]>)>,
}

/// What is under the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Part(u64),
    /// The belt before this part.
    Belt(u64),
}

/// The element's insides.
#[derive(Debug, Default)]
pub struct SyntheticLine {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            belt: BeltSpec::default(),
            parts: -1,
            rate: 2.0,
            frame_rate: 0.0,
            dwell: 1.0,
            belt_start_us: -1,
            view: 0,
            views: 1,
        }
    }
}

impl Settings {
    /// An unpaced belt is timed as if it ran at 2 parts a second.
    fn parts_a_second(&self) -> f64 {
        if self.rate > 0.0 { self.rate } else { 2.0 }
    }

    fn frames_a_second(&self) -> f64 {
        if self.frame_rate > 0.0 { self.frame_rate } else { self.parts_a_second() }
    }

    /// When a frame is taken, since the start of the stream.
    fn taken_at(&self, frame: u64) -> gst::ClockTime {
        gst::ClockTime::from_nseconds((frame as f64 * 1e9 / self.frames_a_second()) as u64)
    }

    /// What is under the camera in a frame, taken so many seconds after the first part came; none when the belt is at its end.
    fn sight(&self, frame: u64, seconds: f64) -> Option<Sight> {
        // One frame a part needs no clock, and must not be fooled by its rounding.
        let place = if self.frame_rate > 0.0 { seconds * self.parts_a_second() } else { frame as f64 };
        // Below 0 the first part is yet to come.
        let part = place.max(0.0) as u64;
        if u64::try_from(self.parts).is_ok_and(|parts| part >= parts) {
            return None;
        }
        let is_there = place >= 0.0 && place - (part as f64) < self.dwell;
        Some(if is_there { Sight::Part(part) } else { Sight::Belt(part) })
    }

    fn picture(&self, sight: Sight) -> Vec<u8> {
        let rgb = match sight {
            Sight::Part(part) => render_view(&self.belt, part, self.view, self.views).rgb,
            Sight::Belt(part) => render_belt(&self.belt, part, self.view),
        };
        padded_rows(rgb, self.belt.width_px)
    }
}

impl SyntheticLine {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render_next(&self) -> Result<gst::Buffer, gst::FlowError> {
        let (settings, frame, started_at, last) = {
            let mut state = self.state();
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            state.next_frame += 1;
            (state.settings.clone(), state.next_frame - 1, state.started_at, state.last.clone())
        };
        let pts = settings.taken_at(frame);
        let sight = settings.sight(frame, self.belt_seconds(&settings, pts, started_at)).ok_or(gst::FlowError::Eos)?;
        let picture = match last {
            Some((same, picture)) if same == sight => picture,
            _ => Arc::from(settings.picture(sight)),
        };
        if let Some(state) = self.state().as_mut() {
            state.last = Some((sight, Arc::clone(&picture)));
        }
        let mut buffer = gst::Buffer::from_slice(picture);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
            buffer.set_duration(settings.taken_at(frame + 1) - pts);
            if let Sight::Part(part) = sight {
                buffer.set_offset(part);
                buffer.set_offset_end(part + 1);
            }
        }
        Ok(buffer)
    }

    /// Seconds since the first part came, at this moment of the stream.
    fn belt_seconds(&self, settings: &Settings, pts: gst::ClockTime, started_at: Option<gst::ClockTime>) -> f64 {
        let stream_seconds = pts.nseconds() as f64 / 1e9;
        let Ok(start_us) = u64::try_from(settings.belt_start_us) else { return stream_seconds };
        let Some(running) = self.obj().current_running_time() else { return stream_seconds };
        // A clock before 1970 shows an empty belt.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The first frame is taken now; the others are made before their moment, and kept until it comes.
        let due = started_at.map_or(running, |started_at| started_at + pts);
        let ahead = (due.nseconds() as f64 - running.nseconds() as f64) / 1e9;
        (now.as_micros() as f64 - start_us as f64) / 1e6 + ahead
    }
}

/// Raw video rows are padded to 4 bytes by default; a renderer's are not.
fn padded_rows(rgb: Vec<u8>, width_px: u32) -> Vec<u8> {
    let row_bytes = width_px as usize * 3;
    let stride_bytes = row_bytes.next_multiple_of(4);
    if stride_bytes == row_bytes {
        return rgb;
    }
    let mut padded = Vec::with_capacity(rgb.len() / row_bytes * stride_bytes);
    for row in rgb.chunks_exact(row_bytes) {
        padded.extend_from_slice(row);
        padded.resize(padded.len().next_multiple_of(4), 0);
    }
    padded
}

#[glib::object_subclass]
impl ObjectSubclass for SyntheticLine {
    const NAME: &'static str = "GstLinewardenSyntheticLine";
    type Type = super::SyntheticLine;
    type ParentType = gst_base::PushSrc;
}

impl ObjectImpl for SyntheticLine {
    fn constructed(&self) {
        self.parent_constructed();
        let element = self.obj();
        element.set_format(gst::Format::Time);
        element.set_live(self.settings().rate > 0.0);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let defaults = Settings::default();
            vec![
                glib::ParamSpecUInt64::builder("seed")
                    .nick("Seed")
                    .blurb("Which belt: the same seed gives the same parts")
                    .default_value(defaults.belt.seed)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("defect-rate")
                    .nick("Defect rate")
                    .blurb("Share of parts with a defect, 0 to 1")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(defaults.belt.defect_rate)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("width")
                    .nick("Width")
                    .blurb("Width of the picture in pixels")
                    .minimum(64)
                    .maximum(4096)
                    .default_value(defaults.belt.width_px)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("height")
                    .nick("Height")
                    .blurb("Height of the picture in pixels")
                    .minimum(64)
                    .maximum(4096)
                    .default_value(defaults.belt.height_px)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecInt64::builder("parts")
                    .nick("Parts")
                    .blurb("Parts until the end of the stream, -1 for an endless belt")
                    .minimum(-1)
                    .default_value(defaults.parts)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("rate")
                    .nick("Rate")
                    .blurb("Parts a second in real time, 0 for as fast as they are taken")
                    .minimum(0.0)
                    .maximum(1000.0)
                    .default_value(defaults.rate)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("frame-rate")
                    .nick("Frame rate")
                    .blurb("Frames a second, 0 for one a part")
                    .minimum(0.0)
                    .maximum(1000.0)
                    .default_value(defaults.frame_rate)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("dwell")
                    .nick("Dwell")
                    .blurb("Share of a part's time that it stands under the camera, with frame-rate; then the belt is empty")
                    .minimum(0.01)
                    .maximum(1.0)
                    .default_value(defaults.dwell)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecInt64::builder("belt-start")
                    .nick("Belt start")
                    .blurb("When the first part comes, microseconds since 1970, -1 for when the element starts")
                    .minimum(-1)
                    .default_value(defaults.belt_start_us)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("view")
                    .nick("View")
                    .blurb("Which camera over the belt this is, from 0")
                    .maximum(255)
                    .default_value(defaults.view)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("views")
                    .nick("Views")
                    .blurb("How many cameras there are: each defect shows to one of them")
                    .minimum(1)
                    .maximum(256)
                    .default_value(defaults.views)
                    .mutable_ready()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = self.settings();
        // The type system has checked type and range before this is called.
        match pspec.name() {
            "seed" => settings.belt.seed = value.get().unwrap_or_default(),
            "defect-rate" => settings.belt.defect_rate = value.get().unwrap_or_default(),
            "width" => settings.belt.width_px = value.get().unwrap_or_default(),
            "height" => settings.belt.height_px = value.get().unwrap_or_default(),
            "parts" => settings.parts = value.get().unwrap_or_default(),
            "rate" => settings.rate = value.get().unwrap_or_default(),
            "frame-rate" => settings.frame_rate = value.get().unwrap_or_default(),
            "dwell" => settings.dwell = value.get().unwrap_or_default(),
            "belt-start" => settings.belt_start_us = value.get().unwrap_or_default(),
            "view" => settings.view = value.get().unwrap_or_default(),
            "views" => settings.views = value.get().unwrap_or_default(),
            other => gst::warning!(CAT, imp = self, "unknown property {other}"),
        }
        let is_live = settings.rate > 0.0;
        drop(settings);
        self.obj().set_live(is_live);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "seed" => settings.belt.seed.to_value(),
            "defect-rate" => settings.belt.defect_rate.to_value(),
            "width" => settings.belt.width_px.to_value(),
            "height" => settings.belt.height_px.to_value(),
            "parts" => settings.parts.to_value(),
            "frame-rate" => settings.frame_rate.to_value(),
            "dwell" => settings.dwell.to_value(),
            "belt-start" => settings.belt_start_us.to_value(),
            "view" => settings.view.to_value(),
            "views" => settings.views.to_value(),
            _ => settings.rate.to_value(),
        }
    }
}

impl GstObjectImpl for SyntheticLine {}

impl ElementImpl for SyntheticLine {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Synthetic camera line",
                "Source/Video",
                "Renders parts on a belt, some with known defects",
                "Linewarden",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new()
                .format(gst_video::VideoFormat::Rgb)
                .width_range(64..=4096)
                .height_range(64..=4096)
                .build();
            gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &caps).into_iter().collect()
        });
        &TEMPLATES
    }
}

impl BaseSrcImpl for SyntheticLine {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings().clone();
        *self.state() = Some(State { settings, next_frame: 0, started_at: None, last: None });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state() = None;
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let settings = self.settings().clone();
        // In thousandths. An unpaced belt has no rate.
        let rate = if settings.rate > 0.0 || settings.frame_rate > 0.0 { settings.frames_a_second() } else { 0.0 };
        let rate = gst::Fraction::new((rate * 1000.0).round() as i32, 1000);
        let caps = gst_video::VideoCapsBuilder::new()
            .format(gst_video::VideoFormat::Rgb)
            .width(settings.belt.width_px as i32)
            .height(settings.belt.height_px as i32)
            .pixel_aspect_ratio(gst::Fraction::new(1, 1))
            .framerate(rate)
            .build();
        Some(filter.map_or_else(|| caps.clone(), |filter| filter.intersect(&caps)))
    }

    /// The base class waits for this moment before it sends a part, so that a live belt runs in real time.
    fn times(&self, buffer: &gst::BufferRef) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
        if self.settings().rate <= 0.0 {
            return (None, None);
        }
        if let Some(state) = self.state().as_mut().filter(|state| state.started_at.is_none()) {
            state.started_at = self.obj().current_running_time();
        }
        (buffer.pts(), None)
    }
}

impl PushSrcImpl for SyntheticLine {
    fn create(&self, _buffer: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        self.render_next().map(CreateSuccess::NewBuffer)
    }
}
