//! The gate's acknowledgements: its own topic, in each of its forms, and the alarm when it keeps silent.

use std::time::Duration;

use crate::support::{Events, PATIENCE, config, decision, field, start};
use linewarden_core::{Action, Decision, Verdict};
use linewarden_publish::{GateStats, MqttVersion, PublishEvent, Publisher, PublisherConfig, Qos};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions, Subscriber};
use rumqttc::{Client, MqttOptions, QoS};

const LONG: Duration = Duration::from_secs(60);

/// The PLC's side, as plain as a PLC.
struct Plc {
    client: Client,
    decisions: Subscriber,
}

impl Plc {
    fn connect(broker: &Mosquitto) -> Self {
        let options = MqttOptions::new("plc", "127.0.0.1", broker.port());
        let (client, mut connection) = Client::new(options, 16);
        std::thread::spawn(move || connection.iter().take_while(Result::is_ok).for_each(drop));
        Self { client, decisions: broker.subscribe("linewarden/line1/decision").unwrap() }
    }

    fn answer(&self, text: &str) {
        self.client.publish("plant/line1/ack", QoS::AtLeastOnce, false, text).unwrap();
    }

    fn next_id(&self) -> String {
        let decision = self.decisions.next_message(PATIENCE).unwrap();
        field(&decision, "id").as_str().unwrap().to_owned()
    }
}

fn acknowledged(broker: &Mosquitto, change: impl FnOnce(&mut PublisherConfig)) -> (Publisher, Events) {
    let mut config = PublisherConfig {
        ack_topic: Some("plant/{line}/ack".to_owned()),
        ack_timeout: Duration::from_millis(400),
        ..config(&broker.url())
    };
    change(&mut config);
    start(config)
}

#[test]
fn a_gate_that_answers_is_timed_and_one_that_does_not_raises_the_alarm() {
    for version in [MqttVersion::V3_1_1, MqttVersion::V5] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            answers_and_silence(version, qos);
        }
    }
}

fn answers_and_silence(version: MqttVersion, qos: Qos) {
    let broker = Mosquitto::start().unwrap();
    let plc = Plc::connect(&broker);
    let states = broker.subscribe("linewarden/line1/state").unwrap();
    let (publisher, events) = acknowledged(&broker, |config| (config.version, config.qos) = (version, qos));
    events.wait_connected();
    let boot_id = publisher.boot_id();
    let forms = ["{boot}-d-{seq}", r#"{"id":"{boot}-d-{seq}"}"#, r#"{"boot_id":"{boot}","seq":{seq}}"#];
    for (seq, form) in (1..).zip(forms) {
        assert_eq!(publisher.decision(&decision(seq, LONG)), Some(seq));
        assert_eq!(plc.next_id(), format!("{boot_id}-d-{seq}"));
        plc.answer(&form.replace("{boot}", &boot_id.to_string()).replace("{seq}", &seq.to_string()));
        let answered = events.wait_for(|event| matches!(event, PublishEvent::GateAcknowledged { .. }));
        let PublishEvent::GateAcknowledged { id, latency } = answered else { unreachable!("waited for this one") };
        assert_eq!(id, format!("{boot_id}-d-{seq}"));
        assert!(latency < Duration::from_millis(400), "{latency:?}");
    }
    // A part that passes asks for nothing, and nonsense harms nobody.
    let pass = Decision { verdict: Verdict::Pass, action: Action::Pass, ..decision(4, LONG) };
    publisher.decision(&pass).unwrap();
    ["", "what?", "{}", "0-d-1"].iter().for_each(|nonsense| plc.answer(nonsense));
    publisher.decision(&decision(5, LONG)).unwrap();
    let missed = events.wait_for(|event| matches!(event, PublishEvent::GateUnacknowledged { .. }));
    assert_eq!(missed, PublishEvent::GateUnacknowledged { id: format!("{boot_id}-d-5") });
    let alarmed = GateStats { acknowledged: 3, unacknowledged: 1, waiting: 0, alarm: true };
    assert_eq!(publisher.stats().gate, Some(alarmed));
    let state = states.next_where(PATIENCE, |state| field(state, "gate.alarm") == true).unwrap();
    assert_eq!(field(&state, "gate.unacknowledged"), 1);

    publisher.decision(&decision(6, LONG)).unwrap();
    plc.answer(&format!("{boot_id}-d-6"));
    states.next_where(PATIENCE, |state| field(state, "gate.alarm") == false).unwrap();
    assert!(publisher.stop(PATIENCE));
}

#[test]
fn a_lasting_session_brings_the_answers_that_came_while_the_cable_was_cut() {
    for version in [MqttVersion::V3_1_1, MqttVersion::V5] {
        let options = MosquittoOptions { persistence: true, ..MosquittoOptions::default() };
        let mut broker = Mosquitto::start_with(&options).unwrap();
        let lasting = |config: &mut PublisherConfig| {
            config.version = version;
            config.session_expiry = Some(Duration::from_secs(600));
            config.ack_timeout = Duration::from_secs(30);
        };
        let (publisher, events) = acknowledged(&broker, lasting);
        events.wait_connected();
        publisher.decision(&decision(1, LONG)).unwrap();
        assert!(publisher.drain(PATIENCE));
        // Its subscription is older than the decision, or the broker would not have acknowledged the decision after it.
        let cable_is_cut = broker.freeze();
        cable_is_cut.unwrap();
        broker.thaw().unwrap();
        broker.restart().unwrap();
        let plc = Plc::connect(&broker);
        plc.answer(&format!("{}-d-1", publisher.boot_id()));
        events.wait_for(|event| matches!(event, PublishEvent::GateAcknowledged { .. }));
        assert!(publisher.stop(PATIENCE));
        let log = broker.log().unwrap();
        let clean = if version == MqttVersion::V5 { "(p5, c0, " } else { "(p2, c0, " };
        assert!(log.contains("as linewarden-line1 (p"), "{log}");
        assert!(log.contains(&format!("as linewarden-line1 {clean}")), "{log}");
    }
}
