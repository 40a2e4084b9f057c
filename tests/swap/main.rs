//! Another model while a line runs: by the command line, by MQTT, and in the line's shadow; with a real broker, and no frame
//! lost on the way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod strain;

use std::collections::BTreeMap;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Message, Mosquitto, Subscriber};
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::rtsp::{RtspCamera, Studio};
use linewarden_testkit::sandbox::DaemonSandbox;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// White is 0.88: anomalous to a model, unless it is the lenient one.
const LENIENT: f64 = 0.95;

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    package(&sandbox, "models/first", "1", 0.5, 64)?;
    package(&sandbox, "models/second", "2", 0.6, 64)?;
    package(&sandbox, "models/lenient", "3", LENIENT, 64)?;
    package(&sandbox, "models/large", "4", 0.5, 128)?;
    package(&sandbox, "models/untrue", "5", 0.5, 64)?;
    let golden = sandbox.path("models/untrue/golden/golden.json");
    let mut scores: Value = serde_json::from_slice(&std::fs::read(&golden)?)?;
    scores[0]["anomaly_score"] = json!(0.99);
    std::fs::write(golden, scores.to_string())?;
    package(&sandbox, "elsewhere", "6", 0.5, 64)?;
    Ok(sandbox)
}

/// A package whose version and threshold tell which one scored.
fn package(sandbox: &DaemonSandbox, name: &str, version: &str, threshold: f64, width_px: u32) -> Result<()> {
    let path = brightness_package(&sandbox.path(name), width_px, 48, ModelType::Classification)?.join("model.json");
    let mut info: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    info["version"] = json!(version);
    info["threshold"] = json!(threshold);
    Ok(std::fs::write(path, info.to_string())?)
}

/// Two cameras, each with 30 white pictures a second, of which none may be left out.
fn config(broker: &Mosquitto, mqtt: &str, line: &str) -> String {
    let camera = |name: &str| {
        format!(
            "[[line.camera]]\nname = \"{name}\"\nlaunch = \"videotestsrc is-live=true pattern=white \
             ! video/x-raw,format=I420,width=64,height=48,framerate=30/1\"\n"
        )
    };
    format!(
        "[mqtt]\nbroker = \"{}\"\n{mqtt}\n[[line]]\nname = \"cap\"\nmodel = \"models/first\"\ndevice = \"cpu\"\n\
         decision = {{ expires_after = \"60s\" }}\n{line}\n{}{}",
        broker.url(),
        camera("top"),
        camera("side")
    )
}

/// `top` is reached over RTSP and may go away, `side` is always there.
fn config_with_rtsp(broker: &Mosquitto, port: u16) -> String {
    let launch = "launch = \"videotestsrc is-live=true pattern=white ! video/x-raw,format=I420,width=64,height=48,framerate=30/1\"";
    let rtsp = format!("pipeline = \"rtsp\"\nwith = {{ location = \"rtsp://127.0.0.1:{port}/camera\", latency = 50 }}");
    config(broker, "", "").replacen(launch, &rtsp, 1)
}

fn call(sandbox: &DaemonSandbox, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = sandbox.call(arguments)?;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

/// Everything heard of a line.
struct Watch {
    subscriber: Subscriber,
    heard: Vec<Message>,
}

impl Watch {
    fn new(broker: &Mosquitto) -> Result<Self> {
        Ok(Self { subscriber: broker.subscribe("linewarden/cap/#")?, heard: Vec::new() })
    }

    fn until(&mut self, what: &str, is_it: impl Fn(&str, &Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.subscriber.next_message(left).with_context(|| format!("waiting for {what}"))?;
            let (topic, json) = (message.topic.clone(), message.json()?);
            self.heard.push(message);
            if is_it(&topic, &json) {
                return Ok(json);
            }
        }
    }

    /// Some frames of each camera that this version scored.
    fn frames_of(&mut self, version: &str) -> Result<()> {
        for camera in ["top", "side"] {
            for _ in 0..10 {
                self.until(&format!("version {version} at {camera}"), |topic, json| {
                    topic == format!("linewarden/cap/{camera}/result") && json["model"]["version"] == version
                })?;
            }
        }
        Ok(())
    }

    /// Ends the daemon; each frame of each camera has one result and one decision, none is missing, and the versions came
    /// in this order.
    fn until_the_end(mut self, sandbox: &mut DaemonSandbox, versions: &[&str]) -> Result<()> {
        sandbox.terminate()?;
        ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
        self.until("the end", |topic, json| topic.ends_with("/state") && json["state"] == "offline")?;
        let mut decided: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut scored: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for message in &self.heard {
            let json = message.json()?;
            if message.topic.ends_with("/decision") {
                let (camera, frame) = json["frames"][0].as_str().context("frame")?.split_once('/').context("frame")?;
                ensure!(json["verdict"] != "unknown", "{json}");
                decided.entry(camera.to_owned()).or_default().push(frame.parse()?);
            } else if message.topic.ends_with("/result") {
                let version = json["model"]["version"].as_str().context("version")?;
                let threshold = match version {
                    "1" => 0.5,
                    "2" => 0.6,
                    _ => LENIENT,
                };
                ensure!(json["anomaly_threshold"] == threshold, "named and scored by two models: {json}");
                let frame = json["frame"].as_u64().context("frame")?;
                let camera = json["camera"].as_str().context("camera")?;
                scored.entry(camera.to_owned()).or_default().push((frame, version.to_owned()));
            }
        }
        for camera in ["top", "side"] {
            let frames: Vec<u64> = scored[camera].iter().map(|(frame, _)| *frame).collect();
            assert_eq!(
                frames,
                (0..frames.len() as u64).collect::<Vec<_>>(),
                "{camera}: a result for each frame, in order"
            );
            assert_eq!(decided[camera], frames, "{camera}: a decision for each frame, in order");
            let mut order: Vec<&str> = scored[camera].iter().map(|(_, version)| version.as_str()).collect();
            order.dedup();
            assert_eq!(order, versions, "{camera}");
        }
        Ok(())
    }
}

/// Everything heard of a line on which the first model scores.
fn running(mqtt: &str) -> Result<(Mosquitto, Watch, DaemonSandbox)> {
    let broker = Mosquitto::start()?;
    let mut watch = Watch::new(&broker)?;
    let mut sandbox = sandbox()?;
    sandbox.start(&config(&broker, mqtt, ""))?;
    sandbox.wait_ready()?;
    watch.frames_of("1")?;
    Ok((broker, watch, sandbox))
}

fn series(name: &str, camera: &str, version: &str) -> String {
    format!("linewarden_{name}{{camera=\"{camera}\",line=\"cap\",model_version=\"{version}\",project=\"brightness\"}}")
}

#[test]
fn the_command_line_changes_the_model_of_all_cameras_and_no_frame_is_lost() -> Result<()> {
    let (_broker, mut watch, mut sandbox) = running("")?;

    let (code, told, error) = call(&sandbox, &["model", "swap", "--line", "cap", "models/second", "--json"])?;
    ensure!(code == Some(0), "{error}");
    let swapped: Value = serde_json::from_str(&told)?;
    assert_eq!((&swapped["line"], &swapped["model"]["version"]), (&json!("cap"), &json!("2")));
    assert_eq!(swapped["before"]["version"], "1");
    watch.frames_of("2")?;
    for camera in ["top", "side"] {
        sandbox.wait_metric(&series("processed_image_total", camera, "2"), |count| count >= 10.0)?;
    }
    let units = |version: &str| {
        sandbox.metric(&format!(
            "linewarden_in_service_inference_units{{model_version=\"{version}\",project=\"brightness\"}}"
        ))
    };
    assert_eq!((units("1")?, units("2")?), (0.0, 2.0));

    let (code, told, error) = call(&sandbox, &["model", "rollback", "--line", "cap"])?;
    ensure!(code == Some(0), "{error}");
    assert!(told.starts_with("line cap runs now: brightness 1 ("), "{told}");
    watch.frames_of("1")?;
    let (code, told, _) = call(&sandbox, &["model", "status"])?;
    assert_eq!(code, Some(0));
    assert!(told.contains("line cap runs: brightness 1 (") && told.contains("before: brightness 2 ("), "{told}");
    let swaps =
        |outcome: &str| sandbox.metric(&format!("linewarden_model_swap_total{{line=\"cap\",outcome=\"{outcome}\"}}"));
    assert_eq!((swaps("swapped")?, swaps("rolled_back")?, swaps("failed")?), (1.0, 1.0, 0.0));
    watch.until_the_end(&mut sandbox, &["1", "2", "1"])
}

#[test]
fn what_cannot_be_changed_is_told_and_changes_nothing() -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut watch = Watch::new(&broker)?;
    let mut sandbox = sandbox()?;
    let (code, _, error) = call(&sandbox, &["model", "status"])?;
    assert_eq!(code, Some(2));
    assert!(error.contains("there is no configuration at `linewarden.toml`"), "{error}");

    sandbox.start(&config(&broker, "", ""))?;
    sandbox.wait_ready()?;
    watch.frames_of("1")?;
    let table = [
        (vec!["swap", "--line", "cap", "models/untrue"], 1, "golden"),
        (vec!["swap", "--line", "cap", "models/large"], 1, "128x48"),
        (vec!["swap", "--line", "cap", "models"], 1, "model.json"),
        (vec!["swap", "--line", "cap", "models/absent"], 2, "there is no model package"),
        (vec!["swap", "--line", "cup", "models/second"], 2, "lines are cap"),
        (vec!["swap", "--line", "../cap", "models/second"], 2, "`--line`"),
        (vec!["rollback", "--line", "cap"], 1, "no model to go back to"),
    ];
    for (arguments, expected, part) in table {
        let (code, told, error) = call(&sandbox, &[&["model"], arguments.as_slice()].concat())?;
        assert_eq!((code, told.as_str()), (Some(expected), ""), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(sandbox.get("/lines")?.0, 401, "nobody is told anything without the secret");
    watch.frames_of("1")?;
    watch.until_the_end(&mut sandbox, &["1"])?;
    let (code, _, error) = call(&sandbox, &["model", "status"])?;
    assert_eq!(code, Some(1));
    assert!(error.contains("no daemon runs with `linewarden.toml`"), "{error}");
    Ok(())
}

/// Publishes one command and waits until the broker has it.
fn command(broker: &Mosquitto, payload: &str) -> Result<()> {
    let url = broker.url();
    let port = url.rsplit(':').next().context("port")?.parse()?;
    let (client, mut connection) = Client::new(MqttOptions::new("operator", "127.0.0.1", port), 4);
    client.publish("linewarden/cap/command", QoS::AtLeastOnce, false, payload)?;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event? {
            return Ok(());
        }
    }
    anyhow::bail!("the connection ended")
}

#[test]
fn a_command_over_mqtt_changes_the_model_and_is_answered() -> Result<()> {
    let (broker, mut watch, mut sandbox) = running("commands = true\nmodels = \"models\"")?;
    let deadline = Instant::now() + SOON;
    while sandbox.logged("commands are heard")?.is_none() {
        ensure!(Instant::now() < deadline, "{}", sandbox.log()?);
        watch.frames_of("1")?;
    }
    let ask = |watch: &mut Watch, payload: Value| -> Result<Value> {
        command(&broker, &payload.to_string())?;
        let id = payload["id"].clone();
        watch.until("a reply", |topic, json| topic == "linewarden/cap/command/reply" && json["id"] == id)
    };
    let reply = ask(&mut watch, json!({ "command": "model_swap", "model": "second", "id": "a" }))?;
    assert_eq!((&reply["ok"], &reply["error"]), (&json!(true), &Value::Null), "{reply}");
    assert_eq!(reply["model"]["version"], "2");
    assert_eq!(reply["model"]["sha256"].as_str().context("sha256")?.len(), 64);
    watch.frames_of("2")?;

    let refused = [
        (json!({ "command": "model_swap", "model": "../elsewhere", "id": 1 }), "no package `../elsewhere`"),
        (json!({ "command": "model_swap", "model": "/etc", "id": 2 }), "no package `/etc`"),
        (json!({ "command": "model_swap", "model": "untrue", "id": 3 }), "golden"),
        (json!({ "command": "model_swap", "id": 4 }), "`model` is missing"),
        (json!({ "command": "stop", "id": 5 }), "allowed are model_swap, model_rollback"),
        (json!({ "id": null }), "cannot be understood"),
    ];
    for (payload, part) in refused {
        let reply = ask(&mut watch, payload)?;
        assert_eq!(reply["ok"], false);
        assert!(reply["error"].as_str().context("error")?.contains(part), "{reply}");
    }
    let reply = ask(&mut watch, json!({ "command": "model_rollback", "id": "b" }))?;
    assert_eq!((&reply["ok"], &reply["model"]["version"]), (&json!(true), &json!("1")));
    watch.frames_of("1")?;
    watch.until_the_end(&mut sandbox, &["1", "2", "1"])
}

#[test]
fn a_shadow_says_where_it_would_decide_otherwise_and_decides_nothing() -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut watch = Watch::new(&broker)?;
    let mut sandbox = sandbox()?;
    sandbox.start(&config(&broker, "", "shadow = { model = \"models/lenient\", share = 0.5 }"))?;
    let differs = watch.until("a difference", |topic, _| topic == "linewarden/cap/top/shadow")?;
    assert_eq!((&differs["running"]["verdict"], &differs["shadow"]["verdict"]), (&json!("reject"), &json!("pass")));
    assert_eq!(
        (&differs["running"]["model"]["version"], &differs["shadow"]["model"]["version"]),
        (&json!("1"), &json!("3"))
    );
    assert_eq!(differs["running"]["anomaly_score"], differs["shadow"]["anomaly_score"]);
    assert_eq!((&differs["line"], &differs["camera"]), (&json!("cap"), &json!("top")));
    let shadow = |agreement: &str| format!("linewarden_shadow_total{{agreement=\"{agreement}\",line=\"cap\"}}");
    sandbox.wait_metric(&shadow("differs"), |count| count >= 5.0)?;
    assert_eq!(sandbox.metric(&shadow("same"))?, 0.0);
    // Once the line runs the shadow's model too, they are of one mind.
    let (code, _, error) = call(&sandbox, &["model", "swap", "--line", "cap", "models/lenient"])?;
    ensure!(code == Some(0), "{error}");
    sandbox.wait_metric(&shadow("same"), |count| count >= 5.0)?;
    watch.frames_of("3")?;
    watch.until_the_end(&mut sandbox, &["1", "3"])
}

const TOP_CONNECTED: &str = "linewarden_camera_connected{camera=\"top\",line=\"cap\"}";

#[test]
fn a_model_that_one_camera_cannot_load_is_taken_by_none_and_one_that_is_away_follows_later() -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut watch = Watch::new(&broker)?;
    let mut sandbox = sandbox()?;
    let studio = Studio { size: (64, 48), ..Studio::default() };
    let camera = RtspCamera::studio(&studio)?;
    let studio = Studio { port: camera.port(), ..studio };
    sandbox.start(&config_with_rtsp(&broker, studio.port))?;
    sandbox.wait_ready()?;
    watch.frames_of("1")?;
    drop(camera);
    sandbox.wait_metric(TOP_CONNECTED, |connected| connected == 0.0)?;

    // The model of a camera that is away stays loaded: it refuses as well.
    let (code, _, error) = call(&sandbox, &["model", "swap", "--line", "cap", "models/large"])?;
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("camera `top`: the model is for pictures of 128x48"), "{error}");
    let camera = RtspCamera::studio(&studio)?;
    sandbox.wait_metric(TOP_CONNECTED, |connected| connected == 1.0)?;
    watch.frames_of("1")?;

    drop(camera);
    sandbox.wait_metric(TOP_CONNECTED, |connected| connected == 0.0)?;
    let (code, _, error) = call(&sandbox, &["model", "swap", "--line", "cap", "models/second"])?;
    ensure!(code == Some(0), "{error}");
    let _camera = RtspCamera::studio(&studio)?;
    watch.frames_of("2")?;
    let (running, scored) = (sandbox.metric(&series("processed_image_total", "top", "1"))?, watch.heard.len());
    watch.frames_of("2")?;
    assert_eq!(
        sandbox.metric(&series("processed_image_total", "top", "1"))?,
        running,
        "the model before scores no more"
    );
    ensure!(watch.heard.len() > scored, "nothing was decided any more");
    sandbox.terminate()?;
    ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    // The camera that never went away has lost nothing by all this.
    watch.until("the end", |topic, json| topic.ends_with("/state") && json["state"] == "offline")?;
    let of_side = watch.heard.iter().filter(|message| message.topic == "linewarden/cap/side/result");
    let frames: Vec<u64> =
        of_side.map(|message| Ok(message.json()?["frame"].as_u64().unwrap())).collect::<Result<_>>()?;
    assert_eq!(frames, (0..frames.len() as u64).collect::<Vec<_>>(), "side: a result for each frame, in order");
    Ok(())
}

#[test]
fn wrong_keys_of_commands_and_shadow_are_told_with_their_place() -> Result<()> {
    let (broker, sandbox) = (Mosquitto::start()?, sandbox()?);
    let table = [
        (
            "commands = true",
            "",
            "lines.toml:1:1: [mqtt]: `commands` need `models`: the folder whose models they may name",
        ),
        ("commands = \"yes\"", "", "[mqtt]: `commands` must be true or false, got \"yes\""),
        ("models = \"absent\"", "", "[mqtt]: `models` must be a folder of model packages, got `"),
        (
            "",
            "shadow = { share = 0.5 }",
            "[shadow]: `model` is missing: it must be the folder or .tar of a model package",
        ),
        ("", "shadow = { model = \"absent\" }", "[shadow]: `model`: cannot use model package `absent`"),
        (
            "",
            "shadow = { model = \"models/second\", share = 0.0 }",
            "[shadow]: `share` must be a number from 0.0001 to 1",
        ),
        (
            "",
            "shadow = { model = \"models/second\", share = 1.5 }",
            "[shadow]: `share` must be a number from 0.0001 to 1",
        ),
        ("", "shadow = { model = \"models/second\", part = 1 }", "[shadow]: unknown key `part`"),
    ];
    for (mqtt, line, expected) in table {
        sandbox.write("lines.toml", config(&broker, mqtt, line))?;
        let (code, told, error) = call(&sandbox, &["run", "--check", "lines.toml"])?;
        assert_eq!((code, told.as_str()), (Some(2), ""), "{mqtt}{line}: {error}");
        assert!(error.contains(expected), "{mqtt}{line}: {error}");
    }
    Ok(())
}
