//! Evidence from outside: what a line keeps of its parts, and that the command line proves it untouched, also after the
//! daemon was killed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::pictures::write_pictures;
use linewarden_testkit::sandbox::DaemonSandbox;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Segmentation)?;
    Ok(sandbox)
}

fn config(broker: &Mosquitto, evidence: &str, camera: &str) -> String {
    format!(
        "[mqtt]\nbroker = \"{}\"\n[evidence]\nfolder = \"evidence\"\n{evidence}\n[[line]]\nname = \"cap\"\nmodel = \"model\"\n\
         device = \"cpu\"\ndecision = {{ expires_after = \"60s\" }}\n[[line.camera]]\nname = \"top\"\n{camera}\n",
        broker.url()
    )
}

fn verified(sandbox: &DaemonSandbox, more: &[&str]) -> Result<(Option<i32>, Value)> {
    let folder = sandbox.path("evidence");
    let folder = folder.to_str().context("a path in UTF-8")?;
    let output = sandbox.call(&[&["evidence", "verify", folder, "--json"], more].concat())?;
    Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
}

fn records(sandbox: &DaemonSandbox, kind: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(sandbox.path("evidence/log/000001.jsonl"))?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(records.into_iter().filter(|record| record["kind"] == kind).map(|record| record["body"].clone()).collect())
}

fn pictures_of(sandbox: &DaemonSandbox, part: &Value) -> Vec<PathBuf> {
    let folder = sandbox.path("evidence/parts").join(part["folder"].as_str().unwrap_or_default());
    let files = part["files"].as_array().into_iter().flatten();
    files.map(|file| folder.join(file["file"].as_str().unwrap_or_default())).collect()
}

#[test]
fn rejects_are_kept_with_picture_mask_result_and_acknowledgement_and_passes_are_not() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/cap/decision")?;
    let mut sandbox = sandbox()?;
    write_pictures(&sandbox.path("pictures"), &[false, true, false, false, true])?;
    let camera = "pipeline = \"folder\"\nwith = { location = \"pictures\" }";
    sandbox.start(&config(&broker, "sample = 0", camera))?;
    let mut rejects = Vec::new();
    for _ in 0..5 {
        let decision = watch.next_message(SOON)?.json()?;
        if decision["verdict"] == "reject" {
            rejects.push(decision["id"].clone());
        }
    }
    ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);

    let parts = records(&sandbox, "part")?;
    let kept: Vec<Value> = parts.iter().map(|part| part["id"].clone()).collect();
    assert_eq!((kept, rejects.len()), (rejects.clone(), 2));
    let acknowledged: Vec<Value> =
        records(&sandbox, "acknowledged")?.iter().map(|record| record["id"].clone()).collect();
    assert_eq!(acknowledged, rejects);
    let model = &parts[0]["part"]["results"][0]["model"]["sha256"];
    assert_eq!(model.as_str().map(str::len), Some(64), "{parts:?}");
    for part in &parts {
        let pictures = pictures_of(&sandbox, part);
        assert_eq!(pictures.len(), 2, "{part}");
        assert!(image::open(&pictures[0])?.into_rgb8().pixels().all(|pixel| pixel.0 == [255; 3]));
        let mask = image::open(&pictures[1])?.into_rgb8();
        assert_eq!(mask.dimensions(), (64, 48));
        assert!(mask.pixels().any(|pixel| pixel.0 != [255; 3]), "the mask shows the label");
    }

    let (code, report) = verified(&sandbox, &[])?;
    assert_eq!((code, &report["untouched"], &report["files"]), (Some(0), &Value::from(true), &Value::from(4)));
    std::fs::write(&pictures_of(&sandbox, &parts[1])[0], b"another picture")?;
    let (code, report) = verified(&sandbox, &["--head", report["head"].as_str().unwrap_or_default()])?;
    assert_eq!((code, &report["untouched"]), (Some(1), &Value::from(false)));
    assert_eq!(report["faults"][0]["problem"], "was changed");
    Ok(())
}

#[test]
fn what_the_gate_acknowledged_is_on_record_beside_what_the_broker_did() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/cap/decision")?;
    let mut sandbox = sandbox()?;
    let white = "launch = \"videotestsrc pattern=white is-live=true ! \
                 video/x-raw,format=I420,width=64,height=48,framerate=20/1\"\nlive = true";
    let config = config(&broker, "", white);
    sandbox.start(&config.replacen("[mqtt]", "[mqtt]\nack_topic = \"{prefix}/{line}/ack\"", 1))?;
    let reject = watch.next_where(SOON, |message| message.acknowledged)?.json()?;
    let id = reject["id"].as_str().context("a decision has an id")?;
    publish(&broker, "linewarden/cap/ack", id)?;
    sandbox.wait_metric("linewarden_gate_acknowledged_total{line=\"cap\"}", |acknowledged| acknowledged == 1.0)?;
    sandbox.terminate()?;
    ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    let acknowledged = records(&sandbox, "acknowledged")?;
    let mut by: Vec<&str> =
        acknowledged.iter().filter(|record| record["id"] == id).filter_map(|record| record["by"].as_str()).collect();
    by.sort_unstable();
    assert_eq!(by, ["broker", "gate"]);
    let kept = records(&sandbox, "part")?;
    let part = kept.iter().find(|part| part["id"] == id).context("the reject is kept")?;
    assert_eq!(pictures_of(&sandbox, part).len(), 2, "a stream's picture and its mask: {part}");
    assert!(pictures_of(&sandbox, part).iter().all(|picture| picture.is_file()), "{part}");
    let (code, report) = verified(&sandbox, &[])?;
    assert_eq!((code, &report["untouched"]), (Some(0), &Value::from(true)), "{report:#}");
    Ok(())
}

/// Publishes as a PLC does, and waits until the broker has it.
fn publish(broker: &Mosquitto, topic: &str, payload: &str) -> Result<()> {
    let (client, mut connection) = Client::new(MqttOptions::new("plc", "127.0.0.1", broker.port()), 4);
    client.publish(topic, QoS::AtLeastOnce, false, payload)?;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event? {
            return Ok(());
        }
    }
    anyhow::bail!("the connection ended")
}

#[test]
fn the_chain_verifies_after_every_kill() -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut sandbox = sandbox()?;
    std::fs::write(sandbox.path("key"), "a secret that nobody guesses\n")?;
    let endless = "launch = \"videotestsrc pattern=white is-live=true ! \
                   video/x-raw,format=I420,width=64,height=48,framerate=50/1\"\nlive = true";
    let config = config(&broker, "key_file = \"key\"\nformat = \"jpeg\"", endless);
    for round in 1..=3_u64 {
        sandbox.start(&config)?;
        sandbox.wait_metric("linewarden_evidence_part_total{line=\"cap\"}", |parts| parts >= 15.0)?;
        let process = sandbox.process_id().context("the daemon runs")?;
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(i32::try_from(process)?).context("a process id")?,
            rustix::process::Signal::KILL,
        )?;
        sandbox.wait_end()?;
        ensure!(records(&sandbox, "part")?.len() as u64 >= 15 * round, "records survive the kill");
    }
    // The next opening puts in order what the last kill left behind.
    sandbox.start(&config)?;
    sandbox.wait_metric("linewarden_evidence_part_total{line=\"cap\"}", |parts| parts >= 1.0)?;
    sandbox.terminate()?;
    ensure!(sandbox.wait_end()?.success());
    let key = sandbox.path("key");
    let (code, report) = verified(&sandbox, &["--key-file", key.to_str().context("a path in UTF-8")?])?;
    assert_eq!((code, &report["fault_count"]), (Some(0), &Value::from(0)), "{report:#}");
    let (code, _) = verified(&sandbox, &[])?;
    assert_eq!(code, Some(1), "without the key nothing can be vouched for");
    Ok(())
}

#[test]
fn wrong_keys_are_named_with_what_is_allowed() -> Result<()> {
    let sandbox = sandbox()?;
    sandbox.write("short", "secret")?;
    let wrong =
        "[evidence]\nkey_file = \"short\"\nformat = \"gif\"\nuncertain_below = 0.2\nkeep_megabytes = 0\nkept = 1\n";
    let path = sandbox.write("line.toml", wrong)?;
    let output = sandbox.call(&["run", "--check", path.to_str().context("a path in UTF-8")?])?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{told}");
    for expected in [
        "`folder` is missing",
        "must hold a secret of at least 16 bytes, got 6",
        "`format` must be",
        "`uncertain_below` must be",
        "`keep_megabytes` must be",
        "`kept`",
    ] {
        assert!(told.contains(expected), "no {expected} in {told}");
    }
    let started = Instant::now();
    let nothing = sandbox.call(&["evidence", "verify", "no-such-folder"])?;
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8(nothing.stderr)?.contains("holds no evidence"), "after {:?}", started.elapsed());
    Ok(())
}
