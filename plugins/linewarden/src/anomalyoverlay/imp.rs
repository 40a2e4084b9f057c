//! The element's inside: read the meta, draw, pass on.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use linewarden_model::Rect;
use linewarden_model::overlay::Overlay;

use crate::frame;
use crate::meta::{self, AnomalyMeta, Region};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("anomalyoverlay", gst::DebugColorFlags::empty(), Some("Linewarden anomaly overlay"))
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone, Copy)]
struct Settings {
    alpha: f32,
    text: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { alpha: 0.5, text: true }
    }
}

#[derive(Default)]
pub struct AnomalyOverlay {
    settings: Mutex<Settings>,
    /// The negotiated caps, from `set_caps` to `stop`.
    caps: Mutex<Option<gst_video::VideoInfo>>,
}

impl AnomalyOverlay {
    // Locks even after a panic elsewhere: both values are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caps(&self) -> MutexGuard<'_, Option<gst_video::VideoInfo>> {
        self.caps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(
        &self,
        buffer: &mut gst::BufferRef,
        info: &gst_video::VideoInfo,
        meta: &AnomalyMeta,
    ) -> Result<(), frame::PictureError> {
        let Settings { alpha, text } = *self.settings();
        if meta.mask.is_none() && !text {
            return Ok(());
        }
        let region = pixels(meta.region, frame::size(buffer, info));
        let AnomalyMeta { result, labels, mask, .. } = meta;
        let overlay = Overlay { result, mask: mask.as_ref(), labels, region, alpha, text };
        frame::with_canvas(buffer, info, |canvas| overlay.draw(canvas))
    }
}

/// The region in pixels of a picture that may have been scaled since.
fn pixels(region: Region, (width_px, height_px): (u32, u32)) -> Rect {
    let within = |share: f64, limit: u32| (share.clamp(0.0, 1.0) * f64::from(limit)).round() as u32;
    Rect {
        x: within(region.x, width_px),
        y: within(region.y, height_px),
        width_px: within(region.width, width_px),
        height_px: within(region.height, height_px),
    }
}

#[glib::object_subclass]
impl ObjectSubclass for AnomalyOverlay {
    const NAME: &'static str = "LinewardenAnomalyOverlayElement";
    type Type = super::AnomalyOverlay;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for AnomalyOverlay {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecFloat::builder("alpha")
                    .nick("Alpha")
                    .blurb("How strongly the tint covers the picture")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(Settings::default().alpha)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("text")
                    .nick("Text")
                    .blurb("Whether to write the verdict, the score and the areas")
                    .default_value(Settings::default().text)
                    .mutable_playing()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const TYPE: &str = "checked by its specification";
        let mut settings = self.settings();
        match pspec.name() {
            "alpha" => settings.alpha = value.get().expect(TYPE),
            "text" => settings.text = value.get().expect(TYPE),
            other => gst::error!(CAT, imp = self, "property `{other}` cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "alpha" => settings.alpha.to_value(),
            "text" => settings.text.to_value(),
            _ => pspec.default_value().clone(),
        }
    }
}

impl GstObjectImpl for AnomalyOverlay {}

impl ElementImpl for AnomalyOverlay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Anomaly overlay",
                "Filter/Effect/Video",
                "Draws what anomalydetect found onto the frames",
                "Linewarden",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| frame::pad_templates(&frame::caps()));
        &TEMPLATES
    }
}

impl BaseTransformImpl for AnomalyOverlay {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    // Passthrough hands out read-only buffers.
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.caps() = None;
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = gst_video::VideoInfo::from_caps(incaps)
            .map_err(|_| gst::loggable_error!(CAT, "caps {incaps} are no video"))?;
        *self.caps() = Some(info);
        Ok(())
    }

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.parent_propose_allocation(decide_query, query)?;
        // Strides of the producer's choice are welcome.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        Ok(())
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(meta) = meta::read(buffer) else { return Ok(gst::FlowSuccess::Ok) };
        let info = self.caps().clone().ok_or(gst::FlowError::NotNegotiated)?;
        if let Err(error) = self.draw(buffer, &info, &meta) {
            // The picture is worth showing without its drawing.
            gst::warning!(CAT, imp = self, "cannot draw on frame {}: {error}", meta.frame);
        }
        Ok(gst::FlowSuccess::Ok)
    }
}
