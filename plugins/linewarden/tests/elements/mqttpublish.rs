//! `mqttpublish` against a real broker, in pipelines of this process and in real `gst-launch-1.0` runs.

use std::time::{Duration, Instant};

use crate::common::{HEIGHT, Line, Model, WIDTH, as_text, count, stats, timeout};
use gst::prelude::*;
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions, Subscriber, free_port};
use linewarden_testkit::launch::gst_launch;
use linewarden_testkit::rtsp::RtspCamera;
use linewarden_testkit::tls::Certificates;
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
        (format!("{broker} brokers=mqtt://127.0.0.1"), "`brokers` takes the place of `broker`"),
        ("brokers=\"mqtt://127.0.0.1 ftp://here\"".to_owned(), "`broker` must be `mqtt://"),
        (format!("{broker} version=4"), "`version` must be 3.1.1 or 5, got `4`"),
        (format!("{broker} version=5 keep-alive=2"), "`keep-alive` must be at least 5s with MQTT 5, got 2s"),
        (format!("{broker} qos=2 session-expiry=60"), "`qos` 2 needs a session that begins anew"),
        (format!("{broker} ack-topic=gate/#"), "`ack-topic` must be a topic"),
        (format!("{broker} outbox-path=/tmp outbox-fsync=often"), "`outbox-fsync` must be always, interval or never"),
        (format!("{broker} credentials-file=/no/such.txt"), "/no/such.txt"),
    ];
    for (properties, expected) in table {
        let error = Line::new(&format!("videotestsrc num-buffers=1 ! mqttpublish {properties}")).error();
        assert!(error.contains(expected), "{properties}: {error}");
    }
}

/// Frames of a white picture, which are all rejected.
fn rejects(count: usize, model: &Model, properties: &str) -> String {
    format!(
        "videotestsrc pattern=white num-buffers={count} ! video/x-raw,width=64,height=48 ! anomalydetect model={} ! \
         mqttpublish name=p {properties}",
        as_text(model.path())
    )
}

#[test]
fn decisions_that_no_broker_took_are_kept_on_disk_for_the_next_run() {
    let (mut broker, model, folder) = (Mosquitto::start().unwrap(), Model::new(), tempfile::tempdir().unwrap());
    broker.stop().unwrap();
    let outbox = format!("broker={} outbox-path={} outbox-fsync=always", broker.url(), as_text(folder.path()));
    let line = Line::playing(&rejects(5, &model, &format!("{outbox} decision-expiry=1 drain-timeout=300")));
    line.wait_for_eos();
    line.pipeline.set_state(gst::State::Null).unwrap();
    let left = stats(&line.element("p"));
    assert_eq!(count(&left, "kept"), 5, "{left}");
    assert!(folder.path().join("line1.sqlite").is_file());

    broker.restart().unwrap();
    let subscriber = broker.subscribe("linewarden/line1/decision/historical").unwrap();
    let again = Line::playing(&rejects(1, &model, &format!("{outbox} decision-expiry=60000")));
    for part in 0..5 {
        let late = subscriber.next_message(timeout()).unwrap().json().unwrap();
        assert_eq!((&late["part"], &late["historical"]), (&part.into(), &true.into()));
    }
    again.pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn the_next_broker_is_taken_when_the_first_cannot_be_reached() {
    let (broker, model, absent) = (Mosquitto::start().unwrap(), Model::new(), free_port().unwrap());
    let subscriber = broker.subscribe("linewarden/line1/decision").unwrap();
    let brokers = format!("brokers=\"mqtt://user:secret@127.0.0.1:{absent} {}\"", broker.url());
    let line = Line::playing(&rejects(3, &model, &format!("{brokers} decision-expiry=60000 drain-timeout=30000")));
    line.wait_for_eos();
    line.pipeline.set_state(gst::State::Null).unwrap();
    for part in 0..3 {
        assert_eq!(subscriber.next_message(timeout()).unwrap().json().unwrap()["part"], part);
    }
    let shown: String = line.element("p").property("brokers");
    assert!(!shown.contains("secret") && shown.ends_with(&broker.url()), "{shown}");
}

#[test]
fn mqtt_5_exactly_once_over_tls_with_a_certificate_and_a_password_from_a_file() {
    let (certificates, model, folder) = (Certificates::generate().unwrap(), Model::new(), tempfile::tempdir().unwrap());
    let options = MosquittoOptions {
        tls: Some(&certificates),
        require_client_certificate: true,
        credentials: Some(("line", "secret")),
        ..MosquittoOptions::default()
    };
    let broker = Mosquitto::start_with(&options).unwrap();
    let subscriber = broker.subscribe("linewarden/line1/decision").unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "line:secret\n").unwrap();
    run(&rejects(
        3,
        &model,
        &format!(
            "broker={} version=5 qos=2 decision-expiry=60000 credentials-file={} ca-file={} cert-file={} key-file={}",
            broker.url(),
            as_text(&password),
            as_text(&certificates.ca()),
            as_text(&certificates.client_cert()),
            as_text(&certificates.client_key())
        ),
    ));
    for part in 0..3 {
        assert_eq!(subscriber.next_message(timeout()).unwrap().json().unwrap()["part"], part);
    }
    let log = broker.log().unwrap();
    // The broker's own word for MQTT 5, and the answer that only deliveries exactly once get.
    assert!(log.contains("(p5,") && log.contains("Sending PUBREC to linewarden-line1"), "{log}");
}

#[test]
fn rejects_that_the_gate_does_not_acknowledge_are_counted() {
    let (broker, model) = (Mosquitto::start().unwrap(), Model::new());
    let gate = "ack-topic={prefix}/{line}/gate ack-timeout=10";
    let line = Line::playing(&rejects(3, &model, &format!("broker={} {gate}", broker.url())));
    line.wait_for_eos();
    let publisher = line.element("p");
    let deadline = Instant::now() + timeout();
    loop {
        let gate = stats(&publisher).get::<gst::Structure>("gate").unwrap();
        if count(&gate, "unacknowledged") == 3 {
            assert!(gate.get::<bool>("alarm").unwrap(), "{gate}");
            break;
        }
        assert!(Instant::now() < deadline, "{gate}");
        std::thread::yield_now();
    }
}

#[test]
fn defaults_are_those_of_the_publisher_and_ranges_are_kept() {
    crate::common::init();
    let element = gst::ElementFactory::make("mqttpublish").build().unwrap();
    let config = linewarden_publish::PublisherConfig::new("mqtt://localhost".parse().unwrap(), "line1");
    let number = |name: &str| u128::from(element.property::<u32>(name));
    for (name, expected) in [
        ("ack-timeout", config.ack_timeout.as_millis()),
        ("result-expiry", config.result_expiry.as_millis()),
        ("heartbeat-interval", config.heartbeat_interval.as_millis()),
        ("connect-timeout", config.connect_timeout.as_millis()),
        ("acknowledge-timeout", config.acknowledge_timeout.as_millis()),
        ("keep-alive", u128::from(config.keep_alive.as_secs())),
        ("outbox-keep-for", u128::from(config.outbox.keep_for.as_secs())),
        ("outbox-keep", config.outbox.keep as u128),
        ("outbox-capacity", config.outbox_capacity as u128),
        ("outbox-historical-per-second", u128::from(config.outbox.historical_per_second)),
        ("session-expiry", 0),
        ("qos", 1),
    ] {
        assert_eq!(number(name), expected, "{name}");
    }
    assert_eq!(element.property::<String>("version"), "3.1.1");
    assert_eq!(element.property::<String>("outbox-fsync"), "interval");
    for spec in element.list_properties().iter().filter_map(|spec| spec.downcast_ref::<gst::glib::ParamSpecUInt>()) {
        if spec.owner_type() == element.type_() {
            assert!((spec.minimum()..=spec.maximum()).contains(&spec.default_value()), "{}", spec.name());
        }
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
