//! What the plugin's tests share: the plugin, a tiny real model, pictures, and buses that are waited for.

use std::path::Path;
use std::time::Duration;

use gst::prelude::*;
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;

/// Nothing here takes so long, on however busy a machine.
pub(crate) const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);
pub(crate) const WIDTH: u32 = 64;
pub(crate) const HEIGHT: u32 = 48;

pub(crate) fn init() {
    gst::init().unwrap();
    gstlinewarden::plugin_register_static().unwrap();
}

/// A segmentation model for pictures of 64x48.
pub(crate) struct Model {
    pub(crate) folder: tempfile::TempDir,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self::of(WIDTH, HEIGHT, ModelType::Segmentation)
    }

    pub(crate) fn of(width_px: u32, height_px: u32, model_type: ModelType) -> Self {
        let folder = tempfile::tempdir().unwrap();
        brightness_package(folder.path(), width_px, height_px, model_type).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A pipeline that is stopped when it goes out of scope, also by a panic: GStreamer complains of anything else.
pub(crate) struct Line {
    pub(crate) pipeline: gst::Pipeline,
    pub(crate) bus: gst::Bus,
}

impl Line {
    pub(crate) fn new(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let bus = pipeline.bus().unwrap();
        Self { pipeline, bus }
    }

    pub(crate) fn playing(description: &str) -> Self {
        let line = Self::new(description);
        line.pipeline.set_state(gst::State::Playing).unwrap();
        line
    }

    pub(crate) fn element(&self, name: &str) -> gst::Element {
        self.pipeline.by_name(name).unwrap()
    }

    /// The next message of these kinds; an error that was not asked for fails the test.
    pub(crate) fn wait_for(&self, kinds: &[gst::MessageType]) -> gst::Message {
        let mut wanted = vec![gst::MessageType::Error];
        wanted.extend(kinds);
        let message = self.bus.timed_pop_filtered(PATIENCE, &wanted).expect("a message in time");
        if let gst::MessageView::Error(error) = message.view() {
            assert!(kinds.contains(&gst::MessageType::Error), "{} {:?}", error.error(), error.debug());
        }
        message
    }

    /// Waits for a state change that was asked for. One that is asked for before this returns may get lost in GStreamer.
    pub(crate) fn wait_for_state(&self) {
        let (outcome, state, _) = self.pipeline.state(PATIENCE);
        assert_eq!(outcome, Ok(gst::StateChangeSuccess::Success), "{state:?}");
    }

    pub(crate) fn wait_for_eos(&self) {
        self.wait_for(&[gst::MessageType::Eos]);
    }

    /// The text of the first error.
    pub(crate) fn error(&self) -> String {
        // Starting may fail at once; the message is there all the same.
        let _ = self.pipeline.set_state(gst::State::Playing);
        let message = self.wait_for(&[gst::MessageType::Error]);
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        // What the element itself says is in the debug text; the other part is GStreamer's word for the kind of error.
        format!("{} {}", error.error(), error.debug().unwrap_or_default())
    }

    /// Everything that was posted until the stream's end.
    pub(crate) fn messages_until_eos(&self) -> Vec<gst::Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.bus.timed_pop(PATIENCE).expect("a message in time");
            match message.view() {
                gst::MessageView::Eos(_) => return messages,
                gst::MessageView::Error(error) => panic!("{} {:?}", error.error(), error.debug()),
                _ => messages.push(message),
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The fields of the `anomaly` messages among these.
pub(crate) fn anomalies(messages: &[gst::Message]) -> Vec<gstlinewarden::meta::AnomalyMeta> {
    let structures = messages.iter().filter_map(|message| message.structure());
    let structures = structures.filter(|structure| structure.name() == gstlinewarden::meta::MESSAGE);
    structures.map(|structure| gstlinewarden::meta::from_structure(structure).unwrap()).collect()
}

pub(crate) fn count(stats: &gst::Structure, field: &str) -> u64 {
    stats.get(field).unwrap()
}

pub(crate) fn stats(element: &gst::Element) -> gst::Structure {
    element.property("stats")
}

/// A smooth colourful picture: subsampled chroma loses little of it.
pub(crate) fn picture(width_px: u32, height_px: u32) -> Vec<u8> {
    let pixel = |index: u32| {
        let (x, y) = (index % width_px, index / width_px);
        [(40 + x * 150 / width_px) as u8, (60 + y * 180 / height_px) as u8, (200 - x * 80 / width_px) as u8]
    };
    (0..width_px * height_px).flat_map(pixel).collect()
}

/// A buffer of RGB rows, padded as GStreamer wants them.
pub(crate) fn rgb_buffer(width_px: u32, rgb: &[u8]) -> gst::Buffer {
    init();
    let row_bytes = width_px as usize * 3;
    let padding = vec![0; row_bytes.next_multiple_of(4) - row_bytes];
    let rows: Vec<u8> = rgb.chunks_exact(row_bytes).flat_map(|row| [row, &padding].concat()).collect();
    let mut buffer = gst::Buffer::from_mut_slice(rows);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
    buffer
}

pub(crate) fn rgb_caps(width_px: u32, height_px: u32) -> gst::Caps {
    let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb);
    caps.width(width_px as i32).height(height_px as i32).framerate(gst::Fraction::new(30, 1)).build()
}

/// An element under test with pads at both ends.
pub(crate) fn harness(element: &str, properties: &[(&str, &str)]) -> gst_check::Harness {
    init();
    let element = gst::ElementFactory::make(element).build().unwrap();
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    gst_check::Harness::with_element(&element, Some("sink"), Some("src"))
}

/// A flat grey picture's buffer.
pub(crate) fn grey(value: u8) -> gst::Buffer {
    rgb_buffer(WIDTH, &vec![value; (WIDTH * HEIGHT * 3) as usize])
}

pub(crate) fn timeout() -> Duration {
    PATIENCE.into()
}

/// A path for a pipeline's description.
pub(crate) fn as_text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
