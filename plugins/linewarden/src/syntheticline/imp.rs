use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use linewarden_synthetic::{BeltSpec, render_part};

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
}

/// What a running element needs. Exists from `start` to `stop`.
#[derive(Debug, Clone)]
struct State {
    settings: Settings,
    next_part: u64,
}

/// The element's insides.
#[derive(Debug, Default)]
pub struct SyntheticLine {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { belt: BeltSpec::default(), parts: -1, rate: 2.0 }
    }
}

impl State {
    fn is_over(&self) -> bool {
        u64::try_from(self.settings.parts).is_ok_and(|parts| self.next_part >= parts)
    }

    /// When a part passes the camera. An unpaced belt is timed as if it ran at 2 parts a second.
    fn passes_at(&self, part: u64) -> gst::ClockTime {
        let rate = if self.settings.rate > 0.0 { self.settings.rate } else { 2.0 };
        gst::ClockTime::from_nseconds((part as f64 * 1e9 / rate) as u64)
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
        let state = {
            let mut state = self.state();
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            if state.is_over() {
                return Err(gst::FlowError::Eos);
            }
            state.next_part += 1;
            state.clone()
        };
        let number = state.next_part - 1;
        let part = render_part(&state.settings.belt, number);
        let mut buffer = gst::Buffer::from_mut_slice(padded_rows(part.rgb, state.settings.belt.width_px));
        let pts = state.passes_at(number);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
            buffer.set_duration(state.passes_at(number + 1) - pts);
            buffer.set_offset(number);
            buffer.set_offset_end(number + 1);
        }
        Ok(buffer)
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
        *self.state() = Some(State { settings, next_part: 0 });
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
        // Whole parts only: the rate of pictures is the rate of parts, in thousandths.
        let rate = gst::Fraction::new((settings.rate * 1000.0).round() as i32, 1000);
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
        if self.settings().rate > 0.0 { (buffer.pts(), None) } else { (None, None) }
    }
}

impl PushSrcImpl for SyntheticLine {
    fn create(&self, _buffer: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        self.render_next().map(CreateSuccess::NewBuffer)
    }
}
