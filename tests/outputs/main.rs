//! Outputs beside MQTT from outside: the daemon's decisions as a PLC reads them, and what a wrong table is told.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Mosquitto, free_port};
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::peers::Peer;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Segmentation)?;
    Ok(sandbox)
}

/// White pictures, which are anomalous, ten a second for ever.
const CAMERA: &str = "[[line.camera]]\nname = \"top\"\nlive = true\nlaunch = \"videotestsrc is-live=true pattern=white ! \
                      video/x-raw,format=I420,width=64,height=48,framerate=10/1\"\n";

fn line(more: &str) -> String {
    format!(
        "[[line]]\nname = \"cap\"\nmodel = \"model\"\ndevice = \"cpu\"\n\
         decision = {{ expires_after = \"5s\" }}\n{more}\n{CAMERA}"
    )
}

/// One of the programs that the crate's own tests use too.
fn peer(program: &str, arguments: &[&str]) -> Result<Peer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/outputs/tests/peers");
    Peer::start(&folder.join(program), arguments)
}

#[test]
fn a_plc_a_client_and_a_host_each_get_the_decisions_of_the_daemon() -> Result<()> {
    let broker = Mosquitto::start()?;
    let (modbus, opcua) = (free_port()?, free_port()?);
    let host = peer("sparkplug_host.py", &[&broker.port().to_string(), "plant", "scada"])?;
    assert_eq!(host.hear(SOON)?["kind"], "ready");
    let mut sandbox = sandbox()?;
    let outputs = format!(
        "[mqtt]\nbroker = \"{}\"\n[opcua]\nlisten = \"127.0.0.1:{opcua}\"\n[sparkplug]\ngroup = \"plant\"\nnode = \"cell\"\n",
        broker.url()
    );
    let on_modbus = format!("modbus = {{ listen = \"127.0.0.1:{modbus}\" }}");
    sandbox.start(&(outputs + &line(&on_modbus)))?;
    sandbox.wait_ready()?;

    let mut plc = peer("modbus_client.py", &[&modbus.to_string()])?;
    let seen = plc.ask(&json!({"do": "work", "parts": 5}), SOON)?;
    let parts: Vec<u64> = seen.as_array().into_iter().flatten().filter_map(|one| one["part"].as_u64()).collect();
    assert!(parts.len() == 5 && parts.is_sorted_by(|before, after| before < after), "{parts:?}");
    assert!(seen.as_array().into_iter().flatten().all(|one| one["reject"] == true && one["state"] == 2), "{seen}");

    let client = &mut peer("opcua_client.py", &[&format!("opc.tcp://127.0.0.1:{opcua}/")])?;
    assert_eq!(client.hear(SOON)?["connected"], true);
    client.tell(&json!({"do": "subscribe", "paths": ["cap/State"]}))?;
    let event = client.hear_where(SOON, |said| said["event"]["Line"] == "cap")?;
    assert_eq!(event["event"]["Verdict"], 2, "{event}");

    let data = host.hear_where(SOON, |said| said["metrics"]["Decision/Verdict"] == "reject")?;
    assert_eq!((&data["device"], &data["faults"], &data["historical"]), (&json!("cap"), &json!([]), &json!(false)));

    sandbox.wait_metric("linewarden_output_decision_total{outcome=\"delivered\",output=\"modbus/cap\"}", |count| {
        count >= 5.0
    })?;
    sandbox.wait_metric("linewarden_output_connected{output=\"sparkplug\"}", |count| count == 1.0)?;
    sandbox.terminate()?;
    host.hear_where(SOON, |said| said["kind"] == "NDEATH")?;
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    Ok(())
}

#[test]
fn every_mistake_in_a_table_of_an_output_is_told_with_its_key() -> Result<()> {
    let table = [
        ("modbus = {}", "`listen` is missing: it must be an address to be polled at, such as \"127.0.0.1:1502\""),
        (
            "modbus = { listen = \"here\" }",
            "`listen` must be an address and port such as \"127.0.0.1:1502\", got \"here\"",
        ),
        ("modbus = { listen = \"127.0.0.1:1\", unit = 3 }", "`unit` needs `connect`"),
        (
            "modbus = { listen = \"127.0.0.1:1\", connect = \"a:1\" }",
            "`listen` and `connect` exclude each other: give one",
        ),
        ("modbus = { connect = \"a:1\" }", "`coils_at` is missing: it must be where the coils go"),
        ("modbus = { connect = \"a:1\", coils_at = 1 }", "`acknowledge_at` is missing"),
        (
            "modbus = { listen = \"127.0.0.1:1\", show = \"twice\" }",
            "`show` must be one of acknowledged, pulse, at_gate",
        ),
        ("modbus = { listen = \"127.0.0.1:1\", pulse = \"1s\" }", "`pulse` needs `show = \"pulse\"`"),
        ("modbus = { listen = \"127.0.0.1:1\", word_ordr = 1 }", "unknown key `word_ordr`, did you mean `word_order`?"),
    ];
    let tops = [
        ("[opcua]\nsecurity = [\"basic\"]", "`security` must be a list of none, basic256sha256"),
        ("[opcua]\nsecurity = [\"basic256sha256\"]", "`security` with certificates needs `pki_dir`"),
        ("[opcua]\nlisten = \"0.0.0.0:4840\"", "`security` with certificates needs `pki_dir`"),
        ("[opcua]\nlisten = \"0.0.0.0:1\"\nsecurity = [\"none\"]\nusers_file = \"u\"", "`users_file` needs encryption"),
        ("[sparkplug]\ngroup = \"a/b\"", "`group` must be 1 to 255 bytes without `+`, `#`, `/`"),
        ("[sparkplug]\ngroup = \"a\"\nnode = \"b\"", "`mqtt` is missing: it must be a table `[sparkplug.mqtt]`"),
        ("[sparkplug]\ngroup = \"a\"\nbuffer = 0", "`buffer` must be a whole number from 1 to 1000000, got 0"),
    ];
    let sandbox = sandbox()?;
    let configs = table.map(|(more, wanted)| (line(more), wanted)).into_iter();
    for (config, wanted) in configs.chain(tops.map(|(top, wanted)| (format!("{top}\n{}", line("")), wanted))) {
        sandbox.write("lines.toml", &config)?;
        let output = sandbox.call(&["run", "--check", "lines.toml"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(wanted), "{config}\nwanted: {wanted}\n{stderr}");
    }
    Ok(())
}
