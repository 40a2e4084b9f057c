//! Another model while frames flow: nothing is lost, each frame names who scored it, and what is wrong changes nothing.

use std::path::{Path, PathBuf};

use gst::prelude::*;
use gstlinewarden::meta::AnomalyMeta;
use linewarden_model::ModelType;
use linewarden_testkit::model::{brightness_package, slow_package};

use crate::common::{HEIGHT, Line, PATIENCE, WIDTH, anomalies, as_text, count, stats};

/// Packages whose graphs, versions and thresholds differ, so that a frame tells who scored it.
struct Packages {
    folder: tempfile::TempDir,
}

impl Packages {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, version: &str) -> PathBuf {
        self.folder.path().join(version)
    }

    fn add(&self, version: &str, threshold: f64) -> PathBuf {
        let path = self.path(version);
        slow_package(&path, WIDTH, HEIGHT, 1 + version.len() % 2).unwrap();
        edit(&path.join("model.json"), "\"version\": \"1\"", &format!("\"version\": \"{version}\""));
        edit(&path.join("model.json"), "\"threshold\": 0.5", &format!("\"threshold\": {threshold}"));
        path
    }
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// A camera that takes 60 pictures a second until it is told to end.
fn camera(model: &Path, properties: &str) -> Line {
    Line::playing(&format!(
        "videotestsrc is-live=true ! video/x-raw,width={WIDTH},height={HEIGHT},framerate=60/1 \
         ! anomalydetect name=d model={} {properties} ! fakesink sync=false",
        as_text(model)
    ))
}

/// What the element says, in order.
#[derive(Default)]
struct Said {
    messages: Vec<gst::Message>,
}

impl Said {
    /// Listens until a message of this name; `anomaly` for the next frame.
    fn until(&mut self, line: &Line, name: &str) -> gst::Structure {
        loop {
            let message = line.bus.timed_pop(PATIENCE).expect("a message in time");
            if let gst::MessageView::Error(error) = message.view() {
                panic!("{} {:?}", error.error(), error.debug());
            }
            self.messages.push(message.clone());
            if let Some(structure) = message.structure().filter(|structure| structure.name() == name) {
                return structure.to_owned();
            }
        }
    }

    fn frames(&mut self, line: &Line, count: usize) {
        (0..count).for_each(|_| drop(self.until(line, "anomaly")));
    }

    /// The stream ends; every frame that went in came out.
    fn until_the_end(mut self, line: &Line) -> Vec<AnomalyMeta> {
        line.pipeline.send_event(gst::event::Eos::new());
        self.messages.extend(line.messages_until_eos());
        let frames = anomalies(&self.messages);
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.frame).collect();
        assert_eq!(numbers, (0..frames.len() as u64).collect::<Vec<_>>(), "every frame once, in order");
        let stats = stats(&line.element("d"));
        assert_eq!((count(&stats, "frames"), count(&stats, "scored")), (frames.len() as u64, frames.len() as u64));
        frames
    }
}

/// Versions in the order in which they scored, each run of them once.
fn order(frames: &[AnomalyMeta]) -> Vec<String> {
    let mut versions: Vec<String> = frames.iter().map(|frame| frame.model.version.clone()).collect();
    versions.dedup();
    versions
}

fn text(structure: &gst::Structure, field: &str) -> String {
    structure.get(field).unwrap()
}

fn roll_back(line: &Line) -> bool {
    line.element("d").emit_by_name("rollback-model", &[])
}

#[test]
fn a_model_takes_over_between_two_frames_and_the_one_before_comes_back() {
    let packages = Packages::new();
    let (old, new) = (packages.add("old", 0.25), packages.add("next", 0.75));
    for properties in ["", "batch=4"] {
        let line = camera(&old, properties);
        let mut said = Said::default();
        said.frames(&line, 10);
        line.element("d").set_property("model", as_text(&new));
        let swapped = said.until(&line, "model-swapped");
        assert_eq!((text(&swapped, "version"), text(&swapped, "replaced-version")), ("next".into(), "old".into()));
        assert_ne!(text(&swapped, "sha256"), text(&swapped, "replaced-sha256"));
        assert_eq!(line.element("d").property::<String>("model"), as_text(&new));
        said.frames(&line, 10);
        assert!(roll_back(&line));
        assert_eq!(text(&said.until(&line, "model-swapped"), "version"), "old");
        said.frames(&line, 10);
        assert!(roll_back(&line), "the way back has a way back");
        said.until(&line, "model-swapped");
        said.frames(&line, 10);
        let stats = stats(&line.element("d"));
        assert_eq!((count(&stats, "model-swaps"), count(&stats, "model-swap-failures")), (3, 0));
        assert_eq!((text(&stats, "model-version"), text(&stats, "model-before")), ("next".into(), as_text(&old)));
        let frames = said.until_the_end(&line);
        assert_eq!(order(&frames), ["old", "next", "old", "next"]);
        for frame in &frames {
            let expected = if frame.model.version == "old" { 0.25 } else { 0.75 };
            assert_eq!(frame.result.anomaly_threshold, expected, "frame {} names who scored it", frame.frame);
        }
    }
}

#[test]
fn what_is_wrong_with_a_model_changes_nothing_and_is_told() {
    let packages = Packages::new();
    let good = packages.add("good", 0.5);
    let untrue = packages.add("untrue", 0.5);
    let golden = untrue.join("golden/golden.json");
    let mut scores: serde_json::Value = serde_json::from_slice(&std::fs::read(&golden).unwrap()).unwrap();
    scores[0]["anomaly_score"] = 0.99.into();
    std::fs::write(&golden, scores.to_string()).unwrap();
    let cut = packages.add("cut", 0.5);
    std::fs::write(cut.join("model.onnx"), b"no graph").unwrap();
    brightness_package(&packages.path("large"), 2 * WIDTH, HEIGHT, ModelType::Classification).unwrap();
    let wrong = [("untrue", "golden"), ("cut", "model.onnx"), ("large", "128x48"), ("absent", "absent")];

    let line = camera(&good, "");
    let mut said = Said::default();
    said.frames(&line, 5);
    for (name, expected) in wrong {
        let begun: bool = line.element("d").emit_by_name("swap-model", &[&as_text(&packages.path(name))]);
        assert!(begun);
        let failed = said.until(&line, "model-swap-failed");
        let reason = text(&failed, "reason");
        assert!(reason.contains(expected), "{name}: {reason}");
        assert_eq!(text(&failed, "model"), as_text(&packages.path(name)));
        let warning = line.bus.timed_pop_filtered(PATIENCE, &[gst::MessageType::Warning]).expect("a warning");
        let gst::MessageView::Warning(warning) = warning.view() else { unreachable!() };
        assert!(warning.debug().unwrap().contains("the model was not changed"), "{warning:?}");
        assert_eq!(text(&stats(&line.element("d")), "model-swap-error"), reason);
    }
    assert!(!roll_back(&line), "nothing was changed, so there is no way back");
    assert!(text(&said.until(&line, "model-swap-failed"), "reason").contains("no model to go back to"));
    assert_eq!(line.element("d").property::<String>("model"), as_text(&good));
    assert_eq!(count(&stats(&line.element("d")), "model-swap-failures"), 5);
}

#[test]
fn the_way_back_is_loaded_again_after_a_third_model_failed() {
    let packages = Packages::new();
    let (first, second) = (packages.add("first", 0.5), packages.add("two", 0.5));
    let untrue = packages.add("untrue", 0.5);
    edit(&untrue.join("golden/golden.json"), "\"anomaly_score\": 0.", "\"anomaly_score\": 0.00");

    let line = camera(&first, "");
    let mut said = Said::default();
    said.frames(&line, 5);
    line.element("d").set_property("model", as_text(&second));
    said.until(&line, "model-swapped");
    // It is refused by its golden pictures, and by then the model before had to make room.
    line.element("d").set_property("model", as_text(&untrue));
    said.until(&line, "model-swap-failed");
    assert_eq!(text(&stats(&line.element("d")), "model-before"), as_text(&first));
    assert!(roll_back(&line));
    assert_eq!(text(&said.until(&line, "model-swapped"), "version"), "first");
    said.frames(&line, 5);
    assert_eq!(order(&said.until_the_end(&line)), ["first", "two", "first"]);
}

#[test]
fn an_element_that_stops_while_it_loads_ends_at_once_and_starts_with_what_it_had() {
    let packages = Packages::new();
    let (old, new) = (packages.add("old", 0.5), packages.add("next", 0.5));
    let line = camera(&old, "");
    Said::default().frames(&line, 3);
    line.element("d").set_property("model", as_text(&new));
    line.pipeline.set_state(gst::State::Ready).unwrap();
    line.wait_for_state();
    let model = line.element("d").property::<String>("model");
    assert!([as_text(&old), as_text(&new)].contains(&model));
    line.pipeline.set_state(gst::State::Playing).unwrap();
    Said::default().frames(&line, 3);
    assert_eq!(text(&stats(&line.element("d")), "model"), model);
}
