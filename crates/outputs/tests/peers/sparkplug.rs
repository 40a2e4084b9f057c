//! Sparkplug B against a host application on pysparkplug, through a real mosquitto.

use std::time::Duration;

use linewarden_core::Verdict;
use linewarden_outputs::sparkplug::SparkplugConfig;
use linewarden_outputs::{LineOutputs, Outputs, OutputsConfig};
use linewarden_publish::PublisherConfig;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::peers::Peer;
use serde_json::{Value, json};

use crate::support::{PATIENCE, decision, peer};

fn start(broker: &Mosquitto, primary_host: Option<&str>) -> (Outputs, LineOutputs) {
    let sparkplug = SparkplugConfig {
        connection: PublisherConfig::new(broker.url().parse().unwrap(), "line"),
        group: "plant".to_owned(),
        node: "cell".to_owned(),
        primary_host: primary_host.map(str::to_owned),
        buffer: 5,
        heartbeat_interval: Duration::from_millis(50),
    };
    let lines = vec!["cap".to_owned(), "label".to_owned()];
    let config = OutputsConfig { lines, sparkplug: Some(sparkplug), ..OutputsConfig::default() };
    let outputs = Outputs::start(config).unwrap();
    let line = outputs.line("cap");
    line.state("running");
    (outputs, line)
}

fn host(broker: &Mosquitto) -> Peer {
    let host = peer("sparkplug_host.py", &[&broker.port().to_string(), "plant", "scada"]);
    assert_eq!(host.hear(PATIENCE).unwrap()["kind"], "ready");
    host
}

/// The next message that is wanted; none before it may break a rule.
fn next(host: &Peer, is_wanted: impl Fn(&Value) -> bool) -> Value {
    host.hear_where(PATIENCE, |message| {
        assert_eq!(message["faults"], json!([]), "{message}");
        is_wanted(message)
    })
    .unwrap()
}

fn next_kind(host: &Peer, kind: &str) -> Value {
    next(host, |message| message["kind"] == kind)
}

fn is_part(part: u64) -> impl Fn(&Value) -> bool {
    let part = part.to_string();
    move |message| message["metrics"]["Decision/Part"] == part.as_str()
}

#[test]
fn a_host_reads_births_decisions_and_a_death_under_one_unbroken_sequence() {
    let broker = Mosquitto::start().unwrap();
    let host = host(&broker);
    let (outputs, line) = start(&broker, None);
    let birth = next_kind(&host, "NBIRTH");
    assert_eq!(birth["metrics"]["bdSeq"], "0", "{birth}");
    for device in ["cap", "label"] {
        let birth = next_kind(&host, "DBIRTH");
        assert_eq!((&birth["device"], &birth["aliases"]), (&json!(device), &json!(true)), "{birth}");
    }
    // More than one turn of the sequence number.
    for part in 0..600 {
        line.decided(&decision(part, if part % 2 == 0 { Verdict::Reject } else { Verdict::Pass }, PATIENCE));
        if part % 100 == 99 {
            let last = next(&host, is_part(part));
            assert_eq!((&last["metrics"]["Decision/Verdict"], &last["historical"]), (&json!("pass"), &json!(false)));
            assert_eq!(last["metrics"]["Decision/Trigger"], (part + 1000).to_string());
        }
    }
    line.state("stopped");
    assert_eq!(next_kind(&host, "DDEATH")["device"], "cap");
    assert!(outputs.stop(PATIENCE));
    next_kind(&host, "NDEATH");
}

#[test]
fn a_rebirth_on_request_and_after_the_broker_s_return_tells_everything_again() {
    let mut broker = Mosquitto::start().unwrap();
    let mut host = host(&broker);
    let (_outputs, line) = start(&broker, None);
    next_kind(&host, "NBIRTH");
    host.tell(&json!({"do": "rebirth", "node": "cell"})).unwrap();
    assert_eq!(next_kind(&host, "NBIRTH")["metrics"]["bdSeq"], "0", "the connection is the same");
    assert_eq!(next_kind(&host, "DBIRTH")["device"], "cap");
    line.decided(&decision(1, Verdict::Pass, PATIENCE));
    assert_eq!(next(&host, is_part(1))["historical"], false);
    broker.kill().unwrap();
    broker.restart().unwrap();
    // Whichever of the two is back first: the host asks when it is.
    let bd_seq = |message: &Value| message["metrics"]["bdSeq"].as_str().unwrap().parse::<u64>().unwrap();
    while host.hear(Duration::from_secs(2)).is_ok_and(|message| message["kind"] != "NBIRTH") {}
    host.tell(&json!({"do": "rebirth", "node": "cell"})).unwrap();
    let birth = next_kind(&host, "NBIRTH");
    assert!(bd_seq(&birth) > 0, "{birth}");
    line.decided(&decision(2, Verdict::Reject, PATIENCE));
    next(&host, is_part(2));
}

#[test]
fn without_its_primary_host_the_node_waits_and_what_it_held_back_is_history() {
    let broker = Mosquitto::start().unwrap();
    let mut host = host(&broker);
    let (outputs, line) = start(&broker, Some("scada"));
    for part in 1..=7 {
        line.decided(&decision(part, Verdict::Reject, PATIENCE));
    }
    host.tell(&json!({"do": "state", "online": true})).unwrap();
    // It was not born before: that is the first thing the host hears of it.
    assert_eq!(host.hear(PATIENCE).unwrap()["kind"], "NBIRTH");
    for part in 3..=7 {
        assert_eq!(next_kind(&host, "DDATA")["metrics"]["Decision/Part"], part.to_string(), "the oldest two fell out");
    }
    line.decided(&decision(8, Verdict::Pass, PATIENCE));
    assert_eq!(next(&host, is_part(8))["historical"], false);
    assert_eq!(outputs.stats()[0].1.expired, 5);

    host.tell(&json!({"do": "state", "online": false})).unwrap();
    next_kind(&host, "NDEATH");
    line.decided(&decision(9, Verdict::Reject, PATIENCE));
    host.tell(&json!({"do": "state", "online": true})).unwrap();
    assert_eq!(next_kind(&host, "NBIRTH")["metrics"]["bdSeq"], "1", "a new connection");
    let held = next(&host, is_part(9));
    assert_eq!(held["historical"], true);
}

#[test]
fn a_node_that_vanishes_is_declared_dead_by_its_will() {
    let broker = Mosquitto::start().unwrap();
    let cable = linewarden_testkit::broker::Proxy::start(broker.port()).unwrap();
    let host = host(&broker);
    let connection = PublisherConfig::new(format!("mqtt://127.0.0.1:{}", cable.port()).parse().unwrap(), "line");
    let sparkplug = SparkplugConfig {
        connection,
        group: "plant".to_owned(),
        node: "cell".to_owned(),
        primary_host: None,
        buffer: 5,
        heartbeat_interval: Duration::from_millis(50),
    };
    let lines = vec!["cap".to_owned()];
    let _outputs =
        Outputs::start(OutputsConfig { lines, sparkplug: Some(sparkplug), ..OutputsConfig::default() }).unwrap();
    next_kind(&host, "NBIRTH");
    cable.cut();
    assert_eq!(next_kind(&host, "NDEATH")["metrics"]["bdSeq"], "0");
    assert_eq!(next_kind(&host, "NBIRTH")["metrics"]["bdSeq"], "1");
}
