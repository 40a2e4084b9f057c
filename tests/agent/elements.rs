//! The elements `lookoutvision` and `mqttpublisher`, in the pipelines of the old service's samples.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gst::prelude::*;
use linewarden_model::ModelType;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::launch::gst_launch;

use crate::{Component, PATIENCE, SOCKET, Site};

const TOPIC: &str = "lookoutvision/anomalydetection/result";
/// A width whose rows are padded: 3 times 101 is no multiple of four.
const SIZE: (u32, u32) = (101, 77);
const FRAMES: u32 = 20;

fn source(pattern: &str, frames: u32) -> String {
    let (width, height) = SIZE;
    format!(
        "videotestsrc pattern={pattern} num-buffers={frames} ! video/x-raw,format=RGB,width={width},height={height}"
    )
}

#[test]
fn the_samples_pipeline_prints_and_publishes_what_the_agent_says() -> Result<()> {
    let (width, height) = SIZE;
    let mut site = Site::new(&[Component("cap", width, height, ModelType::Segmentation)], "")?;
    let broker = Mosquitto::start()?;
    let heard = broker.subscribe(TOPIC)?;
    let socket = site.daemon.path(SOCKET);
    let pipeline = |pattern: &str| {
        format!(
            "{} ! lookoutvision server-socket=unix://{} model-component=cap ! anomalyoverlay ! mqttpublisher broker={} ! fakesink",
            source(pattern, FRAMES),
            socket.display(),
            broker.url()
        )
    };
    // The first run starts the model, the second finds it running.
    for (pattern, is_anomalous) in [("white", true), ("black", false)] {
        let launched = gst_launch(&pipeline(pattern), PATIENCE)?;
        ensure!(launched.status.success(), "{}\n{}", launched.stdout, launched.stderr);
        let said: Vec<&str> = launched.stdout.lines().filter(|line| line.starts_with("Is Anomalous? ")).collect();
        let confidence = said.first().and_then(|line| line.rsplit(' ').next()).context("nothing was printed")?;
        let line = format!("Is Anomalous? {}, Confidence: {confidence}", u8::from(is_anomalous));
        assert_eq!(said, vec![line.as_str(); FRAMES as usize], "{}", launched.stdout);
        for _ in 0..FRAMES {
            let text = String::from_utf8(heard.next_message(PATIENCE)?.payload)?;
            let start = format!("Detect Anomaly Result - Is Anomalous? {}, Confidence: ", u8::from(is_anomalous));
            let number =
                text.strip_prefix(&start).with_context(|| format!("`{text}` does not begin with `{start}`"))?;
            assert_eq!(number.len(), "0.525590".len(), "{text}");
            let difference = (number.parse::<f64>()? - confidence.parse::<f64>()?).abs();
            ensure!(difference < 1e-5, "{text} is not {line}");
        }
    }
    assert_eq!(site.settled("cap")?.0, "RUNNING");
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("linewarden-");
    let processes_gone = std::fs::read_dir("/dev/shm")?
        .flatten()
        .filter(|entry| ours(&entry.file_name()))
        .filter_map(|entry| entry.file_name().to_string_lossy().split('-').nth(1)?.parse::<u32>().ok())
        .filter(|process| !std::path::Path::new(&format!("/proc/{process}")).exists());
    assert_eq!(processes_gone.count(), 0, "shared memory was left behind");
    site.end()
}

#[test]
fn what_is_wrong_is_told_with_the_component_and_what_to_look_at() -> Result<()> {
    let mut site = Site::new(&[Component("cap", 160, 120, ModelType::Classification)], "")?;
    let socket = site.daemon.path(SOCKET);
    let told = |element: &str| -> Result<String> {
        let pipeline = format!("{} ! {element} ! fakesink async=false", source("black", 2));
        let launched = gst_launch(&pipeline, PATIENCE)?;
        ensure!(!launched.status.success(), "{element}: {}", launched.stdout);
        Ok(launched.stderr)
    };
    let of = |component: &str| {
        format!("lookoutvision server-socket=unix://{} model-component={component}", socket.display())
    };
    let table = [
        ("lookoutvision".to_owned(), "`model-component` is not set"),
        (
            "lookoutvision model-component=cap server-socket=unix:///nowhere.sock".to_owned(),
            "/nowhere.sock`: does it run?",
        ),
        (of("absent"), "model component `absent`"),
        // The model was trained on pictures of another size.
        (of("cap"), "160x120"),
        ("mqttpublisher broker=http://here".to_owned(), "unknown scheme `http`"),
        ("mqttpublisher publish-topic=a/#".to_owned(), "publish-topic"),
    ];
    for (element, wanted) in table {
        let error = told(&element)?;
        ensure!(error.contains(wanted), "{element}: {error}");
    }
    assert_eq!(site.settled("cap")?.0, "RUNNING", "the agent goes on");
    site.end()
}

#[test]
fn a_pipeline_ends_at_once_while_it_waits_for_the_agent() -> Result<()> {
    gst::init()?;
    gstlinewarden::plugin_register_static()?;
    // It takes calls, and never answers.
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("deaf.sock");
    let deaf = UnixListener::bind(&socket)?;
    let element = format!("lookoutvision server-socket=unix://{} model-component=cap", socket.display());
    let pipeline = gst::parse::launch(&format!("{} ! {element} ! fakesink", source("black", 100)))?;
    pipeline.set_state(gst::State::Playing)?;
    let _call = deaf.accept()?;
    let asked = Instant::now();
    pipeline.set_state(gst::State::Null)?;
    ensure!(asked.elapsed() < Duration::from_secs(2), "the end took {:?}", asked.elapsed());
    Ok(())
}
