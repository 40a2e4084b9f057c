//! What opens a part besides a message with its number, and what becomes of triggers that are odd.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Mosquitto, Subscriber};
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::Value;

use crate::plc::Trigger;

const SOON: Duration = Duration::from_secs(20);
/// 50 black pictures a second for ever.
const BLACK: &str = "live = true\nlaunch = \"videotestsrc is-live=true pattern=black ! \
                     video/x-raw,format=I420,width=64,height=48,framerate=50/1\"";

fn start(broker: &Mosquitto, parts: &str, camera: &str) -> Result<DaemonSandbox> {
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Classification)?;
    start_in(&mut sandbox, broker, parts, camera)?;
    Ok(sandbox)
}

fn config(broker: &Mosquitto, parts: &str, camera: &str) -> String {
    format!(
        "[mqtt]\nbroker = \"{}\"\n[[line]]\nname = \"belt\"\nmodel = \"model\"\ndevice = \"cpu\"\n\
         decision = {{ expires_after = \"20s\" }}\n[line.parts]\n{parts}\n[[line.camera]]\nname = \"top\"\n{camera}\n",
        broker.url()
    )
}

fn start_in(sandbox: &mut DaemonSandbox, broker: &Mosquitto, parts: &str, camera: &str) -> Result<()> {
    sandbox.start(&config(broker, parts, camera))?;
    sandbox.wait_ready()?;
    sandbox.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |value| value == 1.0)?;
    Ok(())
}

fn decision(watch: &Subscriber) -> Result<Value> {
    watch.next_message(SOON).context("no decision")?.json()
}

#[test]
fn a_rate_opens_a_part_each_so_often() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let _sandbox = start(&broker, "trigger = \"rate\"\nrate = 10", BLACK)?;
    let mut last = None;
    let mut passed = 0;
    while passed < 5 {
        let decision = decision(&watch)?;
        let number = decision["trigger"].as_u64().context("a number")?;
        ensure!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
        last = Some(number);
        passed += usize::from(decision["verdict"] == "pass");
    }
    Ok(())
}

#[test]
fn an_encoder_opens_a_part_each_so_many_counts_and_its_count_travels_along() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let parts = "trigger = \"encoder\"\ncounts_per_part = 1000\ntopic = \"plant/encoder\"";
    let sandbox = start(&broker, parts, BLACK)?;
    let plc = Trigger::connect(broker.port())?;
    let now = Timestamp::now();
    let moment = |ms: i64| now + jiff::SignedDuration::from_millis(ms);
    for (count, ms) in [(-200, -300), (400, -200), (1400, -100), (2600, 0)] {
        plc.tell("plant/encoder", format!("{{\"encoder\":{count},\"at\":\"{}\"}}", moment(ms)))?;
    }
    for expected in [0, 1000, 2000] {
        let decision = decision(&watch)?;
        assert_eq!(decision["encoder"], expected, "{decision}");
        assert_eq!(decision["trigger"], expected / 1000, "{decision}");
    }
    plc.tell("plant/encoder", "fast")?;
    sandbox
        .wait_metric("linewarden_part_note_total{line=\"belt\",reason=\"malformed_trigger\"}", |count| count == 1.0)?;
    Ok(())
}

/// A part is there when the picture is bright, and nothing else says so.
#[test]
fn a_picture_opens_a_part_when_something_comes_into_it() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let parts = "trigger = \"picture\"\npicture = { camera = \"top\", region = \"100,80,120,80\", present_at = 90, \
                 absent_at = 70, least_gap = \"50ms\" }";
    // Half of the time the belt is empty.
    let camera = "live = true\nwindow = \"60ms\"\nlaunch = \"syntheticline width=320 height=240 rate=4 frame-rate=50 \
                  dwell=0.5 ! videoconvertscale ! video/x-raw,format=I420\"";
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 320, 240, ModelType::Classification)?;
    start_in(&mut sandbox, &broker, parts, camera)?;
    let mut moments = Vec::new();
    for number in 0..6 {
        let decision = decision(&watch)?;
        assert_eq!(decision["trigger"], number, "{decision}");
        moments.push(decision["captured_at"].as_str().context("a moment")?.parse::<Timestamp>()?);
    }
    for pair in moments.windows(2) {
        let gap_ms = pair[1].duration_since(pair[0]).as_millis();
        ensure!((150..=400).contains(&gap_ms), "one part each 250 ms, not {gap_ms} ms");
    }
    Ok(())
}

#[test]
fn a_trigger_told_twice_is_one_part_and_a_message_that_says_nothing_is_none() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let sandbox = start(&broker, "trigger = \"mqtt\"", BLACK)?;
    let plc = Trigger::connect(broker.port())?;
    for payload in ["7", "7", "no number", "{\"trigger\": 9}", "{\"trigger\":10,\"encoder\":-5}"] {
        plc.tell("linewarden/belt/trigger", payload)?;
    }
    let told: Vec<Value> = (0..3).map(|_| decision(&watch)).collect::<Result<_>>()?;
    let numbers: Vec<_> = told.iter().map(|decision| decision["trigger"].as_u64()).collect();
    assert_eq!(numbers, [Some(7), Some(9), Some(10)]);
    assert_eq!(told[2]["encoder"], -5);
    assert!(told.iter().all(|decision| decision["verdict"] == "pass" && decision["reason"] == "normal"), "{told:?}");
    for (reason, count) in [("duplicate_trigger", 1.0), ("malformed_trigger", 1.0), ("missed_trigger", 1.0)] {
        let series = format!("linewarden_part_note_total{{line=\"belt\",reason=\"{reason}\"}}");
        sandbox.wait_metric(&series, |value| value == count)?;
    }
    assert!(watch.arrived().is_empty());
    Ok(())
}

#[test]
fn triggers_are_heard_again_after_the_broker_was_away() -> Result<()> {
    let mut broker = Mosquitto::start()?;
    let sandbox = start(&broker, "trigger = \"mqtt\"", BLACK)?;
    let connected = "linewarden_trigger_connected{line=\"belt\"}";
    broker.kill()?;
    sandbox.wait_metric(connected, |value| value == 0.0)?;
    broker.restart()?;
    sandbox.wait_metric(connected, |value| value == 1.0)?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    Trigger::connect(broker.port())?.tell("linewarden/belt/trigger", "41")?;
    assert_eq!(decision(&watch)?["trigger"], 41);
    Ok(())
}

#[test]
fn a_line_that_ends_decides_what_is_still_open() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let mut sandbox = start(&broker, "trigger = \"mqtt\"", &format!("{BLACK}\nwindow = \"15s\""))?;
    Trigger::connect(broker.port())?.tell("linewarden/belt/trigger", "3")?;
    sandbox.wait_metric("linewarden_part_open{line=\"belt\"}", |open| open == 1.0)?;
    sandbox.terminate()?;
    let decision = decision(&watch)?;
    assert_eq!(decision["trigger"], 3, "{decision}");
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    assert!(watch.arrived().is_empty(), "one decision a part, at the end too");
    Ok(())
}

/// A PLC of somebody else's: pymodbus.
#[cfg(feature = "modbus")]
#[test]
fn a_plc_over_modbus_opens_a_part_when_its_input_rises_or_its_register_counts() -> Result<()> {
    use std::path::Path;

    use linewarden_testkit::broker::free_port;
    use linewarden_testkit::peers::Peer;
    use serde_json::json;

    let broker = Mosquitto::start()?;
    let port = free_port()?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/modbus_plc.py");
    let mut plc = Peer::start(&program, &[&port.to_string()])?;
    plc.hear(SOON)?;
    let watch = broker.subscribe("linewarden/belt/decision")?;
    let parts = |point: &str| format!("trigger = \"modbus\"\nmodbus = {{ address = \"127.0.0.1:{port}\", {point} }}");
    {
        let _by_input = start(&broker, &parts("discrete_input = 16, poll = \"2ms\""), BLACK)?;
        plc.hear_where(SOON, |told| told["read"] == false)?;
        for number in 0..3 {
            plc.tell(&json!({"input": true}))?;
            assert_eq!(decision(&watch)?["trigger"], number);
            plc.tell(&json!({"input": false}))?;
            plc.hear_where(SOON, |told| told["read"] == false)?;
            assert!(watch.arrived().is_empty(), "an input that stays on is one part");
        }
    }
    let by_register = start(&broker, &parts("input_register = 7"), BLACK)?;
    for number in [1, 2, 5] {
        plc.tell(&json!({ "count": number }))?;
        let decision = decision(&watch)?;
        assert_eq!((&decision["trigger"], &decision["verdict"]), (&json!(number), &json!("pass")), "{decision}");
    }
    by_register
        .wait_metric("linewarden_part_note_total{line=\"belt\",reason=\"missed_trigger\"}", |missed| missed == 2.0)?;
    drop(plc);
    by_register.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |connected| connected == 0.0)?;
    Ok(())
}

/// A light barrier needs a machine with GPIO lines; what can be seen everywhere is what becomes of one that is not there.
#[test]
fn a_digital_line_that_is_not_there_is_told_once_and_stops_no_frame() -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Classification)?;
    sandbox.start(&config(&broker, "trigger = \"digital\"\ndigital = { chip = \"/dev/null\", line = 17 }", BLACK))?;
    sandbox.wait_ready()?;
    let frames = "linewarden_stage_duration_seconds_count{camera=\"top\",line=\"belt\",stage=\"total\"}";
    sandbox.wait_metric(frames, |frames| frames >= 50.0)?;
    let told = sandbox.logged("triggers are not heard")?.context("nothing was told")?;
    let error = told["error"].as_str().context("an error")?;
    ensure!(error.starts_with("cannot use line 17 of /dev/null: "), "{error}");
    let log = sandbox.log()?;
    assert_eq!(log.matches("triggers are not heard").count(), 1, "{log}");
    assert_eq!(sandbox.metric("linewarden_trigger_connected{line=\"belt\"}")?, 0.0);
    Ok(())
}
