//! More frames than the model can score: what falls out is what was configured, and every part still gets its decision.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::model::slow_package;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::plc::{Belt, alone, hear, trigger_parts};

/// Some 75 ms a frame on an idle machine, for a camera that brings one each 33 ms.
const WORK: usize = 48;
/// Longer than the way to the gate.
const FAR_TOO_MUCH_WORK: usize = 128;
const PARTS_A_SECOND: f64 = 4.0;
const PARTS: u64 = 24;

fn config(broker: &Mosquitto, belt: Belt, on_unknown: &str, delay: &str, queue: &str) -> String {
    let (start, rate) = (belt.start.as_microsecond(), belt.parts_a_second);
    format!(
        "[mqtt]\nbroker = \"{}\"\n[[line]]\nname = \"belt\"\nmodel = \"model\"\ndevice = \"cpu\"\n\
         decision = {{ on_unknown = \"{on_unknown}\" }}\n[line.parts]\ntrigger = \"mqtt\"\n\
         [line.gate]\ndelay = \"{delay}\"\ndecide_before = \"50ms\"\n\
         [[line.camera]]\nname = \"top\"\nlive = true\nwindow = \"150ms\"\nqueue = {{ {queue} }}\n\
         launch = \"syntheticline width=64 height=64 rate={rate} frame-rate=30 belt-start={start}\"\n",
        broker.url()
    )
}

#[test]
fn a_model_that_is_too_slow_costs_frames_but_no_decision_and_no_deadline() -> Result<()> {
    for queue in ["frames = 2, drop = \"oldest\"", "frames = 3, drop = \"newest\""] {
        overload(queue).context(queue)?;
    }
    Ok(())
}

fn overload(queue: &str) -> Result<()> {
    let _alone = alone();
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/belt/#")?;
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    slow_package(&sandbox.path("model"), 64, 64, WORK)?;
    let belt = Belt { start: Timestamp::now(), parts_a_second: PARTS_A_SECOND };
    sandbox.start(&config(&broker, belt, "stop", "800ms", queue))?;
    sandbox.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |value| value == 1.0)?;
    let full = "linewarden_frame_dropped_total{camera=\"top\",line=\"belt\",reason=\"queue_full\"}";
    sandbox.wait_metric(full, |dropped| dropped > 0.0)?;

    let first = belt.first_after(Duration::from_millis(300));
    let parts = first..first + PARTS;
    let decisions = broker.subscribe("linewarden/belt/decision")?;
    let plc = trigger_parts(broker.port(), "linewarden/belt/trigger", belt, parts.clone());
    let heard = hear(&decisions, &parts, Duration::from_secs(10)).with_context(|| sandbox.log().unwrap_or_default())?;
    plc.join().unwrap()?;
    for (part, heard) in &heard {
        ensure!(heard.is_in_time(), "{part} came late, at {}: {}", heard.came, heard.decision);
        // The belt is dark: the model never rejects.
        let expected = match heard.verdict() {
            "pass" => "pass",
            "unknown" => "stop",
            other => anyhow::bail!("{part} is {other}: {}", heard.decision),
        };
        ensure!(heard.decision["action"] == expected, "{}", heard.decision);
        let reasons = ["normal", "overload", "deadline"];
        ensure!(reasons.contains(&heard.reason()), "{part}: {}", heard.decision);
    }
    let undecided = heard.values().filter(|heard| heard.verdict() == "unknown").count();
    let states: Vec<_> = watch.arrived().into_iter().filter(|message| message.topic.ends_with("/state")).collect();
    let asked = states.iter().any(|state| state.json().is_ok_and(|state| state["line_state"] == "stop_requested"));
    assert_eq!(asked, undecided > 0, "the state asks to stop when a decision does");
    assert_eq!(sandbox.metric("linewarden_part_total{line=\"belt\"}")?, PARTS as f64);
    Ok(())
}

/// One frame alone takes longer than the way to the gate.
#[test]
fn a_model_that_never_answers_in_time_leaves_every_part_to_the_policy() -> Result<()> {
    let _alone = alone();
    let broker = Mosquitto::start()?;
    let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    slow_package(&sandbox.path("model"), 64, 64, FAR_TOO_MUCH_WORK)?;
    let belt = Belt { start: Timestamp::now(), parts_a_second: PARTS_A_SECOND };
    sandbox.start(&config(&broker, belt, "reject", "260ms", "frames = 4"))?;
    sandbox.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |value| value == 1.0)?;
    let full = "linewarden_frame_dropped_total{camera=\"top\",line=\"belt\",reason=\"queue_full\"}";
    sandbox.wait_metric(full, |dropped| dropped > 0.0)?;
    let first = belt.first_after(Duration::from_millis(300));
    let parts = first..first + 6;
    let decisions = broker.subscribe("linewarden/belt/decision")?;
    let plc = trigger_parts(broker.port(), "linewarden/belt/trigger", belt, parts.clone());
    let heard = hear(&decisions, &parts, Duration::from_secs(10)).with_context(|| sandbox.log().unwrap_or_default())?;
    plc.join().unwrap()?;
    for heard in heard.values() {
        ensure!(heard.is_in_time(), "{}", heard.decision);
        ensure!(heard.verdict() == "reject" && heard.decision["action"] == "reject", "{}", heard.decision);
        ensure!(["overload", "deadline"].contains(&heard.reason()), "{}", heard.decision);
    }
    assert_eq!(sandbox.metric("linewarden_deadline_missed_total{line=\"belt\"}")?, 6.0);
    Ok(())
}
