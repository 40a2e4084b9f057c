//! `mqttpublisher` against a real broker, and without one.

use std::time::Duration;

use gst::prelude::*;
use gstlinewarden::meta::{self, AnomalyMeta, Region};
use linewarden_core::{FrameResult, ModelRef};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions, free_port};

use crate::common::{HEIGHT, WIDTH, count, grey, harness, rgb_caps, stats, timeout};

const TOPIC: &str = "lookoutvision/anomalydetection/result";

/// A frame of which something was said, by whichever element.
fn judged(is_anomalous: bool, confidence: f64) -> gst::Buffer {
    let mut buffer = grey(0);
    let meta = AnomalyMeta {
        frame: 0,
        pts: None,
        captured_at: jiff::Timestamp::now(),
        result: FrameResult {
            is_anomalous,
            confidence,
            anomaly_score: 0.5,
            anomaly_threshold: 0.5,
            anomalies: Vec::new(),
        },
        times: linewarden_model::StageTimes::default(),
        model: ModelRef { project: "cap".to_owned(), version: String::new(), sha256: String::new() },
        labels: Vec::new(),
        region: Region { x: 0.0, y: 0.0, width: 1.0, height: 1.0 },
        mask: None,
    };
    meta::attach(buffer.get_mut().unwrap(), &meta).unwrap();
    buffer
}

#[test]
fn each_frame_with_a_result_is_said_in_order_and_one_without_is_not() {
    let broker = Mosquitto::start().unwrap();
    let heard = broker.subscribe(TOPIC).unwrap();
    let mut harness = harness("mqttpublisher", &[("broker", &broker.url())]);
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    for buffer in [judged(true, 0.52559), grey(0), judged(false, 0.9), grey(0), judged(true, 1.0)] {
        let before = buffer.map_readable().unwrap().to_vec();
        let after = harness.push_and_pull(buffer).unwrap();
        assert!(after.map_readable().unwrap().as_slice() == before, "frames pass unchanged");
    }
    for (verdict, confidence) in [(1, "0.525590"), (0, "0.900000"), (1, "1.000000")] {
        let message = heard.next_message(timeout()).unwrap();
        let said = String::from_utf8(message.payload.clone()).unwrap();
        assert_eq!(said, format!("Detect Anomaly Result - Is Anomalous? {verdict}, Confidence: {confidence}"));
        assert!(!message.retained && message.acknowledged, "{message:?}");
    }
    let element = harness.element().unwrap();
    // Stops, and with it drains.
    drop(harness);
    let stats = stats(&element);
    assert_eq!((count(&stats, "delivered"), count(&stats, "dropped"), count(&stats, "waiting")), (3, 0, 0));
    assert!(heard.arrived().is_empty());
}

#[test]
fn a_broker_that_is_away_never_holds_a_frame_up_and_what_is_dropped_is_counted_and_told() {
    let broker = format!("mqtt://127.0.0.1:{}", free_port().unwrap());
    let properties = [("broker", broker.as_str()), ("queue", "4"), ("drain-timeout", "1")];
    let mut harness = harness("mqttpublisher", &properties);
    let element = harness.element().unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let began = std::time::Instant::now();
    for _ in 0..104 {
        harness.push_and_pull(judged(true, 0.5)).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let stats = stats(&element);
    assert_eq!((count(&stats, "waiting"), count(&stats, "dropped")), (4, 100));
    let mut told = Vec::new();
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Warning]) {
        let gst::MessageView::Warning(warning) = message.view() else { unreachable!() };
        let text = warning.debug().unwrap_or_default();
        told.push(text.rsplit(' ').next().unwrap_or_default().parse::<u64>().unwrap());
    }
    assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
    element.set_bus(None);
}

#[test]
fn it_knows_a_brokers_user_by_file_or_by_address_and_tells_nobody_the_password() {
    let options = MosquittoOptions { credentials: Some(("line1", "right-word")), ..MosquittoOptions::default() };
    let broker = Mosquitto::start_with(&options).unwrap();
    let heard = broker.subscribe("plant/verdicts").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mqtt");
    std::fs::write(&file, "line1:right-word\n").unwrap();
    let with_user = broker.url().replace("mqtt://", "mqtt://line1:right-word@");
    for properties in [
        vec![("broker", broker.url()), ("credentials-file", file.to_str().unwrap().to_owned())],
        vec![("broker", with_user)],
    ] {
        let mut properties: Vec<(&str, &str)> =
            properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
        properties.push(("publish-topic", "plant/verdicts"));
        let mut harness = harness("mqttpublisher", &properties);
        harness.set_src_caps(rgb_caps(WIDTH, HEIGHT));
        harness.push_and_pull(judged(true, 0.52559)).unwrap();
        heard.next_message(timeout()).unwrap();
        let shown = harness.element().unwrap().property::<String>("broker");
        assert!(!shown.contains("right-word"), "{shown}");
    }
}
