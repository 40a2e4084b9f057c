//! `anomalydetect` through its pads, properties and messages.

use crate::common::{
    HEIGHT, Line, Model, WIDTH, anomalies, as_text, count, grey, harness, picture, rgb_buffer, rgb_caps, stats,
};
use gst::prelude::*;
use gstlinewarden::meta;
use linewarden_model::{Detector, DetectorOptions, FrameView, ModelType, SizePolicy};
use linewarden_testkit::model::brightness_score;
use std::io::{Read as _, Write as _};

const FORMATS: [&str; 11] = ["RGB", "BGR", "RGBx", "BGRx", "RGBA", "BGRA", "GRAY8", "I420", "NV12", "YUY2", "UYVY"];

/// What the crate says of a picture that the element gets too.
fn expected_score(model: &Model, width_px: u32, height_px: u32, rgb: &[u8]) -> f64 {
    let options = DetectorOptions { sizes: SizePolicy::Scale, ..DetectorOptions::default() };
    let mut detector = Detector::open(model.path(), &options).unwrap();
    detector.detect(&FrameView::rgb(width_px, height_px, rgb).unwrap()).unwrap().result.anomaly_score
}

#[test]
fn every_format_gives_the_score_of_the_picture() {
    let model = Model::new();
    for (width_px, height_px) in [(WIDTH, HEIGHT), (101, 77)] {
        let rgb = picture(width_px, height_px);
        let expected = expected_score(&model, width_px, height_px, &rgb);
        for format in FORMATS {
            let line = Line::new(&format!(
                "appsrc name=source format=time ! videoconvert dither=none ! video/x-raw,format={format} ! \
                 anomalydetect model={} scale=true ! fakesink",
                as_text(model.path())
            ));
            let source = line.element("source").downcast::<gst_app::AppSrc>().unwrap();
            source.set_caps(Some(&rgb_caps(width_px, height_px)));
            line.pipeline.set_state(gst::State::Playing).unwrap();
            source.push_buffer(rgb_buffer(width_px, &rgb)).unwrap();
            source.end_of_stream().unwrap();
            let results = anomalies(&line.messages_until_eos());
            let [result] = results.as_slice() else { panic!("{format}: {} results", results.len()) };
            let score = result.result.anomaly_score;
            let tolerance = match format {
                "RGB" | "BGR" | "RGBx" | "BGRx" | "RGBA" | "BGRA" => 1e-3,
                _ => 0.02,
            };
            assert!((score - expected).abs() < tolerance, "{format} {width_px}x{height_px}: {score} for {expected}");
        }
    }
}

#[test]
fn the_meta_says_everything_about_a_scored_frame() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let before = jiff::Timestamp::now();
    let mut bright_left: Vec<u8> = vec![255; (WIDTH * HEIGHT * 3) as usize];
    for row in bright_left.chunks_exact_mut(WIDTH as usize * 3) {
        row[(WIDTH as usize - 16) * 3..].fill(0);
    }
    let buffer = harness.push_and_pull(rgb_buffer(WIDTH, &bright_left)).unwrap();
    let meta = meta::read(&buffer).unwrap();
    assert_eq!(meta.frame, 0);
    assert_eq!(meta.pts, Some(std::time::Duration::ZERO));
    assert!(meta.captured_at >= before.round(jiff::Unit::Microsecond).unwrap() - jiff::SignedDuration::from_micros(1));
    assert!((meta.result.anomaly_score - brightness_score(&bright_left)).abs() < 1e-3);
    assert!(meta.result.is_anomalous);
    assert_eq!(meta.model.project, "brightness");
    assert_eq!(meta.model.sha256.len(), 64);
    assert_eq!(meta.labels[0].name, "bright");
    let [background, bright] = meta.result.anomalies.as_slice() else { panic!("{:?}", meta.result.anomalies) };
    assert_eq!((background.name.as_str(), bright.name.as_str()), ("background", "bright"));
    assert!((bright.total_percentage_area - 0.75).abs() < 0.05, "{bright:?}");
    let mask = meta.mask.unwrap();
    assert_eq!((mask.at(0.1, 0.5), mask.at(0.95, 0.5)), (1, 0));
    assert_eq!((meta.region.x, meta.region.width), (0.0, 1.0));

    let normal = meta::read(&harness.push_and_pull(grey(20)).unwrap()).unwrap();
    assert_eq!(normal.frame, 1);
    assert!(!normal.result.is_anomalous && normal.mask.is_none());
}

#[test]
fn only_the_visible_part_within_the_region_of_interest_counts() {
    let model = Model::new();
    let (width_px, height_px) = (2 * WIDTH, 2 * HEIGHT);
    // Black but for a white block of the trained size at (20, 30).
    let mut rgb = vec![0; (width_px * height_px * 3) as usize];
    for y in 30..30 + HEIGHT {
        let start = ((y * width_px + 20) * 3) as usize;
        rgb[start..start + WIDTH as usize * 3].fill(255);
    }
    let model_path = as_text(model.path());
    let white = brightness_score(&[255; 3]);

    let mut by_roi = harness("anomalydetect", &[("model", &model_path), ("roi", "20,30,64,48")]);
    by_roi.set_src_caps(rgb_caps(width_px, height_px));
    let meta = meta::read(&by_roi.push_and_pull(rgb_buffer(width_px, &rgb)).unwrap()).unwrap();
    assert!((meta.result.anomaly_score - white).abs() < 1e-3);
    assert_eq!(meta.region.x, 20.0 / 128.0);

    let mut by_crop = harness("anomalydetect", &[("model", &model_path), ("scale", "true")]);
    by_crop.set_src_caps(rgb_caps(width_px, height_px));
    let mut buffer = rgb_buffer(width_px, &rgb);
    gst_video::VideoCropMeta::add(buffer.get_mut().unwrap(), (20, 30, WIDTH, HEIGHT));
    let meta = meta::read(&by_crop.push_and_pull(buffer).unwrap()).unwrap();
    assert!((meta.result.anomaly_score - white).abs() < 1e-3);

    let mut by_both = harness("anomalydetect", &[("model", &model_path), ("scale", "true"), ("roi", "10,0,54,48")]);
    by_both.set_src_caps(rgb_caps(width_px, height_px));
    let mut buffer = rgb_buffer(width_px, &rgb);
    gst_video::VideoCropMeta::add(buffer.get_mut().unwrap(), (10, 30, WIDTH, HEIGHT));
    let meta = meta::read(&by_both.push_and_pull(buffer).unwrap()).unwrap();
    assert!((meta.result.anomaly_score - white).abs() < 1e-3);
}

#[test]
fn a_stride_of_the_producers_choice_is_respected() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let row = vec![200; WIDTH as usize * 3];
    // The last row ends with its last pixel.
    let mut bytes: Vec<u8> = (0..HEIGHT).flat_map(|_| [row.clone(), vec![0; 40]].concat()).collect();
    bytes.truncate(bytes.len() - 40);
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let (frame_flags, format) = (gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::Rgb);
    let stride = [WIDTH as i32 * 3 + 40];
    gst_video::VideoMeta::add_full(buffer.get_mut().unwrap(), frame_flags, format, WIDTH, HEIGHT, &[0], &stride)
        .unwrap();
    let meta = meta::read(&harness.push_and_pull(buffer).unwrap()).unwrap();
    assert!((meta.result.anomaly_score - brightness_score(&[200; 3])).abs() < 1e-3);
}

#[test]
fn another_size_than_trained_is_an_error_that_names_both() {
    let model = Model::new();
    let source = "videotestsrc num-buffers=3 ! video/x-raw,width=80,height=60";
    let error = Line::new(&format!("{source} ! anomalydetect model={} ! fakesink", as_text(model.path()))).error();
    assert!(error.contains("80x60") && error.contains("64x48") && error.contains("scale=true"), "{error}");

    let scaled = format!("{source} ! anomalydetect model={} scale=true ! fakesink", as_text(model.path()));
    assert_eq!(anomalies(&Line::playing(&scaled).messages_until_eos()).len(), 3);

    // 48x48 with pixels of 4:3 are shown as 64x48.
    let wide = format!(
        "videotestsrc num-buffers=3 ! video/x-raw,width=48,height=48,pixel-aspect-ratio=4/3 ! anomalydetect model={} ! fakesink",
        as_text(model.path())
    );
    assert_eq!(anomalies(&Line::playing(&wide).messages_until_eos()).len(), 3);
}

#[test]
fn whatever_is_missing_or_wrong_is_told_at_start_and_nothing_hangs() {
    let model = Model::new();
    let path = as_text(model.path());
    let broken = Model::new();
    std::fs::write(broken.path().join("model.onnx"), b"no graph").unwrap();
    let line = |properties: &str| {
        let source = "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48";
        Line::new(&format!("{source} ! anomalydetect {properties} ! fakesink")).error()
    };
    let table = [
        (String::new(), "property `model` is not set"),
        ("model=/no/such/package".to_owned(), "there is no such folder or file"),
        (format!("model={}", as_text(broken.path())), "`model.onnx` has SHA-256"),
        (
            format!("model={path} device=cuda"),
            "device `cuda` does not load: this ONNX Runtime library was built without",
        ),
        (format!("model={path} roi=1,2"), "`roi` must be four whole numbers"),
        (format!("model={path} roi=0,0,65,48"), "does not lie within the picture of 64x48"),
        (format!("model={path} metrics-address=nowhere"), "`metrics-address` must be"),
    ];
    for (properties, expected) in table {
        let error = line(&properties);
        assert!(error.contains(expected), "{properties}: {error}");
    }
}

#[test]
fn auto_says_which_device_it_took_and_why_not_a_better_one() {
    let model = Model::new();
    let source = "videotestsrc num-buffers=1 ! video/x-raw,width=64,height=48";
    let line = Line::playing(&format!("{source} ! anomalydetect name=d model={} ! fakesink", as_text(model.path())));
    let messages = line.messages_until_eos();
    let told = messages.iter().filter_map(|message| message.structure());
    let told = told.filter(|structure| structure.name() == "anomalydetect-device").collect::<Vec<_>>();
    assert_eq!(told[0].get::<String>("device").unwrap(), "cpu");
    let stats = stats(&line.element("d"));
    assert_eq!(stats.get::<String>("device").unwrap(), "cpu");
    let passed_over = stats.get::<gst::Array>("passed-over").unwrap();
    let passed_over: Vec<String> = passed_over.iter().map(|reason| reason.get().unwrap()).collect();
    assert!(passed_over.iter().any(|reason| reason.starts_with("cuda: this ONNX Runtime")), "{passed_over:?}");
}

#[test]
fn every_third_frame_is_scored_and_counted() {
    let model = Model::new();
    let source = "videotestsrc num-buffers=10 ! video/x-raw,width=64,height=48";
    let path = as_text(model.path());
    let line = Line::playing(&format!("{source} ! anomalydetect name=d model={path} interval=3 ! fakesink"));
    let results = anomalies(&line.messages_until_eos());
    assert_eq!(results.iter().map(|result| result.frame).collect::<Vec<_>>(), [0, 3, 6, 9]);
    let stats = stats(&line.element("d"));
    assert_eq!((count(&stats, "frames"), count(&stats, "scored"), count(&stats, "skipped-interval")), (10, 4, 6));
    let total = stats.get::<gst::Structure>("total").unwrap();
    assert!(total.get::<f64>("p99-ms").unwrap() >= total.get::<f64>("p50-ms").unwrap());
    assert!(total.get::<f64>("mean-ms").unwrap() > 0.0);
}

/// Whether a frame of this time gets scored.
fn is_scored(harness: &mut gst_check::Harness, seconds: u64) -> bool {
    let mut buffer = grey(20);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_seconds(seconds));
    meta::read(&harness.push_and_pull(buffer).unwrap()).is_some()
}

#[test]
fn late_frames_pass_unscored_unless_qos_is_off() {
    let model = Model::new();
    for (qos, expected) in [("true", [true, false, true]), ("false", [true; 3])] {
        let mut harness = harness("anomalydetect", &[("model", &as_text(model.path())), ("qos", qos)]);
        harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
        let first = is_scored(&mut harness, 1);
        // A frame of second 1 came 500 ms late: what lies before second 2 is lost.
        let late = gst::event::Qos::builder(gst::QOSType::Underflow, 1.5, 500_000_000);
        harness.push_upstream_event(late.timestamp(gst::ClockTime::SECOND).build());
        let rest = [is_scored(&mut harness, 2), is_scored(&mut harness, 3)];
        assert_eq!([first, rest[0], rest[1]], expected, "qos {qos}");
        let dropped = expected.iter().filter(|&&scored| !scored).count() as u64;
        assert_eq!(count(&stats(&harness.element().unwrap()), "dropped-late"), dropped);
        // A flush ends the lateness.
        harness.push_event(gst::event::FlushStart::new());
        harness.push_event(gst::event::FlushStop::new(true));
        harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        assert!(is_scored(&mut harness, 1), "qos {qos}");
    }
}

#[test]
fn a_broken_frame_passes_with_a_warning_and_thirty_are_an_error() {
    let model = Model::new();
    let line = Line::new(&format!(
        "appsrc name=source format=time ! anomalydetect name=d model={} ! fakesink",
        as_text(model.path())
    ));
    let source = line.element("source").downcast::<gst_app::AppSrc>().unwrap();
    source.set_caps(Some(&rgb_caps(WIDTH, HEIGHT)));
    line.pipeline.set_state(gst::State::Playing).unwrap();
    source.push_buffer(grey(10)).unwrap();
    // A producer that says its planes lie beyond its memory.
    let short = || {
        let mut buffer = gst::Buffer::from_mut_slice(vec![0; 100]);
        let (flags, format) = (gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::Rgb);
        let stride = [WIDTH as i32 * 3];
        gst_video::VideoMeta::add_full(buffer.get_mut().unwrap(), flags, format, WIDTH, HEIGHT, &[0], &stride).unwrap();
        buffer
    };
    source.push_buffer(short()).unwrap();
    let warning = line.wait_for(&[gst::MessageType::Warning]);
    let gst::MessageView::Warning(warning) = warning.view() else { unreachable!() };
    assert!(format!("{:?}", warning.debug()).contains("frame 1 passes unscored"), "{warning:?}");
    source.push_buffer(grey(10)).unwrap();
    for _ in 0..30 {
        // Refused once the element has given up.
        let _ = source.push_buffer(short());
    }
    let error = line.wait_for(&[gst::MessageType::Error]);
    let gst::MessageView::Error(error) = error.view() else { unreachable!() };
    assert!(format!("{:?}", error.debug()).contains("30 frames in a row"), "{error:?}");
    let stats = stats(&line.element("d"));
    assert_eq!((count(&stats, "errors"), count(&stats, "scored")), (31, 2));
}

#[test]
fn a_stream_may_change_its_format_in_the_middle() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let first = meta::read(&harness.push_and_pull(grey(200)).unwrap()).unwrap();
    let grey8 = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Gray8);
    let grey8 = grey8.width(WIDTH as i32).height(HEIGHT as i32).framerate(gst::Fraction::new(30, 1)).build();
    harness.set_src_caps(grey8);
    let buffer = gst::Buffer::from_mut_slice(vec![200; (WIDTH * HEIGHT) as usize]);
    let second = meta::read(&harness.push_and_pull(buffer).unwrap()).unwrap();
    assert!((first.result.anomaly_score - second.result.anomaly_score).abs() < 1e-3);
    assert_eq!(second.frame, 1);
}

#[test]
fn pause_seek_and_the_streams_end_work() {
    let model = Model::new();
    let source = "videotestsrc num-buffers=200 ! video/x-raw,width=64,height=48,framerate=100/1";
    let path = as_text(model.path());
    let line = Line::playing(&format!("{source} ! anomalydetect name=d model={path} ! fakesink sync=true"));
    line.wait_for_state();
    line.pipeline.set_state(gst::State::Paused).unwrap();
    line.wait_for_state();
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    line.pipeline.seek_simple(flags, gst::ClockTime::from_mseconds(1800)).unwrap();
    line.wait_for_state();
    line.pipeline.set_state(gst::State::Playing).unwrap();
    let results = anomalies(&line.messages_until_eos());
    assert!(results.iter().any(|result| result.pts >= Some(std::time::Duration::from_millis(1800))));
    // Once more from the start: READY unloads the model and PLAYING loads it again.
    line.pipeline.set_state(gst::State::Ready).unwrap();
    assert_eq!(count(&stats(&line.element("d")), "frames"), 0);
    line.pipeline.set_state(gst::State::Playing).unwrap();
    line.wait_for_state();
    assert!(count(&stats(&line.element("d")), "scored") > 0);
}

#[test]
fn latency_is_upstreams_and_ones_own() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    harness.set_upstream_latency(gst::ClockTime::from_mseconds(40));
    harness.push_and_pull(grey(20)).unwrap();
    let latency = harness.query_latency().unwrap();
    assert!(latency > gst::ClockTime::from_mseconds(40) && latency < gst::ClockTime::from_mseconds(500), "{latency}");
}

#[test]
fn frames_of_a_live_source_were_captured_before_they_arrive() {
    let model = Model::new();
    let source = "videotestsrc is-live=true num-buffers=5 ! video/x-raw,width=64,height=48,framerate=50/1";
    let path = as_text(model.path());
    let line = Line::playing(&format!(
        "{source} ! identity sleep-time=100000 ! anomalydetect model={path} qos=false ! fakesink"
    ));
    let results = anomalies(&line.messages_until_eos());
    let times: Vec<i64> = results.iter().map(|result| result.captured_at.as_millisecond()).collect();
    // They are handed on 100 ms apart, but were captured 20 ms apart.
    let steps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.iter().all(|&step| (15..=25).contains(&step)), "{steps:?}");
}

#[test]
fn the_overlay_is_drawn_into_the_frame_when_asked_for() {
    let model = Model::new();
    let mut plain = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    let mut drawn = harness("anomalydetect", &[("model", &as_text(model.path())), ("overlay", "mask")]);
    let first_pixel = |harness: &mut gst_check::Harness| {
        harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
        let buffer = harness.push_and_pull(grey(200)).unwrap();
        buffer.map_readable().unwrap()[..3].to_vec()
    };
    assert_eq!(first_pixel(&mut plain), [200; 3]);
    // Half way to the label's red.
    assert_eq!(first_pixel(&mut drawn), [228, 100, 100]);
}

#[test]
fn a_classification_model_gives_no_labels_but_a_map() {
    let model = Model::of(WIDTH, HEIGHT, ModelType::Classification);
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path()))]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let meta = meta::read(&harness.push_and_pull(grey(200)).unwrap()).unwrap();
    assert!(meta.result.is_anomalous && meta.result.anomalies.is_empty() && meta.labels.is_empty());
    assert_eq!(meta.mask.unwrap().at(0.5, 0.5), 1);
}

#[test]
fn the_meta_survives_scaling_converting_and_a_tee() {
    let model = Model::new();
    let line = Line::new(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=64,height=48 ! anomalydetect model={} ! tee name=t \
         t. ! queue ! videoconvert ! video/x-raw,format=I420 ! appsink name=converted \
         t. ! queue ! videoscale ! video/x-raw,width=100,height=80 ! appsink name=scaled \
         t. ! queue ! appsink name=same",
        as_text(model.path())
    ));
    let sinks = ["converted", "scaled", "same"].map(|name| line.element(name).downcast::<gst_app::AppSink>().unwrap());
    line.pipeline.set_state(gst::State::Playing).unwrap();
    for frame in 0..3 {
        let metas = sinks.each_ref().map(|sink| {
            let sample = sink.try_pull_sample(crate::common::PATIENCE).unwrap();
            meta::read(sample.buffer().unwrap()).unwrap()
        });
        assert_eq!(metas[0].frame, frame);
        assert_eq!(metas[0], metas[1]);
        assert_eq!(metas[0], metas[2]);
    }
}

#[test]
fn the_series_are_served_while_the_element_runs() {
    let model = Model::new();
    let mut harness = harness("anomalydetect", &[("model", &as_text(model.path())), ("metrics-address", "0")]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    harness.push_and_pull(grey(200)).unwrap();
    harness.push_and_pull(grey(20)).unwrap();
    let address: String = stats(&harness.element().unwrap()).get("metrics-address").unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let get = |path: &str| {
        let mut connection = std::net::TcpStream::connect(&address).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    for line in [
        "linewarden_processed_image_total{model_version=\"1\",project=\"brightness\"} 2",
        "linewarden_detected_anomaly_total{model_version=\"1\",project=\"brightness\"} 1",
        "linewarden_error_total{model_version=\"1\",project=\"brightness\"} 0",
        "linewarden_detection_duration_seconds_count{model_version=\"1\",project=\"brightness\"} 2",
        "linewarden_stage_duration_seconds_count{model_version=\"1\",project=\"brightness\",stage=\"inference\"} 2",
    ] {
        assert!(answer.contains(line), "{line} is not in\n{answer}");
    }
    assert!(get("/other").starts_with("HTTP/1.1 404"));
}
