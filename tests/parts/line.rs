//! The promise: two cameras at 30 frames a second each, 120 parts a minute; each part one decision, right and in time.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use linewarden_synthetic::{BeltSpec, defect_of};
use linewarden_testkit::belt::train_model;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::rtsp::RtspCamera;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::plc::{Belt, Heard, alone, hear, trigger_parts};

/// How long the belt runs; `make soak` sets it to 120.
const SECONDS: &str = "LINEWARDEN_PARTS_SECONDS";
const PARTS_A_SECOND: f64 = 2.0;

pub(crate) fn belt_spec() -> BeltSpec {
    BeltSpec { seed: 4, defect_rate: 0.3, ..BeltSpec::default() }
}

/// A real model of such parts, good and bad; trained once.
fn model() -> &'static PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("parts");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        train_model(Path::new(env!("CARGO_BIN_EXE_linewarden")), &folder, &belt_spec()).unwrap()
    })
}

/// What a camera over the belt is told.
fn camera(name: &str, source: &str) -> String {
    format!("[[line.camera]]\nname = \"{name}\"\n{source}\noffset = \"20ms\"\nwindow = \"140ms\"\nmax_frames = 3\n")
}

fn syntheticline(belt: Belt, view: u32) -> String {
    belt.camera(&belt_spec(), 30, view, 2)
}

fn config(broker: &Mosquitto, grace: &str, cameras: &str) -> String {
    format!(
        "[mqtt]\nbroker = \"{}\"\n[[line]]\nname = \"belt\"\nmodel = \"{}\"\ndevice = \"cpu\"\n\
         decision = {{ confidence_limit = 0.9 }}\n[line.parts]\ntrigger = \"mqtt\"\ngrace = \"{grace}\"\n\
         [line.gate]\ndistance_mm = 700\nspeed_mm_s = 1000\ndecide_before = \"40ms\"\n{cameras}",
        broker.url(),
        model().display()
    )
}

/// What the gate did with each part, against the truth.
fn check(heard: &std::collections::BTreeMap<u64, Heard>) -> Result<()> {
    let mut wrong = String::new();
    for (part, heard) in heard {
        let truth = defect_of(&belt_spec(), *part);
        let expected = if truth.is_some() { "reject" } else { "pass" };
        if heard.verdict() != expected || !heard.is_in_time() {
            let late = if heard.is_in_time() { "" } else { "LATE " };
            let _ = writeln!(wrong, "{late}{part} {truth:?}: {} {}", heard.came, heard.decision);
        }
        ensure!(heard.decision["action"] == expected || !wrong.is_empty(), "{}", heard.decision);
        let frames = heard.decision["frames"].as_array().context("frames")?;
        let seen_by =
            |camera: &str| frames.iter().any(|frame| frame.as_str().is_some_and(|frame| frame.starts_with(camera)));
        if heard.verdict() == "pass" {
            ensure!(seen_by("top/") && seen_by("side/"), "a pass that one camera did not see: {}", heard.decision);
        }
    }
    ensure!(wrong.is_empty(), "wrong or late:\n{wrong}");
    Ok(())
}

#[test]
fn two_cameras_and_120_parts_a_minute_give_each_part_one_decision_right_and_in_time() -> Result<()> {
    let source = |belt, view| Ok((format!("launch = \"{}\"\nlive = true", syntheticline(belt, view)), None));
    watch_belt("cameras of this machine", "60ms", source)
}

/// The cameras' own clocks say when each frame was taken: the way over the network moves no frame to another part.
#[test]
fn the_same_holds_over_rtsp() -> Result<()> {
    gst::init()?;
    gstlinewarden::plugin_register_static()?;
    let source = |belt, view| {
        let camera = RtspCamera::start(&format!(
            "{} ! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast pass=quant quantizer=6 key-int-max=30 \
             ! rtph264pay name=pay0 config-interval=1",
            syntheticline(belt, view)
        ))?;
        let shape = format!("pipeline = \"rtsp\"\nwith = {{ location = \"{}\", latency = 20 }}", camera.url());
        Ok((shape, Some(camera)))
    };
    watch_belt("cameras over RTSP", "250ms", source)
}

/// Runs the belt past two cameras, and holds every decision against the truth.
fn watch_belt(
    what: &str,
    grace: &str,
    source: impl Fn(Belt, u32) -> Result<(String, Option<RtspCamera>)>,
) -> Result<()> {
    let seconds: f64 = std::env::var(SECONDS).ok().map_or(Ok(15.0), |seconds| seconds.parse())?;
    let _alone = alone();
    model();
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    let belt = Belt { start: Timestamp::now(), parts_a_second: PARTS_A_SECOND };
    let (top, side) = (source(belt, 0)?, source(belt, 1)?);
    sandbox.start(&config(&broker, grace, &(camera("top", &top.0) + &camera("side", &side.0))))?;
    sandbox.wait_ready()?;
    sandbox.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |value| value == 1.0)?;
    for camera in ["top", "side"] {
        sandbox.wait_metric(&format!("linewarden_camera_connected{{camera=\"{camera}\",line=\"belt\"}}"), |on| {
            on == 1.0
        })?;
    }
    // Before a camera's first report nobody knows its clock.
    let first = belt.first_after(Duration::from_secs(if top.1.is_some() { 6 } else { 1 }));
    let parts = first..first + (seconds * PARTS_A_SECOND) as u64;
    let plc = trigger_parts(broker.port(), "linewarden/belt/trigger", belt, parts.clone());
    let heard = hear(&watch, &parts, Duration::from_secs(15)).with_context(|| sandbox.log().unwrap_or_default())?;
    plc.join().unwrap()?;
    let quantile = |quantile: &str| {
        let labels = format!("{{line=\"belt\",quantile=\"{quantile}\"}}");
        sandbox
            .metric(&format!("linewarden_capture_to_acknowledge_quantile_seconds{labels}"))
            .map(|seconds| seconds * 1e3)
    };
    let (p50, p99, p999) = (quantile("0.5")?, quantile("0.99")?, quantile("0.999")?);
    let bad = parts.clone().filter(|part| defect_of(&belt_spec(), *part).is_some()).count();
    let _ = writeln!(
        std::io::stderr(),
        "    {what}: {} parts, {bad} bad; capture to acknowledgement p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms",
        heard.len(),
    );
    check(&heard)?;
    ensure!(bad > 0, "the belt has bad parts");
    assert_eq!(sandbox.metric("linewarden_part_total{line=\"belt\"}")?, heard.len() as f64);
    assert_eq!(sandbox.metric("linewarden_deadline_missed_total{line=\"belt\"}")?, 0.0);
    assert!(watch.arrived().is_empty(), "no part has a second decision");
    sandbox.terminate()?;
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    Ok(())
}
