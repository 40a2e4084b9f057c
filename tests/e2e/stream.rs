//! Real `gst-launch-1.0` pipelines from pictures, a file and a camera to a real broker.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use linewarden_testkit::broker::{Mosquitto, Subscriber};
use linewarden_testkit::launch::{Running, gst_launch};
use linewarden_testkit::rtsp::RtspCamera;
use serde_json::Value;

use crate::support::{Cookies, as_png, cookies, say, scores, text, workshop};

/// Nothing here takes so long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The element and the command line give one picture one score.
const EXACT: f64 = 1e-3;
/// Scores this far from the threshold survive compression.
const CLEAR: f64 = 0.2;

/// The 22 test cookies in a shuffled but fixed order as `00.png` and so on, with what the command line says of them, and
/// a film of them.
struct Belt {
    folder: PathBuf,
    scores: Vec<f64>,
    are_anomalous: Vec<bool>,
}

/// Made once; nobody may change it.
fn belt(cookies: &Cookies) -> &'static Belt {
    static BELT: OnceLock<Belt> = OnceLock::new();
    BELT.get_or_init(|| {
        let folder = workshop().join("belt");
        fs::create_dir(&folder).unwrap();
        let count = cookies.tests.len();
        // 22 and 5 have no common factor: every cookie comes once, good and cracked ones mixed.
        let order: Vec<usize> = (0..count).map(|place| place * 5 % count).collect();
        // As PNG, since GStreamer's JPEG decoder halves the colour resolution of these photographs.
        let numbered = |(place, &index): (usize, &usize)| {
            let path = folder.join(format!("{place:02}.png"));
            as_png(&cookies.tests[index].0, &path);
            path
        };
        let pictures: Vec<PathBuf> = order.iter().enumerate().map(numbered).collect();
        let are_anomalous = order.iter().map(|&index| cookies.tests[index].1).collect();
        let belt = Belt { scores: scores(&cookies.model, &pictures), are_anomalous, folder };
        film(&belt.source(), &belt.film());
        belt
    })
}

/// What the source shows, as H.264.
fn film(source: &str, path: &Path) {
    let encoder = "videoconvert ! video/x-raw,format=I420 ! x264enc pass=quant quantizer=18 speed-preset=superfast";
    launch(&format!("{source} ! {encoder} ! h264parse ! matroskamux ! filesink location={}", text(path)));
}

impl Belt {
    fn len(&self) -> usize {
        self.scores.len()
    }

    /// A source of all cookies in order.
    fn source(&self) -> String {
        self.rounds(1)
    }

    /// The same, so many times.
    fn rounds(&self, rounds: usize) -> String {
        let (last, count) = (self.len() - 1, rounds * self.len());
        let folder = text(&self.folder);
        format!(
            "multifilesrc location={folder}/%02d.png stop-index={last} loop=true num-buffers={count} \
             caps=image/png,framerate=20/1 ! pngdec"
        )
    }

    /// The belt as H.264 with 20 frames a second.
    fn film(&self) -> PathBuf {
        self.folder.join("belt.mkv")
    }

    /// One result and one decision a cookie, in order, as the command line says; only clear cases where the
    /// way there was lossy.
    fn assert_inspected(&self, results: &[Value], decisions: &[Value], is_lossy: bool) {
        let mut furthest = 0.0_f64;
        for (index, (result, decision)) in results.iter().zip(decisions).enumerate() {
            assert_eq!((&result["frame"], &decision["part"]), (&index.into(), &index.into()), "{result} {decision}");
            assert_eq!(decision["frames"][0], format!("camera1/{index}"));
            let is_reject = decision["verdict"] == "reject";
            assert_eq!(result["is_anomalous"], is_reject, "{result} {decision}");
            let (expected, score) = (self.scores[index], result["anomaly_score"].as_f64().unwrap());
            furthest = furthest.max((score - expected).abs());
            if !is_lossy {
                assert!((score - expected).abs() <= EXACT, "cookie {index}: {score}, not {expected}");
            }
            if (expected - 0.5).abs() >= CLEAR {
                assert_eq!(is_reject, expected >= 0.5, "cookie {index}: {score}, not {expected}");
            }
        }
        let is_clear = |&(&expected, _): &(&f64, &bool)| (expected - 0.5).abs() >= CLEAR;
        let clear = self.scores.iter().zip(&self.are_anomalous).filter(is_clear).count();
        say(format_args!("scores differ by {furthest:.4} at most; {clear} of {} cookies are clear", self.len()));
        assert!(clear * 10 >= self.len() * 8, "too few clear cases: {:?}", self.scores);
    }
}

fn launch(pipeline: &str) {
    let launched = gst_launch(pipeline, PATIENCE).unwrap();
    assert!(launched.status.success(), "{}\n{}\n{}", launched.status, launched.stdout, launched.stderr);
}

/// The second half of every pipeline; decisions live long enough for a busy machine.
fn inspection(model: &Path, broker: &Mosquitto) -> String {
    format!("anomalydetect model={} ! mqttpublish broker={} decision-expiry=60000", text(model), broker.url())
}

/// All results and decisions until the line says goodbye.
fn published(subscriber: &Subscriber) -> (Vec<Value>, Vec<Value>) {
    published_until(subscriber, |_, _| false)
}

/// The same, or until there are so many as are waited for.
fn published_until(
    subscriber: &Subscriber,
    is_enough: impl Fn(&[Value], &[Value]) -> bool,
) -> (Vec<Value>, Vec<Value>) {
    let (mut results, mut decisions) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while !is_enough(&results, &decisions) {
        let so_far = (results.len(), decisions.len());
        let left = deadline.saturating_duration_since(Instant::now());
        let message = subscriber.next_message(left).unwrap_or_else(|error| panic!("{error:#} after {so_far:?}"));
        let content = message.json().unwrap();
        match message.topic.as_str() {
            "linewarden/line1/camera1/result" => results.push(content),
            "linewarden/line1/decision" => decisions.push(content),
            "linewarden/line1/state" if content["state"] == "offline" => break,
            _ => {}
        }
    }
    (results, decisions)
}

#[test]
fn a_folder_of_cookies_gives_one_result_a_picture_and_a_reject_for_each_cracked_one() {
    let Some(cookies) = cookies() else { return };
    let (belt, broker) = (belt(cookies), Mosquitto::start().unwrap());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    launch(&format!("{} ! {}", belt.source(), inspection(&cookies.model, &broker)));
    let (results, decisions) = published(&subscriber);
    assert_eq!((results.len(), decisions.len()), (belt.len(), belt.len()));
    belt.assert_inspected(&results, &decisions, false);
    let cracked = (0..belt.len()).filter(|&index| belt.are_anomalous[index]);
    for index in cracked {
        assert_eq!(decisions[index]["verdict"], "reject", "cracked cookie {index}: {}", results[index]);
    }
}

#[test]
fn an_h264_file_gives_one_result_a_frame_in_order() {
    let Some(cookies) = cookies() else { return };
    let (belt, broker) = (belt(cookies), Mosquitto::start().unwrap());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    let source = format!("filesrc location={} ! matroskademux ! h264parse ! avdec_h264", text(&belt.film()));
    launch(&format!("{source} ! {}", inspection(&cookies.model, &broker)));
    let (results, decisions) = published(&subscriber);
    assert_eq!((results.len(), decisions.len()), (belt.len(), belt.len()));
    belt.assert_inspected(&results, &decisions, true);
}

#[test]
fn an_rtsp_stream_gives_one_result_a_frame_in_order() {
    let Some(cookies) = cookies() else { return };
    let (belt, broker) = (belt(cookies), Mosquitto::start().unwrap());
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    // Everything comes a second time, and the client is ended: on a busy machine GStreamer 1.22's jitter buffer keeps the end
    // of a stream to itself, and decoders hold the last pictures back until it comes.
    let rounds = belt.folder.join("rounds.mkv");
    film(&belt.rounds(2), &rounds);
    let camera = RtspCamera::start(&format!(
        "filesrc location={} ! matroskademux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
        text(&rounds)
    ))
    .unwrap();
    let source =
        format!("rtspsrc location={} protocols=tcp latency=200 ! rtph264depay ! h264parse ! avdec_h264", camera.url());
    let launched = Running::start(&format!("{source} ! {}", inspection(&cookies.model, &broker))).unwrap();
    let count = belt.len();
    let (results, decisions) =
        published_until(&subscriber, |results, decisions| results.len() >= count && decisions.len() >= count);
    drop(launched);
    belt.assert_inspected(&results[..count], &decisions[..count], true);
    published(&subscriber);
}
