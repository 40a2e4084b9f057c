//! Cameras that share one engine, in pipelines of their own: every frame has the answer that it has alone, whoever else
//! comes, goes or sends nonsense.
//!
//! All tests here have the same graph and run in one process: who counts sharers takes a `batch` of its own.

use std::time::Instant;

use gst::prelude::*;
use gstlinewarden::meta;
use linewarden_model::{Detector, DetectorOptions, FrameView, ModelType};
use linewarden_testkit::launch::gst_launch;

use crate::common::{
    HEIGHT, Line, Model, WIDTH, anomalies, as_text, count, grey, harness, rgb_buffer, rgb_caps, stats, timeout,
};

/// Large enough that a run takes longer than the way of a frame to it, so that frames meet.
const WIDE: u32 = 640;
const HIGH: u32 = 480;
const CAMERAS: usize = 4;
const FRAMES: usize = 40;
/// A frame in a batch goes through the same arithmetic as alone.
const EXACT: f64 = 1e-5;

/// No two are alike, and both verdicts are among each camera's.
fn picture(camera: usize, frame: usize) -> Vec<u8> {
    let value = (camera * 61 + frame * 37) % 256;
    let pixel = |index: u32| [value as u8, (index % WIDE / 4) as u8, (index / WIDE / 2) as u8];
    (0..WIDE * HIGH).flat_map(pixel).collect()
}

/// What each of a camera's frames gets from a detector of its own.
fn alone(model: &Model, camera: usize) -> Vec<f64> {
    let mut detector = Detector::open(model.path(), &DetectorOptions::default()).unwrap();
    let score =
        |rgb: Vec<u8>| detector.detect(&FrameView::rgb(WIDE, HIGH, &rgb).unwrap()).unwrap().result.anomaly_score;
    (0..FRAMES).map(|frame| picture(camera, frame)).map(score).collect()
}

/// A camera that waits for its pictures.
fn camera(model: &Model, properties: &str) -> Line {
    let line = Line::new(&format!(
        "appsrc name=source format=time max-bytes=0 ! anomalydetect name=d model={} {properties} ! fakesink",
        as_text(model.path())
    ));
    source(&line).set_caps(Some(&rgb_caps(WIDE, HIGH)));
    line.pipeline.set_state(gst::State::Playing).unwrap();
    line
}

fn source(line: &Line) -> gst_app::AppSrc {
    line.element("source").downcast().unwrap()
}

fn push(line: &Line, camera: usize, frames: std::ops::Range<usize>) {
    for frame in frames {
        source(line).push_buffer(rgb_buffer(WIDE, &picture(camera, frame))).unwrap();
    }
}

fn shared(line: &Line) -> gst::Structure {
    stats(&line.element("d")).get("shared").unwrap()
}

fn assert_scores(messages: &[gst::Message], expected: &[f64], camera: usize) {
    let results = anomalies(messages);
    assert_eq!(results.len(), expected.len(), "camera {camera}");
    for (frame, (result, expected)) in results.iter().zip(expected).enumerate() {
        let score = result.result.anomaly_score;
        assert!((score - expected).abs() < EXACT, "camera {camera}, frame {frame}: {score} for {expected}");
        assert_eq!(result.result.is_anomalous, *expected >= 0.5);
    }
}

#[test]
fn frames_of_several_cameras_run_together_and_each_has_its_own_verdict() {
    let model = Model::of(WIDE, HIGH, ModelType::Segmentation);
    let expected: Vec<Vec<f64>> = (0..CAMERAS).map(|number| alone(&model, number)).collect();
    let start = Instant::now();
    for threads in [1, 2] {
        loop {
            let cameras: Vec<Line> =
                (0..CAMERAS).map(|_| camera(&model, &format!("batch=4 threads={threads}"))).collect();
            assert_eq!(count(&shared(&cameras[0]), "elements"), CAMERAS as u64);
            for (number, line) in cameras.iter().enumerate() {
                push(line, number, 0..FRAMES);
                source(line).end_of_stream().unwrap();
            }
            for (number, line) in cameras.iter().enumerate() {
                assert_scores(&line.messages_until_eos(), &expected[number], number);
            }
            let shared = shared(&cameras[0]);
            let (runs, views) = (count(&shared, "runs"), count(&shared, "views"));
            // Beside the frames, each element's golden picture and its first, black one.
            assert_eq!(views, (CAMERAS * (FRAMES + 2)) as u64);
            assert_eq!(count(&shared, "batch"), 4);
            // Whether frames meet is the scheduler's; with 160 of them it is hard to avoid.
            if runs < views {
                break;
            }
            assert!(start.elapsed() < timeout(), "no two frames ever met");
        }
    }
    let both = expected.iter().all(|of| of.iter().any(|&score| score < 0.5) && of.iter().any(|&score| score >= 0.5));
    assert!(both, "{expected:?}");
}

#[test]
fn a_camera_that_breaks_changes_or_stops_does_not_disturb_the_others() {
    let model = Model::of(WIDE, HIGH, ModelType::Classification);
    let steady: Vec<Line> = (0..2).map(|_| camera(&model, "batch=5")).collect();
    let [stopped, broken, changing, refused] = [(); 4].map(|()| camera(&model, "batch=5 scale=false"));
    for frame in 0..FRAMES {
        for (number, line) in steady.iter().enumerate() {
            push(line, number, frame..frame + 1);
        }
        // Refused once the one is stopped and the other has given up.
        let _ = source(&stopped).push_buffer(rgb_buffer(WIDE, &picture(2, frame)));
        let _ = source(&broken).push_buffer(gst::Buffer::from_mut_slice(vec![0; 100]));
        push(&changing, 3, frame..frame + 1);
        if frame == FRAMES / 4 {
            stopped.pipeline.set_state(gst::State::Null).unwrap();
            stopped.pipeline.set_state(gst::State::Playing).unwrap();
            source(&refused).set_caps(Some(&rgb_caps(WIDE / 2, HIGH)));
            source(&refused).push_buffer(rgb_buffer(WIDE / 2, &vec![9; (WIDE / 2 * HIGH * 3) as usize])).unwrap();
        }
        if frame == FRAMES / 2 {
            stopped.pipeline.set_state(gst::State::Null).unwrap();
            let grey8 = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Gray8);
            let grey8 = grey8.width(WIDE as i32).height(HIGH as i32).framerate(gst::Fraction::new(30, 1)).build();
            source(&changing).set_caps(Some(&grey8));
            source(&changing).push_buffer(gst::Buffer::from_mut_slice(vec![255; (WIDE * HIGH) as usize])).unwrap();
            source(&changing).set_caps(Some(&rgb_caps(WIDE, HIGH)));
        }
    }
    for (number, line) in steady.iter().enumerate() {
        source(line).end_of_stream().unwrap();
        assert_scores(&line.messages_until_eos(), &alone(&model, number), number);
    }
    source(&changing).end_of_stream().unwrap();
    let mut expected = alone(&model, 3);
    expected.insert(FRAMES / 2 + 1, linewarden_testkit::model::brightness_score(&[255; 3]));
    let results = anomalies(&changing.messages_until_eos());
    let scores: Vec<f64> = results.iter().map(|result| result.result.anomaly_score).collect();
    assert_eq!(scores.len(), expected.len());
    assert!(scores.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{scores:?} for {expected:?}");
    assert!(refused.error().contains("trained on 640x480"));
    assert!(broken.error().contains("30 frames in a row"));
}

#[test]
fn the_engine_lives_as_long_as_somebody_shares_it() {
    let model = Model::new();
    let path = as_text(model.path());
    let mut first = harness("anomalydetect", &[("model", &path), ("batch", "3")]);
    first.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let shared = |harness: &gst_check::Harness| stats(&harness.element().unwrap()).get::<gst::Structure>("shared");
    let number = |harness: &gst_check::Harness, field| count(&shared(harness).unwrap(), field);
    for _ in 0..10 {
        meta::read(&first.push_and_pull(grey(200)).unwrap()).unwrap();
    }
    assert_eq!((number(&first, "elements"), number(&first, "views"), number(&first, "runs")), (1, 12, 12));
    let second = harness("anomalydetect", &[("model", &path), ("batch", "3")]);
    let other = harness("anomalydetect", &[("model", &path), ("batch", "2")]);
    assert_eq!((number(&second, "elements"), number(&first, "elements"), number(&other, "elements")), (2, 2, 1));
    drop(first);
    assert_eq!((number(&second, "elements"), number(&second, "views")), (1, 14));
    drop(second);
    // Loaded anew: it has seen nothing but its own beginning.
    let third = harness("anomalydetect", &[("model", &path), ("batch", "3")]);
    assert_eq!((number(&third, "elements"), number(&third, "views")), (1, 2));
    for batch in ["0", "1"] {
        assert!(shared(&harness("anomalydetect", &[("model", &path), ("batch", batch)])).is_err(), "batch {batch}");
    }
}

#[test]
fn a_flush_lets_go_of_the_engine_and_takes_it_back() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path())), ("batch", "6")]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    meta::read(&harness.push_and_pull(grey(20)).unwrap()).unwrap();
    harness.push_event(gst::event::FlushStart::new());
    assert_eq!(harness.push(grey(20)), Err(gst::FlowError::Flushing));
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    meta::read(&harness.push_and_pull(grey(200)).unwrap()).unwrap();
}

#[test]
fn two_cameras_of_one_launch_line_share_and_differ() {
    let model = Model::new();
    let camera = |pattern: &str| {
        format!(
            "videotestsrc num-buffers=20 pattern={pattern} ! video/x-raw,width=64,height=48 ! queue ! anomalydetect model={} \
             batch=2 ! fakesink",
            as_text(model.path())
        )
    };
    let launched = gst_launch(&format!("-m {} {}", camera("black"), camera("white")), timeout()).unwrap();
    assert!(launched.status.success(), "{}\n{}", launched.stdout, launched.stderr);
    let of = |verdict: &str| {
        let verdict = format!("is_anomalous=(boolean){verdict}");
        launched.stdout.lines().filter(|line| line.contains(": anomaly, ") && line.contains(&verdict)).count()
    };
    assert_eq!((of("false"), of("true")), (20, 20));
}
