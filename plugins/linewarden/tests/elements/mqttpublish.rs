//! `mqttpublish` against a real broker, in pipelines of this process and in real `gst-launch-1.0` runs.

use std::time::{Duration, Instant};

use crate::common::{HEIGHT, Line, Model, WIDTH, as_text, count, stats, timeout};
use gst::prelude::*;
use linewarden_testkit::broker::{Mosquitto, Subscriber, free_port};
use linewarden_testkit::launch::gst_launch;
use linewarden_testkit::rtsp::RtspCamera;
use serde_json::Value;

/// White and black frames in turn.
const BLINK: &str = "videotestsrc pattern=blink ! video/x-raw,width=64,height=48,framerate=20/1";

/// The next `count` results and decisions, each in the order in which they came.
fn published(subscriber: &Subscriber, count: usize) -> (Vec<Value>, Vec<Value>) {
    let (mut results, mut decisions) = (Vec::new(), Vec::new());
    while results.len() < count || decisions.len() < count {
        let message = subscriber.next_message(timeout()).unwrap();
        match message.topic.as_str() {
            "linewarden/line1/camera1/result" => results.push(message.json().unwrap()),
            "linewarden/line1/decision" => {
                assert!(!message.retained && message.acknowledged, "{message:?}");
                decisions.push(message.json().unwrap());
            }
            _ => {}
        }
    }
    (results, decisions)
}

/// One result and one decision a frame, in order; white is anomalous and rejected, black passes, in turn.
fn assert_blinking(results: &[Value], decisions: &[Value]) {
    for (index, (result, decision)) in results.iter().zip(decisions).enumerate() {
        assert_eq!(result["frame"], index, "{result}");
        assert_eq!(decision["part"], index, "{decision}");
        assert_eq!(decision["frames"][0], format!("camera1/{index}"));
        let verdict = if result["is_anomalous"] == true { "reject" } else { "pass" };
        assert_eq!(decision["verdict"], verdict, "{result} {decision}");
    }
    for pair in results.windows(2) {
        assert_ne!(pair[0]["is_anomalous"], pair[1]["is_anomalous"], "{pair:?}");
    }
}

fn run(pipeline: &str) {
    let launched = gst_launch(pipeline, timeout()).unwrap();
    assert!(launched.status.success(), "{}\n{}\n{}", launched.status, launched.stdout, launched.stderr);
}

#[test]
fn gst_launch_delivers_every_frame_with_and_without_a_sink_behind() {
    let (broker, model) = (Mosquitto::start().unwrap(), Model::new());
    for end in ["", "! fakesink"] {
        let subscriber = broker.subscribe("linewarden/#").unwrap();
        let line = BLINK.replace("blink", "blink num-buffers=20");
        run(&format!(
            "{line} ! anomalydetect model={} ! mqttpublish broker={} {end}",
            as_text(model.path()),
            broker.url()
        ));
        let (results, decisions) = published(&subscriber, 20);
        assert_blinking(&results, &decisions);
        let offline = subscriber.next_where(timeout(), |message| message.topic == "linewarden/line1/state").unwrap();
        assert_eq!(offline.json().unwrap()["state"], "offline");
    }
}

#[test]
fn gst_launch_publishes_a_folder_of_pictures() {
    let (broker, model, folder) = (Mosquitto::start().unwrap(), Model::new(), tempfile::tempdir().unwrap());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    for (index, value) in [10, 250, 20, 240].into_iter().enumerate() {
        let picture = image::RgbImage::from_pixel(WIDTH, HEIGHT, image::Rgb([value; 3]));
        picture.save(folder.path().join(format!("{index}.png"))).unwrap();
    }
    run(&format!(
        "multifilesrc location={}/%d.png stop-index=3 caps=image/png,framerate=(fraction)10/1 ! pngdec ! \
         anomalydetect model={} ! mqttpublish broker={}",
        as_text(folder.path()),
        as_text(model.path()),
        broker.url()
    ));
    let (results, decisions) = published(&subscriber, 4);
    assert_blinking(&results, &decisions);
    assert_eq!(results[1]["model"]["project"], "brightness");
    assert_eq!(results[1]["anomalies"][1]["name"], "bright");
}

#[test]
fn gst_launch_publishes_an_h264_file() {
    let (broker, model, folder) = (Mosquitto::start().unwrap(), Model::new(), tempfile::tempdir().unwrap());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    let file = as_text(&folder.path().join("blink.mkv"));
    let source = BLINK.replace("blink", "blink num-buffers=20").replace("width", "format=I420,width");
    Line::playing(&format!("{source} ! x264enc ! h264parse ! matroskamux ! filesink location={file}")).wait_for_eos();
    run(&format!(
        "filesrc location={file} ! matroskademux ! h264parse ! avdec_h264 ! anomalydetect model={} ! mqttpublish broker={}",
        as_text(model.path()),
        broker.url()
    ));
    let (results, decisions) = published(&subscriber, 20);
    assert_blinking(&results, &decisions);
}

#[test]
fn gst_launch_publishes_an_rtsp_stream() {
    let (broker, model) = (Mosquitto::start().unwrap(), Model::new());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    let source = BLINK.replace("blink", "blink is-live=true").replace("width", "format=I420,width");
    let encoder = "x264enc tune=zerolatency key-int-max=1 ! h264parse ! rtph264pay name=pay0 pt=96";
    let camera = RtspCamera::start(&format!("{source} ! {encoder}")).unwrap();
    run(&format!(
        "rtspsrc location={} protocols=tcp latency=100 ! rtph264depay ! h264parse ! avdec_h264 ! identity eos-after=11 ! \
         anomalydetect model={} ! mqttpublish broker={}",
        camera.url(),
        as_text(model.path()),
        broker.url()
    ));
    let (results, decisions) = published(&subscriber, 10);
    assert_blinking(&results, &decisions);
}

#[test]
fn without_a_broker_the_stream_runs_on() {
    let (model, port) = (Model::new(), free_port().unwrap());
    let line = Line::new(&format!(
        "videotestsrc num-buffers=300 ! video/x-raw,width=64,height=48 ! anomalydetect model={} ! \
         mqttpublish name=p broker=mqtt://user:secret@127.0.0.1:{port} drain-timeout=0",
        as_text(model.path())
    ));
    let started = Instant::now();
    line.pipeline.set_state(gst::State::Playing).unwrap();
    line.wait_for_eos();
    assert!(started.elapsed() < Duration::from_secs(30));
    let publisher = line.element("p");
    let waiting = stats(&publisher);
    assert!(!waiting.get::<bool>("connected").unwrap());
    assert_eq!(count(&waiting, "outbox-messages"), 600);
    line.pipeline.set_state(gst::State::Null).unwrap();
    let results = stats(&publisher).get::<gst::Structure>("results").unwrap();
    assert_eq!((count(&results, "acknowledged"), count(&results, "dropped")), (0, 300));
    let shown: String = publisher.property("broker");
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn frames_that_were_not_scored_are_not_published() {
    let (broker, model) = (Mosquitto::start().unwrap(), Model::new());
    let line = Line::playing(&format!(
        "videotestsrc num-buffers=10 ! video/x-raw,width=64,height=48 ! anomalydetect interval=5 model={} ! \
         mqttpublish name=p broker={}",
        as_text(model.path()),
        broker.url()
    ));
    line.wait_for_eos();
    line.pipeline.set_state(gst::State::Null).unwrap();
    let stats = stats(&line.element("p"));
    for kind in ["results", "decisions"] {
        assert_eq!(count(&stats.get::<gst::Structure>(kind).unwrap(), "acknowledged"), 2, "{kind}");
    }
}

#[test]
fn limits_decide_what_is_rejected() {
    let (broker, model) = (Mosquitto::start().unwrap(), Model::new());
    for (limits, verdict) in [
        ("confidence-limit=0.95", "pass"),
        ("coverage-limit=bright=0.5", "reject"),
        ("coverage-limit=other=0.5", "pass"),
        ("anomaly-types-limit=1", "pass"),
        ("anomaly-types-limit=0", "reject"),
    ] {
        let subscriber = broker.subscribe("linewarden/line1/decision").unwrap();
        let line = Line::playing(&format!(
            "videotestsrc pattern=white num-buffers=1 ! video/x-raw,width=64,height=48 ! anomalydetect model={} ! \
             mqttpublish broker={} {limits}",
            as_text(model.path()),
            broker.url()
        ));
        let decision = subscriber.next_message(timeout()).unwrap().json().unwrap();
        assert_eq!(decision["verdict"], verdict, "{limits}: {decision}");
        line.wait_for_eos();
    }
}

#[test]
fn wrong_settings_are_told_at_start() {
    let broker = "broker=mqtt://127.0.0.1";
    let table = [
        (String::new(), "property `broker` is not set"),
        ("broker=http://here".to_owned(), "`broker` must be `mqtt://"),
        (format!("{broker} coverage-limit=dent"), "`coverage-limit` must be a list"),
        (format!("{broker} coverage-limit=dent=7"), "coverage limit of `dent` must be from 0 to 1, got 7"),
        (format!("{broker} camera=a/b"), "`camera` must be"),
        (format!("{broker} line=#"), "`line` must be"),
        (format!("{broker} ca-file=/no/such.pem"), "`ca-file` needs a broker at `mqtts://`"),
    ];
    for (properties, expected) in table {
        let error = Line::new(&format!("videotestsrc num-buffers=1 ! mqttpublish {properties}")).error();
        assert!(error.contains(expected), "{properties}: {error}");
    }
}

#[test]
fn it_is_a_sink_as_long_as_nothing_follows() {
    crate::common::init();
    let pipeline = gst::Pipeline::new();
    let publisher = gst::ElementFactory::make("mqttpublish").build().unwrap();
    let sink = gst::ElementFactory::make("fakesink").build().unwrap();
    pipeline.add_many([&publisher, &sink]).unwrap();
    let is_sink = || publisher.element_flags().contains(gst::ElementFlags::SINK);
    assert!(is_sink());
    publisher.link(&sink).unwrap();
    assert!(!is_sink());
    publisher.unlink(&sink);
    assert!(is_sink());
}
