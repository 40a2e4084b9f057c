//! Known parts, announced by the command line and over MQTT; and challenges that nobody runs.

use anyhow::{Context as _, Result, ensure};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::support::{DARK, SOON, Site, camera};

const QUIET: &str = "drift = { watch = false }\nreject_chart = { window = 20, usual_share = 0.02 }";

fn line(challenge: &str) -> String {
    format!("model = \"models/plain\"\n{QUIET}\n{challenge}\n{}", camera("top"))
}

fn call(site: &Site, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = site.sandbox.call(&[&["challenge"], arguments].concat())?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

#[test]
fn a_challenge_passes_or_fails_by_what_was_expected_and_is_on_record() -> Result<()> {
    let site = Site::start(DARK, "", &line(""))?;
    site.sandbox.wait_ready()?;
    let start = ["start", "--line", "cap", "--wait"];
    let (code, told, error) =
        call(&site, &[&start[..], &["--name", "shift 1", "--expect", "pass,pass,pass"]].concat())?;
    ensure!(code == Some(0), "{error}");
    assert!(told.starts_with("line cap: challenge `shift 1` passed at ") && told.ends_with(": 3 parts\n"), "{told}");
    let passed = site.next("challenge", |outcome| outcome["name"] == "shift 1")?;
    assert_eq!((&passed["result"], &passed["schema"], &passed["line"]), (&json!("passed"), &json!(1), &json!("cap")));
    assert_eq!(passed["model"]["version"], "1");

    // The gate's decisions of the challenge's parts are like all others.
    let parts: Vec<u64> =
        passed["parts"].as_array().context("parts")?.iter().filter_map(|part| part["part"].as_u64()).collect();
    assert_eq!(parts, (parts[0]..parts[0] + 3).collect::<Vec<_>>());

    let (code, told, error) =
        call(&site, &[&start[..], &["--name", "shift 2", "--expect", "pass,reject,reject", "--json"]].concat())?;
    assert_eq!((code, error.contains("the challenge failed")), (Some(1), true), "{error}");
    let failed: Value = serde_json::from_str(&told)?;
    assert_eq!(
        (&failed["result"], &failed["missed"], &failed["false_rejects"]),
        (&json!("failed"), &json!(2), &json!(0))
    );
    site.next_alarms(&["challenge_failed"])?;
    let total = |result: &str| site.metric(&format!("challenge_total{{line=\"cap\",result=\"{result}\"}}"));
    assert_eq!((total("passed")?, total("failed")?), (1.0, 1.0));

    let (notes, kept) = site.end()?;
    let on_record: Vec<_> =
        notes.iter().map(|note| (&note["challenge"]["name"], &note["challenge"]["result"])).collect();
    assert_eq!(on_record, [(&json!("shift 1"), &json!("passed")), (&json!("shift 2"), &json!("failed"))]);
    let causes: Vec<_> = kept.iter().map(|part| (&part["cause"], &part["part"]["challenge"])).collect();
    let parts_of = |name: &str| causes.iter().filter(|part| **part == (&json!("challenge"), &json!(name))).count();
    assert_eq!((parts_of("shift 1"), parts_of("shift 2"), causes.len()), (3, 3, 6), "with their pictures");
    Ok(())
}

#[test]
fn on_a_line_with_parts_a_challenge_counts_parts_and_not_their_frames() -> Result<()> {
    // Five parts a second, each seen for a tenth: half of the frames show the belt.
    let parts = "parts = { trigger = \"rate\", rate = 5.0 }";
    let site = Site::start(DARK, "", &format!("model = \"models/trained\"\n{parts}\n{}", camera("top")))?;
    site.sandbox
        .wait_metric("linewarden_part_note_total{line=\"cap\",reason=\"stray_frame\"}", |strays| strays > 0.0)?;
    let (code, _, error) = call(&site, &["start", "--line", "cap", "--expect", "pass,pass", "--wait"])?;
    ensure!(code == Some(0), "{error}");
    let passed = site.next("challenge", |_| true)?;
    let first = passed["parts"][0]["part"].as_u64().context("a part")?;
    assert_eq!(passed["parts"][1]["part"], first + 1, "{passed}");
    let (_, kept) = site.end()?;
    let frames = |part: &Value| part["part"]["frames"].as_array().map_or(0, Vec::len);
    assert_eq!(kept.iter().filter(|part| part["cause"] == "challenge" && frames(part) > 1).count(), 2, "{kept:?}");
    Ok(())
}

#[test]
fn what_is_no_challenge_is_refused_and_one_that_nobody_runs_fails_in_its_time() -> Result<()> {
    let still = camera("top").replace("rate = 100", "rate = 0.01");
    let site = Site::start(DARK, "", &format!("model = \"models/plain\"\n{still}"))?;
    // The one picture of these minutes.
    site.next("decision", |_| true)?;
    let start = ["start", "--line", "cap"];
    let table = [
        (vec!["--expect", "pass,good"], 2, "got `good`"),
        (vec!["--expect", "pass", "--within", "soon"], 2, "`within` must be"),
        (vec!["--expect", "pass", "--name", ""], 2, "`name` must be"),
    ];
    for (arguments, expected, part) in table {
        let (code, _, error) = call(&site, &[&start[..], &arguments].concat())?;
        assert_eq!((code, error.contains(part)), (Some(expected), true), "{error}");
    }
    let (code, _, error) = call(&site, &["start", "--line", "cup", "--expect", "pass"])?;
    assert_eq!((code, error.contains("lines are cap")), (Some(2), true), "{error}");

    let (code, told, error) = call(&site, &[&start[..], &["--expect", "pass,reject", "--within", "3s"]].concat())?;
    ensure!(code == Some(0), "{error}");
    assert!(told.starts_with("line cap: the next 2 parts are challenge `challenge`, until "), "{told}");
    let (code, _, error) = call(&site, &[&start[..], &["--expect", "pass"]].concat())?;
    assert_eq!((code, error.contains("challenge `challenge` is still running")), (Some(1), true), "{error}");
    let failed = site.next("challenge", |_| true)?;
    assert_eq!((&failed["result"], &failed["not_run"]), (&json!("failed"), &json!(2)));
    assert_eq!(failed["parts"][1], json!({ "expected": "reject", "part": null, "verdict": null }));
    let (code, told, _) = call(&site, &["status", "--line", "cap"])?;
    assert_eq!((code, told.contains("failed at") && told.contains("2 not run in time")), (Some(0), true), "{told}");

    // Half a challenge by one model and half by another proves nothing of either.
    let (code, _, error) = call(&site, &[&start[..], &["--expect", "pass", "--name", "cut short"]].concat())?;
    ensure!(code == Some(0), "{error}");
    let swap = site.sandbox.call(&["model", "swap", "--line", "cap", "models/trained"])?;
    ensure!(swap.status.success(), "{}", String::from_utf8_lossy(&swap.stderr));
    let failed = site.next("challenge", |outcome| outcome["name"] == "cut short")?;
    assert_eq!((&failed["not_run"], &failed["model"]["version"]), (&json!(1), &json!("1")));
    site.end().map(drop)
}

#[test]
fn a_challenge_over_mqtt_ends_what_is_overdue_until_the_next_is_due() -> Result<()> {
    let commands = "commands = true\nmodels = \"models\"";
    let site = Site::start(DARK, commands, &line("challenge = { required_every = \"2s\" }"))?;
    // Nothing is proven of a line that has just started.
    site.next_alarms(&["challenge_overdue"])?;
    assert_eq!(site.metric("challenge_overdue{line=\"cap\"}")?, 1.0);
    site.wait_logged("commands are heard")?;
    let refused = ask(&site, json!({ "command": "challenge", "id": 1, "expect": [] }))?;
    assert_eq!((&refused["ok"], &refused["challenge"]), (&json!(false), &Value::Null));
    assert!(refused["error"].as_str().context("error")?.contains("`expect` must hold 1 to 1000"), "{refused}");

    let announced = ask(
        &site,
        json!({ "command": "challenge", "id": 2, "name": "shift", "expect": ["pass", "pass"], "within": "1min" }),
    )?;
    assert_eq!((&announced["ok"], &announced["challenge"]["name"]), (&json!(true), &json!("shift")), "{announced}");
    site.next_alarms(&[])?;
    let state = site.next_alarms(&["challenge_overdue"])?;
    assert_eq!(state["line_state"], "running");
    assert_eq!(site.metric("challenge_total{line=\"cap\",result=\"passed\"}")?, 1.0);
    site.end().map(drop)
}

/// Publishes a command and gives its answer.
fn ask(site: &Site, command: Value) -> Result<Value> {
    let answers = site.broker.subscribe("linewarden/cap/command/reply")?;
    let (client, mut connection) = Client::new(MqttOptions::new("operator", "127.0.0.1", site.broker.port()), 4);
    client.publish("linewarden/cap/command", QoS::AtLeastOnce, false, command.to_string())?;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event? {
            break;
        }
    }
    let is_it = |answer: &Value| answer["id"] == command["id"];
    answers.next_where(SOON, |message| message.json().is_ok_and(|answer| is_it(&answer)))?.json()
}
