//! The element's inside: hand the frame's rows to the agent, print and attach what it says.

use std::io::Write as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::subclass::prelude::*;
use jiff::Timestamp;
use linewarden_core::ModelRef;
use linewarden_model::StageTimes;
use tokio::sync::watch;

use super::agent::{Session, Trouble, Verdict};
use crate::frame;
use crate::meta::{self, AnomalyMeta, Region};

const TYPE: &str = "checked by its specification";
const WHOLE: Region = Region { x: 0.0, y: 0.0, width: 1.0, height: 1.0 };

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "lookoutvision",
        gst::DebugColorFlags::empty(),
        Some("Linewarden's client of an Edge Agent"),
    )
});

/// What the user asked for. Changes only through properties.
#[derive(Debug, Clone)]
struct Settings {
    server_socket: String,
    model_component: String,
    model_status_timeout_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server_socket: "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock".to_owned(),
            model_component: String::new(),
            model_status_timeout_s: 180,
        }
    }
}

pub struct LookoutVision {
    settings: Mutex<Settings>,
    caps: Mutex<Option<gst_video::VideoInfo>>,
    /// The streaming thread takes it out while a frame is judged.
    session: Mutex<Option<Session>>,
    frames: Mutex<u64>,
    /// Told to whoever waits for the agent.
    stop: watch::Sender<bool>,
}

impl LookoutVision {
    // Each lock is taken even after a panic elsewhere: the values are valid between statements.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caps(&self) -> MutexGuard<'_, Option<gst_video::VideoInfo>> {
        self.caps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_frame(&self) -> u64 {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        *frames += 1;
        *frames - 1
    }

    /// What the agent says; it is found, and its model started, at the first frame.
    fn judge(&self, buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Result<Verdict, Trouble> {
        let taken = self.session().take();
        let mut session = match taken {
            Some(session) => session,
            None => {
                let Settings { server_socket, model_component, model_status_timeout_s } = self.settings().clone();
                let timeout = Duration::from_secs(u64::from(model_status_timeout_s));
                Session::start(&server_socket, &model_component, timeout, self.stop.subscribe())?
            }
        };
        // Padded rows, as the interface takes them and GStreamer mostly has them.
        let picture = frame::padded_rgb(buffer, info);
        let picture = picture.map_err(|error| Trouble::Failed(format!("a frame is no RGB picture: {error}")));
        let judged = picture.and_then(|(width_px, height_px, rows)| session.detect(width_px, height_px, rows));
        if let Some(error) = session.shortage() {
            gst::warning!(CAT, imp = self, "frames go by bytes, as shared memory cannot be made: {error}");
        }
        // An agent that was restarted is called anew.
        if !matches!(judged, Err(Trouble::Failed(_))) {
            *self.session() = Some(session);
        }
        judged
    }
}

/// Six digits that say something, as a C++ stream writes a number below one.
fn six_digits(number: f64) -> String {
    let digits = 5 - if number > 0.0 { number.log10().floor() as i32 } else { 0 };
    let text = format!("{number:.*}", usize::try_from(digits).unwrap_or(0));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[glib::object_subclass]
impl ObjectSubclass for LookoutVision {
    const NAME: &'static str = "LinewardenLookoutVisionElement";
    type Type = super::LookoutVision;
    type ParentType = gst_base::BaseTransform;

    fn with_class(_class: &Self::Class) -> Self {
        Self {
            settings: Mutex::default(),
            caps: Mutex::default(),
            session: Mutex::default(),
            frames: Mutex::default(),
            stop: watch::Sender::new(false),
        }
    }
}

impl ObjectImpl for LookoutVision {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let usual = Settings::default();
            vec![
                glib::ParamSpecString::builder("server-socket")
                    .nick("Server socket")
                    .blurb("Where the Edge Agent listens, such as unix:///tmp/agent.sock")
                    .default_value(Some(usual.server_socket.as_str()))
                    .mutable_ready()
                    .build(),
                glib::ParamSpecString::builder("model-component")
                    .nick("Model component")
                    .blurb("Name of the model component that judges the frames")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("model-status-timeout")
                    .nick("Model status timeout")
                    .blurb("How long the agent may take to answer and the model to run, in seconds")
                    .minimum(1)
                    .maximum(86_400)
                    .default_value(usual.model_status_timeout_s)
                    .mutable_ready()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = self.settings();
        let text = || value.get::<Option<String>>().expect(TYPE).unwrap_or_default();
        match pspec.name() {
            "server-socket" => settings.server_socket = text(),
            "model-component" => settings.model_component = text(),
            "model-status-timeout" => settings.model_status_timeout_s = value.get().expect(TYPE),
            other => gst::error!(CAT, imp = self, "property `{other}` cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = self.settings();
        match pspec.name() {
            "server-socket" => settings.server_socket.to_value(),
            "model-component" => settings.model_component.to_value(),
            "model-status-timeout" => settings.model_status_timeout_s.to_value(),
            _ => pspec.default_value().clone(),
        }
    }
}

impl GstObjectImpl for LookoutVision {}

impl ElementImpl for LookoutVision {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Edge Agent's client",
                "Filter/Analyzer/Video",
                "Has each frame judged by an Edge Agent, as the old service's sample element did",
                "Linewarden",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb);
            frame::pad_templates(&caps.width_range(64..=4096).height_range(64..=4096).build())
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => _ = self.stop.send_replace(false),
            // The streaming thread may wait for the agent, and this change for the streaming thread.
            gst::StateChange::PausedToReady => _ = self.stop.send_replace(true),
            _ => {}
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for LookoutVision {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    // Passthrough hands out read-only buffers, and a meta is to be attached.
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        if self.settings().model_component.is_empty() {
            let told = "property `model-component` is not set: it names the model component that judges the frames";
            return Err(gst::error_msg!(gst::LibraryError::Settings, ["{told}"]));
        }
        *self.frames.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.session() = None;
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
        let info = self.caps().clone().ok_or(gst::FlowError::NotNegotiated)?;
        let (frame, began, captured_at) = (self.next_frame(), Instant::now(), Timestamp::now());
        let Verdict { result, labels, mask } = match self.judge(buffer, &info) {
            Ok(verdict) => verdict,
            Err(Trouble::Stopped) => return Err(gst::FlowError::Flushing),
            Err(busy @ Trouble::Busy(_)) => {
                gst::element_imp_warning!(self, gst::StreamError::Failed, ["frame {frame} passes on unjudged: {busy}"]);
                return Ok(gst::FlowSuccess::Ok);
            }
            Err(Trouble::Failed(told)) => {
                let Settings { server_socket, model_component, .. } = self.settings().clone();
                gst::element_imp_error!(
                    self,
                    gst::ResourceError::Failed,
                    ["model component `{model_component}` of the agent at `{server_socket}`: {told}"]
                );
                return Err(gst::FlowError::Error);
            }
        };
        let confidence = six_digits(result.confidence);
        // A reader that hung up is no reason to stop a line.
        let _ =
            writeln!(std::io::stdout(), "Is Anomalous? {}, Confidence: {confidence}", u8::from(result.is_anomalous));
        let component = self.settings().model_component.clone();
        let meta = AnomalyMeta {
            frame,
            pts: buffer.pts().map(Duration::from),
            captured_at,
            result,
            times: StageTimes { inference: began.elapsed(), ..StageTimes::default() },
            model: ModelRef { project: component, version: String::new(), sha256: String::new() },
            labels,
            region: WHOLE,
            mask,
        };
        if let Err(error) = meta::attach(buffer, &meta) {
            gst::warning!(CAT, imp = self, "frame {frame} cannot take its result: {error}");
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_printed_as_the_sample_prints_it() {
        for (number, text) in [
            (0.525_59, "0.52559"),
            (0.525_590_4, "0.52559"),
            (0.999_999_9, "1"),
            (1.0, "1"),
            (0.0, "0"),
            (0.012_345_678, "0.0123457"),
        ] {
            assert_eq!(six_digits(number), text);
        }
    }
}
