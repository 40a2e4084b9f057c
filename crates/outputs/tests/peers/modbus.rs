//! Modbus with pymodbus, as a PLC that polls and as a PLC that is written to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use linewarden_core::{Action, Decision, Verdict};
use linewarden_outputs::modbus::{ClientConfig, ModbusConfig, ModbusRole, Show, WordOrder};
use linewarden_outputs::{OutputError, OutputStats, Outputs, OutputsConfig};
use linewarden_testkit::broker::free_port;
use linewarden_testkit::peers::Peer;
use serde_json::{Value, json};

use crate::support::{PATIENCE, decision, peer};

fn config(role: ModbusRole, show: Show) -> OutputsConfig {
    let heartbeat_interval = Duration::from_millis(20);
    let modbus = ModbusConfig { role, show, word_order: WordOrder::HighFirst, heartbeat_interval };
    OutputsConfig {
        lines: vec!["cap".to_owned()],
        modbus: vec![("cap".to_owned(), modbus)],
        ..OutputsConfig::default()
    }
}

/// A server of ours, and its port.
fn server(show: Show) -> (Outputs, u16) {
    let port = free_port().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    (Outputs::start(config(ModbusRole::Server { listen }, show)).unwrap(), port)
}

fn stats(outputs: &Outputs) -> OutputStats {
    outputs.stats()[0].1
}

/// Looks until the picture is as wanted.
fn look_until(plc: &mut Peer, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let picture = plc.ask(&json!({"do": "look"}), PATIENCE).unwrap();
        if is_wanted(&picture) {
            return picture;
        }
        assert!(Instant::now() < deadline, "{picture}");
    }
}

#[test]
fn a_plc_that_polls_acts_on_every_decision_once_and_in_order() {
    let (outputs, port) = server(Show::Acknowledged);
    let line = outputs.line("cap");
    line.state("running");
    let mut plc = peer("modbus_client.py", &[&port.to_string()]);
    plc.tell(&json!({"do": "work", "parts": 200})).unwrap();
    let expected: Vec<(u64, Verdict)> =
        (0..200).map(|part| (part, if part % 7 == 0 { Verdict::Reject } else { Verdict::Pass })).collect();
    for &(part, verdict) in &expected {
        line.decided(&decision(part, verdict, PATIENCE));
    }
    let seen = plc.hear(PATIENCE).unwrap();
    let last = seen[199]["number"].clone();
    let seen: Vec<(u64, bool, u64)> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["part"].as_u64().unwrap(), one["reject"].as_bool().unwrap(), one["trigger"].as_u64().unwrap()))
        .collect();
    let expected: Vec<_> =
        expected.iter().map(|&(part, verdict)| (part, verdict == Verdict::Reject, part + 1000)).collect();
    assert_eq!(seen, expected);
    let picture = look_until(&mut plc, |picture| picture["fresh"] == false);
    assert_eq!(picture["acknowledged"], last, "{picture}");
    assert_eq!((&picture["fresh"], &picture["total"], &picture["state"]), (&json!(false), &json!(200), &json!(2)));
    let now = stats(&outputs);
    assert_eq!((now.delivered, now.unacknowledged, now.dropped, now.connected), (200, 0, 0, 1));
    assert!(outputs.stop(PATIENCE));
}

#[test]
fn what_nobody_acknowledges_goes_dark_in_time_and_the_heartbeat_goes_on() {
    let (outputs, port) = server(Show::Acknowledged);
    let line = outputs.line("cap");
    let mut plc = peer("modbus_client.py", &[&port.to_string()]);
    look_until(&mut plc, |picture| picture["fresh"] == false);
    line.decided(&decision(5, Verdict::Reject, Duration::from_millis(300)));
    let shown = look_until(&mut plc, |picture| picture["reject"] == true);
    let until_gate = shown["until_gate_ms"].as_u64().unwrap();
    assert!((1..=300).contains(&until_gate) && shown["live_ms"].as_u64().unwrap() <= 300, "{shown}");
    let dark = look_until(&mut plc, |picture| picture["fresh"] == false);
    assert_eq!((&dark["part"], &dark["verdict"], &dark["unacknowledged"]), (&json!(0), &json!(0), &json!(1)));
    look_until(&mut plc, |picture| picture["heartbeat"].as_u64() > dark["heartbeat"].as_u64().map(|beat| beat + 3));
    // Its time has passed before anybody could see it.
    line.decided(&decision(6, Verdict::Reject, Duration::ZERO));
    look_until(&mut plc, |picture| picture["total"] == 2);
    assert_eq!(stats(&outputs).expired, 1);
    assert_eq!(plc.ask(&json!({"do": "coils"}), PATIENCE).unwrap()[0], false);
}

#[test]
fn a_stop_is_seen_by_coil_and_input_until_it_is_acknowledged_and_wrong_requests_are_refused() {
    let (outputs, port) = server(Show::Acknowledged);
    let line = outputs.line("cap");
    let mut plc = peer("modbus_client.py", &[&port.to_string()]);
    let stop = Decision { action: Action::Stop, ..decision(1, Verdict::Unknown, Duration::from_millis(1)) };
    line.decided(&stop);
    look_until(&mut plc, |picture| picture["total"] == 1 && picture["fresh"] == false);
    for word in ["coils", "inputs"] {
        assert_eq!(plc.ask(&json!({"do": word}), PATIENCE).unwrap()[5], true);
    }
    let number = plc.ask(&json!({"do": "look"}), PATIENCE).unwrap()["stop"].clone();
    let picture = plc.ask(&json!({"do": "readwrite", "number": number}), PATIENCE).unwrap();
    assert_eq!((&picture[38], &picture[39], &picture[7]), (&json!(0), &json!(0), &number), "{picture}");
    assert_eq!(plc.ask(&json!({"do": "coils"}), PATIENCE).unwrap()[5], false);
    // Illegal address, address, function, address.
    assert_eq!(plc.ask(&json!({"do": "wrong"}), PATIENCE).unwrap(), json!([2, 2, 1, 2]));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (_outputs, port) = server(Show::Acknowledged);
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let error = Outputs::start(config(ModbusRole::Server { listen }, Show::Acknowledged)).unwrap_err();
    assert!(matches!(error, OutputError::Listen { address, .. } if address == listen), "{error}");
}

fn client(port: u16) -> ModbusRole {
    ModbusRole::Client(ClientConfig {
        connect: format!("127.0.0.1:{port}"),
        unit: 1,
        coils_at: Some(10),
        registers_at: Some(200),
        acknowledge_at: Some(300),
        poll: Duration::from_millis(5),
        timeout: Duration::from_secs(2),
    })
}

fn plc(port: u16) -> Peer {
    let plc = peer("modbus_server.py", &[&port.to_string()]);
    assert_eq!(plc.hear(PATIENCE).unwrap(), json!({"listening": true}));
    plc
}

#[test]
fn a_plc_that_is_written_to_sees_numbers_before_coils_and_acknowledges_one_by_one() {
    let port = free_port().unwrap();
    let mut plc = plc(port);
    let outputs = Outputs::start(config(client(port), Show::Acknowledged)).unwrap();
    let line = outputs.line("cap");
    line.state("running");
    for part in 1..=3 {
        line.decided(&decision(part, Verdict::Reject, PATIENCE));
    }
    for part in 1..=3 {
        let on = plc.hear_where(PATIENCE, |write| write["coils"][3] == true && write["part"] == part).unwrap();
        assert_eq!((&on["coils"][0], &on["verdict"]), (&json!(true), &json!(2)));
        plc.tell(&json!({"acknowledge": on["number"]})).unwrap();
        // Between two decisions the coils fall, so that an edge is seen.
        plc.hear_where(PATIENCE, |write| write["coils"][0] == false).unwrap();
    }
    assert!(outputs.stop(PATIENCE));
    let end = plc.hear_where(PATIENCE, |write| write["coils"][4] == false).unwrap();
    assert_eq!(end["coils"][0], false, "{end}");
}

#[test]
fn a_plc_that_comes_back_gets_the_picture_of_that_moment_and_nothing_that_is_over() {
    let port = free_port().unwrap();
    let outputs = Outputs::start(config(client(port), Show::Acknowledged)).unwrap();
    let line = outputs.line("cap");
    // Nobody is there yet: one is over by then, one is not.
    line.decided(&decision(1, Verdict::Reject, Duration::from_millis(1)));
    line.decided(&decision(2, Verdict::Reject, PATIENCE));
    let first = plc(port);
    let seen = first.hear_where(PATIENCE, |write| write["coils"][3] == true).unwrap();
    assert_eq!(seen["part"], 2);
    drop(first);
    let second = plc(port);
    let seen = second.hear_where(PATIENCE, |write| write["coils"][3] == true).unwrap();
    assert_eq!(seen["part"], 2, "it was never acknowledged");
    let now = stats(&outputs);
    assert_eq!(now.expired + now.unacknowledged, 1, "{now:?}");
}

#[test]
fn a_pulse_needs_no_acknowledgement() {
    let port = free_port().unwrap();
    let plc = plc(port);
    let outputs = Outputs::start(config(client(port), Show::Pulse(Duration::from_millis(60)))).unwrap();
    let line = outputs.line("cap");
    line.decided(&decision(1, Verdict::Reject, PATIENCE));
    line.decided(&decision(2, Verdict::Pass, PATIENCE));
    let mut edges = Vec::new();
    let mut before = json!(false);
    while edges.len() < 4 {
        let write = plc.hear(PATIENCE).unwrap();
        if write["coils"][3] != before {
            before = write["coils"][3].clone();
            edges.push((write["coils"][0].clone(), write["coils"][1].clone()));
        }
    }
    let dark = (json!(false), json!(false));
    assert_eq!(edges, [(json!(true), json!(false)), dark.clone(), (json!(false), json!(true)), dark]);
}
