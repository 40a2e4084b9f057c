//! One image, one score: the command line, the element and the bare graph agree.

use std::path::{Path, PathBuf};

use gst::prelude::*;
use linewarden_model::package::{INPUT, SCORE_OUTPUT};
use linewarden_model::{FrameView, Preprocessor, runtime};
use linewarden_train::dataset::Picture;
use ort::session::Session;
use ort::value::TensorRef;

use crate::support::{as_png, cookies, files, parts, say, scores, temp, text};

/// Nothing here takes so long, on however busy a machine.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);
/// The network's input, as `model.json` has it.
const INPUT_SIZE_PX: u32 = 256;
const EXACT: f64 = 1e-3;
/// Formats with half the colour resolution.
const SUBSAMPLED: f64 = 0.02;

#[test]
fn synthetic_parts_have_one_score_each() {
    let parts = parts();
    let pictures = [files(&parts.test.join("normal")), files(&parts.test.join("anomaly"))].concat();
    assert_one_score_each(&parts.model, &pictures);
}

#[test]
fn photographs_have_one_score_each() {
    let Some(cookies) = cookies() else { return };
    let folder = temp();
    let numbered = |index: &usize| {
        let path = folder.path().join(format!("{index}.png"));
        as_png(&cookies.tests[*index].0, &path);
        path
    };
    let pictures: Vec<PathBuf> = [0, 7, 8, 21].iter().map(numbered).collect();
    assert_one_score_each(&cookies.model, &pictures);
}

fn assert_one_score_each(model: &Path, pictures: &[PathBuf]) {
    let expected = scores(model, pictures);
    let unsaturated = expected.iter().filter(|score| (0.02..0.98).contains(*score)).count();
    assert!(unsaturated > 0, "scores at the ends of the scale agree too easily: {expected:?}");
    let mut graph = runtime::session_builder(1).unwrap().commit_from_file(model.join("model.onnx")).unwrap();
    for (picture, expected) in pictures.iter().zip(expected) {
        let assert_close = |score: f64, tolerance: f64, what: &str| {
            let path = picture.display();
            assert!((score - expected).abs() <= tolerance, "{path} as {what}: {score}, not {expected}");
        };
        for format in ["RGB", "BGR", "RGBx"] {
            assert_close(element_score(model, picture, format), EXACT, format);
        }
        let Picture { width_px, height_px, rgb } = Picture::read(picture).unwrap();
        assert_close(graph_score(&mut graph, width_px, height_px, &rgb), EXACT, "the whole picture for the graph");
        let mut scaled = Vec::new();
        let view = FrameView::rgb(width_px as u32, height_px as u32, &rgb).unwrap();
        Preprocessor::new(INPUT_SIZE_PX, INPUT_SIZE_PX).run(&view, &mut scaled).unwrap();
        let side = INPUT_SIZE_PX as usize;
        assert_close(graph_score(&mut graph, side, side, &scaled), EXACT, "the scaled picture for the graph");
    }
}

#[test]
fn photographs_keep_their_score_with_half_the_colour_resolution() {
    let Some(cookies) = cookies() else { return };
    let folder = temp();
    let numbered = |(index, (photograph, _)): (usize, &(PathBuf, bool))| {
        let path = folder.path().join(format!("{index:02}.png"));
        as_png(photograph, &path);
        path
    };
    let pictures: Vec<PathBuf> = cookies.tests.iter().enumerate().map(numbered).collect();
    let expected = scores(&cookies.model, &pictures);
    let mut differences = Vec::new();
    for (picture, expected) in pictures.iter().zip(expected) {
        let [planar, packed] = ["I420", "NV12"].map(|format| element_score(&cookies.model, picture, format));
        assert!((planar - packed).abs() <= EXACT, "{}: {planar} {packed}", picture.display());
        differences.push((planar - expected).abs());
    }
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let worst = differences.iter().copied().fold(0.0, f64::max);
    say(format_args!("I420 and NV12: mean difference {mean:.4}, worst {worst:.4} of 22 photographs"));
    assert!(worst <= SUBSAMPLED, "{differences:?}");
}

/// What `anomalydetect` says of a PNG that reaches it in this format.
pub(crate) fn element_score(model: &Path, picture: &Path, format: &str) -> f64 {
    gst::init().unwrap();
    gstlinewarden::plugin_register_static().unwrap();
    let description = format!(
        "filesrc location={} ! pngdec ! videoconvert dither=none ! video/x-raw,format={format} ! \
         anomalydetect model={} device=cpu ! fakesink",
        text(picture),
        text(model)
    );
    let pipeline = gst::parse::launch(&description).unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut score = None;
    while let Some(message) = bus.timed_pop(PATIENCE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => panic!("{} {:?}", error.error(), error.debug()),
            gst::MessageView::Element(_) => {
                let structure = message.structure().filter(|structure| structure.name() == "anomaly");
                score = score.or(structure.map(|structure| structure.get::<f64>("anomaly_score").unwrap()));
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    score.unwrap_or_else(|| panic!("`{description}` scored nothing"))
}

/// What the packaged graph says, run on its own.
pub(crate) fn graph_score(graph: &mut Session, width_px: usize, height_px: usize, rgb: &[u8]) -> f64 {
    let input = TensorRef::from_array_view(([1, height_px, width_px, 3], rgb)).unwrap();
    let outputs = graph.run(ort::inputs![INPUT => input]).unwrap();
    let (_, scores) = outputs[SCORE_OUTPUT].try_extract_tensor::<f32>().unwrap();
    f64::from(scores[0])
}
